"""Gemma 3, its text: Gemma 2 with norms of queries and keys instead of soft caps, and other angles inside windows.

Gemma team 2025, arXiv:2503.19786.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyllm import nn
from pyllm.models import gemma2
from pyllm.models.gemma2 import ROTATED

__all__ = ["IGNORED", "NAMES", "ROTATED", "Config", "Gemma3", "Model"]

NAMES = gemma2.NAMES | {
    "layers.{}.attention.q_norm": ("+model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
    "layers.{}.attention.k_norm": ("+model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
}
IGNORED = (*gemma2.IGNORED, r"(model\.)?(vision_tower|multi_modal_projector)\..*")  # what reads images


@dataclass(frozen=True)
class Config(gemma2.Config):
    """Gemma 2's fields; rope_theta and rope_scaling are of the layers that see all, rope_local_base_freq of windows."""

    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    rope_theta: float = 1_000_000.0
    rope_local_base_freq: float = 10_000.0
    rope_local_scaling: dict[str, Any] | None = None

    def rotation(self, layer: int) -> tuple[list[float], float]:
        """The frequencies of a layer."""
        if self.layer_types[layer] == "sliding_attention":
            return nn.rotary_frequencies(self.head_dim, self.rope_local_base_freq, self.rope_local_scaling)
        return nn.rotary_frequencies(self.head_dim, self.rope_theta, self.rope_scaling)


class Gemma3(gemma2.Gemma2):
    """Tokens to logits: scaled embedding, layers, norm, head."""

    def attention(self, c: Any, i: int) -> nn.SelfAttention:
        """Of layer i."""
        return nn.SelfAttention(
            c.hidden_size,
            c.num_attention_heads,
            c.num_key_value_heads,
            c.head_dim,
            i,
            c.rotation(i),
            c.attention_bias,
            scale=c.query_pre_attn_scalar**-0.5,
            window=c.window(i),
            softcap=c.attn_logit_softcapping or 0.0,
            head_norms=(nn.RMSNorm(c.head_dim, c.rms_norm_eps), nn.RMSNorm(c.head_dim, c.rms_norm_eps)),
        )


Model = Gemma3
