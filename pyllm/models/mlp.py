"""The multilayer perceptron: dense layers one after the other. Rumelhart, Hinton, Williams 1986, Nature 323:533-536."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from pyllm import nn, ops
from pyllm.nn.module import check_state
from pyllm.tensor import Array


class MLP(nn.Module):
    """y = W_n act(... act(W_1 x + b_1) ...) + b_n. MLP(5, 4, 3, 2, 1) has 24 + 15 + 8 + 3 = 50 numbers to learn.

    sizes: of the input, of each hidden layer, of the output. act: "relu", "tanh", "sigmoid", "gelu" or "silu", after
    every layer but the last. Raises ValueError for fewer than two sizes, or one below 1.
    """

    def __init__(self, *sizes: int, act: str = "relu") -> None:
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"mlp: sizes {sizes}, allowed are two or more, each at least 1")
        self.sizes, self.act = sizes, act
        self.layers = [nn.Linear(before, after, bias=True) for before, after in pairwise(sizes)]
        self.initialise()

    def first_values(self, name: str, parameter: nn.Parameter, random: np.random.Generator) -> Array:
        """Uniform within 1 / sqrt(inputs) of 0, weights and biases alike: sums keep their size from layer to layer."""
        bound = self.sizes[int(name.split(".")[1])] ** -0.5
        return random.uniform(-bound, bound, parameter.shape).astype(np.float32)

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> Any:
        """As every part's; also under the names in a torch.nn.Sequential, `0.weight`, `0.bias`, `2.weight`, ...: the
        numbers, of which those of activations are left out, stand for the layers in their order.
        """
        check_state(state)
        return super().load_state_dict(_layers_of(state), strict)

    def __call__(self, x: Any) -> Any:
        """(..., inputs) to (..., outputs)."""
        for layer in self.layers[:-1]:
            x = layer.watch("activated", ops.activate(layer(x), self.act))
        return self.layers[-1](x)

    def __repr__(self) -> str:
        return f"MLP({', '.join(map(str, self.sizes))}, act={self.act!r}): {self.num_parameters():,} parameters"


def _layers_of(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state with names of torch.nn.Sequential as paths."""
    parts = [name.split(".") for name in state]
    if not all(len(part) == 2 and part[0].isdecimal() for part in parts):
        return state
    layers = {number: i for i, number in enumerate(sorted({int(number) for number, _ in parts}))}
    return {f"layers.{layers[int(n)]}.{kind}": state[f"{n}.{kind}"] for n, kind in parts}


Model = MLP
