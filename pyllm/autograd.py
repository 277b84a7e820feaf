"""The walk backwards: every operation says how a gradient of its result becomes gradients of its inputs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from pyllm import _core
from pyllm.tensor import Array, Tensor

# What a derivative gives for an input: its gradient; or a function (array to write to, whether to add), which runs only
# where the gradient is wanted and writes it where it belongs; or None.
Gradient = Array | Callable[[Array, bool], None] | None
Derivative = Callable[[Array], Sequence[Gradient]]

_local = threading.local()


class Node:
    """How a tensor was made: from which nodes and leaves (None: not wanted), and the derivative.

    It holds no numbers but those that the derivative needs: what was computed on the way is freed.
    """

    __slots__ = ("derivative", "inputs", "shape")

    def __init__(
        self, shape: tuple[int, ...], inputs: tuple[Node | Tensor | None, ...], derivative: Derivative
    ) -> None:
        self.shape = shape
        self.inputs = inputs
        self.derivative = derivative


def _used(dy: Array) -> Sequence[Gradient]:
    raise ValueError("backward: this graph has been walked already, and its values are gone; compute the loss again")


def enabled() -> bool:
    """Whether operations remember how their results were made."""
    return getattr(_local, "enabled", True)


@contextmanager
def no_grad() -> Iterator[None]:
    """Within it, nothing is remembered for backward. Of this thread alone."""
    before = enabled()
    _local.enabled = False
    try:
        yield
    finally:
        _local.enabled = before


def wants(*inputs: Any) -> bool:
    """Whether a gradient will be asked for by one of these."""
    return enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs)


def record(y: Any, inputs: Sequence[Any], derivative: Derivative, again: Callable[[], Array] | None = None) -> Any:
    """The result of an operation: the array y where no input is a tensor, else a tensor that knows its derivative.

    again: makes y anew, where that costs less than keeping it until the gradient comes.
    """
    if not any(isinstance(x, Tensor) for x in inputs):
        return y
    out = Tensor(y)
    if wants(*inputs):
        out.requires_grad = True
        out.source = Node(out.shape, tuple(_origin(x) for x in inputs), derivative)
        out.again = again
    return out


def _origin(x: Any) -> Node | Tensor | None:
    if not isinstance(x, Tensor) or not x.requires_grad:
        return None
    return x if x.source is None else x.source


def kept(x: Any, array: Array) -> Callable[[], Array]:
    """What a derivative needs of its input: the array itself, or how it is made again."""
    if isinstance(x, Tensor) and x.again is not None:
        again, shape = x.again, array.shape
        return lambda: again().reshape(shape)
    return lambda: array


def backward(root: Tensor, gradient: Any = None) -> None:
    """Gradients of `root` (a single number, or with its own gradient given) into `grad` of the tensors it came from.

    Each result's derivative runs once, when all its own gradient is there; then what it remembered is let go, so that a
    graph is walked once. Raises ValueError for a tensor that needs no gradient, or that is not a single number.
    """
    if not root.requires_grad:
        raise ValueError("backward: nothing that this tensor was computed from requires a gradient")
    if gradient is None and root.size != 1:
        raise ValueError(f"backward: the tensor has shape {root.shape}; a single number, or give its gradient")
    dy = np.ones_like(root.data) if gradient is None else np.asarray(gradient, np.float32, order="C")
    if dy.shape != root.shape:
        raise ValueError(f"backward: the gradient has shape {dy.shape}, the tensor {root.shape}")
    if root.source is None:
        return root.take(dy)
    pending = {id(root.source): _Pending(dy, False)}
    for node in _order(root.source):
        mine = pending.pop(id(node))
        gradients, inputs = node.derivative(mine.array), node.inputs
        node.derivative, node.inputs = _used, ()
        for x, each in zip(inputs, gradients, strict=True):
            if x is None or each is None:
                continue
            if isinstance(x, Tensor):
                x.take(each)
            else:
                pending[id(x)] = _sum(pending.get(id(x)), each, x.shape, mine.array)


class _Pending:
    """A gradient so far; owned: nobody else reads this array, it may be added to."""

    __slots__ = ("array", "owned")

    def __init__(self, array: Array, owned: bool) -> None:
        self.array = array
        self.owned = owned


def _sum(found: _Pending | None, more: Any, shape: tuple[int, ...], dy: Array) -> _Pending:
    """What was there plus what has come, in memory that is at hand."""
    if callable(more):
        if found is not None and found.owned:
            more(found.array, True)
            return found
        fresh = np.empty(shape, np.float32)
        more(fresh, False)
        more = fresh
    more = np.asarray(more)  # arithmetic on arrays without dimensions gives plain numbers
    owned = not np.may_share_memory(more, dy)  # a gradient that is passed through belongs to others too
    if found is None:
        return _Pending(more, owned)
    if owned:
        into, other = more, found.array
    else:
        into, other = (found.array if found.owned else found.array.copy()), more
    if not into.flags.c_contiguous:
        return _Pending(into + other, True)
    _core.axpy(other, 1.0, into)
    return _Pending(into, True)


def _order(root: Node) -> list[Node]:
    """Results before what they were made from; without recursion, since recurrent nets are deep."""
    order: list[Node] = []
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
            continue
        if id(node) in seen:
            continue
        seen.add(id(node))
        stack.append((node, True))
        stack.extend((x, False) for x in node.inputs if isinstance(x, Node))
    return order[::-1]
