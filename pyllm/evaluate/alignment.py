"""Which tokens of a source each token of a target looked at, as a picture. Needs matplotlib, extra [report]."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np

from pyllm.evaluate.translation import source_of
from pyllm.formats.writing import Staging, check_target

KINDS = (".png", ".svg", ".pdf")


def draw(
    model: Any,
    tokenizer: Any,
    text: str,
    target: list[int],
    path: str,
    overwrite: bool = False,
    start: int | None = None,
) -> None:
    """Write the picture of one pair: the mean of the last layer's heads; rows are target tokens, columns the source's.

    start: the token that the target began with, None: the model's.
    Raises ValueError for another ending and for a model without attention, ImportError without matplotlib,
    ModelFileError where the file cannot be written.
    """
    if os.path.splitext(path)[1].lower() not in KINDS:
        raise ValueError(f"plot: {path}: allowed are files ending {', '.join(KINDS)}")
    source = source_of(tokenizer, text)
    weights = model.cross_weights(source, [model.start_id if start is None else start, *target]).mean(axis=0)
    names = [[_name(tokenizer, each) for each in ids] for ids in (source, [*target, tokenizer.eos_token_id])]
    figure = _figure(weights, *names)
    drawn = io.BytesIO()  # matplotlib wants to seek
    figure.savefig(drawn, format=os.path.splitext(path)[1][1:].lower(), dpi=150)
    with Staging(check_target(path, overwrite)) as staging, staging.create(os.path.basename(path)) as file:
        file.write(drawn.getvalue())


def _name(tokenizer: Any, token: int) -> str:
    return str(tokenizer.decode([token])).replace("\n", " ").replace("$", r"\$")


def _figure(weights: np.ndarray, source: list[str], target: list[str]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need the package `matplotlib`: pip install 'pyllm[report]'") from None
    figure = Figure(figsize=(2 + 0.4 * len(source), 1.5 + 0.35 * len(target)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(source)), source, rotation=60, ha="right")
    axes.set_yticks(range(len(target)), target)
    axes.set_xlabel("source")
    axes.set_ylabel("target")
    figure.colorbar(image, label="attention")
    return figure
