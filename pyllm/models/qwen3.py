"""Qwen3: Qwen2 whose queries and keys are normalised head by head instead of biased. arXiv:2505.09388."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyllm import nn
from pyllm.models import llama, qwen2

__all__ = ["IGNORED", "NAMES", "ROTATED", "Config", "Model", "Qwen3"]

NAMES = llama.NAMES | {
    "layers.{}.attention.q_norm": ("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
    "layers.{}.attention.k_norm": ("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
}
ROTATED = llama.ROTATED  # the norms' weights with the rows that they scale
IGNORED = llama.IGNORED


@dataclass(frozen=True)
class Config(qwen2.Config):
    """Qwen2's fields. A class of its own: a new model is of the family whose module its Config stands in."""


class Qwen3(llama.LLaMA):
    """Tokens to logits: embedding, layers, norm, head."""

    def attention(self, c: Any, i: int) -> nn.SelfAttention:
        """Of layer i; its norms keep the scores in bounds, whatever the training does to the weights."""
        heads, groups = c.num_attention_heads, c.num_key_value_heads
        rotation = nn.rotary_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
        norms = nn.RMSNorm(c.head_dim, c.rms_norm_eps), nn.RMSNorm(c.head_dim, c.rms_norm_eps)
        return nn.SelfAttention(
            c.hidden_size, heads, groups, c.head_dim, i, rotation, c.attention_bias, window=c.window(i),
            head_norms=norms,
        )  # fmt: skip


Model = Qwen3
