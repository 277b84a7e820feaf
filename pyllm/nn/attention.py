"""Self-attention with a residual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyllm import ops
from pyllm.nn.linear import Linear
from pyllm.nn.module import Module


class SelfAttention(Module):
    """x + W_o attention(W_q norm(x), W_k norm(x), W_v norm(x)): causal, `heads` query heads in `groups` key heads.

    rotation: (frequencies, magnitude) of rotary positions, or None; layer: which part of the cache is this one's.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        groups: int,
        head_dim: int,
        layer: int,
        rotation: tuple[Sequence[float], float] | None = None,
        bias: bool = False,
    ) -> None:
        self.q = Linear(width, heads * head_dim, bias)
        self.k = Linear(width, groups * head_dim, bias)
        self.v = Linear(width, groups * head_dim, bias)
        self.o = Linear(heads * head_dim, width, bias)
        self.heads, self.groups, self.head_dim = heads, groups, head_dim
        self.layer, self.rotation = layer, rotation

    def __call__(self, x: Any, norm: ops.Norm | None) -> Any:
        """(length, width) to the same."""
        parts = [self.q.pair, self.k.pair, self.v.pair]
        y = ops.self_attention(
            x, norm, parts, self.heads, self.groups, self.layer, self.head_dim**-0.5, self.rotation
        )
        return ops.linear_add(x, y, *self.o.pair)
