"""GPT-2: LayerNorm, learned positions, GELU, one matrix for queries, keys and values. Radford et al. 2019."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyllm import nn
from pyllm.models.decoder import Decoder
from pyllm.models.settings import Settings

# Parameter path -> name in Hugging Face folders, name in GGUF files. {} is the layer. #i/n: the i-th of n equal parts
# of the outputs; a leading ^: stored as (inputs, outputs) in Hugging Face folders.
NAMES = {
    "embedding": ("transformer.wte", "token_embd"),
    "embedding.positions": ("transformer.wpe.weight", "position_embd.weight"),
    "layers.{}.attention_norm": ("transformer.h.{}.ln_1", "blk.{}.attn_norm"),
    "layers.{}.attention.q": ("^transformer.h.{}.attn.c_attn#0/3", "blk.{}.attn_qkv#0/3"),
    "layers.{}.attention.k": ("^transformer.h.{}.attn.c_attn#1/3", "blk.{}.attn_qkv#1/3"),
    "layers.{}.attention.v": ("^transformer.h.{}.attn.c_attn#2/3", "blk.{}.attn_qkv#2/3"),
    "layers.{}.attention.o": ("^transformer.h.{}.attn.c_proj", "blk.{}.attn_output"),
    "layers.{}.feed_forward_norm": ("transformer.h.{}.ln_2", "blk.{}.ffn_norm"),
    "layers.{}.feed_forward.up": ("^transformer.h.{}.mlp.c_fc", "blk.{}.ffn_up"),
    "layers.{}.feed_forward.down": ("^transformer.h.{}.mlp.c_proj", "blk.{}.ffn_down"),
    "norm": ("transformer.ln_f", "output_norm"),
    "head": ("lm_head", "output"),
}
ROTATED = ()
IGNORED = (r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",)  # the causal mask, which some exports carry along


@dataclass(frozen=True)
class Config(Settings):
    """Hugging Face's fields."""

    n_embd: int
    n_layer: int
    n_head: int
    n_positions: int
    n_inner: int
    vocab_size: int
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True
    bos_token_id: Any = None
    eos_token_id: Any = None

    @property
    def context_length(self) -> int:
        """Positions that have an embedding."""
        return self.n_positions


class GPT2(Decoder):
    """Tokens to logits: embeddings of tokens and positions, layers, norm, head."""

    def __init__(self, c: Config) -> None:
        super().__init__(
            c,
            nn.Embedding(c.vocab_size, c.n_embd, positions=c.n_positions),
            [self._layer(c, i) for i in range(c.n_layer)],
            nn.LayerNorm(c.n_embd, c.layer_norm_epsilon),
            None if c.tie_word_embeddings else nn.Linear(c.n_embd, c.vocab_size, bias=False),
        )

    def _layer(self, c: Config, i: int) -> nn.Block:
        return nn.Block(
            nn.SelfAttention(c.n_embd, c.n_head, c.n_head, c.n_embd // c.n_head, i, bias=True),
            nn.FeedForward(c.n_embd, c.n_inner, c.activation_function),
            nn.LayerNorm(c.n_embd, c.layer_norm_epsilon),
            nn.LayerNorm(c.n_embd, c.layer_norm_epsilon),
        )


Model = GPT2
