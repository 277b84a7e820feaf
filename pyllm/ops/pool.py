"""Rows of a text as one: its last, its greatest and the mean of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm.autograd import record
from pyllm.ops.arrays import Array, float32

Starts = NDArray[np.int32]


def last_rows(x: Any, starts: Starts) -> Any:
    """y_s = the last of the rows starts[s] to starts[s + 1] of x (rows, width): (sequences, width)."""
    a, ends = _rows(x, starts), starts[1:] - 1

    def derivative(dy: Array) -> tuple[Any]:
        def gradient(into: Array, add: bool) -> None:
            if not add:
                into.fill(0)
            into[ends] += dy

        return (gradient,)

    return record(a[ends], (x,), derivative)


def max_rows(x: Any, starts: Starts, least: Array | None = None) -> Any:
    """y_s = the greatest number of each column of the rows starts[s] to starts[s + 1], and of least (sequences, width).

    The gradient goes to the first of equal ones, nowhere where `least` is the greatest.
    """
    a = _rows(x, starts)
    places = np.stack([first + np.argmax(a[first:end], axis=0) for first, end in pairwise(starts)])
    columns = np.arange(a.shape[1])
    y = a[places, columns]
    mine = np.ones(y.shape, bool) if least is None else ~(least >= y)  # a row that is not a number stays one
    y = y if least is None else np.where(mine, y, least)

    def derivative(dy: Array) -> tuple[Any]:
        def gradient(into: Array, add: bool) -> None:
            if not add:
                into.fill(0)
            into[places, columns] += np.where(mine, dy, np.float32(0))

        return (gradient,)

    return record(y, (x,), derivative)


def mean_rows(x: Any, starts: Starts, total: Array | None = None, counts: NDArray[np.int64] | None = None) -> Any:
    """y_s = the mean of the rows starts[s] to starts[s + 1], and of counts[s] more whose sum is total[s]."""
    a = _rows(x, starts)
    lengths = np.diff(starts)
    share = (1 / (lengths if counts is None else lengths + counts)).astype(np.float32)[:, None]
    y = np.stack([a[first:end].sum(axis=0) for first, end in pairwise(starts)])
    y = (y if total is None else y + total) * share
    return record(y, (x,), lambda dy: (np.repeat(dy * share, lengths, axis=0),))


def _rows(x: Any, starts: Starts) -> Array:
    """Raises ValueError where starts do not rise from 0 to the rows."""
    a = float32(x, "pool")
    if a.ndim != 2 or len(starts) < 2 or starts[0] != 0 or starts[-1] != len(a) or (np.diff(starts) < 1).any():
        raise ValueError(f"pool: x {a.shape}, allowed is (rows, width) with starts that rise from 0, found {starts}")
    return a
