"""Taggers seen from outside: a tag for each word, and how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyllm.data.tagged import Sentence, word_ids
from pyllm.evaluate.metrics import scores
from pyllm.evaluate.texts import by_length

Span = tuple[int, int, str]


def tag(model: Any, tokenizer: Any, sentences: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """The likeliest tag of each word of each sentence, by its first token; None beyond the model's context."""
    given = [word_ids(tokenizer, words, model.context_length) for words in sentences]
    names, found = model.config.id2label, list[list[str | None]]()
    for words, (_, firsts), logits in zip(sentences, given, by_length(model, [ids for ids, _ in given]), strict=True):
        said: list[str | None] = [names[int(i)] for i in logits[firsts].argmax(axis=-1)]
        found.append(said + [None] * (len(words) - len(said)))
    return found


def spans(tags: Sequence[str | None]) -> set[Span]:
    """(first word, one past the last, kind) of chunks in IOB2, as CoNLL's evaluation reads them: I- without a chunk of
    its kind before it begins one. Tjong Kim Sang, De Meulder 2003, W03-0419.
    """
    found, begin, kind = set[Span](), 0, ""
    for i, each in enumerate([*tags, None]):
        mark, _, name = (each or "O").partition("-")
        if kind and not (mark == "I" and name == kind):
            found.add((begin, i, kind))
            kind = ""
        if mark in ("B", "I") and name and not kind:
            begin, kind = i, name
    return found


def measure(model: Any, tokenizer: Any, sentences: Sequence[Sentence]) -> dict[str, Any]:
    """{"sentences", "words", "accuracy"}, and of tags such as B-PER "precision", "recall" and "f1" of whole chunks,
    else "f1" of words, the mean of all tags. Words beyond the context count as wrong.
    """
    said = tag(model, tokenizer, [sentence.words for sentence in sentences])
    wanted = [list(sentence.tags or ()) for sentence in sentences]
    flat = [(w, s) for row, other in zip(wanted, said, strict=True) for w, s in zip(row, other, strict=True)]
    found: dict[str, Any] = {"sentences": len(sentences), "words": len(flat)}
    found["accuracy"] = float(np.mean([w == s for w, s in flat]))
    if any(w.startswith(("B-", "I-")) for w, _ in flat):
        right = said_ = there = 0
        for row, other in zip(wanted, said, strict=True):
            mine, theirs = spans(other), spans(row)
            right, said_, there = right + len(mine & theirs), said_ + len(mine), there + len(theirs)
        found["precision"] = right / said_ if said_ else 0.0
        found["recall"] = right / there if there else 0.0
        found["f1"] = 2 * right / (said_ + there) if said_ + there else 0.0
    else:
        numbers = {name: i for i, name in enumerate(sorted({str(each) for pair in flat for each in pair}))}
        both = np.array([[numbers[str(each)] for each in pair] for pair in flat])
        found |= scores(both[:, 0], both[:, 1], ("f1",))
    return found


def told(found: dict[str, Any]) -> str:
    """The scores as a line."""
    names = [name for name in ("accuracy", "precision", "recall", "f1") if name in found]
    line = ", ".join(f"{name} {found[name]:.4f}" for name in names)
    return f"{line} of {found['words']:,} words in {found['sentences']:,} sentences"
