"""Rows of tokens held in memory, some of them wanted: batches in an order by position, and rows held out."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np

from pyllm.data.packed import Batch, shuffled
from pyllm.errors import DataError


class Store(NamedTuple):
    """All rows end to end: ids (n,) int32, wanted (n,) bool, first (rows + 1,) int64, keys (rows,) uint64."""

    ids: np.ndarray
    wanted: np.ndarray
    first: np.ndarray
    keys: np.ndarray


class Rows(ABC):
    """A kind of rows says what a row's sequences and targets are; `what` is its name in errors, length its most ids."""

    length: int

    def __init__(self, store: Store, seed: int, what: str) -> None:
        self.store, self.seed, self.what = store, seed, what
        self.rows = np.arange(len(store.keys))

    @abstractmethod
    def row(self, number: int) -> Batch:
        """A row by its place in the input (among those kept)."""

    def whole(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, wanted) of a row. Raises DataError where there is none."""
        if not 0 <= number < len(self):
            raise DataError(self.what, "row", None, f"{number:,}", f"0 to {len(self) - 1:,}")
        part = self._part(self.rows[number])
        return self.store.ids[part], self.store.wanted[part]

    def _part(self, row: Any) -> slice:
        return slice(self.store.first[row], self.store.first[row + 1])

    @property
    def identity(self) -> str:
        """sha256 of the rows here in their order, by which a run that is taken up again knows its data."""
        digest = sha256(str(self.length).encode())
        for row in self.rows:
            part = self._part(row)
            digest.update(len(self.store.ids[part]).to_bytes(8, "little"))
            digest.update(self.store.ids[part].tobytes() + self.store.wanted[part].tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        """Rows in an epoch."""
        return len(self.rows)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} rows of at most {self.length:,} ids)"

    def batch(self, position: int, size: int) -> Batch:
        """The rows at positions position to position + size - 1 end to end. Positions count over epochs, each of which
        has its own order: a function of (seed, epoch) alone.
        """
        if position < 0 or size < 1:
            raise DataError(self.what, "batch", None, f"position {position}, size {size}", "0, 1 or more")
        rows = [self.row(number) for number in shuffled(position, size, len(self), self.seed).tolist()]
        starts = np.cumsum([0, *(length for row in rows for length in np.diff(row.starts))]).astype(np.int32)
        return Batch(np.concatenate([r.ids for r in rows]), np.concatenate([r.targets for r in rows]), starts)

    def held_out(self, n: int) -> tuple[Any, Any]:
        """(the rest, at least `n` rows for validation): those with the smallest hash of their content, whatever their
        order; equal rows stay together. Raises DataError when nothing would be left to train on.
        """
        keys = self.store.keys[self.rows]
        if len(self) < 2:
            raise DataError(self.what, "held_out", None, "one row only", "two or more, one of them to judge by")
        if not 1 <= n < len(self):
            raise DataError(self.what, "held_out", None, f"{n:,}", f"at least 1, below {len(self):,}")
        held = keys <= np.partition(keys, n - 1)[n - 1]
        if held.all():
            allowed = f"rows that differ: equal ones go together, and all {len(self):,} would be held out"
            raise DataError(self.what, "held_out", None, f"{n:,}", allowed)
        parts = copy.copy(self), copy.copy(self)
        parts[0].rows, parts[1].rows = self.rows[~held], self.rows[held]
        return parts
