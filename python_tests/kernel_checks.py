"""What every kernel test needs: an instruction set and proof that it ran, comparison with a bound, guard pages."""
from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pyllm import _core

ISAS = tuple(_core.isas())
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def using(isa: str, proof: bool = True) -> Iterator[None]:
    """Run the block's kernels on one instruction set; fail unless the last operation really did.

    proof=False: for blocks without an operation of `pyllm.ops`, which alone say what they ran on.
    """
    before = _core.isa()
    _core.set_isa(isa)
    try:
        assert _core.isa() == isa
        yield
        assert not proof or _core.last_kernel_isa() == isa, f"{_core.last_kernel_isa()} ran instead of {isa}"
    finally:
        _core.set_isa(before)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block with this many workers."""
    before = _core.threads()
    _core.set_threads(count)
    try:
        yield
    finally:
        _core.set_threads(before)


def check(actual: NDArray, expected: NDArray, bound: NDArray) -> None:
    """Shape, type, finite, not a constant answer, and |actual - expected| <= bound everywhere."""
    assert actual.dtype == np.float32 and actual.shape == expected.shape
    assert np.isfinite(actual).all()
    if expected.size > 8 and np.unique(expected).size > 4:
        assert np.count_nonzero(actual) > actual.size // 4, "mostly zeros"
    ratio = np.abs(actual - expected) / np.broadcast_to(bound, expected.shape)
    worst = np.unravel_index(np.argmax(ratio), ratio.shape)
    assert ratio[worst] <= 1, (
        f"at {tuple(int(i) for i in worst)}: {actual[worst]!r} where {expected[worst]!r} is exact, "
        f"{ratio[worst]:.3g} times the bound"
    )


def same_bits(a: NDArray, b: NDArray) -> bool:
    """Equal shape and equal float32 bits (zeros of both signs differ, NaNs of one pattern agree)."""
    a, b = np.ascontiguousarray(a, np.float32), np.ascontiguousarray(b, np.float32)
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))


def guarded(value: NDArray, front: bool = False) -> NDArray:
    """A copy that ends (or begins) at a page which may not be touched: one element too far is a segmentation fault."""
    value = np.ascontiguousarray(value)
    page = mmap.PAGESIZE
    body = max(-(-value.nbytes // page) * page, page)
    memory = mmap.mmap(-1, body + 2 * page)
    buffer = np.frombuffer(memory, np.uint8)
    for offset in (0, page + body):
        address = ctypes.c_void_p(buffer.ctypes.data + offset)
        if _libc.mprotect(address, ctypes.c_size_t(page), 0) != 0:  # 0: PROT_NONE
            raise OSError(ctypes.get_errno(), "mprotect")
    start = page if front else page + body - value.nbytes
    copy = buffer[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    copy[...] = value
    return copy


def packed(dtype: str, raw: NDArray, k: int) -> _core.Weight:
    """A weight from a file's rows, uint8 (rows, bytes)."""
    weight = _core.Weight(dtype, len(raw), k)
    weight.fill(0, len(raw), raw)
    return weight


def random(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> NDArray:
    """float32 normal numbers; the seed is in the test's id or beside the call."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)
