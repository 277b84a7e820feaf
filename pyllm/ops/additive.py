"""Additive attention: scores from a small net instead of a product. Bahdanau et al. 2015, arXiv:1409.0473."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import _core
from pyllm.autograd import record
from pyllm.ops.arrays import Array, float32, vector
from pyllm.ops.panels import panels
from pyllm.ops.watch import Watch, unwatched

_AT_ONCE = 1 << 22  # numbers of tanh(q + k) that exist at a time: 16 MB


class _Block(NamedTuple):
    """Some queries of a sequence, and all its keys."""

    rows: slice
    keys: slice


def additive_attention(
    q: Any, k: Any, v: Any, weight: Any, starts: Any, key_starts: Any, watch: Watch = unwatched
) -> Any:
    """y_i = sum_j p_ij v_j, p_i = softmax over j of weight . tanh(q_i + k_j), j the keys of query i's sequence.

    q (rows, d), k (keys, d), v (keys, width), weight (d,), float32; starts and key_starts (sequences + 1,) say which
    rows and keys are one sequence. tanh(q + k) exists for some queries at a time, and is made again on the way back.
    watch sees "weights" (rows, keys), zeros between sequences. Raises ValueError for shapes that do not fit.
    """
    a, b, c = (float32(x, "additive_attention", name) for x, name in ((q, "q"), (k, "k"), (v, "v")))
    d = a.shape[-1]
    w = vector(weight, d, "additive_attention", "weight")
    if a.ndim != 2 or b.ndim != 2 or c.ndim != 2 or b.shape[1] != d or len(b) != len(c):
        found = f"q {a.shape}, k {b.shape}, v {c.shape}"
        raise ValueError(f"additive_attention: {found}, allowed are (rows, d), (keys, d), (keys, width)")
    blocks = list(_blocks(_checked(starts, len(a), "starts"), _checked(key_starts, len(b), "key_starts"), d))
    y = np.empty((len(a), c.shape[1]), np.float32)
    shares = [_shares(_bent(a, b, block), w) for block in blocks]
    for block, p in zip(blocks, shares, strict=True):
        with panels(c[block.keys], "F32", transposed=True) as values:
            y[block.rows] = _core.linear(p, values)
    if watch is not unwatched:
        watch("weights", _dense(blocks, shares, len(a), len(b)))

    def derivative(dy: Array) -> tuple[Array, Array, Array, Array]:
        da, db, dc, dw = np.empty_like(a), np.zeros_like(b), np.zeros_like(c), np.zeros_like(w)
        for block, p in zip(blocks, shares, strict=True):
            mine = dy[block.rows]
            dc[block.keys] += p.T @ mine
            dp = mine @ c[block.keys].T
            ds = p * (dp - (p * dp).sum(axis=1, keepdims=True))
            bent = _bent(a, b, block)
            dw += ds.reshape(-1) @ bent.reshape(-1, d)
            inner = (1 - bent * bent) * ds[:, :, None]
            inner *= w
            da[block.rows] = inner.sum(axis=1)
            db[block.keys] += inner.sum(axis=0)
        return da, db, dc, dw

    return record(y, (q, k, v, weight), derivative)


def _blocks(starts: NDArray[np.int64], key_starts: NDArray[np.int64], d: int) -> Iterator[_Block]:
    if len(starts) != len(key_starts):
        found = f"{len(starts) - 1} sequences of queries and {len(key_starts) - 1} of keys"
        raise ValueError(f"additive_attention: {found}, allowed is as many of both")
    for i in range(len(starts) - 1):
        keys = slice(int(key_starts[i]), int(key_starts[i + 1]))
        most = max(1, _AT_ONCE // (d * (keys.stop - keys.start)))
        for row in range(int(starts[i]), int(starts[i + 1]), most):
            yield _Block(slice(row, min(row + most, int(starts[i + 1]))), keys)


def _checked(starts: Any, rows: int, name: str) -> NDArray[np.int64]:
    found = np.asarray(starts, np.int64)
    if found.ndim != 1 or len(found) < 1 or found[0] or found[-1] != rows or (np.diff(found) < 1).any():
        raise ValueError(f"additive_attention: {name} must rise from 0 to the {rows} rows, found {found}")
    return found


def _bent(a: Array, b: Array, block: _Block) -> Array:
    """tanh(q + k), (rows, keys, d)."""
    return _core.map(a[block.rows, None] + b[None, block.keys], None, "tanh")


def _shares(bent: Array, w: Array) -> Array:
    """Each query's shares of the keys, (rows, keys)."""
    with panels(w[None], "F32") as packed:
        scores = _core.linear(bent.reshape(-1, len(w)), packed)
    return _core.softmax(scores.reshape(bent.shape[:2]))


def _dense(blocks: list[_Block], shares: list[Array], rows: int, keys: int) -> Array:
    found = np.zeros((rows, keys), np.float32)
    for block, p in zip(blocks, shares, strict=True):
        found[block.rows, block.keys] = p
    return found
