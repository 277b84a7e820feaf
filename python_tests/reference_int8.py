"""The float64 twin of INT8: transformed rows, their codes and scales, and products of them."""

import numpy as np
from numpy.typing import NDArray


def hadamard(x: NDArray) -> NDArray:
    """Hadamard's transform of each 64 numbers of rows, filled up with zeros; six stages of sums in x's own type."""
    rows = np.pad(x, ((0, 0), (0, -x.shape[1] % 64))).reshape(len(x), -1, 64)
    for _ in range(6):
        even, odd = rows[..., 0::2], rows[..., 1::2]
        rows = np.concatenate([even + odd, even - odd], axis=-1)
    return rows.reshape(len(x), -1)


def int8_codes(x: NDArray) -> tuple[NDArray, NDArray]:
    """(codes from -127 to 127, scale of each row (rows, 1)) of transformed rows: a row over its largest number."""
    rows = hadamard(np.float32(x))
    top = np.abs(rows).max(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.where(top > 0, np.rint(rows * (np.float32(127) / top)), 0)
    return np.float64(codes) + 0.0, np.float64(top / np.float32(127))  # rint makes -0 of -0.3


def int8_numbers(w: NDArray) -> NDArray:
    """What the codes of a weight's rows stand for."""
    codes, scale = int8_codes(w)
    return hadamard(codes * scale / 64)[:, : w.shape[1]]


def int8_linear(x: NDArray, w: NDArray) -> NDArray:
    """x W^T of a row's and a feature's codes, exact, times both scales; transformed twice, it is 64 times as much."""
    (a, a_scale), (b, b_scale) = int8_codes(x), int8_codes(w)
    return (a @ b.T) * a_scale * b_scale.T / 64
