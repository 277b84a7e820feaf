"""Adam and RMSprop, whose weight decay is a part of the gradient; AdamW keeps it apart."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from pyllm import _core
from pyllm.optim.optimizers import AdamW, Group, Optimizer
from pyllm.tensor import Array


def _decayed(group: Group, scale: float) -> Array:
    """scale g + weight_decay p; the tensors' own gradients stay as they are."""
    decay = np.float32(group.options["weight_decay"])
    found: Array = group.gradients * np.float32(scale) + decay * group.numbers
    return found


class Adam(AdamW):
    """g += weight_decay p; p -= lr m^ / (sqrt(v^) + eps), with AdamW's m^ and v^. Kingma, Ba 2015, arXiv:1412.6980."""

    defaults: ClassVar[dict[str, Any]] = AdamW.defaults | {"weight_decay": 0.0}

    def update(self, group: Group, state: dict[str, Array], scale: float) -> None:
        """One pass over weights, gradients and both means, and one before where weights decay."""
        o = group.options
        gradients, scale = (_decayed(group, scale), 1.0) if o["weight_decay"] else (group.gradients, scale)
        beta1, beta2 = o["betas"]
        _core.adamw(
            group.numbers, gradients, state["m"], state["v"], o["lr"], beta1, beta2, o["eps"], 0.0, self.steps, scale
        )


class RMSprop(Optimizer):
    """g += weight_decay p; v += (1 - alpha) (g^2 - v); m = momentum m + g / (sqrt(v) + eps); p -= lr m.

    PyTorch's but for centered. Tieleman, Hinton 2012, Neural Networks for Machine Learning, lecture 6.5. Raises
    ValueError for alpha and momentum outside [0, 1).
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0, "momentum": 0.0
    }  # fmt: skip
    state_names = ("v", "m")

    def check(self, options: dict[str, Any]) -> None:
        """Also alpha and momentum within [0, 1)."""
        super().check(options)
        for name in ("alpha", "momentum"):
            if not 0 <= options[name] < 1:
                raise ValueError(f"RMSprop: {name} is {options[name]}, allowed is from 0 to below 1")

    def update(self, group: Group, state: dict[str, Array], scale: float) -> None:
        """Some passes over weights, gradients, means and momenta."""
        o, g = group.options, _decayed(group, scale)
        v, m = state["v"], state["m"]
        v *= np.float32(o["alpha"])
        v += np.float32(1 - o["alpha"]) * g * g
        m *= np.float32(o["momentum"])
        m += g / (np.sqrt(v) + np.float32(o["eps"]))
        group.numbers -= np.float32(o["lr"]) * m
