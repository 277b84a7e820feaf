"""Random numbers of a sample: functions of seed, purpose and position, so that a run that goes on repeats them."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

_WORD = 2**64 - 1


class Draws:
    """The numbers of one position, one after the other: Philox with key (seed, purpose), counted from the position on.

    Made of the generator's words alone, which are the same in every version of numpy. Salmon et al. 2011.
    """

    def __init__(self, seed: int, purpose: str, position: int) -> None:
        key = np.array([seed & _WORD, zlib.crc32(purpose.encode())], np.uint64)
        self._words = np.random.Philox(key=key, counter=np.array([0, 0, position & _WORD, 0], np.uint64))

    def uniform(self, count: int) -> NDArray[np.float64]:
        """(count,) numbers from 0 up to, but not with, 1."""
        words: NDArray[np.uint64] = self._words.random_raw(count)
        return (words >> np.uint64(11)) * 2.0**-53

    def order(self, count: int) -> NDArray[np.int64]:
        """(count,) the numbers 0 to count - 1, any order as likely as another."""
        words: NDArray[np.uint64] = self._words.random_raw(count)
        return np.argsort(words, kind="stable")

    def below(self, limit: int, count: int = 1) -> NDArray[np.int64]:
        """(count,) whole numbers from 0 to limit - 1."""
        found: NDArray[np.int64] = (self.uniform(count) * limit).astype(np.int64)
        return found

    def rounded(self, amount: float) -> int:
        """One of the two whole numbers around an amount, so that the mean is the amount."""
        return int(amount + self.uniform(1)[0])

    def poisson(self, mean: float, count: int) -> NDArray[np.int64]:
        """(count,) from the Poisson distribution, by its inverse; what is less likely than 1e-16 does not come."""
        sums, term, k = [0.0], np.exp(-mean), 0
        while sums[-1] < 1 and term > 1e-17:
            sums.append(sums[-1] + term)
            k += 1
            term *= mean / k
        return np.searchsorted(np.array(sums[1:-1]), self.uniform(count), "right").astype(np.int64)

    def parts(self, total: int, count: int, least: NDArray[np.int64]) -> NDArray[np.int64]:
        """(count,) whole numbers with sum `total`, each at least its least; every such choice is as likely."""
        free = total - int(least.sum())
        cuts = np.sort(self.order(free + count - 1)[: count - 1])  # bars among stars
        return np.diff(np.concatenate([[-1], cuts, [free + count - 1]])) - 1 + least
