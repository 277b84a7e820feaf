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
    """How a tensor was made: from which tensors (None: not wanted), and the derivative."""

    __slots__ = ("derivative", "inputs")

    def __init__(self, inputs: tuple[Tensor | None, ...], derivative: Derivative) -> None:
        self.inputs = inputs
        self.derivative = derivative


def _used(dy: Array) -> Sequence[Gradient]:
    raise ValueError("backward: this graph has been walked already, and its values are gone; compute the loss again")


_USED = Node((), _used)


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


def record(y: Any, inputs: Sequence[Any], derivative: Derivative) -> Any:
    """The result of an operation: the array y where no input is a tensor, else a tensor that knows its derivative."""
    if not any(isinstance(x, Tensor) for x in inputs):
        return y
    out = Tensor(y)
    if wants(*inputs):
        out.requires_grad = True
        out.source = Node(tuple(x if isinstance(x, Tensor) and x.requires_grad else None for x in inputs), derivative)
    return out


def backward(root: Tensor, gradient: Any = None) -> None:
    """Gradients of `root` (a single number, or with its own gradient given) into `grad` of the tensors it came from.

    Each result's derivative runs once, when all its own gradient is there; then what it remembered is let go, so that a
    graph is walked once. Raises ValueError for a tensor that needs no gradient, or that is not a single number.
    """
    if not root.requires_grad:
        raise ValueError("backward: nothing that this tensor was computed from requires a gradient")
    if gradient is None and root.size != 1:
        raise ValueError(f"backward: the tensor has shape {root.shape}; a single number, or give its gradient")
    dy = np.ones_like(root.data) if gradient is None else np.ascontiguousarray(gradient, np.float32)
    if dy.shape != root.shape:
        raise ValueError(f"backward: the gradient has shape {dy.shape}, the tensor {root.shape}")
    if root.source is None:
        return root.take(dy)
    pending = {id(root): _Pending(dy, False)}
    for tensor in _order(root):
        node, mine = tensor.source, pending.pop(id(tensor))
        gradients = node.derivative(mine.array)
        tensor.source = _USED
        for x, each in zip(node.inputs, gradients, strict=True):
            if x is None or each is None:
                continue
            if x.source is None:
                x.take(each)
            else:
                pending[id(x)] = _sum(pending.get(id(x)), each, x, mine.array)


class _Pending:
    """A gradient so far; owned: nobody else reads this array, it may be added to."""

    __slots__ = ("array", "owned")

    def __init__(self, array: Array, owned: bool) -> None:
        self.array = array
        self.owned = owned


def _sum(found: _Pending | None, more: Any, x: Tensor, dy: Array) -> _Pending:
    """What was there plus what has come, in memory that is at hand."""
    if callable(more):
        if found is not None and found.owned:
            more(found.array, True)
            return found
        fresh = np.empty_like(x.data)
        more(fresh, False)
        more = fresh
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


def _order(root: Tensor) -> list[Tensor]:
    """Results before what they were made from; without recursion, since recurrent nets are deep."""
    order: list[Tensor] = []
    seen: set[int] = set()
    stack: list[tuple[Tensor, bool]] = [(root, False)]
    while stack:
        tensor, done = stack.pop()
        if done:
            order.append(tensor)
            continue
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        stack.append((tensor, True))
        stack.extend((x, False) for x in tensor.source.inputs if x is not None and x.source is not None)
    return order[::-1]
