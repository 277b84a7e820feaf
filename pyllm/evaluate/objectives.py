"""How well a model does the tasks of its pretraining on shards that it has not seen."""

from __future__ import annotations

import math
import os
from itertools import pairwise
from typing import Any

import numpy as np

from pyllm import _core, ops
from pyllm.auto import AutoModelForCausalLM, AutoTokenizer, is_of_pairs
from pyllm.auto.classifiers import head_of
from pyllm.auto.encoders import AutoModelForMaskedLM, AutoModelForPreTraining
from pyllm.auto.pairs import AutoModelForSeq2SeqLM
from pyllm.data import IGNORED, Shards, Tasks
from pyllm.data.lexicon import Lexicon
from pyllm.data.tasks import OBJECTIVES, objective
from pyllm.formats import download
from pyllm.formats.json_file import load_json
from pyllm.formats.progress import Progress
from pyllm.train.objectives import USUAL_LENGTH, segments

_LONGEST = 1 << 26


def measure(
    name: str,
    folder: str,
    split: str = "valid",
    asked: str | None = None,
    context: int | None = None,
    samples: int | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """{"objective", "loss", "perplexity", "targets"}: the mean -log p of a target in nats; of two segments also
    "next_loss" and "next_accuracy".

    name: of a model, a file or folder. asked: an objective, the one that the run learned unless given, else the kind's
    usual one; context: that of the run unless given, and as much is hidden as there. The tasks are the first epoch's of
    seed 0. Raises DataError, ValueError for an objective that the model does not learn.
    """
    if threads is not None:
        _core.set_threads(threads)
    kind = "encoder" if head_of(download.resolve(name)) else "pairs" if is_of_pairs(name) else "decoder"
    learned = learned_by(name)
    asked = asked or learned.get("name") or OBJECTIVES[kind][0]
    tokenizer, model = AutoTokenizer.from_pretrained(name), _opened(name, kind, asked)
    rate = learned.get("rate") if asked == learned.get("name") else None
    poses = objective(asked, kind, Lexicon(tokenizer), getattr(model, "start_id", 0), rate)
    shards = Shards(folder, split, tokenizer=tokenizer)
    length = min(context or learned.get("context") or USUAL_LENGTH, model.context_length, shards.tokens + poses.extra)
    data = Tasks(shards, length, poses)
    many, loss, count, following = min(len(data), samples or len(data)), 0.0, 0, list[tuple[int, float, bool]]()
    with Progress(folder, many, ("reading", "read"), unit="samples") as bar:
        for position in range(many):
            ids, targets, starts = data.batch(position, 1)
            words, next_ = targets[: len(ids)], targets[len(ids) :]
            here = int(np.count_nonzero(words != IGNORED))
            with ops.documents(starts):
                types = segments(ids, starts, int(poses.lexicon.after[0])) if len(next_) else None
                more = () if types is None else (types,)
                loss += float(np.asarray(model.loss(ids, words, *more))) * here if here else 0.0
            following += [] if types is None else _next(model, ids, starts, types, next_)
            count += here
            bar.show(position + 1)
    mean = loss / count if count else math.nan
    found = {"objective": asked, "loss": mean, "perplexity": math.exp(mean), "targets": count}
    if following:
        found["next_loss"] = float(np.mean([each for _, each, _ in following]))
        found["next_accuracy"] = float(np.mean([right for _, _, right in following]))
    return found


def _next(model: Any, ids: Any, starts: Any, types: Any, wanted: Any) -> list[tuple[int, float, bool]]:
    """(answer, -log of its probability, whether it was the likelier) of every sequence that has a second segment."""
    rows = [slice(i, j) for i, j in pairwise(starts)]
    scores = np.asarray(model([ids[row] for row in rows], token_type_ids=[types[row] for row in rows])[1], np.float64)
    found = []
    for answer, each in zip(wanted.tolist(), scores, strict=True):
        if answer != IGNORED:
            cost = float(np.log(np.exp(each - each.max()).sum()) + each.max() - each[answer])
            found.append((answer, cost, int(each.argmax()) == answer))
    return found


def _opened(name: str, kind: str, asked: str) -> Any:
    if kind == "encoder":
        return (AutoModelForPreTraining if asked == "mlm+nsp" else AutoModelForMaskedLM).from_pretrained(name)
    return (AutoModelForSeq2SeqLM if kind == "pairs" else AutoModelForCausalLM).from_pretrained(name)


def learned_by(name: str) -> dict[str, Any]:
    """{"name", "context", "rate"} of what a run's folder says its model has learned; {} where it says nothing."""
    path = os.path.join(download.resolve(name), "run.json")
    values = load_json(path, _LONGEST) if os.path.isfile(path) else None
    found = values.get("objective") if isinstance(values, dict) else None
    kinds = {"name": str, "context": int, "rate": float}
    found = found if isinstance(found, dict) else {}
    return {key: found[key] for key, kind in kinds.items() if isinstance(found.get(key), kind)}


def told(found: dict[str, Any]) -> str:
    """The facts as a line."""
    line = f"{found['objective']}: loss {found['loss']:.4f} nats per target, perplexity {found['perplexity']:.4f}"
    if "next_loss" in found:
        line += f"; next sentence: loss {found['next_loss']:.4f}, accuracy {found['next_accuracy']:.4f}"
    return f"{line}; {found['targets']:,} targets"
