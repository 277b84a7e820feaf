"""Functions of single numbers."""

from __future__ import annotations

from typing import Any

from pyllm import _core
from pyllm.autograd import record
from pyllm.ops.arrays import Array, float32
from pyllm.ops.precision import product_type
from pyllm.ops.record import Symbol
from pyllm.tensor import Tensor

_GELU = {"none": "gelu", "tanh": "gelu_tanh"}


def silu(x: Any) -> Array:
    """y = x / (1 + exp(-x)), also called swish. Any shape, float32. Elfwing et al. 2017, arXiv:1702.03118."""
    return activate(x, "silu")


def gelu(x: Any, approximate: str = "none") -> Array:
    """y = x Phi(x), by erf; approximate="tanh": x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).

    Any shape, float32. Raises ValueError for another approximation. Hendrycks, Gimpel 2016, arXiv:1606.08415.
    """
    if approximate not in _GELU:
        raise ValueError(f"gelu: approximate is {approximate!r}, allowed are {', '.join(_GELU)}")
    return activate(x, _GELU[approximate])


def swiglu(gate: Any, up: Any) -> Array:
    """y = silu(gate) * up. Equal shapes, float32. Raises ValueError. Shazeer 2020, arXiv:2002.05202."""
    return activate(gate, "silu", up)


def softcap(x: Any, cap: float) -> Array:
    """y = cap tanh(x / cap): x while it is small, never beyond cap. Any shape, float32. arXiv:2408.00118, section 2.

    Raises ValueError for a cap that is not above 0.
    """
    if not cap > 0:
        raise ValueError(f"softcap: {cap}, allowed is a number above 0")
    a = float32(x, "softcap")
    y = _core.map(a, None, "softcap", cap)
    return record(y, (x,), lambda dy: (_core.map_backward(dy, a, None, "softcap", cap)[0],))


def relu(x: Any) -> Array:
    """y = max(x, 0). Any shape, float32."""
    return activate(x, "relu")


def tanh(x: Any) -> Array:
    """y = (e^x - e^-x) / (e^x + e^-x). Any shape, float32."""
    return activate(x, "tanh")


def sigmoid(x: Any) -> Array:
    """y = 1 / (1 + exp(-x)). Any shape, float32."""
    return activate(x, "sigmoid")


def activate(x: Any, act: str, up: Any = None) -> Any:
    """act(x), times `up` where given; act "none", "silu", "gelu", "gelu_tanh", "relu", "tanh" or "sigmoid".

    While a model learns in bf16, x and up are rounded to bf16, in which the way back keeps them.
    """
    if isinstance(x, Symbol):
        return x.map(act, up)
    if act == "none" and up is None:
        return x
    a = float32(x, act)
    b = None if up is None else float32(up, act, "up")
    if b is not None and b.shape != a.shape:
        raise ValueError(f"{act}: gate {a.shape} and up {b.shape} differ")
    inputs = (x, up)
    if product_type() == "BF16" and any(isinstance(each, Tensor) for each in inputs):
        y, a, b = _core.map_halves(a, b, act)
    else:
        y = _core.map(a, b, act)

    def again() -> Array:
        return _core.map(a, b, act)

    return record(y, inputs, lambda dy: _core.map_backward(dy, a, b, act, 0.0), again)
