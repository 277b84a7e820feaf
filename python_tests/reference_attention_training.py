"""Float64 twins of attention over many sequences, forward and backward, straight from the definition."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import reference as ref
from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    """Sequences of these lengths; window 0: all; cap 0: none; keys: lengths of the sequences seen, None: their own."""

    lengths: tuple[int, ...]
    heads: int = 2
    groups: int = 2
    dim: int = 16
    causal: bool = True
    window: int = 0
    cap: float = 0.0
    keys: tuple[int, ...] | None = None

    @property
    def starts(self) -> NDArray[np.int32]:
        """Where every sequence begins, and the end."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)

    @property
    def key_starts(self) -> NDArray[np.int32]:
        """The same of the keys."""
        return np.concatenate([[0], np.cumsum(self.lengths if self.keys is None else self.keys)]).astype(np.int32)

    @property
    def scale(self) -> float:
        """A float32 number, as the kernels take it."""
        return float(np.float32(self.dim**-0.5))


def _parts(case: Case, *arrays: tuple[NDArray, int, bool]) -> list[list[NDArray]]:
    """Of every sequence the arrays (numbers, heads, whether they are keys') as (heads, length, width)."""
    spans = list(zip(pairwise(case.starts), pairwise(case.key_starts), strict=True))
    return [
        [
            ref.f64(a[span[keys][0] : span[keys][1]]).reshape(-1, heads, a.shape[1] // heads).swapaxes(0, 1)
            for a, heads, keys in arrays
        ]
        for span in spans
    ]


def _rows(parts: list[NDArray]) -> NDArray:
    """(heads, length, width) of every sequence back to rows."""
    return np.concatenate([p.swapaxes(0, 1).reshape(p.shape[1], -1) for p in parts])


def _shared(x: NDArray, case: Case) -> NDArray:
    return np.repeat(x, case.heads // case.groups, axis=0)


def _scores(q: NDArray, k: NDArray, case: Case, table: NDArray | None = None) -> NDArray:
    raw = q @ _shared(k, case).swapaxes(1, 2) * case.scale
    if table is not None:
        raw = raw + ref.f64(table)[:, _distances(case, table, q.shape[1])]
    return ref.softcap(raw, case.cap) if case.cap else raw


def _distances(case: Case, table: NDArray, length: int) -> NDArray:
    """(queries, keys): the column of a table of biases (heads, distances) for every pair within a sequence."""
    zero = table.shape[1] - 1 if case.causal else table.shape[1] // 2
    found = zero + np.arange(length)[None] - np.arange(length)[:, None]
    return np.clip(found, 0, table.shape[1] - 1)


def _factors(case: Case, factor: NDArray | None) -> list[NDArray]:
    """Of every sequence (heads, length, keys) of the factors (N, heads, n or more) of its weights, ones without any."""
    spans = zip(pairwise(case.starts), np.diff(case.key_starts), strict=True)
    if factor is None:
        return [np.ones((case.heads, end - begin, keys)) for (begin, end), keys in spans]
    return [ref.f64(factor[begin:end, :, :keys]).swapaxes(0, 1) for (begin, end), keys in spans]


def _seen(length: int, keys: int, case: Case) -> NDArray:
    return ref.visible(length, keys, case.causal, case.window or None)


def _shapes(case: Case, q: NDArray, k: NDArray, v: NDArray) -> list[tuple[NDArray, int, bool]]:
    return [(q, case.heads, False), (k, case.groups, True), (v, case.groups, True)]


def forward(
    q: NDArray, k: NDArray, v: NDArray, case: Case, table: NDArray | None = None, factor: NDArray | None = None
) -> tuple[NDArray, NDArray]:
    """out (N, heads * d) = (softmax(scores) * factor) V and lse (N, heads) = log sum exp(scores), in every sequence.

    table: biases of distances (heads, n), added to the scores; distance 0 is the last column, or the one in the middle.
    """
    out, lse = [], []
    for (a, b, c), m in zip(_parts(case, *_shapes(case, q, k, v)), _factors(case, factor), strict=True):
        s = np.where(_seen(a.shape[1], b.shape[1], case), _scores(a, b, case, table), -np.inf)
        top = s.max(axis=2, keepdims=True)
        lse.append(top + np.log(np.exp(s - top).sum(axis=2, keepdims=True)))
        out.append((np.exp(s - lse[-1]) * m) @ _shared(c, case))
    return _rows(out), _rows(lse)


def backward(
    dout: NDArray,
    q: NDArray,
    k: NDArray,
    v: NDArray,
    case: Case,
    table: NDArray | None = None,
    factor: NDArray | None = None,
) -> tuple[NDArray, ...]:
    """dq, dk, dv: dS = P (dO V^T - rowsum(dO O)), times 1 - (s/c)^2 under a cap; dq = scale dS K, dk = scale dS^T Q.

    With a table also its gradient: dS summed over the pairs of each distance.
    """
    grads: tuple[list, list, list] = ([], [], [])
    dtable = None if table is None else np.zeros(table.shape)
    parts = _parts(case, (dout, case.heads, False), *_shapes(case, q, k, v))
    for (g, a, b, c), m in zip(parts, _factors(case, factor), strict=True):
        s = _scores(a, b, case, table)
        p = ref.softmax(np.where(_seen(a.shape[1], b.shape[1], case), s, -np.inf))
        dp = g @ _shared(c, case).swapaxes(1, 2) * m
        ds = p * (dp - (p * dp).sum(axis=2, keepdims=True))
        ds = ds * (1 - (s / case.cap) ** 2) if case.cap else ds
        if dtable is not None:
            np.add.at(dtable, (slice(None), _distances(case, table, a.shape[1])), ds)
        per_head = ds.swapaxes(1, 2) @ a * case.scale, (p * m).swapaxes(1, 2) @ g
        grads[0].append(ds @ _shared(b, case) * case.scale)
        for into, x in zip(grads[1:], per_head, strict=True):
            into.append(x.reshape(case.groups, -1, *x.shape[1:]).sum(axis=1))
    found = _rows(grads[0]), _rows(grads[1]), _rows(grads[2])
    return found if dtable is None else (*found, dtable)


def bounds(
    dout: NDArray,
    q: NDArray,
    k: NDArray,
    v: NDArray,
    case: Case,
    unit: float = 0.0,
    table: NDArray | None = None,
    factor: NDArray | None = None,
) -> list[NDArray]:
    """How far out, lse, dq, dk, dv and with a table its gradient may be off; unit: the roundoff of stored
    probabilities and dS.

    A score's error moves its probability by as much of itself, and the capped score's slope by at most twice that. The
    errors of dO V^T and rowsum(dO O) are parts of the sums of their absolute terms, and so are those of the products.
    No probability is less than about the smallest normal number.
    """
    found: tuple[list, list, list, list, list] = ([], [], [], [], [])
    off = None if table is None else np.zeros(table.shape)
    parts = _parts(case, (dout, case.heads, False), *_shapes(case, q, k, v))
    for (g, a, b, c), m in zip(parts, _factors(case, factor), strict=True):
        length, seen = max(a.shape[1], b.shape[1]), _seen(a.shape[1], b.shape[1], case)
        raw = _scores(a, b, case, table)
        size = np.abs(a) @ np.abs(_shared(b, case)).swapaxes(1, 2) * case.scale
        if table is not None:
            size = size + np.abs(ref.f64(table))[:, _distances(case, table, a.shape[1])]
        error = ref.gamma(case.dim + 3) * size + (ref.softcap_bound(size, case.cap) if case.cap else 0)
        moved = np.where(seen, error, 0).max()
        s = np.where(seen, raw, -np.inf)
        reach = np.abs(np.where(seen, raw, 0)).max()
        roundings = 3 * length + case.dim + (4 * ref.EXP_ULP + 4) * (length / 256 + 2) + 8 * reach + 40
        part = np.expm1((4 + 2 / (case.cap or 1)) * moved + roundings * ref.U) + 3 * unit
        p = ref.softmax(s)
        wrong = (part + ref.gamma(length * case.heads // case.groups + 3)) * p + np.where(seen, 2 * ref.TINY, 0)
        dp = np.abs(g) @ np.abs(_shared(c, case)).swapaxes(1, 2) * m
        least = np.where(seen, ref.TINY, 0)  # where weights are dropped exactly 0 may be left
        slope = wrong * (dp + (p * dp).sum(axis=2, keepdims=True)) + least
        ds = slope * case.scale
        if off is not None:
            np.add.at(off, (slice(None), _distances(case, table, a.shape[1])), slope)
        wrong = wrong * m * (1 + 3 * ref.U) + least
        found[0].append(wrong @ np.abs(_shared(c, case)))
        found[1].append(np.full((case.heads, a.shape[1], 1), part + ref.U * (reach + np.log(length) + 1)))
        found[2].append(ds @ np.abs(_shared(b, case)))
        for into, x in zip(found[3:], (ds.swapaxes(1, 2) @ np.abs(a), wrong.swapaxes(1, 2) @ np.abs(g)), strict=True):
            into.append(x.reshape(case.groups, -1, *x.shape[1:]).sum(axis=1))
    return [_rows(each) for each in found] + ([] if off is None else [off + 1e-30])
