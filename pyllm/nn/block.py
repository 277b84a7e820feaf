"""A Transformer layer."""

from __future__ import annotations

from typing import Any

from pyllm.nn.module import Module
from pyllm.nn.norm import RMSNorm


class Block(Module):
    """Attention, then feed-forward, each on its normalised input and added to it (pre-norm)."""

    def __init__(self, attention: Any, feed_forward: Any, attention_norm: RMSNorm, feed_forward_norm: RMSNorm) -> None:
        self.attention_norm = attention_norm
        self.attention = attention
        self.feed_forward_norm = feed_forward_norm
        self.feed_forward = feed_forward

    def __call__(self, x: Any) -> Any:
        """(length, width) to the same."""
        x = self.attention(x, self.attention_norm.value)
        return self.feed_forward(x, self.feed_forward_norm.value)
