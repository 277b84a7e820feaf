"""A campaign: requests served in every company, counted; any byte that changes is a failure.

invariance.py [MODEL.gguf ...] [--cases 20000] [--seconds 600] [--seed 1] [--ledger FILE]

Without a model, tiny random ones of every family and other types take turns. A case is one sequence served once, its
tokens and the float32 logits that they were chosen from compared, bit for bit, with those of the request alone. Half of
the rounds go through the model's own steps: workers (1 to 4), prompt chunk, company, arrival order, the logits of all
positions. The others go through the scheduler: besides these, greedy and sampled, memory so small that sequences are
preempted, warm caches, neighbours that are cancelled, siblings that fork. The count of each setting is printed.
`make invariance` runs it. A ledger line holds seed, cases, differences, seconds and the instruction set.
"""
from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python_tests"))
import request_mixes
import schedules
import tiny_models

import pyllm
from pyllm import _core


def tiny(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name, file) of each tiny model."""
    for name, (config, dtype) in request_mixes.MODELS.items():
        yield name, tiny_models.write(folder / f"{name}.gguf", config, tiny_models.random_weights(config), dtype)


def round_of(model: Any, seed: int, longest: int, new: int, counts: Counter[str]) -> list[str]:
    """Some requests under several mixes, half of the rounds through the scheduler; differences in words."""
    rng = np.random.default_rng(seed)
    if seed % 2:
        orders = schedules.random_orders(rng, 40, model.config.vocab_size, longest, new)
        wrong = schedules.compare(model, orders, list(schedules.schedules(rng, 8)), counts)
        return [f"seed {seed}, {line}" for line in wrong]
    requests = request_mixes.random_requests(rng, 40, model.config.vocab_size, longest, new=8)
    alone = request_mixes.serve(model, requests, request_mixes.ALONE)
    wrong = []
    for mix in request_mixes.mixes(rng, 8):
        answers = request_mixes.serve(model, requests, mix)
        counts.update({"cases": len(answers), "every position": len(answers), f"threads={mix.threads}": len(answers),
                       f"chunk={mix.chunk}": len(answers), f"company={mix.company}": len(answers)})
        wrong += [f"seed {seed}, request {i}, {mix}" for i, pair in enumerate(zip(alone, answers, strict=True))
                  if pair[0] != pair[1]]
    return wrong


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="*", type=Path)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=int, default=150, help="longest prompt in tokens")
    parser.add_argument("--new", type=int, default=60, help="most new tokens of a request through the scheduler")
    parser.add_argument("--precision", default="default")
    parser.add_argument("--ledger", type=Path)
    return parser.parse_args()


def main() -> int:
    """Run until enough cases or time; 1 when any byte differed or nothing ran."""
    options = arguments()
    start, seed, counts, wrong = time.perf_counter(), options.seed, Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        files = [(path.stem, path) for path in options.model] or list(tiny(Path(folder)))
        models = [(name, pyllm.AutoModelForCausalLM.from_pretrained(str(path), precision=options.precision))
                  for name, path in files]
        while counts["cases"] < options.cases and time.perf_counter() - start < options.seconds and not wrong:
            name, model = models[seed // 2 % len(models)]
            found = round_of(model, seed, options.longest, options.new, counts)
            wrong, seed = wrong + [f"{name}: {line}" for line in found], seed + 1
            print(f"\r{counts['cases']:,} cases, {len(wrong)} differences", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    entry = {
        "claim": "invariance", "models": [name for name, _ in files], "seeds": [options.seed, seed - 1],
        "precision": options.precision, "cases": counts["cases"], "differences": len(wrong),
        "seconds": round(time.perf_counter() - start, 1), "counts": dict(sorted(counts.items())),
        "isa": _core.isa(), "version": pyllm.__version__,
    }
    for what, count in sorted(counts.items()):
        print(f"{count:>9,}  {what}")
    print("\n".join([*wrong[:20], json.dumps(entry)]))
    if options.ledger:
        with options.ledger.open("a") as file:
            file.write(json.dumps(entry) + "\n")
    return 1 if wrong or not counts["cases"] else 0


if __name__ == "__main__":
    sys.exit(main())
