"""Attention as it is defined, all its weights at once, for who wants to see them: memory grows as length squared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm.autograd import record
from pyllm.ops.arithmetic import index, reshape, transpose
from pyllm.ops.arrays import Array, float32
from pyllm.ops.sequences import places_of
from pyllm.ops.watch import Watch


def watched_attention(
    q: Any,
    k: Any,
    v: Any,
    starts: NDArray[np.int32],
    heads: int,
    groups: int,
    scale: float,
    window: int,
    softcap: float,
    watch: Watch,
) -> Any:
    """As row_attention, causal; watch sees "queries", "keys", "values" (..., heads, length, d) and "weights".

    Weights are (..., heads, length, length). Where `documents` cuts rows otherwise than their shape, length is all
    rows, and weights between sequences are 0.
    """
    shape, rows = q.shape, int(starts[-1])
    if (np.diff(starts) != shape[-2]).any():
        q, k, v = (reshape(x, (rows, x.shape[-1])) for x in (q, k, v))
    q = watch("queries", _split(q, heads))
    k, v = watch("keys", _split(k, groups)), watch("values", _split(v, groups))
    weights = watch("weights", attention_weights(q, k, _seen(starts, q.shape[-2], window), scale, softcap))
    y = attended(weights, v)
    order = (*range(y.ndim - 3), y.ndim - 2, y.ndim - 3, y.ndim - 1)
    return reshape(transpose(y, *order), shape)


def attention_weights(
    q: Any, k: Any, seen: NDArray[np.bool_], scale: float, softcap: float = 0.0, bias: Any = None
) -> Any:
    """softmax over keys of scale q k^T, of softcap tanh(that / softcap) unless softcap is 0, where `seen`; else 0.

    q (..., heads, queries, d), k (..., key heads, keys, d), seen (queries, keys); float32, in PyTorch's order of heads.
    bias (heads, queries, keys) is added to the scores of q (heads, queries, d), which are not capped then.
    """
    a, b = float32(q, "attention_weights", "q"), float32(k, "attention_weights", "k")
    groups = b.shape[-3]
    a5, b5 = _grouped(a, groups), b[..., None, :, :]
    scores = np.float32(scale) * (a5 @ b5.swapaxes(-1, -2))
    if bias is not None:
        scores += _grouped(float32(bias, "attention_weights", "bias"), groups)
    capped = np.float32(softcap) * np.tanh(scores / np.float32(softcap)) if softcap else scores
    hidden = np.where(seen, capped, -np.inf)
    grown = np.exp(hidden - hidden.max(axis=-1, keepdims=True))
    w = grown / grown.sum(axis=-1, keepdims=True)

    def derivative(dy: Array) -> tuple[Array, ...]:
        dw = dy.reshape(w.shape)
        ds = w * (dw - (dw * w).sum(axis=-1, keepdims=True))
        more = () if bias is None else (ds.reshape(bias.shape).copy(),)
        if softcap:
            ds *= 1 - (capped / np.float32(softcap)) ** 2
        ds *= np.float32(scale)
        dk = (ds.swapaxes(-1, -2) @ a5).sum(axis=-3)
        return (ds @ b5).reshape(a.shape), np.ascontiguousarray(dk), *more

    parts = (q, k) if bias is None else (q, k, bias)
    return record(w.reshape(*a.shape[:-1], b.shape[-2]), parts, derivative)


def spread_bias(table: Any, starts: NDArray[np.int32], causal: bool) -> Any:
    """(heads, rows, rows) of a table of distances as ops.row_attention takes it; anything where sequences differ."""
    places, n = places_of(starts), table.shape[1]
    distance = places[None, :] - places[:, None] + (n - 1 if causal else n // 2)
    return index(table, (slice(None), np.clip(distance, 0, n - 1)))


def attended(weights: Any, v: Any) -> Any:
    """Each query's weights times the values: (..., heads, queries, keys) and (..., key heads, keys, d)."""
    w, b = float32(weights, "attended", "weights"), float32(v, "attended", "v")
    w5, b5 = _grouped(w, b.shape[-3]), b[..., None, :, :]
    y = (w5 @ b5).reshape(*w.shape[:-1], b.shape[-1])

    def derivative(dy: Array) -> tuple[Array, Array]:
        d5 = _grouped(dy, b.shape[-3])
        dv = (w5.swapaxes(-1, -2) @ d5).sum(axis=-3)
        return (d5 @ b5.swapaxes(-1, -2)).reshape(w.shape), np.ascontiguousarray(dv)

    return record(y, (weights, v), derivative)


def _split(x: Any, heads: int) -> Any:
    """(..., length, heads d) to (..., heads, length, d)."""
    lead = len(x.shape) - 2
    apart = reshape(x, (*x.shape[:-1], heads, x.shape[-1] // heads))
    return transpose(apart, *range(lead), lead + 1, lead, lead + 2)


def _grouped(x: Array, groups: int) -> Array:
    """(..., heads, queries, n) to (..., groups, heads of each, queries, n)."""
    return x.reshape(*x.shape[:-3], groups, x.shape[-3] // groups, *x.shape[-2:])


def _seen(starts: NDArray[np.int32], length: int, window: int) -> NDArray[np.bool_]:
    """(queries, keys): which keys a query sees: of its own sequence, itself and what came before, in the window."""
    if length != starts[-1]:
        starts = starts[:2]  # sequences of one length: the same for all
    places = places_of(starts)
    sequence = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    back = places[:, None] - places[None, :]
    return (sequence[:, None] == sequence[None, :]) & (back >= 0) & ((back < window) | (window == 0))
