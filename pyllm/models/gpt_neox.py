"""GPT-NeoX and Pythia: attention and feed-forward side by side, rotary positions on a part of each head.

Black et al. 2022, arXiv:2204.06745; Biderman et al. 2023, arXiv:2304.01373.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyllm import nn
from pyllm.models.decoder import Decoder
from pyllm.models.settings import Settings

# Parameter path -> name in Hugging Face folders, name in GGUF files. {} is the layer. #i/n: the i-th of n equal parts
# of the outputs; %i/n: of every head's outputs.
NAMES = {
    "embedding": ("gpt_neox.embed_in", "token_embd"),
    "layers.{}.attention_norm": ("gpt_neox.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    "layers.{}.attention.q": ("gpt_neox.layers.{}.attention.query_key_value%0/3", "blk.{}.attn_qkv#0/3"),
    "layers.{}.attention.k": ("gpt_neox.layers.{}.attention.query_key_value%1/3", "blk.{}.attn_qkv#1/3"),
    "layers.{}.attention.v": ("gpt_neox.layers.{}.attention.query_key_value%2/3", "blk.{}.attn_qkv#2/3"),
    "layers.{}.attention.o": ("gpt_neox.layers.{}.attention.dense", "blk.{}.attn_output"),
    "layers.{}.feed_forward_norm": ("gpt_neox.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    "layers.{}.feed_forward.up": ("gpt_neox.layers.{}.mlp.dense_h_to_4h", "blk.{}.ffn_up"),
    "layers.{}.feed_forward.down": ("gpt_neox.layers.{}.mlp.dense_4h_to_h", "blk.{}.ffn_down"),
    "norm": ("gpt_neox.final_layer_norm", "output_norm"),
    "head": ("embed_out", "output"),
}
ROTATED = ("attention.q", "attention.k")
IGNORED = (r"(gpt_neox\.)?layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",)  # older exports' constants


@dataclass(frozen=True)
class Config(Settings):
    """Hugging Face's fields; rotary_pct: the part of each head that is turned."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    layer_norm_eps: float = 1e-5
    rotary_pct: float = 0.25
    rope_theta: float = 10_000.0
    rope_scaling: dict[str, Any] | None = None
    use_parallel_residual: bool = True
    attention_bias: bool = True
    hidden_act: str = "gelu"
    tie_word_embeddings: bool = False
    bos_token_id: Any = None
    eos_token_id: Any = None

    @property
    def context_length(self) -> int:
        """Positions that the model was trained for, or loaded for."""
        return nn.rotary_context(self.rope_scaling, self.max_position_embeddings)

    @property
    def head_dim(self) -> int:
        """Features of a head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def rotary_dim(self) -> int:
        """Features of a head that are turned."""
        return int(self.head_dim * self.rotary_pct)


class GPTNeoX(Decoder):
    """Tokens to logits: embedding, layers, norm, head."""

    def __init__(self, c: Config) -> None:
        super().__init__(
            c,
            nn.Embedding(c.vocab_size, c.hidden_size),
            [self._layer(c, i) for i in range(c.num_hidden_layers)],
            nn.LayerNorm(c.hidden_size, c.layer_norm_eps),
            None if c.tie_word_embeddings else nn.Linear(c.hidden_size, c.vocab_size, bias=False),
        )

    def _layer(self, c: Config, i: int) -> nn.Block:
        heads, block = c.num_attention_heads, nn.ParallelBlock if c.use_parallel_residual else nn.Block
        rotation = nn.rotary_frequencies(c.rotary_dim, c.rope_theta, c.rope_scaling)
        return block(
            nn.SelfAttention(c.hidden_size, heads, heads, c.head_dim, i, rotation, c.attention_bias),
            nn.FeedForward(c.hidden_size, c.intermediate_size, c.hidden_act),
            nn.LayerNorm(c.hidden_size, c.layer_norm_eps),
            nn.LayerNorm(c.hidden_size, c.layer_norm_eps),
        )


Model = GPTNeoX
