"""Panels of matrices that change from step to step: packed anew for every product, in memory that is used again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pyllm import _core
from pyllm.ops.arrays import Array

_SHAPES = 24  # of which memory is kept, the last used: batches of ever other lengths must not pile up theirs
_local = threading.local()


@contextmanager
def panels(matrix: Array, type: str, transposed: bool = False) -> Iterator[_core.Weight]:
    """The matrix (n, k), or (k, n) transposed, packed as n features of k inputs; lent until the block ends."""
    weight = _lend(matrix, type, transposed)
    try:
        yield weight
    finally:
        _take_back(weight)


@contextmanager
def turned(weight: _core.Weight, row: int, rows: int) -> Iterator[_core.Weight]:
    """Rows of a packed matrix (n, k) packed as k features of `rows` inputs: bf16, or float32 of float32."""
    part = _spare("F32" if weight.dtype == "F32" else "BF16", weight.shape[1], rows)
    part.fill_turned(weight, row)
    try:
        yield part
    finally:
        _take_back(part)


def _spares() -> dict[tuple[str, int, int], list[_core.Weight]]:
    """By type and shape, the last used at the end."""
    found: dict[tuple[str, int, int], list[_core.Weight]] = _local.__dict__.setdefault("spare", {})
    return found


def _lend(matrix: Array, type: str, transposed: bool) -> _core.Weight:
    weight = _spare(type, *(matrix.shape[::-1] if transposed else matrix.shape))
    weight.fill_floats(matrix, transposed)
    return weight


def _spare(type: str, n: int, k: int) -> _core.Weight:
    spare = _spares().get((type, n, k))
    return spare.pop() if spare else _core.Weight(type, n, k)


def _take_back(weight: _core.Weight) -> None:
    spares, key = _spares(), (weight.dtype, *weight.shape)
    spares[key] = [*spares.pop(key, ()), weight]
    if len(spares) > _SHAPES:
        del spares[next(iter(spares))]


class Again:
    """x(), made for the first of so many users and let go with the last."""

    def __init__(self, x: Callable[[], Array], users: int) -> None:
        self.x, self.left = x, users
        self.made: Array | None = None

    def __call__(self) -> Array:
        made = self.x() if self.made is None else self.made
        self.left -= 1
        self.made = made if self.left > 0 else None
        return made


class Columns:
    """x() (rows, k) packed for dy^T x, the gradients of so many weights that have read it: once, for the first."""

    def __init__(self, x: Callable[[], Array], kind: str, users: int = 1) -> None:
        self.x, self.kind, self.left = x, kind, users
        self.packed: _core.Weight | None = None

    def sums(self, dy: Array) -> Any:
        """dy^T x: the gradient of a weight (n, k) from dy (rows, n), made where it is wanted."""

        def gradient(into: Array, add: bool) -> None:
            if self.packed is None:
                self.packed = _lend(self.x(), self.kind, transposed=True)
            _core.linear(dy, self.packed, into=into, add=add, transposed=True)
            self.left -= 1
            if self.left == 0:
                _take_back(self.packed)
                self.packed = None

        return gradient


def sums(dy: Array, x: Callable[[], Array], kind: str) -> Any:
    """dy^T x for one weight."""
    return Columns(x, kind).sums(dy)


def forget_panels() -> None:
    """Give this thread's spare panels back."""
    _local.__dict__.pop("spare", None)
