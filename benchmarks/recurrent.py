"""Training steps of recurrent language models in pyllm and in PyTorch (fp32, fused AdamW), paired in one process.

recurrent.py [ROW ...] [--threads 2] [--pairs 9] [--out FILE.json]

A step is: loss on random tokens, gradients, their norm, AdamW; equal shapes, random weights. PyTorch computes in fp32
in the bf16 rows too: its recurrent layers have no faster type on CPUs. Memory as training.py measures it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NamedTuple

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages for PyTorch, which pyllm takes by default

import numpy as np
import training


class Row(NamedTuple):
    """One comparison: a model of these sizes; what is asked of the ratio."""

    what: str
    cell: str
    embedding: int
    hidden: int
    layers: int
    vocabulary: int
    batch: int
    context: int
    dtype: str
    asked: float


def _both(what: str, cell: str, sizes: tuple[int, ...], fp32: float, bf16: float) -> dict[str, Row]:
    """The rows of both types. sizes: embedding, hidden, layers, vocabulary, batch, context."""
    asked = {"fp32": fp32, "bf16": bf16}
    short = what.split(",")[0].lower().replace(" ", "-").replace("-x-", "x")
    return {f"{short}-{dtype}": Row(f"{what}, {dtype}", cell, *sizes, dtype, asked[dtype]) for dtype in asked}


LARGE, MEDIUM, SMALL = (400, 1150, 3, 10_000, 32, 70), (256, 512, 2, 8_000, 32, 64), (200, 200, 2, 10_000, 20, 20)
ROWS = {
    **_both("LSTM 3 x 1150, 32 x 70", "lstm", LARGE, 4.0, 7.0),
    **_both("GRU 3 x 1150, 32 x 70", "gru", LARGE, 2.0, 3.5),
    **_both("RNN 3 x 1150, 32 x 70", "rnn", LARGE, 2.0, 3.0),
    **_both("LSTM 2 x 512, 32 x 64", "lstm", MEDIUM, 1.3, 2.2),
    **_both("LSTM 2 x 200, 20 x 20", "lstm", SMALL, 2.0, 3.3),
}


def tokens(row: Row) -> np.ndarray:
    """Random ids and targets (2, batch, context)."""
    return np.random.default_rng(0).integers(0, row.vocabulary, (2, row.batch, row.context))


def pyllm_step(row: Row) -> Callable[[], float]:
    """A step of pyllm's; gives the loss."""
    sizes = {"embedding_size": row.embedding, "hidden_size": row.hidden, "num_hidden_layers": row.layers}
    return training.learning(row.cell, sizes | {"vocab_size": row.vocabulary}, tokens(row), row.dtype)


def torch_step(row: Row) -> Callable[[], float]:
    """The same of PyTorch's: Embedding, LSTM, GRU or RNN over (context, batch), Linear."""
    import torch

    embedding = torch.nn.Embedding(row.vocabulary, row.embedding)
    layers = getattr(torch.nn, row.cell.upper())(row.embedding, row.hidden, row.layers)
    head = torch.nn.Linear(row.hidden, row.vocabulary)
    weights = [weight for part in (embedding, layers, head) for weight in part.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)
    ids, targets = (torch.from_numpy(np.ascontiguousarray(each.T)) for each in tokens(row))

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        logits = head(layers(embedding(ids))[0])
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, row.vocabulary), targets.reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        return float(loss.item())

    return step


STEPS = {"pyllm": pyllm_step, "torch": torch_step}

if __name__ == "__main__":
    sys.exit(training.main("recurrent", __doc__.splitlines()[0], ROWS, STEPS))
