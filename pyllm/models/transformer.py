"""The Transformer: encoder and decoder of attention alone. Vaswani et al. 2017, arXiv:1706.03762.

The layers are those of torch.nn.Transformer, whose weights load by their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyllm import nn
from pyllm.models.attention_pair import AttentionPair
from pyllm.models.settings import Settings
from pyllm.tensor import Array

_SUBLAYERS = {"attention": "self_attn", "cross": "multihead_attn"}


def _names() -> dict[str, tuple[str, str]]:
    """Parameter path -> name in folders; GGUF has no architecture for it. #i/n: the i-th of n parts of the outputs."""
    names = {"head": "generator", "source_embedding": "source_embedding", "target_embedding": "target_embedding"}
    for side, parts in (("encoder", ["attention"]), ("decoder", ["attention", "cross"])):
        names[f"{side}.norm"] = f"{side}.norm"
        layer = f"{side}.layers.{{}}"
        for part in parts:
            theirs = f"{layer}.{_SUBLAYERS[part]}"
            names[f"{layer}.{part}.o"] = f"{theirs}.out_proj"
            for i, each in enumerate("qkv"):
                for kind in ("weight", "bias"):
                    names[f"{layer}.{part}.{each}.{kind}"] = f"{theirs}.in_proj_{kind}#{i}/3"
        names |= {f"{layer}.feed_forward.up": f"{layer}.linear1", f"{layer}.feed_forward.down": f"{layer}.linear2"}
        for i, part in enumerate([*parts, "feed_forward"], 1):
            names[f"{layer}.{part}_norm"] = f"{layer}.norm{i}"
    return {path: (name, "") for path, name in names.items()}


NAMES = _names()
ROTATED = ()
IGNORED = ()


@dataclass(frozen=True)
class Config(Settings):
    """torch.nn.Transformer's fields, and what surrounds it. dropout: of embeddings and of every sublayer's result.

    share_encoder_decoder_embeddings: one table for sources and targets; tie_word_embeddings: the head is the targets'.
    scale_embedding: by the root of d_model. bias: of layers and norms; the head has its own. label_smoothing
    acts, as dropout does, only while the model learns.
    """

    vocab_size: int
    d_model: int = 512
    nhead: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    dim_feedforward: int = 2048
    dropout: float = 0.1
    activation: str = "relu"
    norm_first: bool = False
    layer_norm_eps: float = 1e-5
    bias: bool = True
    max_position_embeddings: int = 512
    scale_embedding: bool = True
    share_encoder_decoder_embeddings: bool = True
    tie_word_embeddings: bool = True
    label_smoothing: float = 0.1
    bos_token_id: Any = None
    eos_token_id: Any = None
    decoder_start_token_id: Any = None


class Transformer(AttentionPair):
    """Source and target tokens to logits of the next target token."""

    def __init__(self, c: Config) -> None:
        self.config = c
        scale = c.d_model**0.5 if c.scale_embedding else 1.0
        self.source_embedding = nn.Embedding(c.vocab_size, c.d_model, scale=scale)
        self.target_embedding = nn.Embedding(c.vocab_size, c.d_model, scale=scale)
        if c.share_encoder_decoder_embeddings:
            self.target_embedding.weight = self.source_embedding.weight
        order = nn.pre_norm if c.norm_first else nn.post_norm
        parts = c.activation, c.layer_norm_eps, nn.Rates(c.dropout), order, c.bias
        sizes = c.d_model, c.nhead, c.dim_feedforward, *parts
        self.places = nn.sinusoids(c.max_position_embeddings, c.d_model)
        sides = ("source", "encoder", c.num_encoder_layers), ("target", "decoder", c.num_decoder_layers)
        makers: tuple[Any, ...] = (nn.encoder_layer, nn.decoder_layer)
        self.encoder, self.decoder = (
            nn.Stack(
                [layer(f"{side}.layers.{i}", *sizes) for i in range(count)],
                nn.LayerNorm(c.d_model, c.layer_norm_eps, bias=c.bias),
                self.places.__getitem__,
                dropout=nn.Dropout(c.dropout, f"{tokens}_embedding"),
            )
            for (tokens, side, count), layer in zip(sides, makers, strict=True)
        )
        self.head = self.target_embedding if c.tie_word_embeddings else nn.Linear(c.d_model, c.vocab_size, True)

    def take_state(self, state: Mapping[str, Any]) -> Any:
        """As every encoder-decoder's; also of a torch.nn.Transformer alone: embeddings and head stay as they are."""
        if not any("embedding" in name or name.startswith("generator") for name in state):
            mine = self.state_dict()
            state = {name: mine[name] for name in mine if not name.startswith(("encoder.", "decoder."))} | {**state}
        return super().take_state(state)

    def first_values(self, name: str, parameter: nn.Parameter, random: np.random.Generator) -> Array:
        """As torch's: matrices uniform within the root of 6 / (inputs + outputs), in which queries, keys and values
        are one matrix; embeddings normal with variance 1 / d_model."""
        if len(parameter.shape) == 1:
            return super().first_values(name, parameter, random)
        if "embedding" in name:
            return random.standard_normal(parameter.shape, np.float32) * np.float32(self.config.d_model**-0.5)
        outputs, inputs = parameter.shape
        bound = (6 / (inputs + outputs * (3 if name[-8:-7] in "qkv" else 1))) ** 0.5
        return random.uniform(-bound, bound, parameter.shape).astype(np.float32)


Model = Transformer
