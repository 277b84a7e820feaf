"""y = x W^T + bias."""

from __future__ import annotations

from typing import Any

from pyllm import ops
from pyllm.nn.adapter import Adapter
from pyllm.nn.module import Module, Parameter


class Linear(Module):
    """A weight (outputs, inputs) and perhaps a bias (outputs,); with an adapter, what that has learned beside it."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        self.weight = Parameter(outputs, inputs, packed=True)
        self.bias = Parameter(outputs) if bias else None
        self.adapter: Adapter | None = None

    @property
    def pair(self) -> tuple[Any, Any]:
        """(weight, bias or None) as the operations take them."""
        weight = self.weight.value if self.adapter is None else self.adapter.over(self.weight.value)
        return weight, None if self.bias is None else self.bias.value

    def __call__(self, x: Any) -> Any:
        """(..., inputs) to (..., outputs)."""
        return self.watch("", ops.norm_linear(x, None, *self.pair))
