"""Memory of training on batches of ever other sizes: recurrent stacks of every cell in both types.

recurrent_memory.py [--batches 10000] [--cell lstm] [--dtype fp32] [--out FILE.json]

Every batch has another number of sequences and other lengths, 0 among them; a step is forward, backward, AdamW. Printed
is what the process holds after a tenth of the batches and after all, each time what it gives back at most.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import sys
import time
from typing import Any

import numpy as np

from pyllm import nn, ops, optim

CELLS, DTYPES = ("lstm", "gru", "tanh", "relu"), ("fp32", "bf16")
WIDTH, HIDDEN, LONGEST, MOST = 32, 64, 60, 24
STEADY = 8.0  # MB that may come in nine tenths of a run: what is kept of the last shapes varies by as much


def held() -> float:
    """MB in memory of this process, without what its allocator holds for later."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


def train(cell: str, dtype: str, batches: int) -> tuple[float, float]:
    """(MB after a tenth, MB after all) of so many steps of a stack in both directions, with dropout."""
    stack = nn.Recurrent(cell, WIDTH, HIDDEN, 2, dropout=0.1, bidirectional=True).initialise(0)
    optimizer = optim.AdamW(stack.parameters(), lr=1e-3)
    random, early = np.random.default_rng(0), 0.0
    for step in range(batches):
        batch, length = random.integers(1, MOST + 1), random.integers(1, LONGEST + 1)
        x = random.standard_normal((length, batch, WIDTH), np.float32)
        with ops.autocast(dtype), ops.noise(0, step):
            y, last = stack(x, lengths=random.integers(0, length + 1, batch))
            loss = (y * y).mean() + ((last[0] if cell == "lstm" else last) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        if step + 1 == max(batches // 10, 1):
            early = held()
    return early, held()


def main() -> int:
    """Run every cell and type asked for; 1 where memory grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=10_000)
    parser.add_argument("--cell", choices=CELLS, nargs="+", default=CELLS)
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=DTYPES)
    parser.add_argument("--out", help="a JSON file for record.py")
    options = parser.parse_args()
    entries: list[dict[str, Any]] = []
    for cell in options.cell:
        for dtype in options.dtype:
            start = time.time()
            early, late = train(cell, dtype, options.batches)
            seconds = time.time() - start
            print(f"{cell} {dtype}: {early:.1f} MB, then {late:.1f} MB, {seconds:.0f} s", flush=True)
            what = f"{cell}, {dtype}: memory that {options.batches:,} batches of other lengths add to the first tenth's"
            entries.append({"group": "Steady memory", "what": what, "figure": round(late - early, 1), "unit": "MB",
                            "note": f"{early:.0f} MB before", "command": "benchmarks/recurrent_memory.py"})  # fmt: skip
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump({"entries": entries}, file)
    return int(any(entry["figure"] > STEADY for entry in entries))


if __name__ == "__main__":
    sys.exit(main())
