"""T5: every task as text to text. Raffel et al. 2020, arXiv:1910.10683; version 1.1 and Flan: gated, a head of its own.

Layers normalise before their sublayers by the root mean square and have no biases; what places tell, attention adds to
its scores, which it does not scale; heads need not divide the width.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyllm import nn
from pyllm.models.attention_pair import AttentionPair
from pyllm.models.settings import Settings
from pyllm.tensor import Array

_SUBLAYERS = {"attention": "SelfAttention", "cross": "EncDecAttention"}


def _names() -> dict[str, tuple[str, str]]:
    """Parameter path -> name in folders; from GGUF it is not read."""
    inner = {"gate": "wi_0", "up": "wi", "down": "wo"}
    names = dict.fromkeys(("shared", "source_embedding", "target_embedding"), "shared") | {"head": "lm_head"}
    for side, parts in (("encoder", ["attention"]), ("decoder", ["attention", "cross"])):
        names[f"{side}.norm"] = f"{side}.final_layer_norm"
        names[f"{side}.relative"] = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias"
        layer, theirs = f"{side}.layers.{{}}", f"{side}.block.{{}}.layer"
        for i, part in enumerate(parts):
            names |= {f"{layer}.{part}.{each}": f"{theirs}.{i}.{_SUBLAYERS[part]}.{each}" for each in "qkvo"}
            names[f"{layer}.{part}_norm"] = f"{theirs}.{i}.layer_norm"
        last = f"{theirs}.{len(parts)}"
        names |= {f"{layer}.feed_forward.{ours}": f"{last}.DenseReluDense.{name}" for ours, name in inner.items()}
        names[f"{layer}.feed_forward_norm"] = f"{last}.layer_norm"
    return {path: (name, "") for path, name in names.items()}


NAMES = _names()
ROTATED = ()
IGNORED = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)
COPIES = tuple((f"{side}.embed_tokens.weight", "shared.weight") for side in ("encoder", "decoder"))
CONTEXT = 1 << 20  # tokens of a sequence: distances have no end


@dataclass(frozen=True)
class Config(Settings):
    """transformers' fields. feed_forward_proj: an activation, "gated-" before it where it is gated. dropout_rate: of
    embeddings, of every sublayer's result and of what a stack gives. scale_decoder_outputs: what the head takes is
    divided by the root of d_model, as where the head is the table.
    """

    vocab_size: int
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    feed_forward_proj: str = "relu"
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool = True
    label_smoothing: float = 0.0
    pad_token_id: Any = None
    bos_token_id: Any = None
    eos_token_id: Any = None
    decoder_start_token_id: Any = None
    forced_bos_token_id: Any = None
    forced_eos_token_id: Any = None
    task_specific_params: Any = None


def settled(values: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Fields where the tensors of a file tell more: newer files of version 1.1 call a head tied that they have."""
    apart = values["tie_word_embeddings"] and not values["scale_decoder_outputs"] and "lm_head.weight" in names
    return values | {"tie_word_embeddings": False} if apart else values


class T5(AttentionPair):
    """Source and target tokens to logits of the next target token."""

    def __init__(self, c: Config) -> None:
        self.config = c
        self.shared = self.source_embedding = self.target_embedding = nn.Embedding(c.vocab_size, c.d_model)
        self.encoder = self.stack("encoder", nn.EncoderLayer, c.num_layers, 1, 1.0)
        factor = c.d_model**-0.5 if c.scale_decoder_outputs else 1.0
        self.decoder = self.stack("decoder", nn.DecoderLayer, c.num_decoder_layers, 2, factor)
        self.head = self.shared if c.tie_word_embeddings else nn.Linear(c.d_model, c.vocab_size, bias=False)

    def name_of(self, name: str) -> str:
        """A tensor's name in folders, where the gate of a gated part is the first of two."""
        return name.replace(".wi@", ".wi_1@") if self.config.feed_forward_proj.startswith("gated-") else name

    @property
    def context_length(self) -> int:
        """Tokens of a source or a target at most."""
        return CONTEXT

    def stack(self, side: str, layer: Any, count: int, attentions: int, factor: float) -> nn.Stack:
        """One of the two: its layers, and what stands around them."""
        c = self.config
        return nn.Stack(
            [self.layer(f"{side}.layers.{i}", layer, attentions) for i in range(count)],
            nn.RMSNorm(c.d_model, c.layer_norm_epsilon),
            dropout=nn.Dropout(c.dropout_rate, f"{side}.first"),
            last=nn.Dropout(c.dropout_rate, f"{side}.last"),
            relative=self.relative(side, count),
            factor=factor,
        )

    def relative(self, side: str, layers: int) -> Any:
        """A side's bias of distances, which its layers share."""
        c = self.config
        buckets = c.relative_attention_num_buckets, c.relative_attention_max_distance
        return nn.RelativeBias(*buckets, c.num_heads, both=side == "encoder")

    def layer(self, place: str, layer: Any, attentions: int) -> Any:
        """A layer with so many attentions."""
        c = self.config
        parts = [nn.MultiHeadAttention(c.d_model, c.num_heads, False, 1.0, c.d_kv) for _ in range(attentions)]
        act = c.feed_forward_proj.removeprefix("gated-")
        gated = act != c.feed_forward_proj
        act = "gelu_new" if gated and act == "gelu" else act
        inner = (nn.GatedFeedForward if gated else nn.FeedForward)(c.d_model, c.d_ff, act, bias=False)
        norms = tuple(nn.RMSNorm(c.d_model, c.layer_norm_epsilon) for _ in range(attentions + 1))
        rates = nn.Rates(c.dropout_rate, c.dropout_rate, c.dropout_rate)
        return layer(*parts, inner, norms, nn.pre_norm, nn.dropouts(place, attentions + 1, rates))

    def first_values(self, name: str, parameter: nn.Parameter, random: np.random.Generator) -> Array:
        """As transformers': tables and heads normal with variance 1, matrices with 1 / inputs, queries with that over
        d_kv, since scores are not scaled."""
        if len(parameter.shape) == 1:
            return super().first_values(name, parameter, random)
        inputs = self.config.d_model if "relative" in name else parameter.shape[1]
        spread = 1.0 if name.startswith(("shared", "head")) else inputs**-0.5
        spread *= self.config.d_kv**-0.5 if name.endswith(".q.weight") else 1.0
        return random.standard_normal(parameter.shape, np.float32) * np.float32(spread)


Model = T5
