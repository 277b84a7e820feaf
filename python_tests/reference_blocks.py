"""Slow twins of the GGUF tensor types: what a block of bytes means, and int8 activations per 32.

Written from the formats' definitions in whole-array numpy; imports nothing of pyllm. A type's values are scale * code +
offset with small integer codes. In float32 the three steps round as the format's reference does, so `dequantise` is
bit-exact with it; in float64 nothing rounds at all (an 11-bit scale, a 6-bit scale and an 8-bit code fit in 53 bits).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Codes(NamedTuple):
    """Blocks taken apart: scale and offset (blocks, groups), codes int64 (blocks, groups, group length)."""

    scale: NDArray
    code: NDArray
    offset: NDArray | None


def _half(raw: NDArray, at: int, dtype: DTypeLike) -> NDArray:
    """(blocks, 1): the little-endian float16 at byte `at` of each block, widened."""
    return raw[:, at : at + 2].copy().view("<f2").astype(dtype)


def _nibbles(raw: NDArray) -> NDArray:
    """(blocks, n) bytes -> (blocks, 2 n) codes: all low halves, then all high halves."""
    return np.concatenate([raw & 15, raw >> 4], axis=1).astype(np.int64)


def _fifth_bits(raw: NDArray, at: int) -> NDArray:
    """(blocks, 32): bit j of the 32-bit word at byte `at`, moved to bit 4."""
    word = raw[:, at : at + 4].copy().view("<u4").astype(np.int64)
    return ((word >> np.arange(32)) & 1) << 4


def _q4_0(raw: NDArray, dtype: DTypeLike) -> Codes:
    return Codes(_half(raw, 0, dtype), _nibbles(raw[:, 2:])[:, None] - 8, None)


def _q4_1(raw: NDArray, dtype: DTypeLike) -> Codes:
    return Codes(_half(raw, 0, dtype), _nibbles(raw[:, 4:])[:, None], _half(raw, 2, dtype))


def _q5_0(raw: NDArray, dtype: DTypeLike) -> Codes:
    code = _nibbles(raw[:, 6:]) | _fifth_bits(raw, 2)
    return Codes(_half(raw, 0, dtype), code[:, None] - 16, None)


def _q5_1(raw: NDArray, dtype: DTypeLike) -> Codes:
    code = _nibbles(raw[:, 8:]) | _fifth_bits(raw, 4)
    return Codes(_half(raw, 0, dtype), code[:, None], _half(raw, 2, dtype))


def _q8_0(raw: NDArray, dtype: DTypeLike) -> Codes:
    return Codes(_half(raw, 0, dtype), raw[:, None, 2:].view(np.int8).astype(np.int64), None)


def _planes(raw: NDArray, bits: int) -> NDArray:
    """(blocks, bytes) -> (blocks, 8 / bits planes, bytes): plane p holds bits p * bits and up of each byte."""
    shift = np.arange(0, 8, bits)[:, None]
    return ((raw[:, None, :] >> shift) & ((1 << bits) - 1)).astype(np.int64)


def _two_bits(raw: NDArray) -> NDArray:
    """(blocks, 64) bytes -> (blocks, 256) codes: each half of 32 bytes gives four planes of 32."""
    return np.concatenate([_planes(raw[:, :32], 2), _planes(raw[:, 32:], 2)], axis=1).reshape(-1, 256)


def _q2_k(raw: NDArray, dtype: DTypeLike) -> Codes:
    scales = raw[:, :16]
    low, high = (scales & 15).astype(dtype), (scales >> 4).astype(dtype)
    code = _two_bits(raw[:, 16:80]).reshape(-1, 16, 16)
    return Codes(_half(raw, 80, dtype) * low, code, -(_half(raw, 82, dtype) * high))


def _q3_k(raw: NDArray, dtype: DTypeLike) -> Codes:
    packed = raw[:, 96:108]
    low = _nibbles(packed[:, :8])
    high = _planes(packed[:, 8:], 2).reshape(-1, 16)
    scales = (low | (high << 4)) - 32
    third = _planes(raw[:, :32], 1).reshape(-1, 256)
    code = _two_bits(raw[:, 32:96]) - 4 * (1 - third)
    return Codes(_half(raw, 108, dtype) * scales.astype(dtype), code.reshape(-1, 16, 16), None)


def _six_bit_pairs(packed: NDArray) -> tuple[NDArray, NDArray]:
    """(blocks, 12) bytes -> eight 6-bit scales and eight 6-bit minima of a Q4_K or Q5_K block."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scale = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    minimum = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return scale, minimum


def _pairs_of_32(raw: NDArray) -> NDArray:
    """(blocks, 128) bytes -> (blocks, 8, 32) nibbles: each 32 bytes give a group of low and a group of high halves."""
    return _planes(raw.reshape(-1, 32), 4).reshape(-1, 8, 32)


def _k_with_minima(raw: NDArray, code: NDArray, dtype: DTypeLike) -> Codes:
    scale, minimum = _six_bit_pairs(raw[:, 4:16])
    return Codes(_half(raw, 0, dtype) * scale.astype(dtype), code, -(_half(raw, 2, dtype) * minimum.astype(dtype)))


def _q4_k(raw: NDArray, dtype: DTypeLike) -> Codes:
    return _k_with_minima(raw, _pairs_of_32(raw[:, 16:]), dtype)


def _q5_k(raw: NDArray, dtype: DTypeLike) -> Codes:
    return _k_with_minima(raw, _pairs_of_32(raw[:, 48:]) | (_planes(raw[:, 16:48], 1) << 4), dtype)


def _q6_k(raw: NDArray, dtype: DTypeLike) -> Codes:
    low = _planes(raw[:, :128].reshape(-1, 64), 4).reshape(-1, 128)
    high = _planes(raw[:, 128:192].reshape(-1, 32), 2).reshape(-1, 128)
    code = (low | (high << 4)) - 32
    scales = raw[:, 192:208].view(np.int8).astype(dtype)
    return Codes(_half(raw, 208, dtype) * scales, code.reshape(-1, 16, 16), None)


class Block(NamedTuple):
    """A block type: values per block, bytes per block, how to take it apart, where its float16 scales stand."""

    values: int
    nbytes: int
    codes: Callable[[NDArray, DTypeLike], Codes]
    halves: tuple[int, ...]


BLOCKS = {
    "Q4_0": Block(32, 18, _q4_0, (0,)),
    "Q4_1": Block(32, 20, _q4_1, (0, 2)),
    "Q5_0": Block(32, 22, _q5_0, (0,)),
    "Q5_1": Block(32, 24, _q5_1, (0, 2)),
    "Q8_0": Block(32, 34, _q8_0, (0,)),
    "Q2_K": Block(256, 84, _q2_k, (80, 82)),
    "Q3_K": Block(256, 110, _q3_k, (108,)),
    "Q4_K": Block(256, 144, _q4_k, (0, 2)),
    "Q5_K": Block(256, 176, _q5_k, (0, 2)),
    "Q6_K": Block(256, 210, _q6_k, (208,)),
}
PLAIN = {"F32": 4, "F16": 2, "BF16": 2}


def row_bytes(name: str, k: int) -> int:
    """Bytes of one row of k values of type `name`."""
    return k * PLAIN[name] if name in PLAIN else k // BLOCKS[name].values * BLOCKS[name].nbytes


def _plain(name: str, raw: NDArray) -> NDArray:
    if name == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return raw.view({"F32": "<f4", "F16": "<f2"}[name]).astype(np.float32)


def parts(name: str, raw: NDArray, dtype: DTypeLike = np.float64) -> tuple[NDArray, NDArray | None]:
    """uint8 (rows, bytes) -> scaled codes (rows, k) and offsets (rows, k) or None; their sum is the weight."""
    raw = np.ascontiguousarray(raw)
    if name in PLAIN:
        return _plain(name, raw).astype(dtype), None
    block = BLOCKS[name]
    taken = block.codes(raw.reshape(-1, block.nbytes), dtype)
    scaled = taken.scale[:, :, None] * taken.code.astype(dtype)
    if taken.offset is None:
        return scaled.reshape(len(raw), -1), None
    offset = np.broadcast_to(taken.offset[:, :, None], scaled.shape)
    return scaled.reshape(len(raw), -1), offset.reshape(len(raw), -1)


def dequantise(name: str, raw: NDArray, dtype: DTypeLike = np.float32) -> NDArray:
    """uint8 (rows, bytes) -> (rows, k): scale * code + offset, rounded at each step in dtype (float64: exact)."""
    scaled, offset = parts(name, raw, dtype)
    return scaled if offset is None else scaled + offset


def random_rows(name: str, rows: int, k: int, seed: int) -> NDArray:
    """uint8 (rows, bytes): valid rows of a type, any code, scales such that weights are about 1 / sqrt(k)."""
    rng = np.random.default_rng(seed)
    if name in PLAIN:
        value = (rng.standard_normal((rows, k)) / np.sqrt(k)).astype(np.float32)
        return encode(name, value)
    block = BLOCKS[name]
    raw = rng.integers(0, 256, (rows * k // block.values, block.nbytes), dtype=np.uint8)
    for order, at in enumerate(block.halves):
        half = rng.uniform(0.5, 1.0, len(raw)) * (1 if order else rng.choice([-1.0, 1.0], len(raw)))
        raw[:, at : at + 2] = half.astype("<f2")[:, None].view(np.uint8)
    size = np.abs(dequantise(name, raw, np.float64)).mean(axis=1)
    for at in block.halves:
        scale = _half(raw, at, np.float64)[:, 0] / size / np.sqrt(k)
        raw[:, at : at + 2] = scale.astype("<f2")[:, None].view(np.uint8)
    return raw.reshape(rows, -1)


def round_bf16(x: NDArray) -> NDArray:
    """float32 -> float32 holding the nearest bfloat16, halves to even (finite input)."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def encode(name: str, value: NDArray) -> NDArray:
    """float32 (rows, k) -> uint8 (rows, bytes) of a type without blocks."""
    if name == "BF16":
        stored = (round_bf16(value).view(np.uint32) >> 16).astype("<u2")
    else:
        stored = value.astype({"F32": "<f4", "F16": "<f2"}[name])
    return np.ascontiguousarray(stored).view(np.uint8)


def quantise_activations(x: NDArray) -> tuple[NDArray, NDArray]:
    """float32 (..., k) -> codes int8 (..., k / 32, 32), halves to even, and scales (..., k / 32), max |x| / 127.

    The code is x times the reciprocal of the scale, both rounded to float32: this decides which way near-ties go.
    """
    group = np.asarray(x, np.float32).reshape(*x.shape[:-1], -1, 32)
    top = np.abs(group).max(axis=-1)
    safe = np.where(top > 4e-37, top, np.float32(np.inf))  # below, the reciprocal overflows: such a group is zero
    inverse = np.float32(127) / safe
    return np.rint(group * inverse[..., None]).astype(np.int8), np.where(top > 4e-37, top / np.float32(127), 0)


def rounded_activations(x: NDArray, terms: int = 1) -> list[NDArray]:
    """float64 arrays shaped like x: what each int8 term stands for; a later term holds the earlier one's remainder."""
    rest, out = np.asarray(x, np.float32), []
    for _ in range(terms):
        code, scale = quantise_activations(rest)
        out.append((code.astype(np.float64) * scale.astype(np.float64)[..., None]).reshape(x.shape))
        product = (code.astype(np.float32) * scale[..., None]).reshape(x.shape)
        rest = rest - product
    return out


def cached_q8_0(x: NDArray) -> NDArray:
    """What a Q8_0 cache gives back of x (..., d), d a multiple of 16: bf16 of code * half, the largest being 127."""
    groups = x.reshape(*x.shape[:-1], -1, 16)
    scale = (np.abs(groups).max(-1, keepdims=True) / np.float32(127)).astype(np.float16).astype(np.float32)
    codes = np.where(scale > 0, np.clip(np.rint(groups / np.where(scale > 0, scale, 1)), -127, 127), 0)
    return round_bf16((codes.astype(np.float32) * scale).reshape(x.shape))
