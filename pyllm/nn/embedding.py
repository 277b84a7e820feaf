"""Token embeddings, with learned positions where a model has them."""

from __future__ import annotations

from typing import Any

from pyllm import ops
from pyllm.nn.module import Module, Parameter


class Embedding(Module):
    """A table (vocabulary, width), and with `positions` > 0 one of (positions, width) that is added."""

    def __init__(self, vocabulary: int, width: int, positions: int = 0) -> None:
        self.weight = Parameter(vocabulary, width, packed=True)
        self.positions = Parameter(positions, width) if positions else None

    def __call__(self, ids: Any) -> Any:
        """(...) token ids to (..., width)."""
        return ops.embedding(ids, self.weight.value, None if self.positions is None else self.positions.value)
