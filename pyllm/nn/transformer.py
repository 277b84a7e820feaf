"""Transformers for nets of one's own, with the names, arguments, masks and weights of PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np

from pyllm import ops
from pyllm.nn.dropout import Dropout
from pyllm.nn.feedforward import ACTIVATIONS
from pyllm.nn.linear import Linear
from pyllm.nn.masked_attention import Glorot, MultiheadAttention, Seen, as_given, batched
from pyllm.nn.norm import LayerNorm
from pyllm.nn.sublayers import post_norm, pre_norm

Activation = str | Callable[[Any], Any]


class TransformerEncoderLayer(Glorot):
    """torch.nn.TransformerEncoderLayer: attention, then feed-forward. activation: "relu", "gelu", ..., or a function.

    Dropout acts within ops.noise. Vaswani et al. 2017, arXiv:1706.03762; norm_first: Xiong et al. 2020, 2002.04745.
    """

    sublayers = 2

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        if isinstance(activation, str) and activation not in ACTIVATIONS:
            raise ValueError(f"transformer: activation {activation!r}, allowed are {', '.join(ACTIVATIONS)}")
        self.batch_first, self.activation = batch_first, activation
        self.order = pre_norm if norm_first else post_norm
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first)
        self._attend_elsewhere(d_model, nhead, dropout, bias)
        self.linear1 = Linear(d_model, dim_feedforward, bias)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias)
        for i in range(1, self.sublayers + 1):
            setattr(self, f"norm{i}", LayerNorm(d_model, layer_norm_eps, bias=bias))
            setattr(self, f"dropout{i}", Dropout(dropout))

    def _attend_elsewhere(self, d_model: int, nhead: int, dropout: float, bias: bool) -> None:
        """A decoder's attention over the encoder's result."""

    def _sublayer(self, i: int, x: Any, part: Callable[[Any], Any], last: Linear) -> Any:
        return self.order(x, getattr(self, f"norm{i}").value, part, last, getattr(self, f"dropout{i}"))

    def _inner(self, x: Any) -> Any:
        act = self.activation
        if isinstance(act, str):
            return self.dropout(ops.norm_linear(x, None, *self.linear1.pair, act=ACTIVATIONS[act]))
        return self.dropout(act(self.linear1(x)))

    def _attended(self, x: Any, seen: Seen) -> Any:
        attention = self.self_attn
        return self._sublayer(1, x, lambda y: attention.found(y, y, y, seen)[0], attention.out_proj)

    def over(self, x: Any, seen: Seen) -> Any:
        """(batch, length, d_model) to the same."""
        return self.watch("", self._sublayer(2, self._attended(x, seen), self._inner, self.linear2))

    def __call__(
        self, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
    ) -> Any:
        """(length, batch, d_model), batch_first (batch, length, d_model), or without a batch, to the same.

        Masks as MultiheadAttention's.
        """
        x = batched(src, self.batch_first)
        seen = self.self_attn.seen(x, x, src_mask, src_key_padding_mask, is_causal)
        return as_given(self.over(x, seen), src, self.batch_first)


class TransformerDecoderLayer(TransformerEncoderLayer):
    """torch.nn.TransformerDecoderLayer: attention, attention over an encoder's result, then feed-forward."""

    sublayers = 3

    def _attend_elsewhere(self, d_model: int, nhead: int, dropout: float, bias: bool) -> None:
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=self.batch_first)

    def over_memory(self, x: Any, memory: Any, own: Seen, other: Seen) -> Any:
        """(batch, length, d_model) to the same, over a memory (batch, keys, d_model)."""
        cross = self.multihead_attn
        x = self._attended(x, own)
        x = self._sublayer(2, x, lambda y: cross.found(y, memory, memory, other)[0], cross.out_proj)
        return self.watch("", self._sublayer(3, x, self._inner, self.linear2))

    def __call__(  # type: ignore[override]
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Any:
        """As the encoder layer's, over a memory in the same layout."""
        x, m = (batched(each, self.batch_first) for each in (tgt, memory))
        own = self.self_attn.seen(x, x, tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        other = self.multihead_attn.seen(x, m, memory_mask, memory_key_padding_mask, memory_is_causal)
        return as_given(self.over_memory(x, m, own, other), tgt, self.batch_first)


class TransformerEncoder(Glorot):
    """torch.nn.TransformerEncoder: copies of a layer, each with draws of its own; norm: after the last of them.

    enable_nested_tensor and mask_check change no number here.
    """

    def __init__(
        self,
        encoder_layer: TransformerEncoderLayer,
        num_layers: int,
        norm: Any = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        self.layers, self.norm, self.num_layers = _copies(encoder_layer, num_layers), norm, num_layers

    def __call__(
        self, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool | None = None
    ) -> Any:
        """As a layer's. A mask that is causal is seen to be so."""
        first = self.layers[0]
        x = batched(src, first.batch_first)
        seen = first.self_attn.seen(x, x, mask, src_key_padding_mask, is_causal)
        for layer in self.layers:
            x = layer.over(x, seen)
        x = x if self.norm is None else self.norm(x)
        return self.watch("", as_given(x, src, first.batch_first))


class TransformerDecoder(Glorot):
    """torch.nn.TransformerDecoder: as the encoder."""

    def __init__(self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Any = None) -> None:
        self.layers, self.norm, self.num_layers = _copies(decoder_layer, num_layers), norm, num_layers

    def __call__(
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Any:
        """As a layer's. A mask that is causal is seen to be so."""
        first = self.layers[0]
        x, m = (batched(each, first.batch_first) for each in (tgt, memory))
        own = first.self_attn.seen(x, x, tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        other = first.multihead_attn.seen(x, m, memory_mask, memory_key_padding_mask, memory_is_causal)
        for layer in self.layers:
            x = layer.over_memory(x, m, own, other)
        x = x if self.norm is None else self.norm(x)
        return self.watch("", as_given(x, tgt, first.batch_first))


class Transformer(Glorot):
    """torch.nn.Transformer, but for custom_encoder and custom_decoder: (source, target) rows to the target's next.

    With embeddings, a head, decoding and files it is pyllm.models.transformer.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        *,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        sizes = d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias
        norms = [LayerNorm(d_model, layer_norm_eps, bias=bias) for _ in range(2)]
        self.encoder = TransformerEncoder(TransformerEncoderLayer(*sizes), num_encoder_layers, norms[0])
        self.decoder = TransformerDecoder(TransformerDecoderLayer(*sizes), num_decoder_layers, norms[1])
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first

    def __call__(
        self,
        src: Any,
        tgt: Any,
        src_mask: Any = None,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        src_key_padding_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Any:
        """(length, batch, d_model) each, batch_first (batch, length, d_model), to tgt's shape."""
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        masks = tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask
        return self.decoder(tgt, memory, *masks, tgt_is_causal, memory_is_causal)

    @staticmethod
    def generate_square_subsequent_mask(sz: int) -> Any:
        """(sz, sz): -inf where a key is behind its query, else 0."""
        return np.triu(np.full((sz, sz), -np.inf, np.float32), 1)


def _copies(layer: Any, count: int) -> list[Any]:
    """As many layers of the same numbers, whose dropouts draw apart. Raises ValueError for less than one."""
    if count < 1:
        raise ValueError(f"transformer: {count} layers, allowed is 1 or more")
    copies = [deepcopy(layer) for _ in range(count)]
    for copy in copies:
        for part in (copy, *(each for _, each in copy.named_modules())):
            for drop in filter(lambda value: isinstance(value, Dropout), vars(part).values()):
                drop.renew()
    return copies
