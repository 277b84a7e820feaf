"""Products of matrices in pyllm, numpy (OpenBLAS) and PyTorch (MKL, oneDNN), paired in one process.

gemm.py [--threads 2] [--pairs 15] [--shape 2048x2048x2048] [--out FILE.json]

A shape is rows x outputs x inputs: y = x W^T as in a linear layer, weights packed beforehand by whoever can. float32:
numpy's matmul, PyTorch's linear and its weights in oneDNN's own layout. bfloat16: PyTorch takes and gives bfloat16,
pyllm takes and gives float32. Weights stay in the caches where they fit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages for PyTorch, which pyllm takes by default

import numpy as np
import torch
from paired import Side, machine_facts, paired, report

from pyllm import _core, ops

SHAPES = ("2048x2048x2048", "32x4600x1150", "512x1536x576", "512x576x1536", "128x2304x768")
TURN = 0.15  # seconds that a turn lasts at least


def repeated(work: Callable[[], Any]) -> Callable[[], float]:
    """Seconds per call, over calls that together last a while."""
    work()
    start = time.perf_counter()
    work()
    calls = max(1, int(TURN / (time.perf_counter() - start)))

    def run() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - start) / calls

    return run


def pack(w: np.ndarray, kind: str) -> _core.Weight:
    """w (outputs, inputs) in panels."""
    packed = _core.Weight(kind, *w.shape)
    packed.fill_floats(w)
    return packed


def works(kind: str, x: np.ndarray, w: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Who computes x (rows, inputs) w^T, w (outputs, inputs)."""
    packed = pack(w, kind)
    dtype = torch.float32 if kind == "F32" else torch.bfloat16
    tx, tw = torch.from_numpy(x).to(dtype), torch.from_numpy(w).to(dtype)
    own = torch.ops.mkldnn._reorder_linear_weight(tw, len(x))
    found: dict[str, Callable[[], Any]] = {
        "pyllm": lambda: ops.linear(x, packed),
        "torch": lambda: torch.nn.functional.linear(tx, tw),
        "torch-onednn": lambda: torch.ops.mkldnn._linear_pointwise(tx, own, None, "none", [], ""),
    }
    if kind == "F32":
        columns = np.ascontiguousarray(w.T)
        found |= {"numpy": lambda: x @ columns, "numpy-transposed": lambda: x @ w.T}
    return found


def measure(kind: str, shape: str, pairs: int, foreign: float) -> dict[str, Any]:
    """The result of one type and shape."""
    rows, outputs, inputs = map(int, shape.split("x"))
    rng = np.random.default_rng(1)
    x = rng.standard_normal((rows, inputs), np.float32)
    w = rng.standard_normal((outputs, inputs), np.float32) * np.float32(inputs**-0.5)
    todo = works(kind, x, w)
    answers = {name: torch.as_tensor(work()).float().numpy() for name, work in todo.items()}
    worst = {name: float(np.abs(answer - answers["torch"]).max()) for name, answer in answers.items()}
    if max(worst.values()) > (1e-3 if kind == "F32" else 0.1):
        raise RuntimeError(f"gemm: {kind} {shape}: answers differ by {worst}")
    sides = [Side(name, repeated(work)) for name, work in todo.items()]
    found = report(paired(sides, pairs, foreign), 2e-9 * rows * outputs * inputs, foreign)
    return {"gemm": f"{kind} {shape}", "threads": _core.threads(), **found}


def main() -> int:
    """Measure and print; 1 when pyllm is not ahead everywhere."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--foreign", type=float, default=0.05, help="share of the machine that others may use")
    parser.add_argument("--shape", action="append", help=f"rows x outputs x inputs; default: {', '.join(SHAPES)}")
    parser.add_argument("--type", choices=["F32", "BF16"], action="append")
    parser.add_argument("--out", type=Path, default=Path("build/compare/gemm.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    _core.set_threads(options.threads)
    results = []
    for kind in options.type or ("F32", "BF16"):
        for shape in options.shape or SHAPES:
            results.append(measure(kind, shape, options.pairs, options.foreign))
            last = results[-1]
            ratio = last["ratio"][last["against"]]
            low, high = ratio["interval"]
            rates = ", ".join(f"{name} {rate:.0f}" for name, rate in last["per_second"].items())
            print(f"{last['gemm']:22} GFLOP/s: {rates}; {ratio['median']:.2f} x {last['against']} "
                  f"[{low:.2f}, {high:.2f}], {last['pairs']} pairs, {last['dropped']} dropped", flush=True)  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    options.out.write_text(json.dumps({"products": results, "facts": {**machine_facts(), "versions": versions}}) + "\n")
    return 0 if all(r["ratio"][r["against"]]["interval"][0] > 1 for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
