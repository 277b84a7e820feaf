"""Float64 twins of attention over many sequences, forward and backward, straight from the definition."""

from dataclasses import dataclass

import numpy as np
import reference as ref
from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    """Sequences of these lengths; window 0: all; cap 0: none."""

    lengths: tuple[int, ...]
    heads: int = 2
    groups: int = 2
    dim: int = 16
    causal: bool = True
    window: int = 0
    cap: float = 0.0

    @property
    def starts(self) -> NDArray[np.int32]:
        """Where every sequence begins, and the end."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)

    @property
    def scale(self) -> float:
        """A float32 number, as the kernels take it."""
        return float(np.float32(self.dim**-0.5))


def _parts(case: Case, *arrays: tuple[NDArray, int]) -> list[list[NDArray]]:
    """Of every sequence the arrays as (heads, length, width)."""
    starts = case.starts
    return [
        [ref.f64(a[b:e]).reshape(e - b, heads, -1).swapaxes(0, 1) for a, heads in arrays]
        for b, e in zip(starts[:-1], starts[1:], strict=True)
    ]


def _rows(parts: list[NDArray]) -> NDArray:
    """(heads, length, width) of every sequence back to rows."""
    return np.concatenate([p.swapaxes(0, 1).reshape(p.shape[1], -1) for p in parts])


def _shared(x: NDArray, case: Case) -> NDArray:
    return np.repeat(x, case.heads // case.groups, axis=0)


def _scores(q: NDArray, k: NDArray, case: Case) -> NDArray:
    raw = q @ _shared(k, case).swapaxes(1, 2) * case.scale
    return ref.softcap(raw, case.cap) if case.cap else raw


def _seen(length: int, case: Case) -> NDArray:
    return ref.visible(length, length, case.causal, case.window or None)


def forward(q: NDArray, k: NDArray, v: NDArray, case: Case) -> tuple[NDArray, NDArray]:
    """out (N, heads * d) = softmax(scores) V and lse (N, heads) = log sum exp(scores), within every sequence."""
    out, lse = [], []
    for a, b, c in _parts(case, (q, case.heads), (k, case.groups), (v, case.groups)):
        s = np.where(_seen(a.shape[1], case), _scores(a, b, case), -np.inf)
        top = s.max(axis=2, keepdims=True)
        lse.append(top + np.log(np.exp(s - top).sum(axis=2, keepdims=True)))
        out.append(np.exp(s - lse[-1]) @ _shared(c, case))
    return _rows(out), _rows(lse)


def backward(dout: NDArray, q: NDArray, k: NDArray, v: NDArray, case: Case) -> tuple[NDArray, NDArray, NDArray]:
    """dq, dk, dv: dS = P (dO V^T - rowsum(dO O)), times 1 - (s/c)^2 under a cap; dq = scale dS K, dk = scale dS^T Q."""
    grads: tuple[list, list, list] = ([], [], [])
    shapes = (dout, case.heads), (q, case.heads), (k, case.groups), (v, case.groups)
    for g, a, b, c in _parts(case, *shapes):
        s = _scores(a, b, case)
        p = ref.softmax(np.where(_seen(a.shape[1], case), s, -np.inf))
        dp = g @ _shared(c, case).swapaxes(1, 2)
        ds = p * (dp - (p * dp).sum(axis=2, keepdims=True))
        ds = ds * (1 - (s / case.cap) ** 2) if case.cap else ds
        per_head = ds.swapaxes(1, 2) @ a * case.scale, p.swapaxes(1, 2) @ g
        grads[0].append(ds @ _shared(b, case) * case.scale)
        for into, x in zip(grads[1:], per_head, strict=True):
            into.append(x.reshape(case.groups, -1, *x.shape[1:]).sum(axis=1))
    return _rows(grads[0]), _rows(grads[1]), _rows(grads[2])
