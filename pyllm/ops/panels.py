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
    n, k = matrix.shape[::-1] if transposed else matrix.shape
    shapes, key = _local.__dict__.setdefault("spare", {}), (type, n, k)
    weight = shapes[key].pop() if shapes.get(key) else _core.Weight(type, n, k)
    weight.fill_floats(matrix, transposed)
    try:
        yield weight
    finally:
        shapes[key] = [*shapes.pop(key, ()), weight]
        if len(shapes) > _SHAPES:
            del shapes[next(iter(shapes))]


def sums(dy: Array, x: Callable[[], Array], kind: str) -> Any:
    """dy^T x: the gradient of a weight (n, k) from dy (rows, n) and x() (rows, k), made where it is wanted."""

    def gradient(into: Array, add: bool) -> None:
        with panels(x(), kind, transposed=True) as packed:
            _core.linear(dy, packed, into=into, add=add, transposed=True)

    return gradient


def forget_panels() -> None:
    """Give this thread's spare panels back."""
    _local.__dict__.pop("spare", None)
