"""Encoder-decoders through the whole procedure: they learn to say the targets of sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pyllm.auto import AutoTokenizer
from pyllm.auto.new import config_for
from pyllm.auto.pairs import AutoModelForSeq2SeqLM
from pyllm.data import Pairs, fingerprint
from pyllm.nn import LoraConfig
from pyllm.train.adapting import adapt, refuse_adapted, stored_bytes
from pyllm.train.arguments import TrainingArguments
from pyllm.train.callbacks import Callback
from pyllm.train.language import carry_out, refuse_unless_trains
from pyllm.train.shown import SAMPLES, Translations
from pyllm.train.trainer import Result

HELD_OUT = 1000  # pairs to judge by, a tenth at most, where none are given


def learn_pairs(
    family: str,
    fields: dict[str, Any],
    pairs: Sequence[str],
    tokenizer_path: str,
    arguments: TrainingArguments,
    length: int = 128,
    valid: Sequence[str] | None = None,
    callbacks: Sequence[Callback] = (),
    command: str = "",
) -> Result:
    """A new encoder-decoder of a family learns from pairs; the run folder then opens with AutoModelForSeq2SeqLM.

    fields: of the configuration; the vocabulary is the tokenizer's. pairs, valid: one file of pairs or two parallel
    ones, as pyllm.data.Pairs reads; without `valid` some pairs are held out. length: tokens of a side at most. A sample
    is a pair. Raises DataError, DoesNotFitError, TrainingError, ValueError.
    """
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    config = config_for(family, tokenizer, fields)
    refuse_unless_trains(family, config, arguments, min(length, getattr(config, "max_position_embeddings", length)))
    model = AutoModelForSeq2SeqLM.from_config(config, arguments.seed)
    return _learn(model, tokenizer, pairs, arguments, length, valid, callbacks, {}, command)


def tune_pairs(
    name: str,
    pairs: Sequence[str],
    arguments: TrainingArguments,
    length: int = 128,
    valid: Sequence[str] | None = None,
    callbacks: Sequence[Callback] = (),
    command: str = "",
    lora: LoraConfig | None = None,
    languages: Mapping[str, str | None] | None = None,
) -> Result:
    """An encoder-decoder in a folder learns on, from other pairs; see learn_pairs. lora: it stays as it is stored, an
    adapter learns, and the run folder holds that as PEFT does. languages: src_lang and tgt_lang of the pairs."""
    tokenizer = AutoTokenizer.from_pretrained(name, **(languages or {}))
    model = AutoModelForSeq2SeqLM.from_pretrained(name)
    refuse_adapted(name, model)
    facts: dict[str, Any] = {"from": name}
    if lora is not None:
        stored = lora.r, stored_bytes(model)
        refuse_unless_trains(name, model.config, arguments, min(length, model.context_length), stored)
        facts |= adapt(model, lora, arguments.seed)
    return _learn(model, tokenizer, pairs, arguments, length, valid, callbacks, facts, command)


def _learn(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[str],
    arguments: TrainingArguments,
    length: int,
    valid: Sequence[str] | None,
    callbacks: Sequence[Callback],
    facts: dict[str, Any],
    command: str,
) -> Result:
    model.open_tokenizer = lambda: tokenizer
    length = min(length, model.context_length)
    data = _read(pairs, tokenizer, length, model.start_id, arguments.seed)
    if valid is None:
        data, held = data.held_out(min(HELD_OUT, max(1, len(data) // 10)))
    else:
        held = _read(valid, tokenizer, length, model.start_id, arguments.seed)
    about = data.report | {"sha256": data.identity}
    facts = facts | {"config": asdict(model.config), "data": about, "length": length}
    facts["tokenizer"] = fingerprint(tokenizer)
    samples = Translations([held.sides(i) for i in range(min(SAMPLES, len(held)))])
    return carry_out(model, tokenizer, data, held, arguments, callbacks, facts, command, None, samples)


def _read(paths: Sequence[str], tokenizer: Any, length: int, start_id: int, seed: int) -> Pairs:
    return Pairs(paths, tokenizer, length, start_id, seed, parallel=len(paths) == 2)
