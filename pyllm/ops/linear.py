"""Products with weights, and what is fused with them.

A weight is (out, in): an array, a packed `_core.Weight`, or one of these `Adapted`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from pyllm import _core
from pyllm.autograd import kept, record, wants
from pyllm.ops.activation import activate
from pyllm.ops.activation import softcap as capped
from pyllm.ops.adapted import Adapted, Change
from pyllm.ops.arrays import Array, float32, vector
from pyllm.ops.norm import Norm, normalise
from pyllm.ops.panels import Columns, panels, sums
from pyllm.ops.precision import product_type
from pyllm.ops.record import Symbol
from pyllm.ops.watch import Watch, unwatched
from pyllm.tensor import Tensor


def matmul(a: Any, b: Any) -> Array:
    """y = a @ b in float32. a (..., m, k), b (k, n); raises ValueError when the k differ."""
    x, w = float32(a, "matmul", "a"), float32(b, "matmul", "b")
    if x.ndim < 1 or w.ndim != 2:
        raise ValueError(f"matmul: a {x.shape} @ b {w.shape}: a needs one dimension or more, b two")
    if x.shape[-1] != w.shape[0]:
        raise ValueError(f"matmul: a {x.shape} @ b {w.shape}: {x.shape[-1]} and {w.shape[0]} differ")
    if 0 in x.shape or 0 in w.shape:
        nothing = np.zeros((*x.shape[:-1], w.shape[1]), np.float32)
        return record(nothing, (a, b), lambda dy: (np.zeros_like(x), np.zeros_like(w)))
    rows, kind = x.reshape(-1, len(w)), product_type()
    with panels(w, kind, transposed=True) as packed:
        y = _core.linear(rows, packed).reshape(*x.shape[:-1], w.shape[1])

    def derivative(dy: Array) -> tuple[Any, Any]:
        dy = dy.reshape(len(rows), -1)
        return times(dy, w, kind, transposed=False), sums(rows, lambda: dy, kind)  # dy b^T, a^T dy

    return record(y, (a, b), derivative)


def linear(x: Any, weight: Any, bias: Any = None, precision: str = "default") -> Array:
    """y = x W^T + bias. x (..., in), weight (out, in) an array or packed, bias (out,); float32 out.

    Packed quantised weights take x in int8 with a scale per 32 numbers; precision="high" in two int8 terms.
    bf16 weights take x rounded to bf16. Raises ValueError: `linear: x (8, 5) @ W (4, 3): 5 and 3 differ`.
    """
    return _linear(x, weight, bias, None, precision)


def _linear(x: Any, weight: Any, bias: Any, residual: Any, precision: str = "default") -> Any:
    """residual + x W^T + bias; residual None is nothing."""
    a = float32(x, "linear")
    adapted = weight if isinstance(weight, Adapted) else None
    weight = weight if adapted is None else adapted.weight
    w = weight if isinstance(weight, _core.Weight) else float32(weight, "linear", "weight")
    if len(w.shape) != 2 or 0 in w.shape:
        raise ValueError(f"linear: weight has shape {w.shape}, allowed is (out, in)")
    n, k = w.shape
    if a.ndim < 1 or a.shape[-1] != k:
        raise ValueError(f"linear: x {a.shape} @ W ({n}, {k}): {a.shape[-1] if a.ndim else 1} and {k} differ")
    b = None if bias is None else vector(bias, n, "linear", "bias")
    shape = (*a.shape[:-1], n)
    y = _core.empty(shape) if residual is None else _copy(residual, shape)
    inputs = (residual, x, weight, bias, *(() if adapted is None else (adapted.a, adapted.b)))
    if y.size == 0:
        zeros = (np.zeros_like(a), np.zeros(w.shape, np.float32), np.zeros(n, np.float32))
        more = () if adapted is None else (np.zeros_like(float32(each, "linear")) for each in (adapted.a, adapted.b))
        return record(y, inputs, lambda dy: (dy, *zeros, *more))
    rows, kind = a.reshape(-1, k), product_type()
    saved = kept(x, rows) if isinstance(weight, Tensor) or adapted is not None else _nothing
    into, add, high = y.reshape(-1, n), residual is not None, precision == "high"
    if isinstance(w, _core.Weight):
        _core.linear(rows, w, b, high, into, add)
    else:
        with panels(w, kind) as packed:
            _core.linear(rows, packed, b, False, into, add)
    change = None if adapted is None else Change(adapted, rows, saved, into, kind)

    def derivative(dy: Array) -> tuple[Any, ...]:
        out = dy.reshape(-1, n)
        dx = times(out, w, kind, transposed=True)
        own = sums(out, saved, kind), _core.column_sums(out) if isinstance(bias, Tensor) else None
        if change is None:
            return dy, dx, *own
        dx, da, db = change.derivative(out, dx)
        return dy, dx, *own, da, db

    return record(y, inputs, derivative)


def linears(x: Any, parts: Sequence[tuple[Any, Any]]) -> list[Any]:
    """[x W^T + bias for each (W, bias) of parts]: weights that share x, which is made ready for all of them at once."""
    weights = [weight for weight, _ in parts]
    if len(parts) > 3 or any(isinstance(w, (Adapted, _core.Weight)) for w in weights):
        return [linear(x, *part) for part in parts]
    a = float32(x, "linear")
    ws = [float32(w, "linear", "weight") for w in weights]
    if not a.size or any(w.ndim != 2 or w.shape[1:] != a.shape[-1:] for w in ws):
        return [linear(x, *part) for part in parts]  # which says what is wrong
    biases = [None if b is None else vector(b, len(w), "linear", "bias") for w, (_, b) in zip(ws, parts, strict=True)]
    rows, kind = a.reshape(-1, a.shape[-1]), product_type()
    with ExitStack() as lent:
        ys = _core.linears(rows, [lent.enter_context(panels(w, kind)) for w in ws], biases)
    columns = Columns(kept(x, rows), kind, sum(wants(w) for w in weights))

    def one(y: Array, w: Array, weight: Any, bias: Any) -> Any:
        def derivative(dy: Array) -> tuple[Any, ...]:
            dy = dy.reshape(-1, len(w))
            dx = times(dy, w, kind, transposed=True)
            return dx, columns.sums(dy), _core.column_sums(dy) if isinstance(bias, Tensor) else None

        return record(y.reshape(*a.shape[:-1], len(w)), (x, weight, bias), derivative)

    return [one(y, w, *part) for y, w, part in zip(ys, ws, parts, strict=True)]


def _nothing() -> Array:
    """What a frozen weight's own gradient, which nobody asks for, would need: so that the input is not kept."""
    return np.empty((0, 0), np.float32)


def _copy(residual: Any, shape: tuple[int, ...]) -> Array:
    r = float32(residual, "linear_add", "residual")
    if r.shape != shape:
        raise ValueError(f"linear_add: residual {r.shape} and the product {shape} differ")
    y = _core.empty(shape)
    y[...] = r
    return y


def times(dy: Array, w: Any, kind: str, transposed: bool) -> Any:
    """dy (rows, n) times a matrix (n, k), or (k, n) not transposed, as a gradient that is made where it is wanted."""

    def gradient(into: Array, add: bool) -> None:
        flat = into.reshape(len(dy), -1)
        if isinstance(w, _core.Weight):
            return times_packed(dy, w, flat, add)
        with panels(w, kind, transposed) as packed:
            _core.linear(dy, packed, into=flat, add=add)

    return gradient


def times_packed(dy: Array, w: _core.Weight, into: Array, add: bool) -> None:
    """dy W for a frozen packed W, some of its rows at a time, which are read back as bf16 (float32 from float32)."""
    kind = "F32" if w.dtype == "F32" else "BF16"
    n, k = w.shape
    most = max(16, _SLICE // k // 16 * 16)
    for row in range(0, n, most):
        part = w.dequantise(row, min(most, n - row))
        with panels(part, kind, transposed=True) as packed:
            _core.linear(np.ascontiguousarray(dy[:, row : row + most]), packed, into=into, add=add or row > 0)


_SLICE = 1 << 20  # numbers of a packed weight that are read back at a time: 4 MB


def norm_linear(
    x: Any, norm: Norm | None, weight: Any, bias: Any = None, act: str = "none", watch: Watch = unwatched
) -> Any:
    """y = act(norm(x) W^T + bias). watch sees "normalised", and "up" before the activation."""
    if isinstance(x, Symbol):
        return x.linear(norm, [(weight, bias, "store" if act == "none" else "activate")], act=act)[0]
    x = watch("normalised", normalise(x, norm))
    return activate(watch("up", linear(x, weight, bias)), act)


def linear_add(residual: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """y = residual + x W^T + bias. While recording, y takes the place of residual."""
    if isinstance(x, Symbol):
        return x.linear(None, [(weight, bias, "add")], residual=residual)[0]
    return _linear(x, weight, bias, residual)


def gated_linear(
    x: Any,
    norm: Norm | None,
    gate: Any,
    up: Any,
    gate_bias: Any = None,
    up_bias: Any = None,
    act: str = "silu",
    watch: Watch = unwatched,
) -> Any:
    """y = act(norm(x) G^T + gate_bias) * (norm(x) U^T + up_bias). Shazeer 2020, arXiv:2002.05202.

    watch sees "normalised", and "gate" and "up" as the products give them.
    """
    if isinstance(x, Symbol) and gate.dtype == up.dtype:
        return x.linear(norm, [(gate, gate_bias, "store"), (up, up_bias, "store")], act=act, gated=True)[0]
    if isinstance(x, Symbol):  # two storage types do not share a tile
        g, u = x.linear(norm, [(gate, gate_bias, "store"), (up, up_bias, "store")])
        return g.map(act, u)
    x = watch("normalised", normalise(x, norm))
    g, u = linears(x, [(gate, gate_bias), (up, up_bias)])
    return activate(watch("gate", g), act, watch("up", u))


def logits(
    x: Any, norm: Norm | None, weight: Any, bias: Any = None, softcap: float = 0.0, watch: Watch = unwatched
) -> Any:
    """norm(x) W^T + bias, soft-capped unless softcap is 0: a language model's last operation.

    While recording, for the wanted rows only. watch sees "normalised" and "logits".
    """
    if isinstance(x, Symbol):
        return x.logits(norm, weight, bias, softcap)
    y = linear(watch("normalised", normalise(x, norm)), weight, bias)
    return watch("logits", capped(y, softcap) if softcap else y)
