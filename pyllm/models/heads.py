"""What stands on a pooled text: a hidden layer and a matrix, or a matrix alone."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from pyllm import nn, ops
from pyllm.tensor import Array


def loss_of(c: Any, scores: Any, targets: Any) -> Any:
    """What c.problem_type says of scores (texts, classes); None: transformers' rule, regression for one class, classes
    for integers, else several classes at once."""
    wanted = np.asarray(targets)
    integers = wanted.dtype.kind in "iu"
    usual = "regression" if c.num_labels == 1 else f"{'single' if integers else 'multi'}_label_classification"
    problem = c.problem_type or usual
    if problem == "single_label_classification":
        return ops.cross_entropy(scores, wanted.reshape(-1))
    if problem == "regression":
        wanted = wanted.reshape(scores.shape) if wanted.size == scores.size else wanted
        return ops.mse(scores, wanted)
    return ops.binary_cross_entropy(scores, wanted)


class Scale(nn.Module):
    """y = weight x + bias, number by number."""

    def __init__(self, width: int) -> None:
        self.weight, self.bias = nn.Parameter(width), nn.Parameter(width)

    def __call__(self, x: Any) -> Any:
        """(texts, width) to the same."""
        return ops.add(ops.multiply(x, self.weight.value), self.bias.value)


class Head(nn.Module):
    """y = W2 drop(relu(norm(W1 drop(s x + t) + b1))) + b2; without a hidden layer y = W x.

    s and t learn; TextClassifier.standardise begins them so that every number of the pooled rows has mean 0 and
    deviation 1. They and LayerNorm stand where the paper has batch norm, with which a text's gradient would depend on
    its company.
    """

    def __init__(self, width: int, hidden: int, classes: int, dropout: float) -> None:
        self.scale = Scale(width) if hidden else None
        self.norm = nn.LayerNorm(hidden, 1e-5) if hidden else None
        self.inner = nn.Linear(width, hidden, bias=True) if hidden else None
        self.score = nn.Linear(hidden or width, classes, bias=hidden > 0)
        self.dropout = dropout

    def __call__(self, x: Any) -> Any:
        """(texts, width) to (texts, classes)."""
        if self.scale is None or self.inner is None or self.norm is None:
            return self.score(x)
        x = ops.relu(self.norm(self.inner(self._dropped(self.scale(x), b"pooled"))))
        return self.score(self._dropped(x, b"inner"))

    def _dropped(self, x: Any, name: bytes) -> Any:
        mask = ops.mask(self.dropout, zlib.crc32(name))
        return x if mask is None else ops.dropout(x, *mask.draw)

    def first_values(self, name: str, parameter: nn.Parameter, random: np.random.Generator) -> Array:
        """Matrices normal with a variance of 2 / inputs (He et al. 2015, arXiv:1502.01852), biases 0."""
        if len(parameter.shape) > 1:
            spread = np.float32((2 / parameter.shape[1]) ** 0.5)
            return random.standard_normal(parameter.shape, np.float32) * spread
        return super().first_values(name, parameter, random)
