"""A frozen weight with a change of low rank: W + scale B A. Hu et al. 2021, arXiv:2106.09685."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pyllm import _core
from pyllm.ops.arrays import Array, float32
from pyllm.ops.dropout import Mask, mask
from pyllm.ops.panels import panels, sums


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
    """What B and A add to a product: y += scale drop(x) A^T B^T, and its derivatives.

    x (rows, in), y (rows, out); again: gives x on the way back.
    """

    def __init__(self, w: Adapted, x: Array, again: Callable[[], Array], y: Array, kind: str) -> None:
        self.a, self.b, self.kind, self.scale = float32(w.a, "linear", "A"), float32(w.b, "linear", "B"), kind, w.scale
        if self.a.shape[1] != x.shape[1] or self.b.shape != (y.shape[1], len(self.a)):
            raise ValueError(
                f"linear: A {self.a.shape} and B {self.b.shape} for W ({y.shape[1]}, {x.shape[1]}): "
                f"allowed are (r, {x.shape[1]}) and ({y.shape[1]}, r)"
            )
        self.again, self.mask = again, mask(w.dropout, w.stream)
        with panels(self.a, kind) as packed:
            self.h = _core.linear(x if self.mask is None else self.mask(x), packed)
        self.h *= self.h.dtype.type(w.scale)
        with panels(self.b, kind) as packed:
            _core.linear(self.h, packed, into=y, add=True)

    def _read(self) -> Array:
        """What A has read; made and drawn again on the way back rather than kept."""
        x = self.again()
        return x if self.mask is None else self.mask(x)

    def derivative(self, dy: Array, dx: Any) -> tuple[Any, Any, Any]:
        """Gradients of x, A and B, as functions of where to; dx: that of W's own product."""
        with panels(self.b, self.kind, transposed=True) as packed:
            dh = _core.linear(dy, packed)
        dh *= dh.dtype.type(self.scale)

        def inputs(into: Array, add: bool) -> None:
            dx(into, add)
            back(dh, self.a, self.kind, self.mask, into.reshape(len(dy), -1))

        return inputs, sums(dh, self._read, self.kind), sums(dy, lambda: self.h, self.kind)


def back(dh: Array, a: Array, kind: str, dropped: Mask | None, into: Array) -> None:
    """into += drop(dh A)."""
    with panels(a, kind, transposed=True) as packed:
        if dropped is None:
            _core.linear(dh, packed, into=into, add=True)
        else:
            _core.axpy(dropped(_core.linear(dh, packed)), 1.0, into)
