"""Attention and rotary positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyllm import _core
from pyllm.ops.arrays import Array, float32
from pyllm.ops.linear import linear
from pyllm.ops.norm import Norm, normalise
from pyllm.ops.record import Symbol


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
    out = np.empty_like(q)
    for i in range(batch if queries else 0):
        a, b, c = (np.ascontiguousarray(x[i].transpose(1, 0, 2)).reshape(x.shape[2], -1) for x in (q, k, v))
        y = _core.attention(a, b, c, heads, groups, d, scale, causal, window or 0, softcap or 0, "F32")
        out[i] = y.reshape(queries, heads, d).transpose(1, 0, 2)
    return out


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
    x = float32(x, "rotary")
    positions = np.asarray(positions, np.int64)
    if x.ndim < 3 or x.shape[-1] % 2:
        raise ValueError(f"rotary: x has shape {x.shape}, allowed is (..., length, heads, an even width)")
    if positions.shape != x.shape[-3:-2] or (positions.size and positions.min() < 0):
        raise ValueError(f"rotary: positions {positions.shape} for x {x.shape}: one per place, 0 or more")
    d = x.shape[-1]
    if frequencies is None:
        frequencies = [theta ** (-2 * i / d) for i in range(d // 2)]
    if x.size == 0:
        return x
    table = rotary_table(frequencies, d, int(positions.max()) + 1, magnitude)
    order = np.arange(d) if interleaved else np.arange(d).reshape(2, d // 2).T.reshape(-1)
    rows = np.ascontiguousarray(x[..., order]).reshape(-1, x.shape[-2], d)
    every = np.ascontiguousarray(np.broadcast_to(positions, x.shape[:-2]).reshape(-1))
    out = np.empty_like(x)
    out[..., order] = _core.rotary(rows, table, every).reshape(x.shape)
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
) -> Any:
    """Causal attention of norm(x) with itself; parts: (weight, bias) of queries, keys and values.

    x (length, d); heads query heads in `groups` key heads; rotation: (frequencies, magnitude), pairs neighbouring.
    head_norms: RMS norms of each head of queries and of keys, before the rotation. window, softcap: 0 is none.
    While recording, keys and values go to the cache of `layer`.
    """
    if isinstance(x, Symbol):
        queries = _recorded(x, norm, parts, layer, rotation, head_norms)
        return queries.attention(layer, heads, scale, window, softcap)
    x = normalise(x, norm)
    q, k, v = (
        linear(x, weight, bias).reshape(len(x), count, -1)
        for (weight, bias), count in zip(parts, (heads, groups, groups), strict=True)
    )
    if head_norms is not None:
        q, k = (normalise(each, head_norm) for each, head_norm in zip((q, k), head_norms, strict=True))
    if rotation is not None:
        q, k = (rotary(each, np.arange(len(x)), 0, True, *rotation) for each in (q, k))
    q, k, v = (each.transpose(1, 0, 2)[None] for each in (q, k, v))
    y = attention(q, k, v, True, scale, window or None, softcap or None)
    return np.ascontiguousarray(y[0].transpose(1, 0, 2)).reshape(len(x), -1)


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
