"""Shapes, types, tolerances and operation counts: one case serves the tests and the benchmarks.

Lengths are chosen to end inside a vector, a tile, a group or a chunk: one, two, one below and above 16 and 32, primes.
"""

from __future__ import annotations

from dataclasses import dataclass

QUANTISED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
FLOATS = ("F32", "F16", "BF16")
TYPES = FLOATS + QUANTISED
GROUP = {name: 256 if name.endswith("_K") else 32 for name in QUANTISED} | dict.fromkeys(FLOATS, 1)

LENGTHS = (1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 255, 256, 257)
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 64, 65)

LOGITS_RELATIVE = 1e-4  # of float32 weights against transformers: max |difference| / max |reference| per row
QUALITY = {"default": 96.5, "high": 99.0}  # per cent of top tokens equal to float64's


@dataclass(frozen=True)
class Linear:
    """y (rows, n) = x (rows, k) W^T, W stored as `dtype`."""

    rows: int
    k: int
    n: int
    dtype: str

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.k * self.n

    def __str__(self) -> str:
        return f"{self.dtype}-{self.rows}x{self.k}x{self.n}"


@dataclass(frozen=True)
class Attention:
    """Queries (batch, heads, length, dim) on keys and values (batch, groups, total, dim)."""

    heads: int
    groups: int
    length: int
    total: int
    dim: int
    causal: bool = True
    window: int | None = None
    batch: int = 1

    @property
    def pairs(self) -> int:
        """Query-key pairs of one head that are looked at."""
        first = self.total - self.length
        reach = (first + i + 1 if self.causal else self.total for i in range(self.length))
        return sum(min(n, self.window or n) for n in reach)

    @property
    def flops(self) -> int:
        return 4 * self.batch * self.heads * self.dim * self.pairs

    def __str__(self) -> str:
        kind = ("causal" if self.causal else "full") + (f"-window{self.window}" if self.window else "")
        return f"{self.batch}x{self.heads}/{self.groups}-{self.length}of{self.total}x{self.dim}-{kind}"


def _inputs(dtype: str) -> tuple[int, ...]:
    if dtype in FLOATS:
        return (1, 2, 3, 15, 16, 17, 31, 33, 97, 256, 257)
    return (256, 512, 1536) if GROUP[dtype] == 256 else (32, 64, 96, 256, 576, 1536)


# Every row count at one awkward width; every depth at two row counts; every width at two row counts.
LINEAR = tuple(
    dict.fromkeys(
        case
        for dtype in TYPES
        for case in (
            *(Linear(rows, _inputs(dtype)[-2], 33, dtype) for rows in ROWS),
            *(Linear(rows, k, 17, dtype) for rows in (1, 5) for k in _inputs(dtype)),
            *(Linear(rows, _inputs(dtype)[3 if dtype in FLOATS else 0], n, dtype) for rows in (1, 7) for n in LENGTHS),
        )
    )
)
# The shapes of the default model: attention and feed-forward matrices and the vocabulary.
MODEL_LINEAR = tuple(
    Linear(rows, k, n, dtype)
    for dtype in ("F32", "BF16", "Q4_1", "Q8_0", "Q4_K")
    for rows in (1, 8, 512)
    for k, n in ((576, 576), (576, 1536), (1536, 576))
    if k % GROUP[dtype] == 0
)

ATTENTION = (
    Attention(1, 1, 1, 1, 1),
    Attention(2, 1, 3, 3, 2),
    Attention(3, 3, 7, 17, 15),
    Attention(4, 2, 16, 16, 16),
    Attention(4, 1, 17, 33, 17),
    Attention(6, 2, 1, 63, 64),
    Attention(6, 2, 1, 64, 64),
    Attention(6, 2, 1, 65, 64),
    Attention(9, 3, 5, 255, 64),
    Attention(9, 3, 2, 256, 64),
    Attention(9, 3, 3, 257, 64),
    Attention(2, 1, 65, 65, 80),
    Attention(2, 2, 13, 513, 128),
    Attention(2, 2, 5, 31, 24, causal=False),
    Attention(4, 2, 64, 300, 32, causal=False),
    Attention(2, 1, 33, 33, 16, window=1),
    Attention(2, 1, 33, 97, 16, window=17),
    Attention(4, 2, 70, 600, 32, window=256),
    Attention(2, 1, 9, 40, 8, batch=3),
)
MODEL_ATTENTION = (Attention(9, 3, 512, 512, 64), Attention(9, 3, 1, 512, 64), Attention(9, 3, 1, 4096, 64))
