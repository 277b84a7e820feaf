"""How well a table's net does on rows that it has not seen, beside the best answer that looks at no column."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm.ops import cross_entropy, mse
from pyllm.tensor import Array
from pyllm.train.table_model import Target


def loss_of(target: Target, outputs: Any, wanted: NDArray[Any]) -> Any:
    """What training makes small: cross-entropy in nats, or the mean squared error of the scaled numbers."""
    return cross_entropy(outputs, wanted) if target.classes else mse(outputs, wanted)


def scored(target: Target, outputs: Array, wanted: NDArray[Any], seen: NDArray[Any]) -> dict[str, Any]:
    """Scores of outputs (rows, outputs) beside what is `wanted` of them and what the training rows have `seen`.

    classification: loss, accuracy, majority_class and its majority_accuracy, confusion[wanted][said] as counts.
    regression: loss, rmse and r2 in the target's own units, mean_rmse and mean_r2 of always saying the training rows'
    mean; r2 is None where the wanted numbers do not differ.
    """
    found: dict[str, Any] = {"rows": len(wanted), "loss": float(loss_of(target, outputs, wanted))}
    said = target.values(outputs)
    if target.classes:
        count = len(target.classes)
        confusion = np.bincount(wanted * count + said, minlength=count * count).reshape(count, count)
        most = int(np.bincount(seen, minlength=count).argmax())
        return found | {
            "accuracy": float((said == wanted).mean()),
            "majority_class": target.classes[most],
            "majority_accuracy": float((wanted == most).mean()),
            "confusion": confusion.tolist(),
        }
    numbers = target.values(wanted)
    spread = float(((numbers - numbers.mean()) ** 2).sum())
    for name, guess in (("", said), ("mean_", target.mean)):
        squares = float(((numbers - guess) ** 2).sum())
        found[f"{name}rmse"] = (squares / len(numbers)) ** 0.5
        found[f"{name}r2"] = 1 - squares / spread if spread > 0 else None
    return found
