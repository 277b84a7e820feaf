"""Dropout whose draws are a function of seed, stream and place, so that a run that goes on repeats them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import _core
from pyllm.autograd import record
from pyllm.ops.arrays import Array, float32

_BATCH = 32  # bits for the places within a batch
_noise: ContextVar[tuple[int, int] | None] = ContextVar("noise", default=None)


@contextmanager
def noise(seed: int, batch: int) -> Iterator[None]:
    """Within it parts with a dropout drop, each batch (0, 1, ...) of a run something else; without it none does.

    Of this thread alone.
    """
    before = _noise.get()
    _noise.set((seed, batch << _BATCH))
    try:
        yield
    finally:
        _noise.set(before)


def noise_now() -> tuple[int, int] | None:
    """(seed, offset of this batch's places), None where nothing is to be dropped."""
    return _noise.get()


def dropout(x: Any, p: float, seed: int, stream: int, offset: int = 0) -> Any:
    """y_i = x_i / (1 - p), or 0 with probability p: by the draw of place offset + i of a stream of a seed.

    Any shape, float32. The mask is not kept: the way back draws it again. Raises ValueError for p outside [0, 1).
    Srivastava et al. 2014, JMLR 15.
    """
    y = _core.dropout(float32(x, "dropout"), p, seed, stream, offset)
    return record(y, (x,), lambda dy: (_core.dropout(dy, p, seed, stream, offset),))


def shared_dropout(x: Any, owners: NDArray[Any], shape: tuple[int, int], draw: tuple[float, int, int, int]) -> Any:
    """y_r = x_r m[owners_r], where m of `shape` is dropout's (p, seed, stream, offset) of ones: rows share a mask.

    x (rows, width), owners (rows,), shape (how many owners, width), or (..., 1) for rows that are dropped whole. With
    sequences as owners it is the variational or locked dropout, the same at every step (Gal, Ghahramani 2016,
    arXiv:1512.05287); with tokens as owners and width 1 words are dropped from the embedding. Raises ValueError.
    """
    a = float32(x, "dropout")
    if a.ndim != 2 or len(a) != len(owners) or shape[1] not in (1, a.shape[1]):
        raise ValueError(f"dropout: x {a.shape} with {len(owners)} owners, allowed are (owners, {shape[1]})")
    factors = _core.dropout(np.ones(shape, np.float32), *draw)[owners]
    return record(a * factors, (x,), lambda dy: (dy * factors,))


class Mask:
    """One dropout of this batch, which can be drawn again; None where there is none: see `mask`."""

    def __init__(self, p: float, seed: int, stream: int, offset: int) -> None:
        self.draw = p, seed, stream, offset

    def __call__(self, x: Array) -> Array:
        """x, or a gradient on its way back."""
        return _core.dropout(x, *self.draw)


def mask(p: float, stream: int) -> Mask | None:
    """The mask of a stream in this batch; None with p 0, or outside of `noise`."""
    now = noise_now()
    return Mask(p, now[0], stream, now[1]) if p and now is not None else None
