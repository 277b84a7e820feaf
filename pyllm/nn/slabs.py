"""Keys and values of beams that grow a token at a time: rows in memory that is taken once, and who sees which."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import ops
from pyllm.nn.multihead import MultiHeadAttention

_FEWEST = 64  # rows and positions that there is room for at least


class Slabs:
    """Keys and values of `layers` layers; every token of a beam has a row of `width` numbers in each.

    rows: for how many there is room at first; more are made where they are needed, twice as many. kind "F32" or "BF16".
    Beams that have the same past share its rows: reordering them moves no keys, only `places`, (beams, positions).
    """

    def __init__(self, layers: int, beams: int, width: int, rows: int, kind: str) -> None:
        self.kind, self.length, self.used = kind, 0, 0
        dtype: Any = np.float32 if kind == "F32" else np.uint16
        self.layers = [[np.empty((max(rows, _FEWEST), width), dtype) for _ in range(2)] for _ in range(layers)]
        self.places: NDArray[np.int32] = np.zeros((beams, _FEWEST), np.int32)

    def reorder(self, index: NDArray[np.int64]) -> None:
        """Let beam i be what was beam index[i]."""
        self.places = self.places[index]

    def grow(self) -> None:
        """Make room for a token of every beam, which `put` writes."""
        beams = len(self.places)
        if self.length == self.places.shape[1]:
            self.places = np.concatenate([self.places, np.zeros_like(self.places)], axis=1)
        if self.used + beams > len(self.layers[0][0]):
            self.layers = [[_longer(each, self.used, beams) for each in pair] for pair in self.layers]
        self.places[:, self.length] = np.arange(self.used, self.used + beams)
        self.used, self.length = self.used + beams, self.length + 1

    def put(self, layer: int, k: Any, v: Any) -> None:
        """Write the keys and values (beams, width) of the last token."""
        for into, x in zip(self.layers[layer], (k, v), strict=True):
            into[self.used - len(x) : self.used] = x if self.kind == "F32" else ops.halves(x)


def _longer(rows: Any, used: int, more: int) -> Any:
    """With room for twice as many rows, and for `more`."""
    made = np.empty((max(2 * len(rows), used + more), rows.shape[1]), rows.dtype)
    made[:used] = rows[:used]
    return made


class Step(NamedTuple):
    """One more token of each beam over all before it and itself, in a layer of slabs that has grown for it."""

    slabs: Slabs
    layer: int
    bias: Any = None

    def __call__(self, part: MultiHeadAttention, x: Any, mask: Any = None) -> Any:
        """What W_o takes, of rows (beams, width); no weight is dropped while a target is made."""
        q, k, v = ops.linears(x, [part.q.pair, part.k.pair, part.v.pair])
        self.slabs.put(self.layer, k, v)
        count = np.full(len(x), self.slabs.length, np.int32)
        keys, values = self.slabs.layers[self.layer]
        return part.step(q, keys, values, self.slabs.places, count, self.bias)


class Look(NamedTuple):
    """One token of each beam over the keys and values of a memory, of which it sees `count` rows from `first` on."""

    keys: Any
    values: Any
    first: Any
    count: Any

    def __call__(self, part: MultiHeadAttention, x: Any, mask: Any = None) -> Any:
        """What W_o takes, of rows (beams, width); no weight is dropped while a target is made."""
        return part.step(ops.linear(x, *part.q.pair), self.keys, self.values, self.first, self.count)
