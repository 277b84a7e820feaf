"""Normalisation of the last dimension."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyllm import _core
from pyllm.autograd import record
from pyllm.ops.arrays import Array, float32, vector
from pyllm.ops.record import Symbol


class Norm(NamedTuple):
    """A normalisation as a value: kind "rms" or "layer", its weight (d,), bias (d,) or None, and epsilon."""

    kind: str
    weight: Array
    bias: Array | None
    eps: float


def layer_norm(x: Any, weight: Any, bias: Any = None, eps: float = 1e-5) -> Array:
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last dimension.

    x (..., d), weight and bias (d,); float32. The mean is subtracted before squares are summed.
    Raises ValueError for shapes. Ba, Kiros, Hinton 2016, arXiv:1607.06450.
    """
    a = _rows(x, "layer_norm")
    w = vector(weight, a.shape[-1], "layer_norm", "weight")
    b = None if bias is None else vector(bias, a.shape[-1], "layer_norm", "bias")

    def again() -> Array:
        return _core.norm(a, w, b, eps, True)

    def derivative(dy: Array) -> Any:
        return _core.norm_backward(dy, a, w, b is not None, eps, True)

    return record(again(), (x, weight, bias), derivative, again)


def rms_norm(x: Any, weight: Any, eps: float = 1e-6) -> Array:
    """y = x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    x (..., d), weight (d,); float32. Raises ValueError for shapes. Zhang, Sennrich 2019, arXiv:1910.07467.
    """
    a = _rows(x, "rms_norm")
    w = vector(weight, a.shape[-1], "rms_norm", "weight")

    def again() -> Array:
        return _core.norm(a, w, None, eps, False)

    return record(again(), (x, weight), lambda dy: _core.norm_backward(dy, a, w, False, eps, False)[:2], again)


def normalise(x: Any, norm: Norm | None) -> Array:
    """The norm applied, or x where there is none."""
    if norm is None:
        return x
    if norm.kind == "layer":
        return layer_norm(x, norm.weight, norm.bias, norm.eps)
    return rms_norm(x, norm.weight, norm.eps)


def add_norm(residual: Any, x: Any, norm: Norm) -> Any:
    """y = residual + norm(x), equal shapes. While recording, y takes the place of residual."""
    if isinstance(x, Symbol):
        return residual.add_norm(x, norm)
    a, r = _rows(x, "add_norm"), float32(residual, "add_norm", "residual")
    if a.shape != r.shape:
        raise ValueError(f"add_norm: residual {r.shape} and x {a.shape} differ")
    layer = norm.kind == "layer"
    w = vector(norm.weight, a.shape[-1], "add_norm", "weight")
    b = None if norm.bias is None else vector(norm.bias, a.shape[-1], "add_norm", "bias")
    y = _core.norm(a, w, b, norm.eps, layer, r)
    inputs = (residual, x, norm.weight, norm.bias)
    return record(y, inputs, lambda dy: (dy, *_core.norm_backward(dy, a, w, b is not None, norm.eps, layer)))


def softmax(x: Any) -> Array:
    """y_i = exp(x_i - max x) / sum_j exp(x_j - max x) over the last dimension. x (..., d) float32."""
    y = _core.softmax(_rows(x, "softmax"))
    return record(y, (x,), lambda dy: (_core.softmax_backward(dy, y),))


def log_softmax(x: Any) -> Array:
    """y_i = x_i - max x - log sum_j exp(x_j - max x) over the last dimension. x (..., d) float32."""
    a = _rows(x, "log_softmax")
    y = a - a.max(axis=-1, keepdims=True, initial=-np.inf)
    y -= np.log(np.exp(y).sum(axis=-1, keepdims=True))
    return record(y, (x,), lambda dy: (dy - np.exp(y) * dy.sum(axis=-1, keepdims=True),))


def _rows(x: Any, op: str) -> Array:
    x = float32(x, op)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"{op}: x has shape {x.shape}, the last dimension must have a size")
    return x
