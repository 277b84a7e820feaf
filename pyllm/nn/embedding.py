"""Token embeddings, with learned positions where a model has them."""

from __future__ import annotations

from typing import Any

from pyllm import ops
from pyllm.nn.module import Module, Parameter


class Embedding(Module):
    """A table (num_embeddings, embedding_dim), its rows times `scale`; with `positions` > 0 one of (positions,
    embedding_dim) is added.

    padding_idx: a row that looking it up does not change, as in PyTorch, from the end where it is below 0. Raises
    ValueError for one that is no row.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        positions: int = 0,
        scale: float = 1.0,
    ) -> None:
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"embedding: padding_idx is {padding_idx}, allowed are rows of {num_embeddings}")
        self.weight = Parameter(num_embeddings, embedding_dim, packed=True)
        self.positions = Parameter(positions, embedding_dim) if positions else None
        self.scale = scale
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings

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
