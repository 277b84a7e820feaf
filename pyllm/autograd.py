"""The walk backwards: every operation says how a gradient of its result becomes gradients of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any
from weakref import ref

import numpy as np

from pyllm import _core
from pyllm.tensor import Array, Tensor

# What a derivative gives for an input: its gradient; or a function (array to write to, whether to add), which runs only
# where the gradient is wanted and writes it where it belongs; or None.
Gradient = Array | Callable[[Array, bool], None] | None
Derivative = Callable[[Array], Sequence[Gradient]]

_enabled = ContextVar("enabled", default=True)
_piece: ContextVar[Piece | None] = ContextVar("piece", default=None)  # that is running, for the first time or again


class Node:
    """How a tensor was made: from which nodes and leaves (None: not wanted), and the derivative.

    It holds no numbers but those that the derivative needs: what was computed on the way is freed. piece: who brings
    the derivative when it is needed, None where it is there.
    """

    __slots__ = ("__weakref__", "derivative", "inputs", "piece", "shape")

    def __init__(
        self, shape: tuple[int, ...], inputs: tuple[Node | Tensor | None, ...], derivative: Derivative
    ) -> None:
        self.shape = shape
        self.inputs = inputs
        self.derivative = derivative
        self.piece: Piece | None = None


_CHANGED = "checkpoint: the function computed something else when it was run again; allowed is the same as before"


def _used(dy: Array) -> Sequence[Gradient]:
    raise ValueError("backward: this graph has been walked already, and its values are gone; compute the loss again")


def enabled() -> bool:
    """Whether operations remember how their results were made."""
    piece = _piece.get()
    return _enabled.get() and (piece is None or piece.again is not None)


@contextmanager
def no_grad() -> Iterator[None]:
    """Within it, nothing is remembered for backward. Of this thread alone."""
    before = _enabled.get()
    _enabled.set(False)
    try:
        yield
    finally:
        _enabled.set(before)


def wants(*inputs: Any) -> bool:
    """Whether a gradient will be asked for by one of these."""
    return enabled() and _learn(inputs)


def _learn(inputs: Sequence[Any]) -> bool:
    return any(isinstance(x, Tensor) and x.requires_grad for x in inputs)


def record(y: Any, inputs: Sequence[Any], derivative: Derivative, again: Callable[[], Array] | None = None) -> Any:
    """The result of an operation: the array y where no input is a tensor, else a tensor that knows its derivative.

    again: makes y anew, where that costs less than keeping it until the gradient comes.
    """
    for x in inputs:
        if isinstance(x, Tensor):
            break
    else:
        return y
    out = Tensor(y)
    if _enabled.get() and _learn(inputs):
        piece, origins = _piece.get(), tuple(_origin(x) for x in inputs)
        out.requires_grad = True
        out.source = (Node if piece is None else piece.node)(out.shape, origins, derivative)
        out.again = again if enabled() else None
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


def checkpoint(function: Callable[..., Any], *tensors: Any) -> Any:
    """function(*tensors), of which nothing is kept but the tensors: when a gradient comes, it is run again.

    Less memory for another run, and the same bits: it is run again under the autocast, noise and documents of the first
    run, and the graph is the one that it would have made. Tensors that it uses without being given them, as parameters,
    get their gradients too; pieces may lie within pieces. The function must compute the same when it is run again;
    `backward` raises ValueError where it sees that it did not. PyTorch's torch.utils.checkpoint; Chen et al. 2016,
    arXiv:1604.06174.
    """
    if not enabled():
        return function(*tensors)
    before = _piece.get()
    _piece.set(Piece(partial(function, *tensors)))
    try:
        return function(*tensors)
    finally:
        _piece.set(before)


class Piece:
    """What `checkpoint` runs: its nodes stand in the graph from the first, their derivatives come with the second run.

    Nodes hold the piece and not the other way round: a graph that is not walked is let go with its last tensor.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.around = copy_context()
        self.within = _piece.get()  # a piece that is run again: what is a node of this one, is one of it
        self.nodes: list[ref[Node]] = []
        self.again: Iterator[ref[Node]] | None = None  # in the second run: the nodes that are still to come

    def node(self, shape: tuple[int, ...], inputs: tuple[Node | Tensor | None, ...], derivative: Derivative) -> Node:
        """The node of the next result: in the first run without the derivative, in the second the same with it."""
        if self.again is None:
            node = (Node if self.within is None else self.within.node)(shape, inputs, _used)
            node.piece = self
            self.nodes.append(ref(node))
            return node
        place = next(self.again, None)
        node = (place and place()) or Node(shape, inputs, derivative)  # let go since, as nobody needs it
        if place is None or (node.shape, node.inputs) != (shape, inputs):
            raise ValueError(_CHANGED)
        node.derivative, node.piece = derivative, None
        return node

    def run_again(self) -> None:
        """Bring the derivatives of all nodes. Raises ValueError for a function that does not compute the same."""
        self.again = iter(self.nodes)
        try:
            self.around.run(self._call)
            if next(self.again, None) is not None:
                raise ValueError(_CHANGED)
        except BaseException:
            for node in filter(None, (each() for each in self.nodes)):
                node.derivative, node.piece = _used, None
            raise

    def _call(self) -> None:
        _piece.set(self)  # in the context of the first run
        try:
            self.call()
        finally:
            _piece.set(None)  # what holds the context must not be held by it


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
        if node.piece is not None:
            node.piece.run_again()
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
        fresh = _core.empty(shape)
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
