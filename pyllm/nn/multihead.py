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

    scale: of the scores, 1 / sqrt(head width) unless given. Raises ValueError for a width that heads do not divide.
    Vaswani et al. 2017, arXiv:1706.03762.
    """

    def __init__(self, width: int, heads: int, bias: bool = True, scale: float | None = None) -> None:
        if width < 1 or heads < 1 or width % heads:
            raise ValueError(f"attention: width {width} in {heads} heads, allowed are heads that divide it")
        self.q = Linear(width, width, bias)
        self.k = Linear(width, width, bias)
        self.v = Linear(width, width, bias)
        self.o = Linear(width, width, bias)
        self.heads = heads
        self.scale = (width // heads) ** -0.5 if scale is None else scale

    def keys(self, memory: Any) -> tuple[Any, Any]:
        """(keys, values) of rows (rows, width)."""
        k, v = ops.linears(memory, [self.k.pair, self.v.pair])
        return k, v

    def over(self, q: Any, k: Any, v: Any, starts: Any, key_starts: Any = None, causal: bool = False) -> Any:
        """What W_o takes: queries over keys and values, all of them rows; see ops.row_attention.

        watch sees "weights": (heads, rows, keys), zeros where nothing is seen.
        """
        if self.watch is not ops.unwatched:
            self._show(q, k, starts, key_starts, causal)
        return ops.row_attention(
            q, k, v, starts, self.heads, self.heads, causal, self.scale, key_starts=None if causal else key_starts
        )

    def _show(self, q: Any, k: Any, starts: Any, key_starts: Any, causal: bool) -> None:
        found = seen(starts, starts if key_starts is None else key_starts, causal)
        queries, keys = (ops.transpose(ops.reshape(x, (x.shape[0], self.heads, -1)), 1, 0, 2) for x in (q, k))
        self.watch("weights", ops.attention_weights(queries, keys, found, self.scale))


def seen(starts: NDArray[np.int32], key_starts: NDArray[np.int32], causal: bool) -> NDArray[np.bool_]:
    """(queries, keys): which keys a query sees: those of the sequence of its number, causal: up to its own."""
    (owner, place), (key_owner, key_place) = (_owners(each) for each in (starts, key_starts))
    found = owner[:, None] == key_owner[None]
    return found & (key_place[None] <= place[:, None]) if causal else found


def _owners(starts: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lengths = np.diff(starts)
    return np.repeat(np.arange(len(lengths)), lengths), np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)


class Own(NamedTuple):
    """Each sequence over itself."""

    starts: Any
    causal: bool = False

    def __call__(self, part: MultiHeadAttention, x: Any) -> Any:
        """What W_o takes, of rows (rows, width)."""
        q, k, v = ops.linears(x, [part.q.pair, part.k.pair, part.v.pair])
        return part.over(q, k, v, self.starts, None, self.causal)


class Other(NamedTuple):
    """Each sequence over the keys and values of the sequence of its number."""

    keys: Any
    values: Any
    starts: Any
    key_starts: Any

    def __call__(self, part: MultiHeadAttention, x: Any) -> Any:
        """What W_o takes, of rows (rows, width)."""
        return part.over(ops.linear(x, *part.q.pair), self.keys, self.values, self.starts, self.key_starts)


class Grown:
    """One more token of each sequence over all before: keys and values (sequences, length, width), which grow."""

    def __init__(self, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        self.keys, self.values = keys, values

    def __call__(self, part: MultiHeadAttention, x: Any) -> Any:
        """What W_o takes, of rows (sequences, width)."""
        q, k, v = ops.linears(x, [part.q.pair, part.k.pair, part.v.pair])
        self.keys = np.concatenate([self.keys, k[:, None]], axis=1)
        self.values = np.concatenate([self.values, v[:, None]], axis=1)
        many, length, width = self.keys.shape
        flat = self.keys.reshape(-1, width), self.values.reshape(-1, width)
        starts = np.arange(many + 1, dtype=np.int32)
        return part.over(q, *flat, starts, starts * np.int32(length))
