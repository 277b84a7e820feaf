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


def _spares() -> dict[tuple[str, int, int], list[_core.Weight]]:
    """By type and shape, the last used at the end."""
    found: dict[tuple[str, int, int], list[_core.Weight]] = _local.__dict__.setdefault("spare", {})
    return found


def _lend(matrix: Array, type: str, transposed: bool) -> _core.Weight:
    n, k = matrix.shape[::-1] if transposed else matrix.shape
    spare = _spares().get((type, n, k))
    weight = spare.pop() if spare else _core.Weight(type, n, k)
    weight.fill_floats(matrix, transposed)
    return weight


def _take_back(weight: _core.Weight) -> None:
    spares, key = _spares(), (weight.dtype, *weight.shape)
    spares[key] = [*spares.pop(key, ()), weight]
    if len(spares) > _SHAPES:
        del spares[next(iter(spares))]


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
