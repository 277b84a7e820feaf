"""Dropout of places in a model, each of which draws from a stream of its own, within ops.noise."""

from __future__ import annotations

import zlib
from itertools import count
from typing import Any, NamedTuple

from pyllm import ops
from pyllm.nn.linear import Linear

_numbers = count()  # of dropouts without a place


class Dropout:
    """Dropout of a place in a model, within ops.noise. Srivastava et al. 2014, JMLR 15.

    place: names the stream of draws; without one it is the number of those made so before, so that parts of one
    program differ, and the same program draws the same. Raises ValueError for p outside [0, 1).
    """

    def __init__(self, p: float = 0.5, place: str | None = None) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"dropout: p is {p}, allowed are 0 up to, but not with, 1")
        self.p = p
        self.renew(place)

    def renew(self, place: str | None = None) -> None:
        """Draw from another stream from now on, as a copy must."""
        name = f"{next(_numbers)}" if place is None else place
        self.stream = zlib.crc32(name.encode())

    @property
    def mask(self) -> Any:
        """This batch's ops.mask."""
        return ops.mask(self.p, self.stream)

    def __call__(self, x: Any) -> Any:
        """x, or what is left of it."""
        mask = self.mask
        return x if mask is None else ops.dropout(x, *mask.draw)

    def add(self, x: Any, inner: Any, last: Linear) -> Any:
        """x + dropout(last(inner)); without a dropout in one product."""
        if self.mask is None:
            return ops.linear_add(x, inner, *last.pair)
        return ops.add(x, self(last(inner)))


class Rates(NamedTuple):
    """How much a layer drops: of what its sublayers give, of attention weights, of what feed-forward has inside."""

    results: float
    weights: float = 0.0
    inner: float = 0.0


class Dropouts(NamedTuple):
    """The same as places: one for each sublayer's result, one for the weights of each attention, one inside."""

    results: list[Dropout]
    weights: list[Dropout]
    inner: Dropout


def dropouts(place: str, sublayers: int, rates: Rates) -> Dropouts:
    """Of a layer at a place, of so many sublayers the last of which is no attention."""
    results = [Dropout(rates.results, f"{place}.{i}") for i in range(sublayers)]
    weights = [Dropout(rates.weights, f"{place}.weights.{i}") for i in range(sublayers - 1)]
    return Dropouts(results, weights, Dropout(rates.inner, f"{place}.inner"))
