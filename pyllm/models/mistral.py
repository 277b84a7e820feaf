"""Mistral: LLaMA whose queries see a window of the last positions. Jiang et al. 2023, arXiv:2310.06825.

Files in GGUF call themselves "llama"; those with a window are read as this family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyllm import nn
from pyllm.models import llama
from pyllm.models.llama import IGNORED, NAMES, ROTATED

__all__ = ["IGNORED", "NAMES", "ROTATED", "Config", "Mistral", "Model"]


@dataclass(frozen=True)
class Config(llama.Config):
    """LLaMA's fields; sliding_window: positions that a query sees, itself among them, or None for all."""

    sliding_window: int | None = None


class Mistral(llama.LLaMA):
    """Tokens to logits: embedding, layers, norm, head."""

    def attention(self, c: Any, i: int) -> nn.SelfAttention:
        """Of layer i. What lies before the window still arrives: k layers reach k windows back."""
        heads, groups = c.num_attention_heads, c.num_key_value_heads
        rotation = nn.rotary_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
        return nn.SelfAttention(
            c.hidden_size, heads, groups, c.head_dim, i, rotation, window=c.sliding_window or 0
        )  # fmt: skip


Model = Mistral
