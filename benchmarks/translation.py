"""Training steps of the 2017 Transformer in pyllm and in PyTorch (nn.Transformer, fused AdamW), paired in one process.

translation.py [ROW ...] [--threads 2] [--pairs 9] [--out FILE.json]

The base model: 6 + 6 layers of 512, 37,000 shared tokens, the head tied to the embedding. A batch is 32 pairs of 32
source and 32 target tokens, 2,048 in all, none of them padding; label smoothing 0.1, no dropout (PyTorch's would cost
it the fused attention). A step is: loss, gradients, their norm, AdamW. bf16: PyTorch's autocast. Memory as training.py
measures it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages for PyTorch, which pyllm takes by default

import numpy as np
import training

VOCABULARY, WIDTH, HEADS, LAYERS, INNER, SMOOTHING = 37_000, 512, 8, 6, 2048, 0.1


class Row(NamedTuple):
    """One comparison: `batch` pairs of context / 2 source and as many target tokens; what is asked of the ratio."""

    what: str
    batch: int
    context: int
    dtype: str
    asked: float


ROWS = {
    "base-fp32": Row("Transformer base, 32 pairs of 32 + 32, fp32", 32, 64, "fp32", 1.4),
    "base-bf16": Row("Transformer base, 32 pairs of 32 + 32, bf16", 32, 64, "bf16", 1.8),
}


def tokens(row: Row) -> np.ndarray:
    """Random ids (3, batch, context / 2): sources, decoder inputs, what they are to say."""
    return np.random.default_rng(0).integers(0, VOCABULARY, (3, row.batch, row.context // 2))


def pyllm_step(row: Row) -> Callable[[], float]:
    """A step of pyllm's; gives the loss."""
    from pyllm import _core, ops
    from pyllm.auto import new_config, new_model
    from pyllm.optim import AdamW

    _core.keep_freed()
    sizes = {"d_model": WIDTH, "nhead": HEADS, "num_encoder_layers": LAYERS, "num_decoder_layers": LAYERS}
    more = {"dim_feedforward": INNER, "dropout": 0.0, "label_smoothing": SMOOTHING, "vocab_size": VOCABULARY}
    model = new_model(new_config("transformer", **sizes, **more))
    optimizer = AdamW(model.parameters(), lr=1e-4)
    sources, inputs, wanted = tokens(row)
    ids = np.stack([sources, inputs], axis=1).reshape(-1)
    targets = np.stack([np.full_like(wanted, -100), wanted], axis=1).reshape(-1)
    starts = np.arange(0, len(ids) + 1, row.context // 2)

    def step() -> float:
        optimizer.zero_grad()
        with ops.autocast(row.dtype), ops.documents(starts), ops.noise(0, 0):
            loss = model.loss(ids, targets)
        loss.backward()
        optimizer.step(min(1.0, 1.0 / (optimizer.grad_norm() + 1e-6)))
        return float(loss.item())

    return step


def torch_step(row: Row) -> Callable[[], float]:
    """The same of PyTorch's."""
    import torch

    embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
    torch.nn.init.normal_(embedding.weight, std=WIDTH**-0.5)
    layers = torch.nn.Transformer(WIDTH, HEADS, LAYERS, LAYERS, INNER, 0.0, batch_first=True)
    weights = [embedding.weight, *layers.parameters()]
    sources, inputs, wanted = map(torch.from_numpy, tokens(row))
    length = row.context // 2
    angle = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
    places = torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(length, WIDTH)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(length)

    def loss() -> Any:
        source, target = (embedding(ids) * WIDTH**0.5 + places for ids in (sources, inputs))
        rows = layers(source, target, tgt_mask=mask, tgt_is_causal=True)
        logits = torch.nn.functional.linear(rows, embedding.weight).reshape(-1, VOCABULARY)
        return torch.nn.functional.cross_entropy(logits, wanted.reshape(-1), label_smoothing=SMOOTHING)

    return training.torch_stepping(weights, loss, row.dtype == "bf16")


STEPS = {"pyllm": pyllm_step, "torch": torch_step}

if __name__ == "__main__":
    sys.exit(training.main("translation", __doc__.splitlines()[0], ROWS, STEPS))
