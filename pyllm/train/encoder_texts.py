"""Encoders learn classes of texts: the texts' language by hidden words, then the head, layer after layer.

Devlin et al. 2019, arXiv:1810.04805; the recipe is ULMFiT's, Howard, Ruder 2018, arXiv:1801.06146.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pyllm.auto.encoders import AutoModelForMaskedLM, EncoderForSequenceClassification
from pyllm.data import Labelled, fingerprint
from pyllm.data.labelled import Hidden, Texts, surrounded
from pyllm.data.lexicon import Lexicon
from pyllm.nn import LoraConfig
from pyllm.train.adapting import adapt, longest_of, refuse_adapted, refuse_unless_adapts
from pyllm.train.arguments import TrainingArguments
from pyllm.train.callbacks import Callback
from pyllm.train.language import written
from pyllm.train.learner import RECIPES, Learner
from pyllm.train.split import Learned, Split, Tell, posed
from pyllm.train.trainer import Result

LANGUAGE = "lm"  # folder of the language's stage below a run's


def learn_encoder_texts(
    name: str,
    tokenizer: Any,
    rows: Texts,
    arguments: TrainingArguments,
    settings: Any,
    callbacks: Sequence[Callback],
    tell: Tell,
    lora: LoraConfig | None = None,
) -> Learned:
    """The encoder in a folder learns to classify texts, cut to its context; see texts.finetune_texts."""
    if lora is not None and settings.lm_epochs:
        asked = f"lm_epochs {settings.lm_epochs:g} with lora"
        raise ValueError(f"texts: {asked}, which leaves the encoder as it is stored; allowed is 0")
    found = posed(rows, settings.problem, settings.classes, settings.valid, arguments.seed, tell)
    sides = found.sides(rows.texts)
    options: dict[str, Any] = {"dtype": "float32" if lora is None else "auto", "problem_type": found.problem}
    options["id2label"] = dict(enumerate(found.classes))
    model = EncoderForSequenceClassification.from_pretrained(
        name, **options, ignore_mismatched_sizes=True, seed=arguments.seed
    )
    refuse_adapted(name, model)
    facts = {"from": name, "config": written(model.config), "tokenizer": fingerprint(tokenizer)}
    if lora is not None:
        facts |= adapt(model, lora, arguments.seed)
    if settings.lm_epochs:
        seen = [text for i, text in enumerate(rows.texts) if i not in found.held]
        result = _language(model, name, tokenizer, seen, arguments, settings, callbacks, facts, tell)
        if not result.complete:
            return Learned(model, result, *sides)
    data, valid = (_samples(tokenizer, side, model.context_length, arguments.seed) for side in sides)
    assert data is not None
    if lora is not None:
        refuse_unless_adapts(name, model, arguments, longest_of(data.texts, arguments))
    facts["settings"] = {"lm_epochs": settings.lm_epochs, "lm_lr": settings.lm_lr}
    learner = Learner(model, data, arguments, valid, callbacks, facts | {"data": data.identity})
    learned = "" if lora is None else f", of which {model.num_parameters(only_trainable=True):,} learn"
    tell("classes", f"{learner.groups} groups of layers, {model.num_parameters():,} parameters{learned}")
    result = learner.fit(recipe=settings.recipe)
    return Learned(model.eval(), result, *sides)


def _language(
    model: Any,
    name: str,
    tokenizer: Any,
    texts: Sequence[str],
    a: TrainingArguments,
    s: Any,
    callbacks: Sequence[Callback],
    facts: dict[str, Any],
    tell: Tell,
) -> Result:
    """The encoder learns hidden words of the texts, all layers at once; what it learned goes to the model."""
    length = min(s.lm_context, model.context_length)
    data = Hidden(surrounded(tokenizer, texts, 1 << 30), Lexicon(tokenizer), length, a.seed)
    tell("language", f"{sum(map(len, data.pieces)):,} tokens, {s.lm_epochs:g} times")
    a = replace(a, output_dir=os.path.join(a.output_dir, LANGUAGE), max_steps=0, eval_steps=0)
    masked = AutoModelForMaskedLM.from_pretrained(name, dtype="float32", seed=a.seed)
    recipe = RECIPES[s.recipe] if isinstance(s.recipe, str) else s.recipe
    learner = Learner(masked, data, a, None, callbacks, facts | {"data": data.identity})
    result = learner.fit(s.lm_epochs, s.lm_lr, replace(recipe, gradual=False))
    theirs = masked.own_parameters()
    for path, parameter in model.own_parameters().items():
        if path in theirs and not path.startswith("head."):
            parameter.take(theirs[path].array())
    return result


def _samples(tokenizer: Any, side: Split, longest: int, seed: int) -> Labelled | None:
    return Labelled(surrounded(tokenizer, side.texts, longest), side.targets, seed) if side.texts else None
