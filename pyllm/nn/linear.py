"""y = x W^T + bias."""

from __future__ import annotations

from typing import Any

from pyllm import ops
from pyllm.nn.adapter import Adapter
from pyllm.nn.module import Module, Parameter


class Linear(Module):
    """A weight (out_features, in_features) and a bias (out_features,) unless that is False; with an adapter, what
    that has learned beside it."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.weight = Parameter(out_features, in_features, packed=True)
        self.bias = Parameter(out_features) if bias else None
        self.adapter: Adapter | None = None

    @property
    def pair(self) -> tuple[Any, Any]:
        """(weight, bias or None) as the operations take them."""
        weight = self.weight.value if self.adapter is None else self.adapter.over(self.weight.value)
        return weight, None if self.bias is None else self.bias.value

    def __call__(self, x: Any) -> Any:
        """(..., in_features) to (..., out_features)."""
        return self.watch("", ops.norm_linear(x, None, *self.pair))
