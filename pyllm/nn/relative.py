"""What attention adds to its scores for the distance of a key: learned numbers, one for each bucket of distances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import ops
from pyllm.nn.module import Module, Parameter


class RelativeBias(Module):
    """A table (buckets, heads). both: keys stand on both sides of a query, and each has half of the buckets.

    most: from this distance on all are in the last bucket. Raffel et al. 2020, arXiv:1910.10683.
    """

    def __init__(self, buckets: int, most: int, heads: int, both: bool) -> None:
        self.weight = Parameter(buckets, heads)
        self.most, self.both = most, both

    def __call__(self, length: int) -> Any:
        """(heads, distances) for sequences of up to `length` tokens, as ops.row_attention takes it."""
        distances = np.arange(1 - length, length if self.both else 1)
        found = buckets_of(distances, self.weight.shape[0], self.most, self.both)
        return ops.transpose(ops.embedding(found, self.weight.value), 1, 0)


def buckets_of(distances: Any, buckets: int, most: int, both: bool) -> NDArray[np.int64]:
    """The bucket of every distance (key less query): half of them hold one each, the others ever more, by logarithms.

    Raises ValueError for fewer buckets than 2 on a side, or for `most` that the small ones reach.
    """
    side = buckets // 2 if both else buckets
    single = side // 2
    if single < 1 or most <= single:
        raise ValueError(f"relative bias: {buckets} buckets up to distance {most}, allowed are more of both")
    far = np.abs(distances) if both else np.maximum(-np.asarray(distances), 0)
    ratio = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(single)) / np.float32(math.log(most / single))
    large = single + (ratio * np.float32(side - single)).astype(np.int64)
    found = np.where(far < single, far, np.minimum(large, side - 1))
    return found + side * (np.asarray(distances) > 0) if both else found
