"""How numbers are stored in model files: block-quantised and plain types, and what a tensor's entry says."""

from __future__ import annotations

from math import prod
from typing import NamedTuple


class Type(NamedTuple):
    """One storage type: `block` numbers along a row take `nbytes` bytes; `id` is its number in GGUF."""

    name: str
    id: int
    block: int
    nbytes: int


class TensorInfo(NamedTuple):
    """Where a tensor lies: shape in numpy order (rows last but one), dtype a name of TYPES, offset from file start."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    nbytes: int

    @property
    def rows(self) -> int:
        """How many rows (runs of the last dimension) there are."""
        return prod(self.shape[:-1])


_TABLE = """
F32 0 1 4       F16 1 1 2       Q4_0 2 32 18    Q4_1 3 32 20    Q5_0 6 32 22     Q5_1 7 32 24
Q8_0 8 32 34    Q2_K 10 256 84  Q3_K 11 256 110 Q4_K 12 256 144  Q5_K 13 256 176
Q6_K 14 256 210 IQ2_XXS 16 256 66 IQ2_XS 17 256 74 IQ3_XXS 18 256 98 IQ1_S 19 256 50
IQ4_NL 20 32 18 IQ3_S 21 256 110 IQ2_S 22 256 82 IQ4_XS 23 256 136 I8 24 1 1     I16 25 1 2
I32 26 1 4      I64 27 1 8      F64 28 1 8      IQ1_M 29 256 56 BF16 30 1 2      TQ1_0 34 256 54
TQ2_0 35 256 66 MXFP4 39 32 17
"""

# Every type whose size is known, so that a file that uses it can be checked and described.
TYPES: dict[str, Type] = {}
for _words in zip(*[iter(_TABLE.split())] * 4, strict=True):
    TYPES[_words[0]] = Type(_words[0], int(_words[1]), int(_words[2]), int(_words[3]))

TYPES_BY_ID: dict[int, Type] = {kind.id: kind for kind in TYPES.values()}

# The types whose numbers pyllm computes with.
_PLAIN = ("F32", "F16", "BF16")
_BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
READABLE = frozenset(_PLAIN + _BLOCKS)

# Plain types of safetensors that GGUF does not have.
_BESIDE_GGUF = {"BOOL": 1, "U8": 1, "U16": 2, "U32": 4, "U64": 8}


def size_in_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor: numbers / block * bytes per block. Its rows must be whole blocks."""
    if dtype in _BESIDE_GGUF:
        return prod(shape) * _BESIDE_GGUF[dtype]
    kind = TYPES[dtype]
    return prod(shape) // kind.block * kind.nbytes
