"""What a model makes of samples that were held out, after each evaluation: targets of sources, masked words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from pyllm.data import IGNORED
from pyllm.train.callbacks import Samples

SAMPLES = 3  # held-out sources that are translated after each evaluation


class Translations(Samples):
    """What the model says after each evaluation for sources held out, greedily: "prompt" is the source, and "wanted"
    the target that belongs to it."""

    def __init__(self, pairs: Sequence[tuple[Any, Any]]) -> None:
        super().__init__()
        self.pairs = pairs

    def on_evaluate(self, trainer: Any, step: int, loss: float) -> None:
        """Say them with the weights of now."""
        model = trainer.model
        model.eval()
        try:
            found = model.generate([source.tolist() for source, _ in self.pairs])
        finally:
            model.train()
        for said, (source, target) in zip(found, self.pairs, strict=True):
            texts = (model.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in (source, said, target))
            self.texts.append({"step": step, **dict(zip(("prompt", "text", "wanted"), texts, strict=True))})


class Filled(Samples):
    """What the model fills in where words were hidden: "prompt" is what it reads, "wanted" the text as it was."""

    def __init__(self, rows: Sequence[tuple[Any, Any]]) -> None:
        super().__init__()
        self.rows = rows

    def on_evaluate(self, trainer: Any, step: int, loss: float) -> None:
        """The likeliest words with the weights of now."""
        model = trainer.model
        decode = model.tokenizer.decode
        model.eval()
        try:
            for ids, targets in self.rows:
                hidden = targets != IGNORED
                likeliest = np.asarray(model([ids])[0][0]).argmax(axis=-1)
                texts = (ids, np.where(hidden, likeliest, ids), np.where(hidden, targets, ids))
                named = zip(("prompt", "text", "wanted"), map(decode, texts), strict=True)
                self.texts.append({"step": step, **dict(named)})
        finally:
            model.train()


def shown(kind: str, tasks: Any) -> Samples:
    """The samples of a kind of model ("encoder", "pairs"), of the first of its tasks."""
    ids, targets, starts = tasks.batch(0, SAMPLES)
    rows = [(ids[i:j], targets[i:j]) for i, j in pairwise(starts)]
    if kind == "encoder":
        return Filled(rows[:SAMPLES])
    pairs = [(source, target) for (source, _), (_, target) in zip(rows[::2], rows[1::2], strict=True)]
    return Translations(pairs[:SAMPLES])
