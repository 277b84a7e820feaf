"""Masked-LM steps of BERT-base in pyllm and in PyTorch (transformers' model, SDPA, fused AdamW), in one process.

masked.py [ROW ...] [--threads 2] [--pairs 9] [--out FILE.json]

15 % of random tokens are hidden, and asked for; no dropout. Each side computes scores as it does for its users: PyTorch
of all tokens, pyllm of those that are asked for. A step is: loss, gradients, their norm, AdamW. bf16: autocast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages for PyTorch, which pyllm takes by default

import numpy as np
import training

HIDDEN, MASK, VOCABULARY = 0.15, 103, 30522


class Row(NamedTuple):
    """One comparison: a named shape; what is asked of the ratio."""

    what: str
    shape: str
    batch: int
    context: int
    dtype: str
    asked: float


ROWS = {
    "bert-fp32": Row("BERT-base, masked words, 8 x 128, fp32", "bert-base", 8, 128, "fp32", 1.4),
    "bert-bf16": Row("BERT-base, masked words, 8 x 128, bf16", "bert-base", 8, 128, "bf16", 1.8),
}


def tokens(row: Row) -> np.ndarray:
    """(ids, targets), each (batch, context): -100 where nothing is asked."""
    random = np.random.default_rng(0)
    ids = random.integers(1000, VOCABULARY, (row.batch, row.context))
    hidden = random.random(ids.shape) < HIDDEN
    return np.stack([np.where(hidden, MASK, ids), np.where(hidden, ids, -100)])


def sizes(row: Row) -> dict[str, object]:
    """The shape's configuration, without dropout."""
    from pyllm.auto.new import SHAPES

    return SHAPES[row.shape] | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def pyllm_step(row: Row) -> Callable[[], float]:
    """A step of pyllm's; gives the loss."""
    from pyllm.auto.encoders import AutoModelForMaskedLM
    from pyllm.auto.new import new_config

    fields = sizes(row)
    model = AutoModelForMaskedLM.from_config(new_config(str(fields.pop("model_type")), **fields))
    return training.stepping(model, tokens(row), row.dtype)


def torch_step(row: Row) -> Callable[[], float]:
    """The same of transformers' BertForMaskedLM."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    fields = sizes(row)
    fields.pop("model_type")
    config = transformers.BertConfig(**fields, attn_implementation="sdpa")
    model = transformers.BertForMaskedLM(config).train()
    ids, targets = map(torch.from_numpy, tokens(row))

    def loss() -> Any:
        return model(input_ids=ids, labels=targets).loss

    return training.torch_stepping(model.parameters(), loss, row.dtype == "bf16")


STEPS = {"pyllm": pyllm_step, "torch": torch_step}


if __name__ == "__main__":
    sys.exit(training.main("masked", __doc__.splitlines()[0], ROWS, STEPS))
