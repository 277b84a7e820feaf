"""Text classifiers seen from outside: probabilities of classes, scores beside a baseline that knows single words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm.auto import AutoTokenizer
from pyllm.data.labelled import encoded
from pyllm.evaluate.baseline import NAME, Baseline, fit_baseline
from pyllm.evaluate.metrics import METRICS, scores
from pyllm.models.classifier import TextClassifier


def probabilities(model: TextClassifier, tokenizer: Any, texts: Sequence[str]) -> NDArray[np.float32]:
    """(texts, classes), rows that sum to 1; a text's bits do not depend on the others. An empty list gives no rows."""
    logits = model.logits(encoded(tokenizer, texts)).astype(np.float64)
    e = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return (e / e.sum(axis=1, keepdims=True)).astype(np.float32)


def judge(
    model: TextClassifier,
    tokenizer: Any,
    texts: Sequence[str],
    targets: NDArray[np.int64],
    baseline: Baseline | None = None,
    metrics: tuple[str, ...] = tuple(METRICS),
) -> dict[str, Any]:
    """Scores of labelled texts by the names of metrics; "texts"; "majority": of always saying their commonest class;
    "baseline": of TF-IDF and logistic regression, where there is one.
    """
    said = probabilities(model, tokenizer, texts).argmax(axis=1)
    found: dict[str, Any] = {"texts": len(texts), **scores(targets, said, metrics)}
    most = int(np.bincount(targets).argmax())
    found["majority"] = {"class": model.config.classes[most], "accuracy": float((targets == most).mean())}
    if baseline is not None:
        found["baseline"] = {"name": NAME, **scores(targets, baseline.predict(texts), metrics)}
    return found


def compared(learned: Any, folder: str) -> tuple[dict[str, Any], list[str]]:
    """(scores of the texts held out, as lines) of a pyllm.train.texts.Learned; its baseline is written to the folder.

    Without scikit-learn a line says so; without texts held out there are no scores.
    """
    baseline, more = None, list[str]()
    try:
        baseline = fit_baseline(learned.train.texts, learned.train.targets)
        baseline.save(folder)
    except (ImportError, ValueError) as error:  # scikit-learn is not there, or finds no word in the texts
        more = [f"no baseline: {error}"]
    if not learned.held_out.texts:
        return {}, ["no text was held out", *more]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = judge(learned.model, tokenizer, learned.held_out.texts, learned.held_out.targets, baseline)
    return found, [*told(found), *more]


def told(found: dict[str, Any]) -> list[str]:
    """The scores as lines."""
    names = [name for name in METRICS if name in found]

    def line(values: dict[str, Any]) -> str:
        return ", ".join(f"{name} {values[name]:.4f}" for name in names)

    lines = [f"{line(found)} of {found['texts']:,} texts"]
    lines.append(f"always '{found['majority']['class']}': accuracy {found['majority']['accuracy']:.4f}")
    if "baseline" in found:
        lines.append(f"{found['baseline']['name']}: {line(found['baseline'])}")
    return lines
