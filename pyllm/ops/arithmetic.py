"""Operations on tensors of any shape, as numpy computes them, each with its derivative: for what no kernel is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pyllm.autograd import record
from pyllm.ops.arrays import Array, float32
from pyllm.tensor import Tensor


def _reduced(gradient: Array, shape: tuple[int, ...]) -> Array:
    """A gradient of what was broadcast, summed to the shape before."""
    if gradient.shape == shape:
        return gradient
    lead = gradient.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1 and gradient.shape[lead + i] != 1)
    return gradient.sum(axis=axes, keepdims=False).reshape(shape)


def _binary(name: str, a: Any, b: Any, f: Callable[[Array, Array], Array], derivative: Any) -> Any:
    x, y = float32(a, name, "a"), float32(b, name, "b")
    z = f(x, y)

    def both(dz: Array) -> tuple[Array, Array]:
        dx, dy = derivative(dz, x, y, z)
        return _reduced(np.asarray(dx, np.float32), x.shape), _reduced(np.asarray(dy, np.float32), y.shape)

    return record(z, (a, b), both)


def add(a: Any, b: Any) -> Any:
    """a + b, broadcast."""
    return _binary("add", a, b, np.add, lambda dz, x, y, z: (dz, dz))


def subtract(a: Any, b: Any) -> Any:
    """a - b, broadcast."""
    return _binary("subtract", a, b, np.subtract, lambda dz, x, y, z: (dz, -dz))


def multiply(a: Any, b: Any) -> Any:
    """a * b element by element, broadcast."""
    return _binary("multiply", a, b, np.multiply, lambda dz, x, y, z: (dz * y, dz * x))


def divide(a: Any, b: Any) -> Any:
    """a / b element by element, broadcast."""
    return _binary("divide", a, b, np.divide, lambda dz, x, y, z: (dz / y, -dz * z / y))


def power(a: Any, exponent: float) -> Any:
    """a ** exponent, a plain number. Raises TypeError for anything else."""
    if not isinstance(exponent, (int, float, np.number)):
        raise TypeError(f"power: exponent is of type {type(exponent).__name__}, allowed is a plain number")
    x, n = float32(a, "power", "a"), float(exponent)
    y = np.power(x, np.float32(n))

    def derivative(dy: Array) -> tuple[Array]:
        return (dy * np.float32(n) * np.power(x, np.float32(n - 1)) if n else np.zeros_like(x),)

    return record(y, (a,), derivative)


def exp(x: Any) -> Any:
    """e ** x."""
    y = np.exp(float32(x, "exp"))
    return record(y, (x,), lambda dy: (dy * y,))


def log(x: Any) -> Any:
    """The natural logarithm."""
    a = float32(x, "log")
    return record(np.log(a), (x,), lambda dy: (dy / a,))


def sum(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Sum over an axis, several, or everything."""
    a = float32(x, "sum")
    y = np.asarray(a.sum(axis=axis, keepdims=keepdims), np.float32)
    return record(y, (x,), lambda dy: (_spread(dy, a.shape, axis, keepdims),))


def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Mean over an axis, several, or everything."""
    y = sum(x, axis, keepdims)
    return multiply(y, np.float32(y.size / max(float32(x, "mean").size, 1)))


def _spread(dy: Array, shape: tuple[int, ...], axis: Any, keepdims: bool) -> Array:
    if axis is not None and not keepdims:
        dy = np.expand_dims(dy, axis)
    return _contiguous(np.broadcast_to(dy, shape))


def _contiguous(a: Array) -> Array:
    """In C order; unlike numpy's function of that name, without a dimension more for what has none."""
    return np.asarray(a, order="C")


def reshape(x: Any, shape: Sequence[int]) -> Any:
    """The same numbers in another shape; -1 is what is left."""
    a = float32(x, "reshape")
    before = a.shape  # alone: the way back must not keep the numbers
    return record(a.reshape(tuple(shape)), (x,), lambda dy: (dy.reshape(before),))


def transpose(x: Any, *axes: int) -> Any:
    """Dimensions in another order, reversed without one."""
    a = float32(x, "transpose")
    y = _contiguous(a.transpose(axes or None))
    back = np.argsort([axis % a.ndim for axis in axes] if axes else range(a.ndim)[::-1])
    return record(y, (x,), lambda dy: (_contiguous(dy.transpose(tuple(back))),))


def index(x: Any, key: Any) -> Any:
    """x[key], by numbers, slices, arrays of integers or masks."""
    a = float32(x, "index")
    plain = all(isinstance(each, (int, slice)) for each in (key if isinstance(key, tuple) else (key,)))

    def derivative(dy: Array) -> tuple[Array]:
        dx = np.zeros_like(a)
        if plain:
            dx[key] = dy
        else:
            np.add.at(dx, key, dy)  # an element may be taken more than once
        return (dx,)

    return record(_contiguous(a[key]), (x,), derivative)


def concatenate(parts: Sequence[Any], axis: int = 0) -> Any:
    """Parts one after the other along an axis."""
    arrays = [float32(x, "concatenate") for x in parts]
    ends = np.cumsum([x.shape[axis] for x in arrays])[:-1]
    y = np.concatenate(arrays, axis)
    return record(y, parts, lambda dy: [_contiguous(each) for each in np.split(dy, ends, axis)])


def _operators() -> None:
    """Tensor's operators: +, -, *, /, **, @, [], and the methods that PyTorch's users call."""
    from pyllm.ops.activation import relu, sigmoid, tanh
    from pyllm.ops.linear import matmul

    def swapped(f: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        return lambda self, other: f(other, self)

    for name, f in (("add", add), ("sub", subtract), ("mul", multiply), ("truediv", divide), ("matmul", matmul)):
        setattr(Tensor, f"__{name}__", f)
        setattr(Tensor, f"__r{name}__", swapped(f))
    def reduced(f: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any, axis: Any = None, keepdims: bool = False, *, dim: Any = None, keepdim: bool = False) -> Any:
            return f(x, axis if dim is None else dim, keepdims or keepdim)

        return call

    def shaped(x: Any, *shape: Any) -> Any:
        return reshape(x, shape[0] if shape and isinstance(shape[0], tuple) else shape)

    def turned(x: Any, *axes: int) -> Any:
        if len(axes) != 2:
            return transpose(x, *axes)
        order = np.arange(x.ndim)  # two axes change places, as in PyTorch
        order[list(axes)] = order[list(axes)[::-1]]
        return transpose(x, *order.tolist())

    more: dict[str, Any] = {
        "__neg__": lambda self: multiply(self, -1.0),
        "__pow__": power,
        "__getitem__": index,
        "sum": reduced(sum),
        "mean": reduced(mean),
        "exp": exp,
        "log": log,
        "sqrt": lambda self: power(self, 0.5),
        "relu": relu,
        "tanh": tanh,
        "sigmoid": sigmoid,
        "reshape": shaped,
        "view": shaped,
        "transpose": turned,
        "permute": transpose,
        "T": property(transpose),
    }
    for name, f in more.items():
        setattr(Tensor, name, f)
