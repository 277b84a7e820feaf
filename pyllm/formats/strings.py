"""Arrays of strings that stay bytes of the file's header until one is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import overload

import numpy as np


class StringArray:
    """`data` (bytes), `starts` and `lengths` ((n,) uint64): string i is data[starts[i] : starts[i] + lengths[i]]."""

    __slots__ = ("data", "lengths", "starts")

    def __init__(self, data: memoryview, starts: np.ndarray, lengths: np.ndarray) -> None:
        self.data = data
        self.starts = starts
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.starts)

    def bytes(self, index: int) -> bytes:
        """The bytes of string `index`, exactly as the file has them."""
        start = int(self.starts[index])
        return bytes(self.data[start : start + int(self.lengths[index])])

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.bytes(index).decode("utf-8", "replace")

    def __iter__(self) -> Iterator[str]:
        for start, length in zip(self.starts.tolist(), self.lengths.tolist(), strict=True):
            yield bytes(self.data[start : start + length]).decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"StringArray of {len(self):,} strings"
