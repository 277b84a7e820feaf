"""Which family learns what from shards: its objectives, the model with the head that they need, its samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyllm import ops
from pyllm.auto import AutoModelForCausalLM
from pyllm.auto.encoders import AutoModelForMaskedLM, AutoModelForPreTraining
from pyllm.auto.new import ENCODERS, IMAGES, PAIRS
from pyllm.auto.pairs import AutoModelForSeq2SeqLM
from pyllm.data import Packed, Shards, Tasks, manifest
from pyllm.data.lexicon import Lexicon
from pyllm.data.tasks import NEXT, OBJECTIVES, objective

USUAL_LENGTH = 512  # tokens of a sample where a family has no end of positions, or a far one


def kind_of(family: str) -> str:
    """ "decoder", "encoder" or "pairs": how a family is named in pyllm.data.tasks.OBJECTIVES."""
    return "pairs" if family in PAIRS else "encoder" if family in ENCODERS else "decoder"


def chosen(family: str, name: str | None) -> str:
    """The objective that is asked for, the family's usual one without. Raises ValueError for one that it cannot learn.

    Two segments are BERT's alone: RoBERTa and DistilBERT have none, ALBERT's question is another.
    """
    if family in IMAGES:
        raise ValueError(f"pretrain: {family} learns from images, with pyllm.Trainer; allowed are families of text")
    allowed = [each for each in OBJECTIVES[kind_of(family)] if each != "mlm+nsp" or family == "bert"]
    if name is not None and name not in allowed:
        raise ValueError(f"pretrain: {family} cannot learn objective {name!r}, allowed are {', '.join(allowed)}")
    return name or allowed[0]


def new_for(family: str, name: str, config: Any, seed: int) -> Any:
    """A model with random weights and the head of an objective."""
    kind = kind_of(family)
    if kind == "encoder":
        encoder: Any = AutoModelForPreTraining if name == "mlm+nsp" else AutoModelForMaskedLM
        return encoder.from_config(config, seed)
    return (AutoModelForSeq2SeqLM if kind == "pairs" else AutoModelForCausalLM).from_config(config, seed)


def samples_of(
    family: str, name: str, model: Any, tokenizer: Any, shards: str, length: int, seed: int, rate: float | None = None
) -> tuple[Any, Any]:
    """(data, validation data, None without) of an objective. Raises DataError."""
    train = Shards(shards, "train", tokenizer=tokenizer)
    if name == NEXT:
        if rate is not None:
            raise ValueError(f"pretrain: a rate of {rate:g} for 'next', which hides nothing; leave it out")
        return Packed(train, length, seed), validation(shards, length, seed)
    asked = objective(name, kind_of(family), Lexicon(tokenizer), getattr(model, "start_id", 0), rate)
    data = Tasks(train, length, asked, seed)
    valid = held_out(shards)
    most = 0 if valid is None else min(length, valid.tokens + asked.extra)
    return data, None if valid is None or most < asked.least else Tasks(valid, most, asked, seed)


def held_out(shards: str) -> Shards | None:
    """The split "valid"; None where there is none."""
    there = any(shard.split == "valid" for shard in manifest.read(shards).shards)
    return Shards(shards, "valid") if there else None


def validation(shards: str, length: int, seed: int = 0) -> Packed | None:
    """Samples of the split "valid", at most as long as it is; None where there is none. Raises DataError."""
    split = held_out(shards)
    return None if split is None or split.tokens < 2 else Packed(split, min(length, split.tokens - 1), seed)


class Segmented:
    """An encoder whose samples are two segments, as the trainer takes it: everything is the model's, except that the
    loss tells segments by the end token, and takes targets of all tokens followed by one for each sequence.
    """

    def __init__(self, model: Any, end: int) -> None:
        self.wrapped, self.end = model, end

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    def __call__(self, *given: Any, **options: Any) -> Any:
        """The model's own answer."""
        return self.wrapped(*given, **options)

    def loss(self, ids: Any, targets: Any) -> Any:
        """Of masked words and of the next sentence together, in nats."""
        starts = ops.starts_of(np.shape(ids))
        types = segments(np.asarray(ids), starts, self.end)
        words, following = np.asarray(targets)[: len(ids)], np.asarray(targets)[len(ids) :]
        return self.wrapped.loss(ids, words, types, following=following)


def segments(ids: Any, starts: Any, end: int) -> Any:
    """(rows,) int32: 0 up to the first end token behind each sequence's first, 1 after it."""
    first = np.zeros(len(ids), bool)
    first[starts[:-1]] = True
    ended = np.cumsum((ids == end) & ~first)
    before = np.repeat(ended[starts[:-1]], np.diff(starts))  # ends of the sequences before
    seen = ended - before - ((ids == end) & ~first)  # ends that lie before each token
    return (seen > 0).astype(np.int32)
