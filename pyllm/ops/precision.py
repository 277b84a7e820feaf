"""In which numbers products are made while a model learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pyllm import _core
from pyllm.ops.arrays import Array

_NAMES = {"fp32": "F32", "float32": "F32", "bf16": "BF16", "bfloat16": "BF16"}
_type = ContextVar("type", default="F32")


def product_type() -> str:
    """"F32" or "BF16": of the operands of products. Sums are float32 either way."""
    return _type.get()


def type_beside(weight: Any) -> str:
    """As product_type, but what a coarse packed weight makes goes on in bf16, where the processor gains by it.

    Coarse is all but float32 and float16, which has more digits than bf16.
    """
    coarse = isinstance(weight, _core.Weight) and weight.dtype not in ("F32", "F16")
    return "BF16" if coarse and _core.quick_pairs() else product_type()


def stored(x: Array, kind: str) -> Callable[[], Array]:
    """Gives x back to a derivative that multiplies in `kind`: in bf16 it is kept so, for half the memory."""
    if kind != "BF16":
        return lambda: x
    half = halves(x)
    return lambda: _core.map(half, None, "none")


def halves(x: Array) -> Any:
    """Numbers rounded to bf16, as uint16."""
    return _core.map_halves(x, None, "none", wanted=False)[1]


@contextmanager
def autocast(dtype: Any = "bf16") -> Iterator[None]:
    """Within it, operands of products are rounded to dtype, "bf16" or "fp32"; weights stay float32. Of this thread.

    A loop of one's own learns in bf16 where its loss is computed within; the way back remembers it. dtype: a name, or
    torch.bfloat16, torch.float32. Raises ValueError for another. Micikevicius et al. 2018, arXiv:1710.03740.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in _NAMES:
        raise ValueError(f"autocast: {dtype!r}, allowed are {', '.join(_NAMES)}")
    before = product_type()
    _type.set(_NAMES[name])
    try:
        yield
    finally:
        _type.set(before)
