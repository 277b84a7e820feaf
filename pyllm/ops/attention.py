"""Attention and rotary positions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from pyllm import _core
from pyllm.autograd import record, wants
from pyllm.ops.arithmetic import reshape, transpose
from pyllm.ops.arrays import Array, float32
from pyllm.ops.attention_weights import watched_attention
from pyllm.ops.dropout import Mask
from pyllm.ops.linear import linears
from pyllm.ops.norm import Norm, normalise
from pyllm.ops.precision import product_type, stored
from pyllm.ops.record import Symbol
from pyllm.ops.sequences import places_of, starts_of
from pyllm.ops.watch import Watch, unwatched
from pyllm.tensor import Tensor

_KEPT = 1 << 19  # numbers of cosines that a table which is kept has at most: 8 MB with its inverse


def attention(
    q: Any,
    k: Any,
    v: Any,
    causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Array:
    """softmax(scale q k^T) v per head. Vaswani et al. 2017, arXiv:1706.03762; grouped queries arXiv:2305.13245.

    q (batch, heads, queries, d), k and v (batch, key heads, keys, d), heads a multiple of key heads; float32.
    causal: query i sees keys up to keys - queries + i; window: only the last that many of those. scale: 1 / sqrt(d).
    softcap: scores s become softcap tanh(s / softcap), arXiv:2408.00118.
    Raises ValueError for shapes that do not fit.
    """
    if any(isinstance(x, Tensor) for x in (q, k, v)):
        return _learning(q, k, v, causal, scale, window, softcap)
    q, k, v = (float32(x, "attention", name) for x, name in ((q, "q"), (k, "k"), (v, "v")))
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape:
        raise ValueError(f"attention: q {q.shape}, k {k.shape}, v {v.shape}: four dimensions, k and v alike")
    batch, heads, queries, d = q.shape
    groups, keys = k.shape[1:3]
    if k.shape[0] != batch or k.shape[3] != d or groups == 0 or heads % groups:
        raise ValueError(f"attention: q {q.shape} and k {k.shape}: batch and width must agree, heads divide")
    if keys == 0 or d == 0 or (causal and queries > keys):
        raise ValueError(f"attention: {queries} queries over {keys} keys of width {d}: every query must see a key")
    if window is not None and (window < 1 or not causal):
        raise ValueError(f"attention: window {window}: 1 or more, and only with causal=True")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"attention: softcap {softcap}: above 0")
    scale = d**-0.5 if scale is None else scale
    out = _core.empty(q.shape)
    for i in range(batch if queries else 0):
        a, b, c = (np.ascontiguousarray(x[i].transpose(1, 0, 2)).reshape(x.shape[2], -1) for x in (q, k, v))
        y = _core.attention(a, b, c, heads, groups, d, scale, causal, window or 0, softcap or 0, "F32")
        out[i] = y.reshape(queries, heads, d).transpose(1, 0, 2)
    return out


def _learning(q: Any, k: Any, v: Any, causal: bool, scale: Any, window: Any, softcap: Any) -> Any:
    """As attention, for tensors: causal, as many queries as keys."""
    batch, heads, length, d = q.shape
    keys = k.shape[2]
    if k.shape != v.shape or k.shape[0] != batch or k.shape[3] != d or heads % k.shape[1] or not length or not keys:
        raise ValueError(f"attention: q {q.shape}, k {k.shape}, v {v.shape}: batch and width must agree, heads divide")
    if causal and keys != length:
        raise ValueError(f"attention: {length} queries over {keys} keys: to learn, causal has as many of both")
    a, b, c = (reshape(transpose(x, 0, 2, 1, 3), (batch * x.shape[2], x.shape[1] * d)) for x in (q, k, v))
    starts, key_starts = (np.arange(0, batch * n + 1, n, dtype=np.int32) for n in (length, keys))
    scale = d**-0.5 if scale is None else scale
    more = window or 0, softcap or 0.0, None if causal else key_starts
    y = row_attention(a, b, c, starts, heads, k.shape[1], causal, scale, *more)
    return transpose(reshape(y, (batch, length, heads, d)), 0, 2, 1, 3)


def rotary_table(frequencies: Sequence[float], dim: int, positions: int, magnitude: float = 1.0) -> Array:
    """(positions, 2, dim): cosines and signed sines of position * frequency, for neighbouring pairs of features."""
    angle = np.arange(positions, dtype=np.float64)[:, None] * np.asarray(frequencies, np.float64)
    table = np.zeros((positions, 2, dim), np.float32)
    table[:, 0] = 1
    pairs = 2 * angle.shape[1]
    table[:, 0, 0:pairs:2] = table[:, 0, 1:pairs:2] = np.cos(angle) * magnitude
    table[:, 1, 1:pairs:2] = np.sin(angle) * magnitude
    table[:, 1, 0:pairs:2] = -table[:, 1, 1:pairs:2]
    return table


@lru_cache(maxsize=4)  # every layer of a model asks for the same one, of queries and of keys
def _tables(frequencies: tuple[float, ...], dim: int, positions: int, magnitude: float) -> tuple[Array, Array]:
    """rotary_table, and that of the inverse: by the negative angle."""
    table = rotary_table(frequencies, dim, positions, magnitude)
    return table, table * np.array([[[1], [-1]]], np.float32)


def rotary(
    x: Any,
    positions: Any,
    theta: float = 10000.0,
    interleaved: bool = True,
    frequencies: Sequence[float] | None = None,
    magnitude: float = 1.0,
) -> Array:
    """Turn pairs of features by position * frequency. Su et al. 2021, arXiv:2104.09864.

    x (..., length, heads, d) float32, positions (length,); pairs are (2i, 2i+1), or (i, i + d/2) if not interleaved.
    frequencies default to theta^(-2i/d). Raises ValueError for an odd d or positions that do not fit.
    """
    a = float32(x, "rotary")
    positions = np.asarray(positions, np.int64)
    if a.ndim < 3 or a.shape[-1] % 2:
        raise ValueError(f"rotary: x has shape {a.shape}, allowed is (..., length, heads, an even width)")
    if positions.shape != a.shape[-3:-2] or (positions.size and positions.min() < 0):
        raise ValueError(f"rotary: positions {positions.shape} for x {a.shape}: one per place, 0 or more")
    d = a.shape[-1]
    if frequencies is None:
        frequencies = [theta ** (-2 * i / d) for i in range(d // 2)]
    if a.size == 0:
        return a
    most = int(positions.max()) + 1
    tables = _tables if most * d <= _KEPT else _tables.__wrapped__
    table, back = tables(tuple(frequencies), d, most, magnitude)
    order = np.arange(d) if interleaved else np.arange(d).reshape(2, d // 2).T.reshape(-1)
    every = np.ascontiguousarray(np.broadcast_to(positions, a.shape[:-2]).reshape(-1))
    y = _rotated(a, table, every, order)
    return record(y, (x,), lambda dy: (_rotated(dy, back, every, order),))


def _rotated(x: Array, table: Array, places: Any, order: Any) -> Array:
    d = x.shape[-1]
    if (order == np.arange(d)).all():
        return _core.rotary(x.reshape(-1, *x.shape[-2:]), table, places).reshape(x.shape)
    out = _core.empty(x.shape)
    rows = np.ascontiguousarray(x[..., order]).reshape(-1, *x.shape[-2:])
    out[..., order] = _core.rotary(rows, table, places).reshape(x.shape)
    return out


def self_attention(
    x: Any,
    norm: Norm | None,
    parts: list[tuple[Any, Any]],
    heads: int,
    groups: int,
    layer: int,
    scale: float,
    rotation: tuple[Sequence[float], float] | None = None,
    window: int = 0,
    softcap: float = 0.0,
    head_norms: tuple[Norm, Norm] | None = None,
    watch: Watch = unwatched,
) -> Any:
    """Causal attention of norm(x) with itself; parts: (weight, bias) of queries, keys and values.

    x (..., length, d); heads query heads in `groups` key heads; rotation: (frequencies, magnitude), pairs neighbouring.
    head_norms: RMS norms of each head of queries and of keys, before the rotation. window, softcap: 0 is none.
    While recording, keys and values go to the cache of `layer`. watch sees "normalised" and what
    watched_attention says.
    """
    if isinstance(x, Symbol):
        queries = _recorded(x, norm, parts, layer, rotation, head_norms)
        return queries.attention(layer, heads, scale, window, softcap)
    starts = starts_of(x.shape[:-1])
    x = watch("normalised", normalise(x, norm))
    q, k, v = linears(x, parts)
    if head_norms is not None:
        q, k = _by_head(q, heads, head_norms[0]), _by_head(k, groups, head_norms[1])
    if rotation is not None:
        places = places_of(starts)
        q, k = _turned(q, heads, places, rotation), _turned(k, groups, places, rotation)
    if watch is not unwatched:
        return watched_attention(q, k, v, starts, heads, groups, scale, window, softcap, watch)
    return row_attention(q, k, v, starts, heads, groups, True, scale, window, softcap)


def row_attention(
    q: Any,
    k: Any,
    v: Any,
    starts: Any,
    heads: int,
    groups: int,
    causal: bool,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    key_starts: Any = None,
    bias: Any = None,
    kind: str | None = None,
    mask: Mask | None = None,
) -> Any:
    """Attention within each of many sequences whose rows lie one after the other, never the scores of all at once.

    q (..., heads d), k and v (..., groups d), starts as ops.documents; window and softcap 0: none. key_starts: the
    queries of each sequence see all keys of the sequence of that number in k and v, which begin there; not causal.
    bias: (heads, distances), added to the scores: by how far a key stands before or behind its query; the last is
    distance 0 where attention is causal, else the one in the middle; not with window, softcap or key_starts. The
    backward pass makes the scores again from the logarithms of their sums; of bf16 products it keeps bf16 numbers.
    kind: "F32" or "BF16", of the products' operands, product_type() unless given. Dao et al. 2022, arXiv:2205.14135.
    mask: dropout of the weights, by the draws of an array (rows, heads, the longest's keys to whole 64s).
    """
    arrays = [float32(x, "attention", name) for x, name in ((q, "q"), (k, "k"), (v, "v"))]
    shapes, rows, kind = [x.shape for x in arrays], int(starts[-1]), kind or product_type()
    keys = rows if key_starts is None else int(key_starts[-1])
    inputs: list[Any] = [x.reshape(n, -1) for x, n in zip(arrays, (rows, keys, keys), strict=True)]
    table = None if bias is None else float32(bias, "attention", "bias")
    draw = None if mask is None else mask.draw
    options: list[Any] = [starts, heads, groups, scale, causal, window, softcap, kind, key_starts, table, draw]
    learns = wants(q, k, v, bias)
    y, sums = _core.attention_forward(*inputs, *options, *[learns])
    keep = [stored(x, kind) for x in (*inputs, y)] if learns else []

    def derivative(dy: Array) -> list[Array]:
        held: list[Any] = [dy.reshape(rows, -1), *(x() for x in keep), sums, *options]
        gradients = _core.attention_backward(*held)
        found = [each.reshape(shape) for each, shape in zip(gradients[:3], shapes, strict=True)]
        return [*found, *gradients[3:]]

    parts = (q, k, v) if bias is None else (q, k, v, bias)
    return record(y.reshape(shapes[0]), parts, derivative, keep[3] if keep and kind != "F32" else None)


def step_attention(
    q: Any, keys: Any, values: Any, places: Any, count: Any, heads: int, scale: float, bias: Any = None
) -> Array:
    """Attention of one query for each beam, where keys and values are rows that lie anywhere; it is not for learning.

    q (beams, heads d); keys and values (rows, heads d), float32 or bf16 as uint16; places (beams, positions): of each
    beam the row of every position, or (beams,): where its rows begin; count (beams,): how many it sees. bias: (heads,
    distances), the last of distance 0. Raises ValueError for shapes and for places that are none.
    """
    y: Array = _core.step_attention(q, keys, values, places, count, heads, scale, bias)
    return y


def _by_head(x: Any, heads: int, norm: Norm) -> Any:
    """Each head's features normalised."""
    return reshape(normalise(reshape(x, (-1, heads, x.shape[-1] // heads)), norm), x.shape)


def _turned(x: Any, heads: int, places: Any, rotation: tuple[Sequence[float], float]) -> Any:
    """Every head of rows (..., heads d) rotated for its place."""
    rows = reshape(x, (len(places), heads, x.shape[-1] // heads))
    return reshape(rotary(rows, places, 0, True, *rotation), x.shape)


def _recorded(
    x: Symbol, norm: Norm | None, parts: list[tuple[Any, Any]], layer: int, rotation: Any, head_norms: Any
) -> Symbol:
    """Queries as a value, keys and values in the cache: rotated by the product itself, or after the norm of heads."""
    turned = "store" if rotation is None else "rotary"
    epilogues = (turned, "key", "value") if head_norms is None else ("store", "store", "value")
    recorded = [(*part, epilogue) for part, epilogue in zip(parts, epilogues, strict=True)]
    if head_norms is None:
        return x.linear(norm, recorded, layer=layer, rotation=rotation)[0]
    q, k = x.linear(norm, recorded, layer=layer)
    return q.heads(k, head_norms, layer, rotation)
