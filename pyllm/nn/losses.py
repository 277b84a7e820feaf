"""Losses as parts, under PyTorch's names: for loops of one's own, over pyllm.ops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import ops
from pyllm.nn.module import Module


class Loss(Module):
    """What losses share. reduction: "mean", "sum" or "none", as far as a loss has them. Raises ValueError."""

    reductions: tuple[str, ...] = ("mean", "sum", "none")

    def __init__(self, *, reduction: str = "mean") -> None:
        if reduction not in self.reductions:
            raise ValueError(f"loss: reduction is {reduction!r}, allowed are {', '.join(self.reductions)}")
        self.reduction = reduction


class NLLLoss(Loss):
    """-w_t x_t of the class t that is right, x logarithms of probabilities; "mean": divided by the sum of w_t.

    weight (classes,): w, ones unless given. A target of ignore_index counts nothing; without any other it is 0.
    """

    smoothing = 0.0

    def __init__(self, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.weight, self.ignore_index = None if weight is None else np.asarray(weight, np.float32), ignore_index

    def __call__(self, x: Any, targets: Any) -> Any:
        """x (classes,), (rows, classes) or (batch, classes, ...), targets of integers in that shape without classes.

        Raises ValueError for shapes, TypeError for targets that are no integers, IndexError for one that is no class.
        """
        rows, wanted = _rows(x, targets)
        return self._of(rows, wanted, np.shape(targets))

    def _of(self, rows: Any, wanted: NDArray[np.int64], shape: tuple[int, ...]) -> Any:
        known, classes = wanted != self.ignore_index, rows.shape[1]
        at = np.where(known, wanted, 0)
        if at.size and (at.min() < 0 or at.max() >= classes):
            raise IndexError(f"loss: targets from {at.min()} to {at.max()}, allowed are 0 to {classes - 1}")
        w = np.ones(classes, np.float32) if self.weight is None else self.weight
        if w.shape != (classes,):
            raise ValueError(f"loss: weight {w.shape}, allowed is ({classes},)")
        share = w[at] * known
        losses = ops.multiply(ops.index(rows, (np.arange(len(at)), at)), share * np.float32(self.smoothing - 1))
        if self.smoothing:
            spread = known * np.float32(-self.smoothing / classes)
            losses = ops.add(losses, ops.multiply(ops.sum(ops.multiply(rows, w), axis=-1), spread))
        if self.reduction == "none":
            return ops.reshape(losses, shape)
        total = ops.sum(losses)
        return total if self.reduction == "sum" else ops.multiply(total, np.float32(1 / (share.sum() or 1)))


class CrossEntropyLoss(NLLLoss):
    """-log softmax(x)_t, as NLLLoss weighs and leaves out. label_smoothing e: (1 - e) of it, e of all classes' mean.

    Targets are classes; probabilities of classes are refused. Szegedy et al. 2016, arXiv:1512.00567.
    """

    def __init__(
        self, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0
    ) -> None:
        super().__init__(weight, ignore_index=ignore_index, reduction=reduction)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"loss: label_smoothing is {label_smoothing}, allowed are 0 to 1")
        self.smoothing = label_smoothing

    def __call__(self, x: Any, targets: Any) -> Any:
        """As NLLLoss's, of any numbers."""
        rows, wanted = _rows(x, targets)
        if self.weight is not None or self.reduction != "mean":
            return self._of(ops.log_softmax(rows), wanted, np.shape(targets))
        if self.ignore_index != -100:  # which the operation leaves out, and here is no class
            wanted = np.where(wanted == self.ignore_index, -100, np.where(wanted == -100, -1, wanted))
        return ops.cross_entropy(rows, wanted, self.smoothing)


class MSELoss(Loss):
    """(x - target)^2. Raises ValueError for shapes that differ."""

    def __call__(self, x: Any, targets: Any) -> Any:
        """Any shape, twice."""
        if np.shape(x) != np.shape(targets):
            raise ValueError(f"loss: x {np.shape(x)} and targets {np.shape(targets)} differ")
        losses = ops.power(ops.subtract(x, targets), 2)
        return losses if self.reduction == "none" else (ops.sum if self.reduction == "sum" else ops.mean)(losses)


class BCEWithLogitsLoss(Loss):
    """-t log s(x) - (1 - t) log(1 - s(x)), s the sigmoid. Raises ValueError for shapes and targets; see ops."""

    reductions = ("mean", "sum")

    def __call__(self, x: Any, targets: Any) -> Any:
        """Any shape, twice; targets from 0 to 1."""
        loss = ops.binary_cross_entropy(x, targets)
        return loss if self.reduction == "mean" else ops.multiply(loss, np.float32(np.size(targets)))


def _rows(x: Any, targets: Any) -> tuple[Any, NDArray[np.int64]]:
    """((rows, classes), targets (rows,)): PyTorch has classes as the second dimension, or as the only one."""
    given, shape = np.asarray(targets), np.shape(x)
    if given.dtype.kind not in "iu":
        raise TypeError(f"loss: targets hold {given.dtype}, allowed are integers, the number of a class each")
    if not shape or given.shape != shape[:1][: len(shape) - 1] + shape[2:]:
        wanted = shape[:1][: len(shape) - 1] + shape[2:]
        raise ValueError(f"loss: targets {given.shape} of x {shape}, allowed are {wanted}: without the classes")
    if len(shape) > 2:
        x = ops.transpose(x, 0, *range(2, len(shape)), 1)
    return ops.reshape(x, (-1, shape[min(len(shape) - 1, 1)])), given.astype(np.int64).reshape(-1)
