"""Numbers to the bytes that files store: float32, float16, bfloat16 and the block types that pyllm writes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pyllm import _core
from pyllm.formats.types import TYPES

Numbers = NDArray[np.float32]
Bytes = NDArray[np.uint8]

BLOCK = 32
_AT_ONCE = 2048  # blocks whose float32 numbers and their copies stay in the second-level cache


def encode(dtype: str, x: Numbers) -> Bytes:
    """(rows, k) float32 to (rows, bytes of a row), each number or block as ggml's reference rounds it.

    Raises ValueError for types that pyllm does not write, rows that are no whole blocks, and numbers that the type
    cannot hold: NaN and infinity in a block type, finite numbers that would become infinite.
    """
    if dtype not in WRITABLE:
        raise ValueError(f"encode: type {dtype}; pyllm writes {', '.join(WRITABLE)}")
    rows, k = x.shape
    kind = TYPES[dtype]
    if k % kind.block:
        raise ValueError(f"encode: rows of {k:,} numbers; a multiple of {kind.block}, the block of {dtype}")
    x = np.ascontiguousarray(x, np.float32)
    if dtype not in _BLOCKS:
        return _PLAIN[dtype](x).view(np.uint8).reshape(rows, k * kind.nbytes)
    out = np.empty((rows * k // BLOCK, kind.nbytes), np.uint8)
    blocks = x.reshape(-1, BLOCK)
    with np.errstate(all="ignore"):  # what does not fit is found by its scale
        for start in range(0, len(out), _AT_ONCE):
            columns = np.ascontiguousarray(blocks[start : start + _AT_ONCE].T)
            _BLOCKS[dtype](columns, out[start : start + _AT_ONCE])
    return out.reshape(rows, k // BLOCK * kind.nbytes)


def decode(dtype: str, data: Bytes, rows: int, k: int) -> Numbers:
    """The float32 numbers (rows, k) that stored bytes stand for; any type that pyllm computes with."""
    weight = _core.Weight(dtype, rows, k)
    weight.fill(0, rows, data.reshape(-1))
    return weight.dequantise(0, rows)


def _half(x: Numbers, what: str = "float16") -> NDArray[np.float16]:
    """Rounded to nearest, ties to even; what was finite must stay so."""
    with np.errstate(over="ignore"):
        out = x.astype(np.float16)
    if not np.array_equal(np.isfinite(out), np.isfinite(x)):
        raise ValueError(f"encode: {np.abs(x[np.isfinite(x)]).max():g} as {what}; at most 65,504")
    return out


def bf16(x: Numbers) -> NDArray[np.uint16]:
    """Rounded to nearest, ties to even; NaN stays NaN."""
    bits = x.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), ((bits >> 16) | 0x40).astype(np.uint16), rounded)


def _scale(d: Numbers, out: Bytes) -> None:
    """A block's float16 scale into two columns of the output."""
    if not np.isfinite(d).all():
        raise ValueError("encode: NaN or infinity in a block; finite numbers")
    out[:] = _half(d, "a block's scale").view(np.uint8).reshape(-1, 2)


def _inverse(d: Numbers) -> Numbers:
    """1 / d; 0 for scales so small that the block is stored as zeros."""
    inverse = np.float32(1) / d
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _pack(q: Numbers, out: Bytes) -> None:
    """Numbers 0 to 15.99: the first sixteen of a block in low halves of its bytes, the others in high halves."""
    whole = np.minimum(q, np.float32(15)).astype(np.uint8)
    out[:] = (whole[:16] | (whole[16:] << 4)).T


def _q4_0(x: Numbers, out: Bytes) -> None:
    """d = the number of largest magnitude / -8; q = x / d + 8, 0 to 15."""
    high, low = x.max(axis=0), x.min(axis=0)
    furthest = np.where(high > -low, high, low)
    for column in np.flatnonzero(high == -low):  # both ends are as far: the first counts
        furthest[column] = x[np.abs(x[:, column]).argmax(), column]
    d = furthest / np.float32(-8)
    _scale(d, out[:, :2])
    _pack(x * _inverse(d) + np.float32(8.5), out[:, 2:])


def _q4_1(x: Numbers, out: Bytes) -> None:
    """m = the smallest number, d = (largest - m) / 15; q = (x - m) / d."""
    low = x.min(axis=0)
    d = (x.max(axis=0) - low) / np.float32(15)
    _scale(d, out[:, :2])
    _scale(low, out[:, 2:4])
    _pack((x - low) * _inverse(d) + np.float32(0.5), out[:, 4:])


def _q8_0(x: Numbers, out: Bytes) -> None:
    """d = largest magnitude / 127; q = x / d, halves away from zero."""
    d = np.abs(np.maximum(x.max(axis=0), -x.min(axis=0))) / np.float32(127)  # abs: the sign of a block of -0
    _scale(d, out[:, :2])
    q = x * _inverse(d)
    out[:, 2:] = _rounded(q).T.view(np.uint8)


def _rounded(q: Numbers) -> NDArray[np.int8]:
    """To the nearest whole number, halves away from zero."""
    whole = np.trunc(q)
    return (whole + np.trunc((q - whole) * np.float32(2))).astype(np.int8)


_PLAIN: dict[str, Callable[[Numbers], NDArray]] = {"F32": lambda x: x, "F16": _half, "BF16": bf16}
_BLOCKS: dict[str, Callable[[Numbers, Bytes], None]] = {"Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_1": _q4_1}
WRITABLE = (*_PLAIN, *_BLOCKS)
