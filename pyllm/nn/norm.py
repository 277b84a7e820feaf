"""Normalisations; what they compute is in pyllm.ops.norm."""

from __future__ import annotations

from typing import Any

from pyllm import ops
from pyllm.nn.module import Module, Parameter


class RMSNorm(Module):
    """x / sqrt(mean(x^2) + eps) * weight."""

    def __init__(self, width: int, eps: float) -> None:
        self.weight = Parameter(width)
        self.eps = eps

    @property
    def value(self) -> ops.Norm:
        """As the fused operations take it."""
        return ops.Norm("rms", self.weight.value, None, self.eps)

    def __call__(self, x: Any) -> Any:
        """(..., width) to the same."""
        return self.watch("", ops.normalise(x, self.value))


class LayerNorm(RMSNorm):
    """(x - mean) / sqrt(var + eps) * weight + bias, which it may have not."""

    def __init__(self, width: int, eps: float, bias: bool = True) -> None:
        super().__init__(width, eps)
        self.bias = Parameter(width) if bias else None

    @property
    def value(self) -> ops.Norm:
        """As the fused operations take it."""
        return ops.Norm("layer", self.weight.value, None if self.bias is None else self.bias.value, self.eps)
