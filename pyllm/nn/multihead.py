"""Attention of encoders and of encoder-decoders: over all of one's own sequence, or over another."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import ops
from pyllm.nn.linear import Linear
from pyllm.nn.module import Module


class MultiHeadAttention(Module):
    """W_o attention(W_q x, W_k m, W_v m) with `heads` heads; m is x itself, or the rows of a memory.

    scale: of the scores, 1 / sqrt(head width) unless given. head_dim: of a head, width / heads unless given.
    Raises ValueError for a width that heads do not divide. Vaswani et al. 2017, arXiv:1706.03762.
    """

    def __init__(
        self, width: int, heads: int, bias: bool = True, scale: float | None = None, head_dim: int | None = None
    ) -> None:
        if head_dim is None and (width < 1 or heads < 1 or width % heads):
            raise ValueError(f"attention: width {width} in {heads} heads, allowed are heads that divide it")
        dim = width // heads if head_dim is None else head_dim
        self.q = Linear(width, heads * dim, bias)
        self.k = Linear(width, heads * dim, bias)
        self.v = Linear(width, heads * dim, bias)
        self.o = Linear(heads * dim, width, bias)
        self.heads = heads
        self.scale = dim**-0.5 if scale is None else scale

    def keys(self, memory: Any) -> tuple[Any, Any]:
        """(keys, values) of rows (rows, width)."""
        k, v = ops.linears(memory, [self.k.pair, self.v.pair])
        return k, v

    def over(
        self,
        q: Any,
        k: Any,
        v: Any,
        starts: Any,
        key_starts: Any = None,
        causal: bool = False,
        bias: Any = None,
        mask: Any = None,
    ) -> Any:
        """What W_o takes: queries over keys and values, all of them rows; mask: of the weights; see ops.row_attention.

        watch sees "weights": (heads, rows, keys), zeros where nothing is seen, before any are dropped.
        """
        if self.watch is not ops.unwatched:
            self._show(q, k, starts, key_starts, causal, bias)
        others = None if causal else key_starts
        kind = ops.type_beside(self.k.weight.value)
        more = {"key_starts": others, "bias": bias, "kind": kind, "mask": mask}
        return ops.row_attention(q, k, v, starts, self.heads, self.heads, causal, self.scale, **more)

    def _show(self, q: Any, k: Any, starts: Any, key_starts: Any, causal: bool, bias: Any) -> None:
        found = seen(starts, starts if key_starts is None else key_starts, causal)
        queries, keys = (ops.transpose(ops.reshape(x, (x.shape[0], self.heads, -1)), 1, 0, 2) for x in (q, k))
        added = None if bias is None else ops.spread_bias(bias, starts, causal)
        self.watch("weights", ops.attention_weights(queries, keys, found, self.scale, bias=added))

    def step(self, q: Any, keys: Any, values: Any, places: Any, count: Any, bias: Any = None) -> Any:
        """What W_o takes of one query for each beam; see ops.step_attention."""
        return ops.step_attention(q, keys, values, places, count, self.heads, self.scale, bias)


def seen(starts: NDArray[np.int32], key_starts: NDArray[np.int32], causal: bool) -> NDArray[np.bool_]:
    """(queries, keys): which keys a query sees: those of the sequence of its number, causal: up to its own."""
    (owner, place), (key_owner, key_place) = (_owners(each) for each in (starts, key_starts))
    found = owner[:, None] == key_owner[None]
    return found & (key_place[None] <= place[:, None]) if causal else found


def _owners(starts: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lengths = np.diff(starts)
    return np.repeat(np.arange(len(lengths)), lengths), np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)


class Own(NamedTuple):
    """Each sequence over itself. bias: of distances, as ops.row_attention takes it."""

    starts: Any
    causal: bool = False
    bias: Any = None

    def __call__(self, part: MultiHeadAttention, x: Any, mask: Any = None) -> Any:
        """What W_o takes, of rows (rows, width)."""
        q, k, v = ops.linears(x, [part.q.pair, part.k.pair, part.v.pair])
        return part.over(q, k, v, self.starts, None, self.causal, self.bias, mask)


class Other(NamedTuple):
    """Each sequence over the keys and values of the sequence of its number."""

    keys: Any
    values: Any
    starts: Any
    key_starts: Any

    def __call__(self, part: MultiHeadAttention, x: Any, mask: Any = None) -> Any:
        """What W_o takes, of rows (rows, width)."""
        q = ops.linear(x, *part.q.pair)
        return part.over(q, self.keys, self.values, self.starts, self.key_starts, mask=mask)
