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
from pyllm.ops.panels import Again, Columns, panels, sums, turned
from pyllm.ops.precision import product_type
from pyllm.ops.record import Symbol
from pyllm.ops.watch import Watch, unwatched
from pyllm.tensor import Tensor

_LEARN = (Tensor, Adapted)


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
    return _products(x, [(weight, bias)], None, precision == "high")[0]


def linears(x: Any, parts: Sequence[tuple[Any, Any]]) -> list[Any]:
    """[x W^T + bias for each (W, bias) of parts]: weights that share x, which is made ready for all of them at once."""
    return [y for i in range(0, len(parts), 3) for y in _products(x, parts[i : i + 3])]


def _products(
    x: Any, parts: Sequence[tuple[Any, Any]], residual: Any = None, high: bool = False, act: str = "none"
) -> list[Any]:
    """[act(x W^T + bias) for each of one to three parts], or residual + x W^T + bias of one; act only to run."""
    if type(x) is np.ndarray and x.size and not isinstance(residual, Tensor):
        found = _run(x, parts, residual, high, act)
        if found is not None:
            return found
    a = float32(x, "linear")
    weights = [weight.weight if isinstance(weight, Adapted) else weight for weight, _ in parts]
    ws = [_matrix(weight, a) for weight in weights]
    sizes = [w.shape[0] for w in ws]
    biases = [None if b is None else vector(b, n, "linear", "bias") for n, (_, b) in zip(sizes, parts, strict=True)]
    shapes = [(*a.shape[:-1], n) for n in sizes]
    ys = [_core.empty(shape) for shape in shapes]
    before = None if residual is None else _residual(residual, shapes[0])
    if a.size == 0:
        return [_nothing(a, y, (residual, x), *part) for y, part in zip(ys, parts, strict=True)]
    rows, kind = a.reshape(-1, a.shape[-1]), product_type()
    adapted = [weight for weight, _ in parts if isinstance(weight, Adapted)]
    read = kept(x, rows) if adapted or any(isinstance(weight, Tensor) for weight in weights) else _unread
    columns, again = Columns(read, kind, sum(wants(w) for w in weights)), Again(read, len(adapted))
    changes = [
        Change(weight, w.shape, again, kind) if isinstance(weight, Adapted) else None
        for w, (weight, _) in zip(ws, parts, strict=True)
    ]
    with ExitStack() as lent:
        packed = [w if isinstance(w, _core.Weight) else lent.enter_context(panels(w, kind)) for w in ws]
        lows: list[Any] = [change and change.low(rows, lent) for change in changes]
        into = [y.reshape(len(rows), -1) for y in ys]
        hs = _core.linears(rows, packed, biases, high, into, before, lows, act)[1]

    def one(y: Array, w: Any, part: tuple[Any, Any], change: Change | None, h: Any) -> Any:
        weight, bias = part
        if change is not None:
            change.h = h

        def derivative(dy: Array) -> tuple[Any, ...]:
            out = dy.reshape(-1, w.shape[0])
            dx = times(out, w, kind, True, change)
            own = columns.sums(out), _core.column_sums(out) if isinstance(bias, Tensor) else None
            return (dy, dx, *own, *(change.gradients(out) if change else ()))

        return record(y, (residual, x, *_learned(weight, bias)), derivative)

    return [one(*each) for each in zip(ys, ws, parts, changes, hs, strict=True)]


def _run(x: Array, parts: Sequence[tuple[Any, Any]], residual: Any, high: bool, act: str) -> list[Array] | None:
    """The same where all is packed and nothing learns, which a step of one token does a hundred times; else None."""
    for weight, bias in parts:
        if type(weight) is not _core.Weight or (bias is not None and type(bias) is not np.ndarray):
            return None
    a = float32(x, "linear")
    weights = [_matrix(weight, a) for weight, _ in parts]
    sizes = [weight.shape[0] for weight in weights]
    biases = [None if b is None else vector(b, n, "linear", "bias") for n, (_, b) in zip(sizes, parts, strict=True)]
    before = None if residual is None else _residual(residual, (*a.shape[:-1], sizes[0]))
    ys: list[Array] = _core.linears(a.reshape(-1, a.shape[-1]), weights, biases, high, None, before, (), act)[0]
    return ys if a.ndim == 2 else [y.reshape(*a.shape[:-1], n) for y, n in zip(ys, sizes, strict=True)]


def _matrix(weight: Any, x: Array) -> Any:
    """A weight (out, in) that x can be multiplied with. Raises ValueError."""
    w = weight if isinstance(weight, _core.Weight) else float32(weight, "linear", "weight")
    if len(w.shape) != 2 or 0 in w.shape:
        raise ValueError(f"linear: weight has shape {w.shape}, allowed is (out, in)")
    n, k = w.shape
    if x.ndim < 1 or x.shape[-1] != k:
        raise ValueError(f"linear: x {x.shape} @ W ({n}, {k}): {x.shape[-1] if x.ndim else 1} and {k} differ")
    return w


def _learned(weight: Any, bias: Any) -> tuple[Any, ...]:
    """The inputs of a product that may learn, in the order of their gradients."""
    return (weight.weight, bias, weight.a, weight.b) if isinstance(weight, Adapted) else (weight, bias)


def _nothing(a: Array, y: Array, inputs: tuple[Any, Any], weight: Any, bias: Any) -> Any:
    """The product of an x without rows: every gradient but the residual's is zero."""
    learned = _learned(weight, bias)
    zeros = [np.zeros(each.shape, np.float32) if isinstance(each, Tensor) else None for each in learned]
    return record(y, (*inputs, *learned), lambda dy: (dy, np.zeros_like(a), *zeros))


def _unread() -> Array:
    """What the gradient of a frozen weight, which nobody asks for, would need: so that the input is not kept."""
    return np.empty((0, 0), np.float32)


def _residual(residual: Any, shape: tuple[int, ...]) -> Array:
    r = float32(residual, "linear_add", "residual")
    if r.shape != shape:
        raise ValueError(f"linear_add: residual {r.shape} and the product {shape} differ")
    return r


def times(dy: Array, w: Any, kind: str, transposed: bool, change: Change | None = None) -> Any:
    """dy (rows, n) times a matrix (n, k), or (k, n) not transposed, as a gradient that is made where it is wanted.

    change: what an adapter adds to it.
    """

    def gradient(into: Array, add: bool) -> None:
        flat = into.reshape(len(dy), -1)
        if isinstance(w, _core.Weight):
            return times_packed(dy, w, flat, add, change)
        with panels(w, kind, transposed) as packed:
            _times(dy, packed, flat, add, change)

    return gradient


def times_packed(dy: Array, w: _core.Weight, into: Array, add: bool, change: Change | None = None) -> None:
    """dy W for a frozen packed W, some of whose rows at a time are turned into bf16 (float32 of float32)."""
    n, k = w.shape
    most = max(16, _SLICE // k // 16 * 16)
    if change is not None and n > most:
        change.down(dy)  # while all of dy is at hand
    for row in range(0, n, most):
        with turned(w, row, min(most, n - row)) as part:
            _times(dy[:, row : row + most], part, into, add or row > 0, None if row + most < n else change)


def _times(dy: Array, turned: _core.Weight, into: Array, add: bool, change: Change | None) -> None:
    if change is None:
        _core.linear(dy, turned, into=into, add=add)
    else:
        change.times(dy, turned, into, add)


_SLICE = 1 << 20  # numbers of a packed weight that are turned at a time: 2 MB


def norm_linear(
    x: Any, norm: Norm | None, weight: Any, bias: Any = None, act: str = "none", watch: Watch = unwatched
) -> Any:
    """y = act(norm(x) W^T + bias). watch sees "normalised", and "up" before the activation."""
    if isinstance(x, Symbol):
        return x.linear(norm, [(weight, bias, "store" if act == "none" else "activate")], act=act)[0]
    x = watch("normalised", normalise(x, norm))
    if watch is unwatched and not (isinstance(x, _LEARN) or isinstance(weight, _LEARN) or isinstance(bias, _LEARN)):
        return _products(x, [(weight, bias)], act=act)[0]
    return activate(watch("up", linear(x, weight, bias)), act)


def linear_add(residual: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """y = residual + x W^T + bias. While recording, y takes the place of residual."""
    if isinstance(x, Symbol):
        return x.linear(None, [(weight, bias, "add")], residual=residual)[0]
    return _products(x, [(weight, bias)], residual)[0]


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
