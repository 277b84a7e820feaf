"""Layers of encoders and decoders: sublayers beside a residual, normalised after the sum, or before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pyllm import ops
from pyllm.nn.dropout import Dropout, Dropouts, Rates, dropouts
from pyllm.nn.feedforward import FeedForward
from pyllm.nn.linear import Linear
from pyllm.nn.module import Module
from pyllm.nn.multihead import MultiHeadAttention
from pyllm.nn.norm import LayerNorm, RMSNorm
from pyllm.nn.relative import RelativeBias

# (x, norm, what a sublayer makes of rows, its last product, dropout) to the next x.
Order = Callable[[Any, ops.Norm, Callable[[Any], Any], Linear, Dropout], Any]


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
        dropouts: Dropouts,
    ) -> None:
        self.attention_norm, self.feed_forward_norm = norms
        self.attention, self.feed_forward = attention, feed_forward
        self.order, self.dropouts = order, dropouts

    def __call__(self, x: Any, own: Any) -> Any:
        """Rows (rows, width) to the same; own: how each sequence sees itself (nn.Own)."""
        return self.watch("", self._fed(self._attended(x, 0, self.attention, self.attention_norm, own)))

    def _attended(self, x: Any, i: int, part: Any, norm: RMSNorm, how: Any) -> Any:
        """After the i-th sublayer, an attention."""
        drop, mask = self.dropouts.results[i], self.dropouts.weights[i].mask
        return self.order(x, norm.value, lambda y: how(part, y, mask), part.o, drop)

    def _fed(self, x: Any) -> Any:
        part, drop = self.feed_forward, self.dropouts
        norm, last = self.feed_forward_norm.value, drop.results[-1]
        return self.order(x, norm, lambda y: drop.inner(part.inner(y, None)), part.down, last)


class DecoderLayer(EncoderLayer):
    """Attention, attention over a memory (cross), then feed-forward, each a sublayer."""

    def __init__(
        self,
        attention: Any,
        cross: Any,
        feed_forward: Any,
        norms: tuple[RMSNorm, RMSNorm, RMSNorm],
        order: Order,
        dropouts: Dropouts,
    ) -> None:
        super().__init__(attention, feed_forward, (norms[0], norms[2]), order, dropouts)
        self.cross_norm, self.cross = norms[1], cross

    def __call__(self, x: Any, own: Any, other: Any = None) -> Any:
        """Rows (rows, width) to the same; own, other: how each sequence sees itself and the memory."""
        x = self._attended(x, 0, self.attention, self.attention_norm, own)
        return self.watch("", self._fed(self._attended(x, 1, self.cross, self.cross_norm, other)))


class Stack(Module):
    """Layers one after the other, and what stands before the first and after the last of them.

    positions: of places (rows,) the rows that are added to tokens, or None; then first_norm, then the dropout. norm:
    after the last layer, where it is given; then the dropout `last`, and a factor. relative: the bias of distances that
    all layers share, a list of their own, or None.
    """

    def __init__(
        self,
        layers: list[Any],
        norm: Any = None,
        positions: Callable[[Any], Any] | None = None,
        first_norm: Any = None,
        dropout: Dropout | None = None,
        last: Dropout | None = None,
        relative: RelativeBias | list[RelativeBias] | None = None,
        factor: float = 1.0,
    ) -> None:
        self.positions, self.first_norm, self.layers, self.norm = positions, first_norm, layers, norm
        self.dropout, self.last, self.relative, self.factor = dropout, last, relative, factor

    def biases(self, length: int) -> list[Any]:
        """What each layer adds to its scores among so many tokens, as ops.row_attention takes it; None: nothing."""
        if isinstance(self.relative, list):
            return [each(length) for each in self.relative]
        return [None if self.relative is None else self.relative(length)] * len(self.layers)

    def enter(self, x: Any, places: Any) -> Any:
        """What the first layer takes, of tokens as rows that stand at these places."""
        x = x if self.positions is None else ops.add(x, self.positions(places))
        x = x if self.first_norm is None else self.first_norm(x)
        return self.watch("entered", x if self.dropout is None else self.dropout(x))

    def leave(self, x: Any) -> Any:
        """What the stack gives, of the last layer's rows."""
        x = x if self.norm is None else ops.normalise(x, self.norm.value)
        x = self.watch("left", x if self.last is None else self.last(x))
        return x if self.factor == 1 else ops.multiply(x, np.float32(self.factor))


def encoder_layer(
    place: str, width: int, heads: int, inner: int, act: str, eps: float, rates: Rates, order: Order, bias: bool = True
) -> EncoderLayer:
    """A layer of these sizes with LayerNorm, and biases but where bias is False; place: its path, which names the
    streams of its dropouts."""
    first, second = (LayerNorm(width, eps, bias=bias) for _ in range(2))
    attention, drop = MultiHeadAttention(width, heads, bias), dropouts(place, 2, rates)
    return EncoderLayer(attention, FeedForward(width, inner, act, bias), (first, second), order, drop)


def decoder_layer(
    place: str, width: int, heads: int, inner: int, act: str, eps: float, rates: Rates, order: Order, bias: bool = True
) -> DecoderLayer:
    """The same of a decoder."""
    first, second, third = (LayerNorm(width, eps, bias=bias) for _ in range(3))
    attention, cross = (MultiHeadAttention(width, heads, bias) for _ in range(2))
    drop = dropouts(place, 3, rates)
    return DecoderLayer(attention, cross, FeedForward(width, inner, act, bias), (first, second, third), order, drop)
