"""Qwen2 and Qwen2.5: LLaMA with biases on queries, keys and values, and windows in some layers. arXiv:2407.10671."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyllm import nn
from pyllm.models import llama
from pyllm.models.llama import IGNORED, NAMES, ROTATED

__all__ = ["IGNORED", "NAMES", "ROTATED", "Config", "Model", "Qwen2"]


@dataclass(frozen=True)
class Config(llama.Config):
    """LLaMA's fields; layer_types: "full_attention" or "sliding_attention" for each layer, () for full alone."""

    use_sliding_window: bool = False
    sliding_window: int | None = None
    layer_types: tuple[str, ...] = ()

    def window(self, layer: int) -> int:
        """Positions that a layer's queries see, 0 for all."""
        sliding = bool(self.layer_types) and self.layer_types[layer] == "sliding_attention"
        return self.sliding_window or 0 if sliding else 0


class Qwen2(llama.LLaMA):
    """Tokens to logits: embedding, layers, norm, head."""

    def attention(self, c: Any, i: int) -> nn.SelfAttention:
        """Of layer i; the biases are always there, but not on the output."""
        heads, groups = c.num_attention_heads, c.num_key_value_heads
        rotation = nn.rotary_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
        return nn.SelfAttention(
            c.hidden_size, heads, groups, c.head_dim, i, rotation, bias=True, output_bias=False, window=c.window(i)
        )


Model = Qwen2
