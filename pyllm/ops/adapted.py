"""A frozen weight with a change of low rank: W + scale B A. Hu et al. 2021, arXiv:2106.09685."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

from pyllm import _core
from pyllm.ops.arrays import Array, float32
from pyllm.ops.dropout import mask
from pyllm.ops.panels import panels


class Adapted(NamedTuple):
    """A weight as a value: W (out, in) array or packed, A (r, in), B (out, r); W + scale B A in effect.

    dropout: of what A reads, by draws of `stream` within ops.noise.
    """

    weight: Any
    a: Any
    b: Any
    scale: float
    dropout: float = 0.0
    stream: int = 0

    @property
    def dtype(self) -> str:
        """Storage type of the packed weight."""
        return str(self.weight.dtype)

    def packed(self) -> tuple[_core.Weight, _core.Weight]:
        """(A, scale B) as a recorded program takes them."""
        a, b = float32(self.a, "linear", "A"), float32(self.b, "linear", "B")
        weights = _core.Weight("F32", *a.shape), _core.Weight("F32", *b.shape)
        weights[0].fill_floats(a)
        weights[1].fill_floats(b * b.dtype.type(self.scale))
        return weights


class Change:
    """What B and A add to a product: y += h B^T, h = scale drop(x) A^T; and its derivatives.

    shape: (out, in) of the weight; x: gives on the way back what the product has read. Operands that are multiplied
    with x and dy are of type kind, those with h of float32.
    """

    def __init__(self, w: Adapted, shape: tuple[int, ...], x: Callable[[], Array], kind: str) -> None:
        self.a, self.b, self.kind, self.scale = float32(w.a, "linear", "A"), float32(w.b, "linear", "B"), kind, w.scale
        if self.a.shape[1:] != shape[1:] or self.b.shape != (shape[0], len(self.a)):
            raise ValueError(
                f"linear: A {self.a.shape} and B {self.b.shape} for W ({shape[0]}, {shape[1]}): "
                f"allowed are (r, {shape[1]}) and ({shape[0]}, r)"
            )
        self.x, self.mask = x, mask(w.dropout, w.stream)
        self.h: Any = None  # kept for B's gradient by who has made the product
        self.dh: Array | None = None

    def low(self, x: Array, lent: ExitStack) -> tuple[Any, _core.Weight]:
        """(A, B) as a product of x takes them; with dropout (h, B)."""
        down = lent.enter_context(panels(self._scaled(self.a), self.kind))
        h = None if self.mask is None else _core.linear(self.mask(x), down)
        return down if h is None else h, lent.enter_context(panels(self.b, "F32"))

    def down(self, dy: Array) -> Array:
        """dh = scale dy B, once."""
        if self.dh is None:
            with panels(self._scaled(self.b), self.kind, transposed=True) as packed:
                self.dh = _core.linear(dy, packed)
        return self.dh

    def times(self, dy: Array, turned: _core.Weight, into: Array, add: bool) -> None:
        """into = dy W + drop(dh A), or more by that; turned: W^T. Where dh is there, dy may be a part of it."""
        with ExitStack() as lent:
            up = lent.enter_context(panels(self.a, "F32", transposed=True))
            if self.mask is not None:
                dh = self.down(dy)
                _core.linear(dy, turned, into=into, add=add)
                return _core.axpy(self.mask(_core.linear(dh, up)), 1.0, into)
            low: Any = self.dh
            if low is None:
                low = lent.enter_context(panels(self._scaled(self.b), self.kind, transposed=True))
            _, (self.dh,) = _core.linears(dy, [turned], [None], False, [into], into if add else None, [(low, up)])

    def gradients(self, dy: Array) -> tuple[Any, Any]:
        """Of A, dh^T drop(x), and of B, dy^T h, as functions of where to."""

        def of_a(into: Array, add: bool) -> None:
            x = self.x()
            _core.outer(self.down(dy), x if self.mask is None else self.mask(x), into, add)

        def of_b(into: Array, add: bool) -> None:
            _core.outer(self.h, dy, into, add, across=True)

        return of_a, of_b

    def _scaled(self, matrix: Array) -> Array:
        return matrix if self.scale == 1 else matrix * matrix.dtype.type(self.scale)
