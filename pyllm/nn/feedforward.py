"""The position-wise half of a Transformer layer, with a residual."""

from __future__ import annotations

from typing import Any

from pyllm import ops
from pyllm.nn.linear import Linear
from pyllm.nn.module import Module

# Hugging Face's names of activations -> ours.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


class FeedForward(Module):
    """x + W_down act(W_up norm(x)); act under Hugging Face's name."""

    def __init__(self, width: int, inner: int, act: str, bias: bool = True) -> None:
        self.up = Linear(width, inner, bias)
        self.down = Linear(inner, width, bias)
        self.act = ACTIVATIONS[act]

    def inner(self, x: Any, norm: ops.Norm | None) -> Any:
        """What W_down takes: (length, inner)."""
        return self.watch("inner", ops.norm_linear(x, norm, *self.up.pair, act=self.act, watch=self.watch))

    def __call__(self, x: Any, norm: ops.Norm | None) -> Any:
        """(length, width) to the same."""
        return self.watch("", ops.linear_add(x, self.inner(x, norm), *self.down.pair))


class GatedFeedForward(Module):
    """x + W_down (act(W_gate norm(x)) * W_up norm(x)); act under Hugging Face's name."""

    def __init__(self, width: int, inner: int, act: str, bias: bool = False) -> None:
        self.gate = Linear(width, inner, bias)
        self.up = Linear(width, inner, bias)
        self.down = Linear(inner, width, bias)
        self.act = ACTIVATIONS[act]

    def inner(self, x: Any, norm: ops.Norm | None) -> Any:
        """What W_down takes: (length, inner)."""
        (gate, gate_bias), (up, up_bias) = self.gate.pair, self.up.pair
        return self.watch("inner", ops.gated_linear(x, norm, gate, up, gate_bias, up_bias, self.act, self.watch))

    def __call__(self, x: Any, norm: ops.Norm | None) -> Any:
        """(length, width) to the same."""
        return self.watch("", ops.linear_add(x, self.inner(x, norm), *self.down.pair))
