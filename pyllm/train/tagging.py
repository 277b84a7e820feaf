"""Encoders learn a tag for each word: names, parts of speech. Devlin et al. 2019, arXiv:1810.04805, 5.3."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import blake2b
from typing import Any, NamedTuple

from pyllm import _core
from pyllm.auto import AutoTokenizer
from pyllm.auto.classifiers import head_of
from pyllm.auto.encoders import AutoModelForTokenClassification
from pyllm.auto.new import ENCODERS
from pyllm.data import fingerprint
from pyllm.data.tagged import Sentence, Tagged, tag_numbers
from pyllm.errors import ModelFileError
from pyllm.formats import download
from pyllm.formats.writing import Staging
from pyllm.nn import LoraConfig
from pyllm.train.adapting import adapt, refuse_adapted, refuse_unless_adapts, save, save_tokenizer
from pyllm.train.arguments import TrainingArguments
from pyllm.train.callbacks import Callback
from pyllm.train.language import written
from pyllm.train.learner import Learner, Recipe
from pyllm.train.trainer import Result


class LearnedTags(NamedTuple):
    """What came of it: the tagger (ready to run where the result is complete), and the sentences held out."""

    model: Any
    result: Result
    held_out: list[Sentence]


def finetune_tags(
    name: str,
    sentences: Sequence[Sentence],
    arguments: TrainingArguments,
    context: int = 128,
    recipe: str | Recipe = "plain",
    valid: float = 0.1,
    callbacks: Sequence[Callback] = (),
    lora: LoraConfig | None = None,
) -> LearnedTags:
    """The encoder in a folder learns to tag words; the folder, Hugging Face's, is written at the end.

    valid: share of the sentences held out, equal ones together, 0 for none. lora: the encoder stays as it is stored, an
    adapter and the head learn, and the folder is PEFT's. Raises DataError, ModelFileError for what is no encoder,
    DoesNotFitError, TrainingError, ValueError.
    """
    if not head_of(download.resolve(name)):
        raise ModelFileError(name, "model", None, "no encoder", f"a folder of {', '.join(ENCODERS)}")
    tokenizer = AutoTokenizer.from_pretrained(name)
    numbers = tag_numbers(sentences)
    learn, held = _split(sentences, valid)
    options: dict[str, Any] = {"dtype": "float32" if lora is None else "auto"}
    options["id2label"] = {i: tag for tag, i in numbers.items()}
    model = AutoModelForTokenClassification.from_pretrained(
        name, **options, ignore_mismatched_sizes=True, seed=arguments.seed
    )
    refuse_adapted(name, model)
    longest = min(context, model.context_length)
    data = Tagged(learn, tokenizer, numbers, longest, arguments.seed)
    judge = Tagged(held, tokenizer, numbers, longest, arguments.seed) if held else None
    facts = {"from": name, "config": written(model.config), "tokenizer": fingerprint(tokenizer)}
    facts["data"] = data.identity
    if lora is not None:
        facts |= adapt(model, lora, arguments.seed)
        refuse_unless_adapts(name, model, arguments, longest)
    result = Learner(model, data, arguments, judge, callbacks, facts).fit(recipe=recipe)
    if result.complete:
        save(model.eval(), arguments.output_dir)
        save_tokenizer(model, tokenizer, arguments.output_dir)
    return LearnedTags(model, result, held)


def write_facts(learned: LearnedTags, arguments: TrainingArguments, command: str, scores: dict[str, Any]) -> None:
    """Write run.json beside the tagger. Raises ModelFileError."""
    about = {
        "model": f"{type(learned.model).__name__}ForTokenClassification",
        "config": written(learned.model.config),
        "parameters": learned.model.num_parameters(),
        "trained": learned.model.num_parameters(only_trainable=True),
        "arguments": asdict(arguments),
        "command": command,
        "machine": {"threads": _core.threads(), "isa": _core.isa()},
        "scores": scores,
    }
    with Staging(os.fspath(arguments.output_dir), 1 << 20) as staging, staging.create("run.json") as file:
        file.write((json.dumps(about, indent=1, default=str) + "\n").encode())


def _split(sentences: Sequence[Sentence], share: float) -> tuple[list[Sentence], list[Sentence]]:
    """(to learn from, held out): those with the smallest hash of their words, equal ones on one side, some to learn."""
    texts = ("\0".join(each.words).encode("utf-8", "surrogatepass") for each in sentences)
    keys = [blake2b(text, digest_size=8).digest() for text in texts]
    distinct = sorted(set(keys))
    out = set(distinct[: min(round(share * len(distinct)), len(distinct) - 1)])
    pairs = list(zip(sentences, keys, strict=True))
    return [each for each, key in pairs if key not in out], [each for each, key in pairs if key in out]
