"""Attention for nets of one's own, with PyTorch's name, arguments, masks and weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import ops
from pyllm.nn.dropout import Dropout
from pyllm.nn.linear import Linear
from pyllm.nn.module import Module, Parameter
from pyllm.tensor import Array, Tensor


class Seen(NamedTuple):
    """Which keys queries see. sizes: batch, heads, queries, keys; causal: none behind the query.

    present: (batch, keys), None: all; shown, added: what a mask says beside, for all pairs, None: nothing.
    """

    sizes: tuple[int, int, int, int]
    causal: bool
    present: NDArray[np.bool_] | None
    shown: NDArray[np.bool_] | None
    added: Any

    @property
    def fused(self) -> bool:
        """Whether the kernels that never hold all scores can compute it."""
        _, _, queries, keys = self.sizes
        if self.shown is not None or self.added is not None or not min(self.sizes):
            return False
        if self.causal and (queries != keys or (self.present is not None and (np.diff(self.present * 1) > 0).any())):
            return False  # what a query that is padding sees would depend on where it stands
        return self.present is None or bool(self.present.any(axis=1).all())


def _told(mask: Any, name: str) -> tuple[Any, Any]:
    """(what a mask shows or None, what it adds or None) of a mask of PyTorch's kind."""
    array = mask.data if isinstance(mask, Tensor) else np.asarray(mask)
    if array.dtype == bool:
        return np.logical_not(array), None
    if array.dtype.kind != "f":
        raise TypeError(f"attention: {name} holds {array.dtype}, allowed are bool, true where hidden, and floats")
    shown = array != -np.inf
    if isinstance(mask, Tensor):
        return None, mask
    added = np.where(shown, array, 0).astype(np.float32)
    return None if shown.all() else shown, added if added.any() else None


def _shaped(x: Any, shapes: Mapping[Any, tuple[int, ...]], name: str) -> Any:
    if x is None:
        return None
    if x.shape not in shapes:
        raise ValueError(f"attention: {name} {x.shape}, allowed is {' or '.join(map(str, shapes))}")
    return ops.reshape(x, shapes[x.shape]) if isinstance(x, Tensor) else x.reshape(shapes[x.shape])


def _seen(mask: Any, padding: Any, causal: bool | None, sizes: tuple[int, int, int, int]) -> Seen:
    """Of attn_mask, key_padding_mask and is_causal. Raises ValueError for shapes, TypeError for masks of integers."""
    n, heads, queries, keys = sizes
    shown = added = present = None
    if mask is not None:
        allowed = {(queries, keys): (1, 1, queries, keys), (n * heads, queries, keys): sizes}
        shown, added = (_shaped(each, allowed, "attn_mask") for each in _told(mask, "attn_mask"))
    if shown is not None and np.array_equal(shown[0, 0], np.tri(queries, keys, dtype=bool)) and len(shown) == 1:
        causal, shown = True, None
    if padding is not None:
        found, more = _told(padding, "key_padding_mask")
        shapes: list[tuple[int, ...]] = [(n, keys), (keys,)][: 2 if n == 1 else 1]
        present = _shaped(found, dict.fromkeys(shapes, (n, keys)), "key_padding_mask")
        more = _shaped(more, dict.fromkeys(shapes, (n, 1, 1, keys)), "key_padding_mask")
        added = ops.add(added, more) if added is not None and more is not None else more if added is None else added
    return Seen(sizes, bool(causal), present, shown, added)


def _ends(lengths: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _fused(q: Any, k: Any, v: Any, seen: Seen, scale: float, mask: Any) -> Any:
    """What queries find, all of them rows, where seen.fused."""
    n, heads, queries, keys = seen.sizes
    starts, lengths, present = _ends(np.full(n, queries)), np.full(n, keys), seen.present
    if present is None and seen.causal:
        return ops.row_attention(q, k, v, starts, heads, heads, True, scale, mask=mask)
    if present is not None:
        lengths, there = present.sum(axis=1), np.flatnonzero(present)
        k, v = ops.take_rows(k, there), ops.take_rows(v, there)
    if present is None or not seen.causal:
        more = {"key_starts": _ends(lengths), "mask": mask}
        return ops.row_attention(q, k, v, starts, heads, heads, False, scale, **more)
    y = ops.row_attention(ops.take_rows(q, there), k, v, _ends(lengths), heads, heads, True, scale, mask=mask)
    y = ops.put_rows(y, there, n * queries)
    short = lengths < queries
    if not short.any():
        return y
    padded, own = np.flatnonzero(~present), np.flatnonzero(np.repeat(short, lengths))  # padding sees all that is none
    parts = ops.take_rows(q, padded), ops.take_rows(k, own), ops.take_rows(v, own), _ends((queries - lengths)[short])
    more = {"key_starts": _ends(lengths[short]), "mask": mask}
    return ops.add(y, ops.put_rows(ops.row_attention(*parts, heads, heads, False, scale, **more), padded, n * queries))


def _plain(q: Any, k: Any, v: Any, seen: Seen, scale: float, mask: Any) -> tuple[Any, Any]:
    """(what queries find, as rows, the weights (batch, heads, queries, keys)): zeros where a query sees nothing."""
    n, heads, queries, keys = seen.sizes
    if not min(seen.sizes):
        return ops.multiply(q, np.float32(0)), np.zeros(seen.sizes, np.float32)
    shown = np.tri(queries, keys, dtype=bool)[None, None] if seen.causal else np.ones((1, 1, queries, keys), bool)
    for each in (seen.shown, None if seen.present is None else seen.present[:, None, None]):
        shown = shown if each is None else shown & each
    some = shown.any(axis=-1, keepdims=True)
    q, k, v = (
        ops.transpose(ops.reshape(x, (n, length, heads, -1)), 0, 2, 1, 3)
        for x, length in ((q, queries), (k, keys), (v, keys))
    )
    bias = None if seen.added is None else ops.add(np.zeros(seen.sizes, np.float32), seen.added)
    weights = ops.attention_weights(q, k, (shown | ~some)[:, :, None], scale, bias=bias)
    weights = weights if some.all() else ops.multiply(weights, some.astype(np.float32))
    weights = weights if mask is None else ops.dropout(weights, *mask.draw)
    y = ops.transpose(ops.attended(weights, v), 0, 2, 1, 3)
    return ops.reshape(y, (n * queries, -1)), weights


def batched(x: Any, batch_first: bool) -> Any:
    """(batch, length, width) of (length, batch, width), of that itself, or of (length, width). Raises ValueError."""
    x = x if isinstance(x, Tensor) else np.asarray(x, np.float32)
    if x.ndim not in (2, 3):
        raise ValueError(f"attention: x {x.shape}, allowed are (length, width) and three dimensions with a batch")
    return ops.reshape(x, (1, *x.shape)) if x.ndim == 2 else x if batch_first else ops.transpose(x, 1, 0, 2)


def as_given(y: Any, x: Any, batch_first: bool) -> Any:
    """A batch in the layout of what came in."""
    return ops.reshape(y, y.shape[1:]) if np.ndim(x) == 2 else y if batch_first else ops.transpose(y, 1, 0, 2)


class Glorot(Module):
    """Matrices uniform within sqrt(6 / (inputs + outputs)) of 0, as in torch.nn.Transformer."""

    def first_values(self, name: str, parameter: Parameter, random: np.random.Generator) -> Array:
        """Initial values of one parameter."""
        if len(parameter.shape) == 1:
            return super().first_values(name, parameter, random)
        bound = (6 / sum(parameter.shape)) ** 0.5
        return random.uniform(-bound, bound, parameter.shape).astype(np.float32)


class MultiheadAttention(Glorot):
    """torch.nn.MultiheadAttention, but for add_bias_kv and add_zero_attn. Vaswani et al. 2017, arXiv:1706.03762.

    dropout: of the weights, within ops.noise. A query that sees nothing finds zeros. Raises ValueError for shapes.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
    ) -> None:
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"attention: width {embed_dim} in {num_heads} heads, allowed are heads that divide it")
        widths = embed_dim, kdim or embed_dim, vdim or embed_dim
        self.in_proj_weight = Parameter(3 * embed_dim, embed_dim) if len(set(widths)) == 1 else None
        if self.in_proj_weight is None:
            self.q_proj_weight, self.k_proj_weight, self.v_proj_weight = (
                Parameter(embed_dim, width, packed=True) for width in widths
            )
        self.in_proj_bias = Parameter(3 * embed_dim) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias)
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        self.dropout = Dropout(dropout)

    @property
    def pairs(self) -> list[tuple[Any, Any]]:
        """(weight, bias or None) of queries, keys and values."""
        thirds = [slice(i * self.embed_dim, (i + 1) * self.embed_dim) for i in range(3)]
        if self.in_proj_weight is None:
            weights = [part.value for part in (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)]
        else:
            weights = [ops.index(self.in_proj_weight.value, third) for third in thirds]
        bias = None if self.in_proj_bias is None else self.in_proj_bias.value
        return [(w, bias if bias is None else ops.index(bias, at)) for w, at in zip(weights, thirds, strict=True)]

    def seen(self, x: Any, memory: Any, mask: Any, padding: Any, causal: bool | None) -> Seen:
        """What the masks of queries x over a memory say, both (batch, length, width)."""
        return _seen(mask, padding, causal, (x.shape[0], self.num_heads, x.shape[1], memory.shape[1]))

    def found(self, query: Any, key: Any, value: Any, seen: Seen, need_weights: bool = False) -> tuple[Any, Any]:
        """(what out_proj takes, the weights of each head or None), of (batch, length, width)."""
        inputs = [ops.reshape(x, (x.shape[0] * x.shape[1], x.shape[2])) for x in (query, key, value)]
        pairs = self.pairs
        if query is key and key is value:
            q, k, v = ops.linears(inputs[0], pairs)
        else:
            q, k, v = (ops.linear(x, *pair) for x, pair in zip(inputs, pairs, strict=True))
        scale, mask, weights = (self.embed_dim // self.num_heads) ** -0.5, self.dropout.mask, None
        if seen.fused and not need_weights and self.watch is ops.unwatched:
            y = _fused(q, k, v, seen, scale, mask)
        else:
            y, weights = _plain(q, k, v, seen, scale, mask)
            weights = self.watch("weights", weights)
        return ops.reshape(y, (*query.shape[:2], self.embed_dim)), weights

    def __call__(
        self,
        query: Any,
        key: Any,
        value: Any,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Any, Any]:
        """(results, weights or None): (length, batch, width), batch_first (batch, length, width), or without a batch.

        Masks are true, or -inf, where nothing is seen; other numbers are added: key_padding_mask (batch, keys),
        attn_mask (queries, keys) or (batch * heads, queries, keys). need_weights costs memory by length squared.
        """
        q = batched(query, self.batch_first)
        k = q if key is query else batched(key, self.batch_first)
        v = k if value is key else batched(value, self.batch_first)
        if q.shape[0] != k.shape[0] or k.shape[:2] != v.shape[:2]:
            raise ValueError(f"attention: query {query.shape}, key {key.shape} and value {value.shape} differ in their "
                             "batch, or key and value in their length")  # fmt: skip
        seen = self.seen(q, k, attn_mask, key_padding_mask, is_causal)
        y, weights = self.found(q, k, v, seen, need_weights)
        y = self.watch("", as_given(self.out_proj(y), query, self.batch_first))
        if not need_weights:
            return y, None
        weights = ops.mean(weights, axis=1) if average_attn_weights else weights
        return y, ops.reshape(weights, weights.shape[1:]) if np.ndim(query) == 2 else weights
