"""How far predictions are from what came: the numbers that training makes small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import _core
from pyllm.autograd import record, wants
from pyllm.ops.arithmetic import mean, multiply, subtract
from pyllm.ops.arrays import Array, float32, vector
from pyllm.ops.linear import linear, times_packed
from pyllm.ops.panels import panels
from pyllm.ops.precision import product_type

IGNORED = -100
_LOGITS = 1 << 25  # logits that exist at once: 128 MB; with 64 the head was read so often that steps took 13 % more
_FEWER = 1 << 23  # with a packed weight, which is there to save memory
_smoothing: ContextVar[float] = ContextVar("smoothing", default=0.0)


@contextmanager
def smoothing(factor: float) -> Iterator[None]:
    """Within it a cross-entropy that is told no label_smoothing has this one. Of this thread alone."""
    before = _smoothing.set(factor)
    try:
        yield
    finally:
        _smoothing.reset(before)


def smoothing_now() -> float:
    """The label_smoothing of cross-entropies that are told none."""
    return _smoothing.get()


def cross_entropy(logits: Any, targets: Any, label_smoothing: float | None = None) -> Any:
    """Mean over rows of -log softmax(logits)[target], in nats; rows whose target is -100 are left out.

    logits (..., classes), targets (...) of integers. label_smoothing e: (1 - e) of it, and e of the mean over classes
    (arXiv:1512.00567); None: what `smoothing` says, else 0. Without any target it is 0. Raises ValueError for shapes,
    TypeError for targets that are no integers, IndexError for one that is no class.
    """
    x, label_smoothing = float32(logits, "cross_entropy", "logits"), _told(label_smoothing)
    rows = x.reshape(-1, x.shape[-1])
    wanted, count = _targets(targets, len(rows))
    if wants(logits):
        gradient = rows.copy()
        losses = _core.cross_entropy(gradient, wanted, None, label_smoothing, 1 / count)
    else:
        gradient, losses = rows, _core.cross_entropy_losses(rows, wanted, label_smoothing)
    return record(_mean(losses, count), (logits,), lambda dy: (_scaled(gradient, dy).reshape(x.shape),))


def linear_cross_entropy(
    x: Any, weight: Any, targets: Any, bias: Any = None, label_smoothing: float | None = None
) -> Any:
    """cross_entropy(x W^T + bias, targets), of which only some rows' logits exist at a time.

    x (..., d), weight (classes, d) an array or packed, bias (classes,), targets (...). The gradients are made with the
    logits, while they exist; a packed weight is frozen.
    """
    label_smoothing = _told(label_smoothing)
    if isinstance(weight, _core.Weight):
        if bias is not None:
            return cross_entropy(linear(x, weight, bias), targets, label_smoothing)
        return _frozen_cross_entropy(x, weight, targets, label_smoothing)
    a, w = float32(x, "linear_cross_entropy"), float32(weight, "linear_cross_entropy", "weight")
    if w.ndim != 2 or a.ndim < 1 or a.shape[-1] != w.shape[1]:
        raise ValueError(f"linear_cross_entropy: x {a.shape} and weight {w.shape}, allowed are (..., d), (classes, d)")
    rows = a.reshape(-1, a.shape[-1])
    if not len(rows):
        return cross_entropy(linear(x, weight, bias), targets, label_smoothing)
    b = None if bias is None else vector(bias, len(w), "linear_cross_entropy", "bias")
    wanted, count = _targets(targets, len(rows))
    losses = np.empty(len(rows), np.float32)
    learning = wants(x, weight, bias)
    dx = _core.empty(rows.shape) if learning else None
    dw = weight.lend() if wants(weight) else None
    db = np.zeros(len(w), np.float32) if wants(bias) else None
    pieces = min(len(rows), -(-len(rows) * len(w) // _LOGITS))
    ends = [len(rows) * i // pieces for i in range(pieces + 1)]
    kind = product_type()
    logits = _core.empty((-(-len(rows) // pieces), len(w)))
    with panels(w, kind) as packed:
        for first, last in pairwise(ends):
            part, these = rows[first:last], logits[: last - first]
            _core.linear(part, packed, b, into=these)
            if dx is None:
                losses[first:last] = _core.cross_entropy_losses(these, wanted[first:last], label_smoothing)
                continue
            losses[first:last] = _core.cross_entropy(these, wanted[first:last], None, label_smoothing, 1 / count)
            times_packed(these, packed, dx[first:last], False)
            if dw is not None:
                with panels(part, kind, transposed=True) as columns:
                    _core.linear(these, columns, into=dw, add=first > 0, transposed=True)
            if db is not None:
                db += _core.column_sums(these)

    def derivative(dy: Array) -> tuple[Any, Any, Any]:
        assert dx is not None
        if dw is not None and dy != 1:
            dw[...] *= np.float32(dy)
        return _scaled(dx, dy).reshape(a.shape), dw, None if db is None else _scaled(db, dy)

    return record(_mean(losses, count), (x, weight, bias), derivative)


def _frozen_cross_entropy(x: Any, weight: _core.Weight, targets: Any, label_smoothing: float) -> Any:
    """As linear_cross_entropy. Quantised weights take x in two int8 terms, as a model's head does when it runs."""
    a = float32(x, "linear_cross_entropy")
    if a.ndim < 1 or a.shape[-1] != weight.shape[1]:
        raise ValueError(f"linear_cross_entropy: x {a.shape} and weight {weight.shape} differ in their last dimensions")
    rows, classes = a.reshape(-1, a.shape[-1]), weight.shape[0]
    wanted, count = _targets(targets, len(rows))
    losses = np.empty(len(rows), np.float32)
    dx = _core.empty(rows.shape) if wants(x) else None
    pieces = min(max(len(rows), 1), -(-len(rows) * classes // _FEWER) or 1)
    ends = [len(rows) * i // pieces for i in range(pieces + 1)]
    logits = _core.empty((-(-len(rows) // pieces), classes))
    for first, last in pairwise(ends):
        these = logits[: last - first]
        if len(these):
            _core.linear(rows[first:last], weight, None, True, these)
        if dx is None:
            losses[first:last] = _core.cross_entropy_losses(these, wanted[first:last], label_smoothing)
        else:
            losses[first:last] = _core.cross_entropy(these, wanted[first:last], None, label_smoothing, 1 / count)
            times_packed(these, weight, dx[first:last], False)

    def derivative(dy: Array) -> tuple[Any]:
        assert dx is not None
        return (_scaled(dx, dy).reshape(a.shape),)

    return record(_mean(losses, count), (x,), derivative)


def mse(prediction: Any, targets: Any) -> Any:
    """Mean of (prediction - target)^2 over all numbers. Raises ValueError for shapes that differ."""
    p, t = float32(prediction, "mse", "prediction"), float32(targets, "mse", "targets")
    if p.shape != t.shape:
        raise ValueError(f"mse: prediction {p.shape} and targets {t.shape} differ")
    difference = subtract(prediction, targets)
    return mean(multiply(difference, difference))


def binary_cross_entropy(logits: Any, targets: Any) -> Any:
    """Mean over all numbers of -t log s(x) - (1 - t) log(1 - s(x)), s the sigmoid: each class by itself, in nats.

    logits (...), targets (...) from 0 to 1. Raises ValueError for shapes that differ and targets beyond.
    """
    x, t = float32(logits, "binary_cross_entropy", "logits"), float32(targets, "binary_cross_entropy", "targets")
    if x.shape != t.shape:
        raise ValueError(f"binary_cross_entropy: logits {x.shape} and targets {t.shape} differ")
    if t.size and not (t.min() >= 0 and t.max() <= 1):
        raise ValueError(f"binary_cross_entropy: targets from {t.min()} to {t.max()}, allowed are 0 to 1")
    wide = x.astype(np.float64)
    losses = np.maximum(wide, 0) - wide * t + np.log1p(np.exp(-np.abs(wide)))

    def derivative(dy: Array) -> tuple[Array]:
        return (((_core.map(x, None, "sigmoid") - t) * np.float32(dy / max(x.size, 1))).astype(np.float32),)

    return record(np.asarray(losses.sum() / max(x.size, 1), np.float32), (logits,), derivative)


def _told(label_smoothing: float | None) -> float:
    return _smoothing.get() if label_smoothing is None else label_smoothing


def _targets(targets: Any, rows: int) -> tuple[NDArray[np.int64], int]:
    """(targets as int64 (rows,), how many are not ignored, 1 at least)."""
    given = np.asarray(targets)
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: targets hold {given.dtype}, allowed are integers")
    wanted = np.ascontiguousarray(given, np.int64).reshape(-1)
    if len(wanted) != rows:
        raise ValueError(f"cross_entropy: {len(wanted)} targets for {rows} rows")
    return wanted, max(int(np.count_nonzero(wanted != IGNORED)), 1)


def _mean(losses: Array, count: int) -> Array:
    return np.asarray(losses.sum(dtype=np.float64) / count, np.float32)


def _scaled(gradient: Array, dy: Array) -> Array:
    return gradient if dy == 1 else gradient * np.float32(dy)
