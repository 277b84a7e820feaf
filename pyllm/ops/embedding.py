"""Looking rows up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import _core
from pyllm.autograd import record
from pyllm.ops.arrays import Array, float32
from pyllm.ops.record import Symbol
from pyllm.ops.sequences import places_of, starts_of


def embedding(
    ids: Any, weight: Any, positions: Any = None, scale: float = 1.0, padding_idx: int | None = None
) -> Any:
    """y = scale weight[ids] (+ positions[0], positions[1], ... along each sequence: the last dimension of ids).

    ids (...) of integers, weight (vocabulary, d) an array or packed, positions (context, d); y (..., d) float32.
    padding_idx: a row of weight whose gradient is 0. Raises IndexError for ids outside the vocabulary.
    """
    if isinstance(ids, Symbol):
        return ids.embedding(weight, positions, scale)
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"embedding: ids hold {ids.dtype}, allowed are integers")
    w = weight if isinstance(weight, _core.Weight) else float32(weight, "embedding", "weight")
    if ids.size and (ids.min() < 0 or ids.max() >= w.shape[0]):
        raise IndexError(f"embedding: ids reach from {ids.min()} to {ids.max()}, allowed are 0 to {w.shape[0] - 1}")
    flat = np.ascontiguousarray(ids.reshape(-1), np.int32)
    y = _core.embedding(flat, w) if isinstance(w, _core.Weight) else w[flat]
    y = y if scale == 1 else y * np.float32(scale)
    places = None if positions is None else _places(ids.shape, len(positions))
    if places is not None:
        y += float32(positions, "embedding", "positions")[places]

    def derivative(dy: Array) -> tuple[Any, Any]:
        dy = dy.reshape(len(flat), w.shape[1])
        of_words = dy if scale == 1 else dy * np.float32(scale)
        if padding_idx is not None and (flat == padding_idx).any():
            of_words = np.where(flat[:, None] == padding_idx, np.float32(0), of_words)
        return _scatter(of_words, flat), _scatter(dy, places)

    return record(y.reshape(*ids.shape, w.shape[1]), (weight, positions), derivative)


def _places(shape: tuple[int, ...], context: int) -> NDArray[np.int32]:
    places = places_of(starts_of(shape))
    if places.size and places.max() >= context:
        raise ValueError(f"embedding: a sequence of {places.max() + 1} tokens, positions are {context}")
    return places.astype(np.int32)


def _scatter(dy: Array, ids: Any) -> Any:
    """The rows of dy summed at their ids: the gradient of a table."""

    def gradient(into: Array, add: bool) -> None:
        if not add:
            into.fill(0)
        _core.embedding_backward(dy, ids, into)

    return gradient
