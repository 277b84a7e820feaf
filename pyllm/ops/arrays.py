"""What every operation does with its arguments first: float32, C order, shapes that are said when they are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm.tensor import Tensor

Array = NDArray[np.float32]
_FLOAT32 = np.dtype(np.float32)


def float32(x: Any, op: str, name: str = "x") -> Array:
    """x as a C-ordered float32 array; no copy where it is one. Raises TypeError for what holds no real numbers,
    ValueError for a parameter without a value."""
    if type(x) is np.ndarray and x.dtype is _FLOAT32 and x.flags.c_contiguous:  # nearly always: a model asks often
        return x
    if x is None:
        raise ValueError(f"{op}: {name} has no value yet; initialise() or load_state_dict() gives parameters one")
    array = np.asarray(x.data if isinstance(x, Tensor) else x)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{op}: {name} holds {array.dtype}, allowed are real numbers")
    return np.asarray(array, np.float32, order="C")


def int32(x: Any, op: str, name: str) -> NDArray[np.int32]:
    """Integers x as int32. Raises IndexError for one that needs more bits, which would become another number."""
    array = np.asarray(x)
    found = array.astype(np.int32)
    wrong = array[found != array]
    if wrong.size:
        raise IndexError(f"{op}: {name}: {wrong[0]}, allowed are numbers of 32 bits")
    return found


def vector(x: Any, size: int, op: str, name: str) -> Array:
    """x as float32 of shape (size,). Raises ValueError."""
    array = float32(x, op, name)
    if array.shape != (size,):
        raise ValueError(f"{op}: {name} has shape {array.shape}, allowed is ({size},)")
    return array
