"""Normalisations; what they compute is in pyllm.ops.norm."""

from __future__ import annotations

from typing import Any

from pyllm import ops
from pyllm.nn.module import Module, Parameter


class RMSNorm(Module):
    """x / sqrt(mean(x^2) + eps) * weight."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
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
    """(x - mean) / sqrt(var + eps) * weight + bias, which it may have not; over the last dimension."""

    def __init__(self, normalized_shape: int | tuple[int], eps: float = 1e-5, *, bias: bool = True) -> None:
        (width,) = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        super().__init__(width, eps)
        self.bias = Parameter(width) if bias else None

    @property
    def value(self) -> ops.Norm:
        """As the fused operations take it."""
        return ops.Norm("layer", self.weight.value, None if self.bias is None else self.bias.value, self.eps)
