"""Transformer layers: in which order attention and feed-forward meet the residual and the norms."""

from __future__ import annotations

from typing import Any

from pyllm import ops
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
        return self.watch("", self.feed_forward(x, self.feed_forward_norm.value))


class ParallelBlock(Block):
    """x + attention(norm(x)) + feed_forward(norm'(x)): both see the same x."""

    def __call__(self, x: Any) -> Any:
        """(length, width) to the same."""
        h = self.feed_forward.inner(x, self.feed_forward_norm.value)  # first: while recording, attention changes x
        x = self.attention(x, self.attention_norm.value)
        return self.watch("", self.feed_forward.watch("", ops.linear_add(x, h, *self.feed_forward.down.pair)))


class SandwichBlock(Block):
    """As Block, but what attention and feed-forward give is normalised too before it is added (arXiv:2105.13290)."""

    def __init__(
        self,
        attention: Any,
        feed_forward: Any,
        attention_norm: RMSNorm,
        feed_forward_norm: RMSNorm,
        attention_post_norm: RMSNorm,
        feed_forward_post_norm: RMSNorm,
    ) -> None:
        super().__init__(attention, feed_forward, attention_norm, feed_forward_norm)
        self.attention_post_norm = attention_post_norm
        self.feed_forward_post_norm = feed_forward_post_norm

    def __call__(self, x: Any) -> Any:
        """(length, width) to the same."""
        y = self.attention.o(self.attention.inner(x, self.attention_norm.value))
        x = self.attention.watch("", ops.add_norm(x, y, self.attention_post_norm.value))
        y = self.feed_forward.down(self.feed_forward.inner(x, self.feed_forward_norm.value))
        x = self.feed_forward.watch("", ops.add_norm(x, y, self.feed_forward_post_norm.value))
        return self.watch("", x)
