"""Training steps in pyllm and in PyTorch (eager, fused AdamW, scaled_dot_product_attention), paired in one process.

training.py [ROW ...] [--threads 2] [--pairs 9] [--out FILE.json]

A step is: loss on random tokens, gradients, their norm, AdamW; equal shapes, random weights. bf16: PyTorch's autocast.
Peak memory is measured apart, each side in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages for PyTorch, which pyllm takes by default

import numpy as np
from paired import Side, machine_facts, paired, report

NANO = {"n_layer": 4, "n_head": 4, "n_embd": 128, "n_positions": 64, "vocab_size": 65}


class Row(NamedTuple):
    """One comparison: GPT-2 of these sizes; what is asked of the ratio and of the share of the peer's memory."""

    what: str
    fields: dict[str, int]
    batch: int
    context: int
    dtype: str
    asked: float
    memory_asked: float = 0.7


ROWS = {
    "gpt2-fp32": Row("GPT-2 124M, 4 x 256, fp32", {}, 4, 256, "fp32", 1.5),
    "gpt2-bf16": Row("GPT-2 124M, 4 x 256, bf16", {}, 4, 256, "bf16", 1.8),
    "gpt2-long-bf16": Row("GPT-2 124M, 2 x 1024, bf16", {}, 2, 1024, "bf16", 1.8),
    "nano-fp32": Row("4 layers of 128, 12 x 64, characters, fp32", NANO, 12, 64, "fp32", 2.0),
    "nano-bf16": Row("4 layers of 128, 12 x 64, characters, bf16", NANO, 12, 64, "bf16", 3.0),
}


def tokens(row: Row) -> np.ndarray:
    """Random ids and targets (2, batch, context)."""
    return np.random.default_rng(0).integers(0, row.fields.get("vocab_size", 50257), (2, row.batch, row.context))


def learning(family: str, fields: dict[str, int], given: np.ndarray, dtype: str) -> Callable[[], float]:
    """A step of a new model on these (ids, targets); gives the loss."""
    from pyllm.auto import new_config, new_model

    return stepping(new_model(new_config(family, **fields)), given, dtype)


def stepping(model: Any, given: np.ndarray, dtype: str) -> Callable[[], float]:
    """A step of a model on these (ids, targets); gives the loss."""
    from pyllm import _core, ops
    from pyllm.optim import AdamW

    _core.keep_freed()
    optimizer = AdamW(model.parameters(), lr=1e-4)
    ids, targets = given

    def step() -> float:
        optimizer.zero_grad()
        with ops.autocast(dtype):
            loss = model.loss(ids, targets)
        loss.backward()
        optimizer.step(min(1.0, 1.0 / (optimizer.grad_norm() + 1e-6)))
        return float(loss.item())

    return step


def pyllm_step(row: Row) -> Callable[[], float]:
    """A step of pyllm's GPT-2."""
    return learning("gpt2", row.fields, tokens(row), row.dtype)


def torch_stepping(weights: Iterable[Any], loss: Callable[[], Any], autocast: bool = False) -> Callable[[], float]:
    """A step of PyTorch's of what makes a loss of these weights, in bf16 where autocast; gives the loss."""
    import torch

    weights = list(weights)
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            found = loss()
        found.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        return float(found.item())

    return step


def torch_step(row: Row) -> Callable[[], float]:
    """The same of PyTorch's, on transformers' GPT-2 without dropout."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    sizes = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "attn_implementation": "sdpa"}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**row.fields, **sizes))
    ids, targets = map(torch.from_numpy, tokens(row))

    def loss() -> Any:
        logits = model(input_ids=ids).logits
        return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))

    return torch_stepping(model.parameters(), loss, row.dtype == "bf16")


STEPS = {"pyllm": pyllm_step, "torch": torch_step}


def timed(step: Callable[[], float]) -> Callable[[], float]:
    """Seconds of a step, of several where one is short."""
    for _ in range(2):
        step()
    start = time.perf_counter()
    step()
    count = max(1, int(0.3 / (time.perf_counter() - start)))

    def run() -> float:
        start = time.perf_counter()
        for _ in range(count):
            step()
        return (time.perf_counter() - start) / count

    return run


def set_threads(threads: int, side: str) -> None:
    """A process whose memory is measured loads nothing of the other side."""
    if side == "torch":
        import torch

        torch.set_num_threads(threads)
    else:
        from pyllm import _core

        _core.set_threads(threads)


def memory(module: str, name: str, side: str, threads: int) -> float:
    """MB that a process of this side took at most in four steps of a row of a module of this folder."""
    code = (
        f"import training, {module} as t\ntraining.set_threads({threads}, {side!r})\n"
        f"step = t.STEPS[{side!r}](t.ROWS[{name!r}])\n"
        "for _ in range(4): step()\n"
        "print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"training: {side}: {done.stderr[-500:]}")
    return int(done.stdout) * 1024 / 1e6


def measure(module: str, name: str, row: Any, steps: Any, threads: int, pairs: int, foreign: float) -> dict[str, Any]:
    """One row's result."""
    used = {side: memory(module, name, side, threads) for side in steps}
    sides = [Side(side, timed(make(row))) for side, make in steps.items()]
    found = report(paired(sides, pairs, foreign), row.batch * row.context, foreign)
    return {"module": module, "row": name, **row._asdict(), "threads": threads, "memory_MB": used, **found}


def main(module: str, about: str, rows: dict[str, Any], steps: dict[str, Any]) -> int:
    """Measure the rows of a module and print; 1 when a row is missed."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("rows", nargs="*", choices=[[], *rows], help=f"{', '.join(rows)}; all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--foreign", type=float, default=0.05, help="share of the machine that others may use")
    parser.add_argument("--out", type=Path, default=Path(f"build/compare/{module}.json"))
    options = parser.parse_args()
    for side in steps:
        set_threads(options.threads, side)
    results = []
    for name in options.rows or rows:
        results.append(measure(module, name, rows[name], steps, options.threads, options.pairs, options.foreign))
        last = results[-1]
        ratio, used = last["ratio"]["torch"], last["memory_MB"]
        low, high = ratio["interval"]
        verdict = "reached" if low >= last["asked"] else "MISSED"
        speed = ", ".join(f"{side} {rate:,.0f}" for side, rate in last["per_second"].items())
        times = f"{ratio['median']:.2f} x [{low:.2f}, {high:.2f}], asked {last['asked']}: {verdict}"
        memory = f"{used['pyllm']:,.0f} of {used['torch']:,.0f} MB, {used['pyllm'] / used['torch']:.2f}"
        memory += f", asked {last['memory_asked']}" if "memory_asked" in last else ""
        print(f"{name:15} tokens/s: {speed}; {times}, {last['pairs']} pairs; memory {memory}", flush=True)
    import torch
    import transformers

    options.out.parent.mkdir(parents=True, exist_ok=True)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    options.out.write_text(json.dumps({"training": results, "facts": {**machine_facts(), "versions": versions}}) + "\n")
    return 0 if all(r["ratio"]["torch"]["interval"][0] >= r["asked"] for r in results) else 1


if __name__ == "__main__":
    sys.exit(main("training", __doc__.splitlines()[0], ROWS, STEPS))
