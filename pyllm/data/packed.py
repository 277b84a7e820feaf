"""Windows of a stream of tokens in an order that is a function of the position: nothing to store, nothing to resume."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pyllm.data.permutation import permute
from pyllm.data.shards import Shards
from pyllm.errors import DataError

IGNORED = -100  # a target that costs nothing


class Batch(NamedTuple):
    """Sequences laid end to end: ids and targets (rows,) int32, starts (sequences + 1,) int32 with rows at its end.

    targets[i] is the token to be predicted behind ids[i], or -100.
    """

    ids: np.ndarray
    targets: np.ndarray
    starts: np.ndarray


class Packed:
    """Samples of `length` tokens from shards, each token of the stream the target of one of them in every epoch.

    Window k holds the tokens k * length to (k + 1) * length: its last one is the target of the last place, and the
    first of window k + 1. What is left at the end of the stream, less than `length`, is in no window. Position p,
    counted over epochs, is window permutation[p % n] of epoch p // n, n = len(self).

    Documents are sequences of their own: none sees another, and the first token of a document is no target, unless
    cross_documents. Raises DataError for a stream shorter than a window.
    """

    def __init__(self, shards: Shards, length: int, seed: int = 0, *, cross_documents: bool = False) -> None:
        if length < 1:
            raise DataError(shards.folder, "length", None, f"{length}", "at least 1")
        self.shards, self.length, self.seed = shards, length, seed
        self.cross_documents = cross_documents
        self._windows = (shards.tokens - 1) // length
        if not self._windows:
            found = f"{shards.tokens:,} tokens in split '{shards.split}'"
            raise DataError(shards.folder, "length", None, found, f"at least {length + 1:,} for a window of {length:,}")

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self._windows

    def windows(self, position: int, size: int) -> np.ndarray:
        """Which windows stand at `size` positions from `position` on, (size,) int64."""
        if position < 0 or size < 1:
            raise DataError(self.shards.folder, "batch", None, f"position {position}, size {size}", "0, 1 or more")
        return shuffled(position, size, self._windows, self.seed)

    def sample(self, index: int, epoch: int = 0) -> Batch:
        """Sample `index` of an epoch."""
        if not 0 <= index < self._windows:
            raise DataError(self.shards.folder, "sample", None, f"{index:,}", f"0 to {self._windows - 1:,}")
        return self.batch(epoch * self._windows + index, 1)

    def batch(self, position: int, size: int) -> Batch:
        """Samples position to position + size - 1, end to end: ids and targets (size * length,)."""
        length = self.length
        ids, targets = np.empty((2, size * length), np.int32)
        starts = []
        for row, window in enumerate(self.windows(position, size).tolist()):
            at, here = window * length, slice(row * length, (row + 1) * length)
            tokens = self.shards.read(at, length + 1)
            ids[here], targets[here] = tokens[:-1], tokens[1:]
            inside = np.zeros(1, np.int64)
            if not self.cross_documents:
                begins = self.shards.starts(at + 1, at + length + 1) - at
                targets[here][begins - 1] = IGNORED
                inside = np.concatenate([inside, begins[begins < length]])
            starts.append(inside + row * length)
        return Batch(ids, targets, np.concatenate([*starts, [size * length]]).astype(np.int32))


def shuffled(position: int, size: int, things: int, seed: int) -> np.ndarray:
    """Which of 0 to things - 1 stand at `size` positions from `position` on; each epoch has its own order."""
    found, done = np.empty(size, np.int64), 0
    while done < size:
        epoch, place = divmod(position + done, things)
        count = min(size - done, things - place)
        found[done : done + count] = permute(np.arange(place, place + count), things, seed, epoch)
        done += count
    return found
