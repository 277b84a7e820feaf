"""Layers of encoders and decoders: sublayers beside a residual, normalised after the sum, or before."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from pyllm import ops
from pyllm.nn.feedforward import FeedForward
from pyllm.nn.linear import Linear
from pyllm.nn.module import Module
from pyllm.nn.multihead import MultiHeadAttention
from pyllm.nn.norm import LayerNorm, RMSNorm
from pyllm.nn.relative import RelativeBias

# (x, norm, what a sublayer makes of rows, its last product, dropout) to the next x.
Order = Callable[[Any, ops.Norm, Callable[[Any], Any], Linear, "Dropout"], Any]


class Dropout:
    """Dropout of a place in a model, which acts within ops.noise; each place draws from a stream of its own."""

    def __init__(self, p: float, place: str) -> None:
        self.p, self.stream = p, zlib.crc32(place.encode())

    def __call__(self, x: Any) -> Any:
        """x, or what is left of it."""
        mask = ops.mask(self.p, self.stream)
        return x if mask is None else ops.dropout(x, *mask.draw)

    def add(self, x: Any, inner: Any, last: Linear) -> Any:
        """x + dropout(last(inner)); without a dropout in one product."""
        if ops.mask(self.p, self.stream) is None:
            return ops.linear_add(x, inner, *last.pair)
        return ops.add(x, self(last(inner)))


def post_norm(x: Any, norm: ops.Norm, part: Callable[[Any], Any], last: Linear, dropout: Dropout) -> Any:
    """norm(x + last(part(x))). Vaswani et al. 2017, arXiv:1706.03762."""
    return ops.normalise(dropout.add(x, part(x), last), norm)


def pre_norm(x: Any, norm: ops.Norm, part: Callable[[Any], Any], last: Linear, dropout: Dropout) -> Any:
    """x + last(part(norm(x))). Xiong et al. 2020, arXiv:2002.04745."""
    return dropout.add(x, part(ops.normalise(x, norm)), last)


class EncoderLayer(Module):
    """Attention, then feed-forward, each a sublayer."""

    def __init__(
        self,
        attention: Any,
        feed_forward: Any,
        norms: tuple[RMSNorm, RMSNorm],
        order: Order,
        dropouts: list[Dropout],
    ) -> None:
        self.attention_norm, self.feed_forward_norm = norms
        self.attention, self.feed_forward = attention, feed_forward
        self.order, self.dropouts = order, dropouts

    def __call__(self, x: Any, own: Any) -> Any:
        """Rows (rows, width) to the same; own: how each sequence sees itself (nn.Own)."""
        x = self.order(
            x, self.attention_norm.value, lambda y: own(self.attention, y), self.attention.o, self.dropouts[0]
        )
        return self.watch("", self._fed(x, self.dropouts[1]))

    def _fed(self, x: Any, dropout: Dropout) -> Any:
        part = self.feed_forward
        return self.order(x, self.feed_forward_norm.value, lambda y: part.inner(y, None), part.down, dropout)


class DecoderLayer(EncoderLayer):
    """Attention, attention over a memory (cross), then feed-forward, each a sublayer."""

    def __init__(
        self,
        attention: Any,
        cross: Any,
        feed_forward: Any,
        norms: tuple[RMSNorm, RMSNorm, RMSNorm],
        order: Order,
        dropouts: list[Dropout],
    ) -> None:
        super().__init__(attention, feed_forward, (norms[0], norms[2]), order, dropouts)
        self.cross_norm, self.cross = norms[1], cross

    def __call__(self, x: Any, own: Any, other: Any = None) -> Any:
        """Rows (rows, width) to the same; own, other: how each sequence sees itself and the memory."""
        x = self.order(
            x, self.attention_norm.value, lambda y: own(self.attention, y), self.attention.o, self.dropouts[0]
        )
        x = self.order(x, self.cross_norm.value, lambda y: other(self.cross, y), self.cross.o, self.dropouts[1])
        return self.watch("", self._fed(x, self.dropouts[2]))


class Stack(Module):
    """Layers one after the other, and what stands before the first and after the last of them.

    positions: of places (rows,) the rows that are added to tokens, or None; then first_norm, then the dropout. norm:
    after the last layer, where it is given; then the dropout `last`, and a factor. relative: the bias of distances that
    all layers share, or None.
    """

    def __init__(
        self,
        layers: list[Any],
        norm: Any = None,
        positions: Callable[[Any], Any] | None = None,
        first_norm: Any = None,
        dropout: Dropout | None = None,
        last: Dropout | None = None,
        relative: RelativeBias | None = None,
        factor: float = 1.0,
    ) -> None:
        self.positions, self.first_norm, self.layers, self.norm = positions, first_norm, layers, norm
        self.dropout, self.last, self.relative, self.factor = dropout, last, relative, factor

    def bias(self, length: int) -> Any:
        """What every layer adds to its scores among so many tokens, as ops.row_attention takes it; None: nothing."""
        return None if self.relative is None else self.relative(length)

    def enter(self, x: Any, places: Any) -> Any:
        """What the first layer takes, of tokens as rows that stand at these places."""
        x = x if self.positions is None else ops.add(x, self.positions(places))
        x = x if self.first_norm is None else self.first_norm(x)
        return x if self.dropout is None else self.dropout(x)

    def leave(self, x: Any) -> Any:
        """What the stack gives, of the last layer's rows."""
        x = x if self.norm is None else ops.normalise(x, self.norm.value)
        x = x if self.last is None else self.last(x)
        return x if self.factor == 1 else ops.multiply(x, np.float32(self.factor))


def encoder_layer(
    place: str, width: int, heads: int, inner: int, act: str, eps: float, dropout: float, order: Order
) -> EncoderLayer:
    """A layer of these sizes with biases and LayerNorm; place: its path, which names the streams of its dropouts."""
    feed_forward, norms, dropouts = _parts(place, 2, width, inner, act, eps, dropout)
    return EncoderLayer(MultiHeadAttention(width, heads), feed_forward, (norms[0], norms[1]), order, dropouts)


def decoder_layer(
    place: str, width: int, heads: int, inner: int, act: str, eps: float, dropout: float, order: Order
) -> DecoderLayer:
    """The same of a decoder."""
    feed_forward, norms, dropouts = _parts(place, 3, width, inner, act, eps, dropout)
    attention, cross = MultiHeadAttention(width, heads), MultiHeadAttention(width, heads)
    return DecoderLayer(attention, cross, feed_forward, (norms[0], norms[1], norms[2]), order, dropouts)


def _parts(
    place: str, count: int, width: int, inner: int, act: str, eps: float, dropout: float
) -> tuple[FeedForward, list[LayerNorm], list[Dropout]]:
    norms = [LayerNorm(width, eps) for _ in range(count)]
    return FeedForward(width, inner, act), norms, [Dropout(dropout, f"{place}.{i}") for i in range(count)]
