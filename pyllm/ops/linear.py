"""Products with weights, and what is fused with them. A weight is (out, in), an array or a packed `_core.Weight`."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyllm import _core
from pyllm.ops.activation import activate
from pyllm.ops.activation import softcap as capped
from pyllm.ops.arrays import Array, float32, vector
from pyllm.ops.norm import Norm, normalise
from pyllm.ops.record import Symbol


def matmul(a: Any, b: Any) -> Array:
    """y = a @ b in float32. a (..., m, k), b (k, n); raises ValueError when the k differ."""
    a, b = float32(a, "matmul", "a"), float32(b, "matmul", "b")
    if a.ndim < 1 or b.ndim != 2:
        raise ValueError(f"matmul: a {a.shape} @ b {b.shape}: a needs one dimension or more, b two")
    if a.shape[-1] != b.shape[0]:
        raise ValueError(f"matmul: a {a.shape} @ b {b.shape}: {a.shape[-1]} and {b.shape[0]} differ")
    if 0 in a.shape or 0 in b.shape:
        return np.zeros((*a.shape[:-1], b.shape[1]), np.float32)
    weight = _core.Weight("F32", b.shape[1], b.shape[0])
    weight.fill_floats(b, transposed=True)
    return linear(a, weight)


def linear(x: Any, weight: Any, bias: Any = None, precision: str = "default") -> Array:
    """y = x W^T + bias. x (..., in), weight (out, in) an array or packed, bias (out,); float32 out.

    Packed quantised weights take x in int8 with a scale per 32 numbers; precision="high" in two int8 terms.
    bf16 weights take x rounded to bf16. Raises ValueError: `linear: x (8, 5) @ W (4, 3): 5 and 3 differ`.
    """
    x = float32(x, "linear")
    if not isinstance(weight, _core.Weight):
        weight = pack(float32(weight, "linear", "weight"))
    n, k = weight.shape
    if x.ndim < 1 or x.shape[-1] != k:
        raise ValueError(f"linear: x {x.shape} @ W ({n}, {k}): {x.shape[-1] if x.ndim else 1} and {k} differ")
    bias = None if bias is None else vector(bias, n, "linear", "bias")
    if x.size == 0:
        return np.zeros((*x.shape[:-1], n), np.float32)
    return _core.linear(x.reshape(-1, k), weight, bias, precision == "high").reshape(*x.shape[:-1], n)


def pack(weight: Array, dtype: str = "F32") -> _core.Weight:
    """A packed weight of a float32 array (out, in), kept as F32 or BF16. Raises ValueError for other shapes."""
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"linear: weight has shape {weight.shape}, allowed is (out, in)")
    packed = _core.Weight(dtype, *weight.shape)
    packed.fill_floats(weight)
    return packed


def norm_linear(x: Any, norm: Norm | None, weight: Any, bias: Any = None, act: str = "none") -> Any:
    """y = act(norm(x) W^T + bias)."""
    if isinstance(x, Symbol):
        return x.linear(norm, [(weight, bias, "store" if act == "none" else "activate")], act=act)[0]
    return activate(linear(normalise(x, norm), weight, bias), act)


def linear_add(residual: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """y = residual + x W^T + bias. While recording, y takes the place of residual."""
    if isinstance(x, Symbol):
        return x.linear(None, [(weight, bias, "add")], residual=residual)[0]
    return residual + linear(x, weight, bias)


def gated_linear(
    x: Any, norm: Norm | None, gate: Any, up: Any, gate_bias: Any = None, up_bias: Any = None, act: str = "silu"
) -> Any:
    """y = act(norm(x) G^T + gate_bias) * (norm(x) U^T + up_bias). Shazeer 2020, arXiv:2002.05202."""
    if isinstance(x, Symbol) and gate.dtype == up.dtype:
        return x.linear(norm, [(gate, gate_bias, "store"), (up, up_bias, "store")], act=act, gated=True)[0]
    if isinstance(x, Symbol):  # two storage types do not share a tile
        g, u = x.linear(norm, [(gate, gate_bias, "store"), (up, up_bias, "store")])
        return g.map(act, u)
    x = normalise(x, norm)
    return activate(linear(x, gate, gate_bias), act, linear(x, up, up_bias))


def logits(x: Any, norm: Norm | None, weight: Any, bias: Any = None, softcap: float = 0.0) -> Any:
    """norm(x) W^T + bias, soft-capped unless softcap is 0: a language model's last operation.

    While recording, for the wanted rows only.
    """
    if isinstance(x, Symbol):
        return x.logits(norm, weight, bias, softcap)
    y = linear(normalise(x, norm), weight, bias)
    return capped(y, softcap) if softcap else y
