"""Looking rows up."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyllm import _core
from pyllm.ops.arrays import float32
from pyllm.ops.linear import pack
from pyllm.ops.record import Symbol


def embedding(ids: Any, weight: Any, positions: Any = None, scale: float = 1.0) -> Any:
    """y = scale weight[ids] (+ positions[0], positions[1], ... along the last dimension of ids).

    ids (...) of integers, weight (vocabulary, d) an array or packed, positions (context, d); y (..., d) float32.
    Raises IndexError for ids outside the vocabulary.
    """
    if isinstance(ids, Symbol):
        return ids.embedding(weight, positions, scale)
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"embedding: ids hold {ids.dtype}, allowed are integers")
    if not isinstance(weight, _core.Weight):
        weight = pack(float32(weight, "embedding", "weight"))
    if ids.size and (ids.min() < 0 or ids.max() >= weight.shape[0]):
        raise IndexError(
            f"embedding: ids reach from {ids.min()} to {ids.max()}, allowed are 0 to {weight.shape[0] - 1}"
        )
    y = _core.embedding(np.ascontiguousarray(ids.reshape(-1), np.int32), weight).reshape(*ids.shape, -1)
    y = y if scale == 1 else y * np.float32(scale)
    return y if positions is None else y + float32(positions, "embedding", "positions")[: ids.shape[-1]]
