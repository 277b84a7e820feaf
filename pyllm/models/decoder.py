"""What the families share: embedding, layers, norm, head."""

from __future__ import annotations

from typing import Any

from pyllm import nn, ops
from pyllm.models.causal import CausalLM


class Decoder(CausalLM):
    """Tokens to logits through `layers`, each with an `attention`. head: None where the embedding serves as head."""

    def __init__(
        self,
        config: Any,
        embedding: nn.Embedding,
        layers: list[nn.Block],
        norm: nn.RMSNorm,
        head: nn.Linear | None,
        softcap: float = 0.0,
    ) -> None:
        self.config = config
        self.embedding = embedding
        self.layers = layers
        self.norm = norm
        self.head = head or embedding
        self.softcap = softcap

    @property
    def cache(self) -> tuple[int, int, int]:
        """(layers, key/value heads, head width)."""
        first = self.layers[0].attention
        return len(self.layers), first.groups, first.head_dim

    def forward(self, tokens: Any) -> Any:
        """(length,) ids to (length, vocabulary)."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return ops.logits(x, self.norm.value, self.head.weight.value, softcap=self.softcap)
