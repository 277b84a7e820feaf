"""Which rows belong together: sequences lie one after the other, and none sees another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm.autograd import record
from pyllm.ops.arrays import Array, float32
from pyllm.ops.record import Symbol

_starts: ContextVar[NDArray[np.int32] | None] = ContextVar("starts", default=None)


@contextmanager
def documents(starts: Any) -> Iterator[None]:
    """Within it, rows of tokens are sequences that begin at starts[:-1] and end at starts[-1]; int32, ascending.

    Without it the last dimension of token ids is one sequence. Of this thread.
    """
    before = _starts.get()
    _starts.set(None if starts is None else np.ascontiguousarray(starts, np.int32))
    try:
        yield
    finally:
        _starts.set(before)


def starts_of(shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Where sequences begin among rows of this shape (..., length), and how many rows there are.

    Raises ValueError where `documents` says another number of rows.
    """
    length = shape[-1] if shape else 1
    rows = int(np.prod(shape, dtype=np.int64))
    starts = _starts.get()
    if starts is None:
        return np.arange(0, rows + 1, max(length, 1), dtype=np.int32)
    if starts.ndim != 1 or len(starts) < 2 or starts[0] != 0 or starts[-1] != rows or (np.diff(starts) < 1).any():
        raise ValueError(f"documents: starts must rise from 0 to the {rows} rows, found {starts}")
    return starts


def places_of(starts: NDArray[np.int32]) -> NDArray[np.int64]:
    """The position of every row in its sequence."""
    lengths = np.diff(starts)
    return np.arange(starts[-1], dtype=np.int64) - np.repeat(starts[:-1], lengths)


def take_rows(x: Any, index: NDArray[np.int64]) -> Any:
    """Rows of x (rows, width) at index, each at most once."""
    a = float32(x, "take_rows")

    def derivative(dy: Array) -> tuple[Any]:
        def gradient(into: Array, add: bool) -> None:
            if not add:
                into.fill(0)
            into[index] += dy

        return (gradient,)

    return record(a[index], (x,), derivative)


def put_rows(x: Any, index: NDArray[np.int64], rows: int | tuple[int, ...]) -> Any:
    """(rows, width) or (*rows, width) with the rows of x at index, each place at most once, and zeros elsewhere.

    While recording, x: a replay brings its rows into order by itself.
    """
    if isinstance(x, Symbol):
        return x
    a = float32(x, "put_rows")
    width = a.shape[1]
    y = np.zeros((int(np.prod(rows)), width), np.float32)
    y[index] = a
    y = y.reshape(*(rows if isinstance(rows, tuple) else (rows,)), width)
    return record(y, (x,), lambda dy: (dy.reshape(-1, width)[index],))
