"""Token embeddings, with learned positions where a model has them."""

from __future__ import annotations

from typing import Any

from pyllm import ops
from pyllm.nn.module import Module, Parameter


class Embedding(Module):
    """A table (vocabulary, width), its rows times `scale`; with `positions` > 0 one of (positions, width) is added."""

    def __init__(self, vocabulary: int, width: int, positions: int = 0, scale: float = 1.0) -> None:
        self.weight = Parameter(vocabulary, width, packed=True)
        self.positions = Parameter(positions, width) if positions else None
        self.scale = scale

    def __call__(self, ids: Any) -> Any:
        """(...) token ids to (..., width)."""
        positions = None if self.positions is None else self.positions.value
        return self.watch("", ops.embedding(ids, self.weight.value, positions, self.scale))
