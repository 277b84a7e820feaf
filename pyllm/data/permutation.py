"""An order of things as a function of the place: a permutation that is computed, never stored."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

_ROUNDS = 6


def permute(places: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """The things, 0 to size - 1, that stand at these places in the order of (seed, epoch); both int64.

    A Feistel network: split x into halves (l, r) of b bits, (l, r) <- (r, l ^ f(r, key)), six times, which can be
    undone whatever f is and so permutes 0 to 2^2b - 1. A result of `size` or more is sent through again until it is
    below: that walks along a cycle of the permutation, so it ends, after 4 turns on average at most.
    """
    if size < 2:
        return np.zeros_like(places)
    half = ((size - 1).bit_length() + 1) // 2
    keys = round_keys(seed, epoch)
    found = _network(places.astype(np.uint64), half, keys)
    outside = np.flatnonzero(found >= size)
    while len(outside):
        found[outside] = _network(found[outside], half, keys)
        outside = outside[found[outside] >= size]
    return found.astype(np.int64)


def round_keys(seed: int, epoch: int) -> np.ndarray:
    """A key of 64 bits for each round, (6,) uint64."""
    text = b"".join((each % 2**64).to_bytes(8, "little") for each in (seed, epoch))
    return np.frombuffer(blake2b(text, digest_size=8 * _ROUNDS).digest(), "<u8")


def _network(x: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    mask = np.uint64((1 << half) - 1)
    left, right = x >> np.uint64(half), x & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    out: np.ndarray = (left << np.uint64(half)) | right
    return out


def _mix(x: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every bit of x: the finaliser of splitmix64, arrays wrap at 2^64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
