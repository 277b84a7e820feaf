"""Text classifiers seen from outside: probabilities of classes, numbers, scores beside a baseline that knows words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm.auto import AutoTokenizer
from pyllm.data.labelled import Label, encoded, surrounded
from pyllm.data.problems import NUMBER, SEVERAL, SINGLE, targets_of
from pyllm.evaluate.baseline import NAME, Baseline, fit_baseline
from pyllm.evaluate.metrics import METRICS, METRICS_OF_NUMBERS, METRICS_OF_SEVERAL, Metrics, scores
from pyllm.formats.csv_file import listed
from pyllm.models.classifier import TOKENS_AT_ONCE, TextClassifier

MEASURED: dict[str, Metrics] = {SINGLE: METRICS, SEVERAL: METRICS_OF_SEVERAL, NUMBER: METRICS_OF_NUMBERS}


def problem_of(model: Any) -> str:
    """What a classifier tells of a text, transformers' problem_type: a class, several classes, a number."""
    return str(model.config.problem_type or (NUMBER if model.config.num_labels == 1 else SINGLE))


def probabilities(model: Any, tokenizer: Any, texts: Sequence[str]) -> NDArray[np.float32]:
    """(texts, classes) of a TextClassifier or an encoder with its head: rows that sum to 1, of several classes at once
    each by itself, of regression no probabilities but the numbers; a text's bits do not depend on the others. An empty
    list gives no rows.
    """
    logits, problem = logits_of(model, tokenizer, texts).astype(np.float64), problem_of(model)
    if problem != SINGLE:
        return (logits if problem == NUMBER else 1 / (1 + np.exp(-logits))).astype(np.float32)
    e = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return (e / e.sum(axis=1, keepdims=True)).astype(np.float32)


def logits_of(model: Any, tokenizer: Any, texts: Sequence[str]) -> NDArray[np.float32]:
    """What the head gives, (texts, classes); see probabilities."""
    if isinstance(model, TextClassifier):
        return model.logits(encoded(tokenizer, texts, model.config.framed))
    found = by_length(model, surrounded(tokenizer, texts, model.context_length))
    return np.array(found, np.float32).reshape(len(texts), model.config.num_labels)


def by_length(model: Any, rows: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
    """The head's logits of an encoder for each sequence of ids, those of like length together, in order."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found: list[Any] = [None] * len(rows)
    first = 0
    while first < len(order):
        end = first + 1
        while end < len(order) and (end + 1 - first) * len(rows[order[end]]) <= TOKENS_AT_ONCE:
            end += 1
        logits = model([rows[i] for i in order[first:end]]).logits
        for i, each in zip(order[first:end], logits, strict=True):
            found[i] = np.asarray(each)
        first = end
    return found


def classes_of(model: Any) -> tuple[str, ...]:
    """The names of a classifier's classes, in order."""
    return tuple(model.config.id2label[i] for i in range(model.config.num_labels))


def targets_beside(model: Any, labels: Sequence[Label]) -> tuple[NDArray[Any], list[str]]:
    """(targets as data.problems.targets_of gives them, classes that training has not met, numbered after the others):
    of one class of a text such labels are wrong answers, where others are met. Raises DataError as targets_of.
    """
    classes, problem, unmet = list(classes_of(model)), problem_of(model), list[str]()
    named = {label for label in labels if isinstance(label, str)}
    if problem == SINGLE and named & set(classes):
        unmet = sorted(named - set(classes))
    return targets_of(labels, problem, [*classes, *unmet])[0], unmet


def judge(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    targets: NDArray[Any],
    baseline: Baseline | None = None,
    metrics: tuple[str, ...] | None = None,
    unmet: Sequence[str] = (),
) -> dict[str, Any]:
    """Scores of labelled texts by the names of metrics, None for all that fit; "texts". Of one class: "majority": of
    always saying their commonest class; "baseline": of TF-IDF and logistic regression, where there is one. Of numbers
    "mean": of always saying their mean. unmet: classes of targets beyond the model's, which no answer can be.
    """
    rows, problem = probabilities(model, tokenizer, texts), problem_of(model)
    said = rows.argmax(axis=1) if problem == SINGLE else rows > 0.5 if problem == SEVERAL else rows[:, 0]
    found: dict[str, Any] = {"texts": len(texts), **scores(targets, said, metrics, MEASURED[problem])}
    if problem == NUMBER:
        found["mean"] = {"value": float(targets.mean()), "mse": float(targets.var())}
    if problem != SINGLE:
        return found
    classes = classes_of(model)
    beyond = targets[targets >= len(classes)]
    if len(beyond):
        found["unmet"] = {"classes": [unmet[i] for i in np.unique(beyond) - len(classes)], "texts": len(beyond)}
    most = int(np.bincount(targets, minlength=len(classes))[: len(classes)].argmax())
    found["majority"] = {"class": classes[most], "accuracy": float((targets == most).mean())}
    if baseline is not None:
        found["baseline"] = {"name": NAME, **scores(targets, baseline.predict(texts), metrics)}
    return found


def compared(learned: Any, folder: str) -> tuple[dict[str, Any], list[str]]:
    """(scores of the texts held out, as lines) of a pyllm.train.texts.Learned; its baseline is written to the folder.

    Without scikit-learn a line says so; without texts held out there are no scores.
    """
    baseline, more = None, list[str]()
    try:
        if problem_of(learned.model) == SINGLE:
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
    names = [name for name in dict.fromkeys(each for known in MEASURED.values() for each in known) if name in found]

    def line(values: dict[str, Any]) -> str:
        return ", ".join(f"{name} {values[name]:.4f}" for name in names)

    lines = [f"{line(found)} of {found['texts']:,} texts"]
    if "unmet" in found:
        unmet = listed(found["unmet"]["classes"])
        lines.append(f"{found['unmet']['texts']:,} of them have a class not met in training, wrong: {unmet}")
    if "majority" in found:
        lines.append(f"always '{found['majority']['class']}': accuracy {found['majority']['accuracy']:.4f}")
    if "mean" in found:
        lines.append(f"always {found['mean']['value']:.4f}: mse {found['mean']['mse']:.4f}")
    if "baseline" in found:
        lines.append(f"{found['baseline']['name']}: {line(found['baseline'])}")
    return lines
