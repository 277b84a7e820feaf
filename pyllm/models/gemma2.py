"""Gemma 2: windows in every other layer, norms on both sides of attention and feed-forward, soft caps on scores.

Gemma team 2024, arXiv:2408.00118.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyllm import nn
from pyllm.models import gemma
from pyllm.models.decoder import Decoder
from pyllm.models.gemma import IGNORED, ROTATED
from pyllm.models.settings import Settings

__all__ = ["IGNORED", "NAMES", "ROTATED", "Config", "Gemma2", "Model"]

NAMES = gemma.NAMES | {
    "layers.{}.attention_post_norm": ("+model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm"),
    "layers.{}.feed_forward_norm": ("+model.layers.{}.pre_feedforward_layernorm", "blk.{}.ffn_norm"),
    "layers.{}.feed_forward_post_norm": ("+model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm"),
}


@dataclass(frozen=True)
class Config(Settings):
    """Hugging Face's fields; layer_types: "full_attention" or "sliding_attention" for each layer.

    Scores are divided by sqrt(query_pre_attn_scalar); a softcapping of None is none.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    layer_types: tuple[str, ...]
    sliding_window: int = 4096
    query_pre_attn_scalar: int = 256
    attn_logit_softcapping: float | None = 50.0
    final_logit_softcapping: float | None = 30.0
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: dict[str, Any] | None = None
    attention_bias: bool = False
    tie_word_embeddings: bool = True
    hidden_activation: str = "gelu_pytorch_tanh"
    bos_token_id: Any = None
    eos_token_id: Any = None

    @property
    def context_length(self) -> int:
        """Positions that the model was trained for, or loaded for."""
        return nn.rotary_context(self.rope_scaling, self.max_position_embeddings)

    def window(self, layer: int) -> int:
        """Positions that a layer's queries see, 0 for all."""
        return self.sliding_window if self.layer_types[layer] == "sliding_attention" else 0


class Gemma2(Decoder):
    """Tokens to logits: scaled embedding, layers, norm, head, soft cap."""

    def __init__(self, c: Config) -> None:
        super().__init__(
            c,
            nn.Embedding(c.vocab_size, c.hidden_size, scale=c.hidden_size**0.5),
            [self.block(c, i) for i in range(c.num_hidden_layers)],
            self.rms_norm(c),
            None if c.tie_word_embeddings else nn.Linear(c.hidden_size, c.vocab_size, bias=False),
            c.final_logit_softcapping or 0.0,
        )

    def rms_norm(self, c: Config) -> nn.RMSNorm:
        """A norm of the residual."""
        return nn.RMSNorm(c.hidden_size, c.rms_norm_eps)

    def block(self, c: Config, i: int) -> nn.SandwichBlock:
        """Layer i: four norms, two before and two after."""
        feed_forward = nn.GatedFeedForward(c.hidden_size, c.intermediate_size, c.hidden_activation)
        return nn.SandwichBlock(self.attention(c, i), feed_forward, *(self.rms_norm(c) for _ in range(4)))

    def attention(self, c: Any, i: int) -> nn.SelfAttention:
        """Of layer i."""
        return nn.SelfAttention(
            c.hidden_size,
            c.num_attention_heads,
            c.num_key_value_heads,
            c.head_dim,
            i,
            nn.rotary_frequencies(c.head_dim, c.rope_theta, c.rope_scaling),
            c.attention_bias,
            scale=c.query_pre_attn_scalar**-0.5,
            window=c.window(i),
            softcap=c.attn_logit_softcapping or 0.0,
        )


Model = Gemma2
