"""LLaMA 1, 2 and 3: RMSNorm, rotary positions, grouped queries, SwiGLU.

Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288; Llama team 2024, arXiv:2407.21783.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyllm import nn
from pyllm.models.decoder import Decoder
from pyllm.models.settings import Settings

# Parameter path -> name in Hugging Face folders, name in GGUF files. {} is the layer.
NAMES = {
    "embedding": ("model.embed_tokens", "token_embd"),
    "layers.{}.attention_norm": ("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    "layers.{}.attention.q": ("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    "layers.{}.attention.k": ("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    "layers.{}.attention.v": ("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    "layers.{}.attention.o": ("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    "layers.{}.feed_forward_norm": ("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    "layers.{}.feed_forward.gate": ("model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    "layers.{}.feed_forward.up": ("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    "layers.{}.feed_forward.down": ("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
    "norm": ("model.norm", "output_norm"),
    "head": ("lm_head", "output"),
}
ROTATED = ("attention.q", "attention.k")  # rows that Hugging Face orders in halves and GGUF in pairs
IGNORED = (r"rope_(freqs|factors_(long|short))\.weight", r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


@dataclass(frozen=True)
class Config(Settings):
    """Hugging Face's fields; head_dim and num_key_value_heads are always given here."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: str = "silu"
    bos_token_id: Any = None
    eos_token_id: Any = None

    @property
    def context_length(self) -> int:
        """Positions that the model was trained for, or loaded for."""
        return nn.rotary_context(self.rope_scaling, self.max_position_embeddings)


class LLaMA(Decoder):
    """Tokens to logits: embedding, layers, norm, head."""

    def __init__(self, c: Config) -> None:
        super().__init__(
            c,
            nn.Embedding(c.vocab_size, c.hidden_size),
            [self.block(c, i) for i in range(c.num_hidden_layers)],
            nn.RMSNorm(c.hidden_size, c.rms_norm_eps),
            None if c.tie_word_embeddings else nn.Linear(c.hidden_size, c.vocab_size, bias=False),
        )

    def block(self, c: Any, i: int) -> nn.Block:
        """Layer i."""
        return nn.Block(
            self.attention(c, i),
            nn.GatedFeedForward(c.hidden_size, c.intermediate_size, c.hidden_act, c.mlp_bias),
            nn.RMSNorm(c.hidden_size, c.rms_norm_eps),
            nn.RMSNorm(c.hidden_size, c.rms_norm_eps),
        )

    def attention(self, c: Any, i: int) -> nn.SelfAttention:
        """Of layer i; where Mistral and Qwen differ."""
        heads, groups = c.num_attention_heads, c.num_key_value_heads
        rotation = nn.rotary_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
        return nn.SelfAttention(c.hidden_size, heads, groups, c.head_dim, i, rotation, c.attention_bias)


Model = LLaMA
