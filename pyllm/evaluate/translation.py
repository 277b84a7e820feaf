"""What an encoder-decoder says for texts, and how good that is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from pyllm.data import read_pairs
from pyllm.errors import ContextError, DataError
from pyllm.evaluate.metrics import Score, text_scores
from pyllm.generate.config import FIELDS

AT_ONCE = 64  # sources handed to the model together


class Translation(NamedTuple):
    """A target as text and ids (without start and end), and its score: see pyllm.generate.pairs.generate."""

    text: str
    ids: list[int]
    score: float


def translate(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    num_beams: int = 4,
    n_best: int = 1,
    task: str | None = None,
    tgt_lang: str | None = None,
    **options: Any,
) -> Iterator[list[Translation]]:
    """The n_best targets of each text, the best first; options as `generate` takes them.

    task: one of the configuration's task_specific_params, whose prefix and settings are used. tgt_lang: see spoken(). A
    text without a token has the empty target, score 0. Raises ContextError that names a text which is too long,
    ValueError for a task, TokenizerError for a language.
    """
    prefix, settings = task_of(model, task)
    settings |= spoken(model, tokenizer, tgt_lang)
    options = {key: value for key, value in settings.items() if key != "num_beams"} | options
    for first in range(0, len(texts), AT_ONCE):
        few = texts[first : first + AT_ONCE]
        part = [source_of(tokenizer, prefix + text) if text else [] for text in few]
        for number, ids in enumerate(part, first + 1):
            if len(ids) > model.context_length:
                found = f"{len(ids):,} tokens, the model's context has {model.context_length:,}"
                raise ContextError(f"translate: text {number}: {found}; shorten it")
        least = len(tokenizer.coder.before) + len(tokenizer.ending) + 1
        asked = [ids for ids in part if len(ids) >= least]
        made = iter(_found(model, tokenizer, asked, num_beams, n_best, options) if asked else [])
        for ids in part:
            yield next(made) if len(ids) >= least else [Translation("", [], 0.0)] * n_best


def measure(
    model: Any,
    tokenizer: Any,
    paths: Sequence[str],
    names: Sequence[str],
    samples: int | None = None,
    num_beams: int = 4,
    length_penalty: float = 1.0,
) -> tuple[dict[str, Score], int, float]:
    """(the named metrics of what a model says for sources beside their targets, how many pairs, seconds).

    paths: one file of pairs, or two parallel ones, the first `samples` of them. Raises DataError, ValueError.
    """
    text_scores(names, ["a"], ["a"])  # names and packages before the work
    found = list(islice(read_pairs(paths, len(paths) == 2), samples))
    if not found:
        raise DataError("pairs", "", None, "none", "at least one")
    start = time.perf_counter()
    sources = [pair.source for pair in found]
    said = [each[0].text for each in translate(model, tokenizer, sources, num_beams, length_penalty=length_penalty)]
    seconds = time.perf_counter() - start
    return text_scores(names, said, [pair.target for pair in found]), len(found), seconds


def source_of(tokenizer: Any, text: str, language: str | None = None) -> list[int]:
    """A text's tokens as encoder-decoders learn them: what the tokenizer puts before a text and behind, the end token.

    language: for src_lang. Raises ValueError without an end token, TokenizerError for a language.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("translate: the tokenizer has no end token, with which sources end")
    before, behind = tokenizer.around(language)
    return [*before, *tokenizer.coder.encode(text, False), *behind]


def spoken(model: Any, tokenizer: Any, language: str | None) -> dict[str, int]:
    """Settings of generation that have targets begin with a language: it is forced to come second, or comes first where
    the model's targets begin with one. Raises TokenizerError for a language without a token."""
    if language is None:
        return {}
    new = tokenizer.language_id(language, "tgt_lang")
    first = tokenizer.is_language(model.start_id)
    return {"decoder_start_token_id" if first else "forced_bos_token_id": new}


def task_of(model: Any, name: str | None) -> tuple[str, dict[str, Any]]:
    """(what is put before texts, settings of generation) of a task that the model's configuration names; None: nothing.

    Raises ValueError for a task that it does not name; the message lists the known ones.
    """
    tasks = getattr(model.config, "task_specific_params", None) or {}
    if name is None:
        return "", {}
    if name not in tasks:
        raise ValueError(f"translate: task {name!r} is not known; this model's are: {', '.join(tasks) or 'none'}")
    settings = {key: value for key, value in tasks[name].items() if key in FIELDS and value is not None}
    return str(tasks[name].get("prefix") or ""), settings


def _found(
    model: Any, tokenizer: Any, sources: list[list[int]], beams: int, n_best: int, options: dict[str, Any]
) -> list[list[Translation]]:
    out = model.generate(sources, num_beams=beams, num_return_sequences=n_best, return_dict_in_generate=True, **options)
    ends = set(np.atleast_1d(model.config.eos_token_id).tolist())
    rows = [[i for i in new if i not in ends] for new in out.new_tokens]
    made = [
        Translation(str(tokenizer.decode(ids, skip_special_tokens=True)).strip(), ids, float(score))
        for ids, score in zip(rows, out.sequences_scores, strict=True)
    ]
    return [made[i : i + n_best] for i in range(0, len(made), n_best)]
