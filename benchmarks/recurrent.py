"""Recurrent language models in pyllm and in PyTorch (fp32), training steps and decoding, paired in one process.

recurrent.py [ROW ...] [--threads 2] [--pairs 9] [--out FILE.json]

A step is: loss on random tokens, gradients, their norm, AdamW (PyTorch's fused); equal shapes, random weights. PyTorch
computes in fp32 in the bf16 rows too: its recurrent layers have no faster type on CPUs. Memory as training.py measures
it. Decoding is one sequence, a token after the other, each the likeliest after the one before: pyllm's step and
PyTorch's eager modules without gradients, the state carried, with as many threads as are fastest for it. The row
"plain" has PyTorch without oneDNN, which lays weights out anew for every token.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

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


class Decoding(NamedTuple):
    """As Row; a step is so many tokens of a sequence. onednn: whether PyTorch has its usual kernels."""

    what: str
    cell: str
    embedding: int
    hidden: int
    layers: int
    vocabulary: int
    dtype: str
    asked: float
    onednn: bool = True
    batch: int = 1
    context: int = 100


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
    "decode-fp32": Decoding("LSTM 2 x 512, decoding, fp32", "lstm", *MEDIUM[:4], "fp32", 10.0),
    "decode-bf16": Decoding("LSTM 2 x 512, decoding, bf16", "lstm", *MEDIUM[:4], "bf16", 10.0),
    "decode-plain": Decoding("LSTM 2 x 512, decoding, fp32, no oneDNN", "lstm", *MEDIUM[:4], "fp32", 1.0, False),
}


def tokens(row: Row) -> np.ndarray:
    """Random ids and targets (2, batch, context)."""
    return np.random.default_rng(0).integers(0, row.vocabulary, (2, row.batch, row.context))


def fields(row: Row | Decoding) -> dict[str, int]:
    """Of the configuration of pyllm's model."""
    sizes = {"embedding_size": row.embedding, "hidden_size": row.hidden, "num_hidden_layers": row.layers}
    return sizes | {"vocab_size": row.vocabulary}


def pyllm_step(row: Row | Decoding) -> Callable[[], float]:
    """A step of pyllm's; gives the loss, or the last token."""
    if isinstance(row, Decoding):
        return pyllm_decoding(row)
    return training.learning(row.cell, fields(row), tokens(row), row.dtype)


def pyllm_decoding(row: Decoding) -> Callable[[], float]:
    """Tokens of one sequence."""
    from pyllm.auto import AutoModelForCausalLM, new_config, new_model

    with tempfile.TemporaryDirectory() as folder:
        new_model(new_config(row.cell, **fields(row))).save_pretrained(folder)
        dtype = {"fp32": "float32", "bf16": "bfloat16"}[row.dtype]
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, context_length=1 << 24)
    state, token = model.new_state(), 0

    def step() -> float:
        nonlocal token
        for _ in range(row.context):
            token = int(model.step([(state, [token])])[0].argmax())
        return float(token)

    return step


def torch_parts(row: Row | Decoding) -> list[Any]:
    """Embedding, recurrent layers, head."""
    import torch

    layers = getattr(torch.nn, row.cell.upper())(row.embedding, row.hidden, row.layers)
    return [torch.nn.Embedding(row.vocabulary, row.embedding), layers, torch.nn.Linear(row.hidden, row.vocabulary)]


def torch_decoding(row: Decoding) -> Callable[[], float]:
    """The same of PyTorch's, with the number of threads that is fastest."""
    import torch

    embedding, layers, head = torch_parts(row)
    state, token = None, torch.zeros(1, 1, dtype=torch.long)

    def step(threads: int) -> float:
        nonlocal state, token
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        with torch.no_grad(), torch.backends.mkldnn.flags(enabled=row.onednn):
            for _ in range(row.context):
                rows, state = layers(embedding(token), state)
                token = head(rows)[0].argmax(-1)[None]
        torch.set_num_threads(before)
        return float(token)

    def seconds(threads: int) -> float:
        step(threads)
        start = time.perf_counter()
        step(threads)
        return time.perf_counter() - start

    best = min(range(1, torch.get_num_threads() + 1), key=seconds)
    return lambda: step(best)


def torch_step(row: Row | Decoding) -> Callable[[], float]:
    """The same of PyTorch's: Embedding, LSTM, GRU or RNN over (context, batch), Linear."""
    import torch

    if isinstance(row, Decoding):
        return torch_decoding(row)
    embedding, layers, head = torch_parts(row)
    weights = [weight for part in (embedding, layers, head) for weight in part.parameters()]
    ids, targets = (torch.from_numpy(np.ascontiguousarray(each.T)) for each in tokens(row))

    def loss() -> Any:
        logits = head(layers(embedding(ids))[0])
        return torch.nn.functional.cross_entropy(logits.reshape(-1, row.vocabulary), targets.reshape(-1))

    return training.torch_stepping(weights, loss)


STEPS = {"pyllm": pyllm_step, "torch": torch_step}

if __name__ == "__main__":
    sys.exit(training.main("recurrent", __doc__.splitlines()[0], ROWS, STEPS))
