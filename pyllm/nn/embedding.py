"""Token embeddings, with learned positions where a model has them."""

from __future__ import annotations

from typing import Any

from pyllm import ops
from pyllm.nn.module import Module, Parameter


class Embedding(Module):
    """A table (vocabulary, width), its rows times `scale`; with `positions` > 0 one of (positions, width) is added.

    padding_idx: a row that looking it up does not change, as in PyTorch.
    """

    def __init__(
        self, vocabulary: int, width: int, positions: int = 0, scale: float = 1.0, padding_idx: int | None = None
    ) -> None:
        self.weight = Parameter(vocabulary, width, packed=True)
        self.positions = Parameter(positions, width) if positions else None
        self.scale, self.padding_idx = scale, padding_idx

    def __call__(self, ids: Any) -> Any:
        """(...) token ids to (..., width)."""
        positions = None if self.positions is None else self.positions.value
        return self.watch("", ops.embedding(ids, self.weight.value, positions, self.scale, self.padding_idx))


class Positions(Module):
    """A learned table (positions, width) of which place p has row p + offset."""

    def __init__(self, positions: int, width: int, offset: int = 0) -> None:
        self.weight = Parameter(positions + offset, width)
        self.offset = offset

    def __call__(self, places: Any) -> Any:
        """Places (rows,) to (rows, width)."""
        return ops.embedding(places + self.offset, self.weight.value)
