"""What the families share: embedding, layers, norm, head."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyllm import nn, ops
from pyllm.autograd import checkpoint
from pyllm.models.causal import CausalLM
from pyllm.tensor import Array


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

    @property
    def width(self) -> int:
        """Of the rows that the head is given."""
        return self.head.weight.shape[1]

    def trunk(self, tokens: Any) -> Any:
        """(..., length) ids to (..., length, width): all but the last norm and the head."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = checkpoint(layer, x) if self.is_gradient_checkpointing else layer(x)
        return x

    def forward(self, tokens: Any) -> Any:
        """(..., length) ids to (..., length, vocabulary)."""
        x = self.trunk(tokens)
        return ops.logits(x, self.norm.value, self.head.weight.value, softcap=self.softcap, watch=self.watch)

    def loss(self, tokens: Any, targets: Any) -> Any:
        """Mean cross-entropy in nats of targets (..., length), the tokens that follow; -100 is left out."""
        if self._paused:
            self.train()
        if self.softcap or self.watch is not ops.unwatched:  # whoever watches wants to see logits
            return ops.cross_entropy(self.forward(tokens), targets)
        x = ops.normalise(self.trunk(tokens), self.norm.value)
        return ops.linear_cross_entropy(x, self.head.weight.value, targets)

    def first_values(self, name: str, parameter: nn.Parameter, random: np.random.Generator) -> Array:
        """As GPT-2's: what is added to the residual stream starts smaller, by the root of how many add to it."""
        values = super().first_values(name, parameter, random)
        if name.endswith(("attention.o.weight", "feed_forward.down.weight")):
            values *= np.float32((2 * len(self.layers)) ** -0.5)
        return values
