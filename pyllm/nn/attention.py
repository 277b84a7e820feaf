"""Self-attention with a residual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyllm import ops
from pyllm.nn.linear import Linear
from pyllm.nn.module import Module
from pyllm.nn.norm import RMSNorm


class SelfAttention(Module):
    """x + W_o attention(W_q norm(x), W_k norm(x), W_v norm(x)): causal, `heads` query heads in `groups` key heads.

    layer: which part of the cache is this one's. bias: of queries, keys and values; output_bias: of W_o, as `bias`
    unless given. rotation: (frequencies, magnitude) of rotary positions, or None. scale: of the scores, 1 / sqrt(head
    width) unless given. window: how many of the last positions are seen, 0 for all. softcap: see ops.softcap, 0 for
    none. head_norms: the RMS norms of each head of queries and of keys, before they are turned.
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
        output_bias: bool | None = None,
        scale: float | None = None,
        window: int = 0,
        softcap: float = 0.0,
        head_norms: tuple[RMSNorm, RMSNorm] | None = None,
    ) -> None:
        self.q = Linear(width, heads * head_dim, bias)
        self.k = Linear(width, groups * head_dim, bias)
        self.v = Linear(width, groups * head_dim, bias)
        self.o = Linear(heads * head_dim, width, bias if output_bias is None else output_bias)
        self.q_norm = None if head_norms is None else head_norms[0]
        self.k_norm = None if head_norms is None else head_norms[1]
        self.heads, self.groups, self.head_dim = heads, groups, head_dim
        self.layer, self.rotation = layer, rotation
        self.scale = head_dim**-0.5 if scale is None else scale
        self.window, self.softcap = window, softcap

    def inner(self, x: Any, norm: ops.Norm | None) -> Any:
        """What W_o takes: (length, heads * head width)."""
        parts = [self.q.pair, self.k.pair, self.v.pair]
        norms = None if self.q_norm is None or self.k_norm is None else (self.q_norm.value, self.k_norm.value)
        y = ops.self_attention(
            x, norm, parts, self.heads, self.groups, self.layer, self.scale, self.rotation, self.window, self.softcap,
            norms, self.watch,
        )  # fmt: skip
        return self.watch("inner", y)

    def __call__(self, x: Any, norm: ops.Norm | None) -> Any:
        """(length, width) to the same."""
        return self.watch("", ops.linear_add(x, self.inner(x, norm), *self.o.pair))
