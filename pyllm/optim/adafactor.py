"""Adafactor, T5's optimizer: of a matrix's squared gradients it keeps means of rows and of columns alone."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from pyllm.optim.optimizers import Group, Optimizer
from pyllm.tensor import Array, Tensor


class Adafactor(Optimizer):
    """p -= max(eps2, rms(p)) min(lr, 1 / sqrt(t)) u / max(1, rms(u)), u = g / sqrt(v). Shazeer, Stern 2018,
    arXiv:1804.04235.

    Steps are shares of what a tensor holds, which lets tables of deviation 1 and heads of 0.05 learn at one rate. A
    matrix has v_ij = r_i c_j / mean(r), r and c running means of g^2 + eps1 along rows and columns, a vector v_i, that
    of g_i^2 + eps1; they take in a share t^beta2_decay at step t. Then p shrinks by lr weight_decay p. PyTorch's but
    for eps = (eps1, eps2), where it bounds the mean of r from below by 1.2e-7, above what gradients of nets have.
    """

    defaults: ClassVar[dict[str, Any]] = {"lr": 1e-2, "beta2_decay": -0.8, "eps": (1e-30, 1e-3), "weight_decay": 0.0}
    state_names = ("means",)

    def check(self, options: dict[str, Any]) -> None:
        """Also beta2_decay of at most 0, both of eps above 0."""
        super().check(options)
        if not options["beta2_decay"] <= 0:
            raise ValueError(f"Adafactor: beta2_decay is {options['beta2_decay']}, allowed is 0 or less")
        if len(options["eps"]) != 2 or not all(1e-37 <= each < float("inf") for each in options["eps"]):
            raise ValueError(f"Adafactor: eps is {options['eps']}, allowed are two numbers of 1e-37 or more")

    def state_size(self, group: Group) -> int:
        """Rows and columns of matrices, numbers of vectors."""
        return sum(sum(_means(tensor)) for tensor in group.tensors)

    def update(self, group: Group, state: dict[str, Array], scale: float) -> None:
        """Tensor after tensor: what a step depends on is the tensor's own."""
        o, end = group.options, 0
        share, floor, least = np.float32(self.steps ** o["beta2_decay"]), np.float32(o["eps"][0]), o["eps"][1]
        for tensor, gradient in zip(group.tensors, group.places, strict=True):
            rows, columns = _means(tensor)
            means, end = state["means"][end : end + rows + columns], end + rows + columns
            numbers, g = tensor.data, gradient * np.float32(scale)
            size = max(least, _rms(numbers)) * min(o["lr"], self.steps**-0.5)
            if columns:
                g = g.reshape(-1, *tensor.shape[-2:])
                r, c = means[:rows].reshape(g.shape[:2]), means[rows:].reshape(g.shape[0], -1)
                r += (np.einsum("kij,kij->ki", g, g) / np.float32(g.shape[2]) + floor - r) * share
                c += (np.einsum("kij,kij->kj", g, g) / np.float32(g.shape[1]) + floor - c) * share
                u = g / np.sqrt(r / r.mean(axis=1, keepdims=True))[:, :, None]
                u /= np.sqrt(c)[:, None, :]
            else:
                means += (g * g + floor - means) * share
                u = g / np.sqrt(means)
            u *= np.float32(size / max(1.0, _rms(u)))
            numbers *= np.float32(1 - o["lr"] * o["weight_decay"])
            numbers -= u.reshape(tensor.shape)


def _means(tensor: Tensor) -> tuple[int, int]:
    """How many means of rows and of columns are kept, (numbers, 0) of a vector."""
    if tensor.ndim < 2:
        return tensor.size, 0
    return tensor.size // tensor.shape[-1], tensor.size // tensor.shape[-2]


def _rms(x: Array) -> float:
    flat = x.reshape(-1)
    return float(np.sqrt(np.einsum("i,i->", flat, flat, dtype=np.float64) / flat.size))
