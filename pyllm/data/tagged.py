"""Words with a tag each, from CoNLL's columns and jsonl files, as samples that are functions of the position."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm.data.fingerprint import as_array
from pyllm.data.lexicon import Ids, surroundings
from pyllm.data.packed import IGNORED, Batch, shuffled
from pyllm.data.readers import json_lines, lines
from pyllm.data.sources import Source, find
from pyllm.errors import DataError, printable

TOKEN_NAMES = ("tokens", "words")
TAG_NAMES = ("tags", "ner_tags", "pos_tags", "labels")


class Sentence(NamedTuple):
    """Words and their tags, as many of them; tags may be None for words that are only read."""

    words: list[str]
    tags: list[str] | None


def read_tagged(path: str | os.PathLike[str]) -> list[Sentence]:
    """The sentences of a file, also packed: jsonl objects {"tokens": [...], "tags": [...]}, else a word on each line,
    columns apart by tabs or spaces, the tag the last of them, an empty line between sentences.

    Lines that begin with -DOCSTART- or with # and a space count as empty. Raises DataError naming file and line.
    """
    (source,) = find([path])[:1]
    found = _objects(source) if source.kind == "jsonl" else _columns(source)
    if not found:
        raise DataError(source.path, "", None, "holds no sentence", "words with tags")
    return found


def _columns(source: Source) -> list[Sentence]:
    found, words, tags = list[Sentence](), list[str](), list[str]()
    for line, offset, text in lines(source):
        fields = text.split("\t") if "\t" in text else text.split()
        if not text.strip() or text.startswith(("-DOCSTART-", "# ")):
            if words:
                found.append(Sentence(words, tags))
            words, tags = [], []
            continue
        word, tag = fields[0].strip(), fields[-1].strip()
        if len(fields) < 2 or not word or not tag:
            raise DataError(source.path, f"line {line}", offset, printable(text, 60), "a word and its tag")
        words.append(word)
        tags.append(tag)
    return [*found, Sentence(words, tags)] if words else found


def _objects(source: Source) -> list[Sentence]:
    found = []
    for line, offset, value in json_lines(source):
        names = value if isinstance(value, dict) else {}
        words, tags = ([names[n] for n in usual if n in names][:1] for usual in (TOKEN_NAMES, TAG_NAMES))
        sentence = _sentence(*words, *tags) if words and tags else None
        if sentence is None:
            allowed = "an object with the lists tokens and tags, as long as each other"
            raise DataError(source.path, f"line {line}", offset, printable(repr(value), 60), allowed)
        found.append(sentence)
    return found


def _sentence(words: Any, tags: Any) -> Sentence | None:
    """Lists of words and of tags, which are texts or whole numbers; None for others."""
    if not (isinstance(words, list) and isinstance(tags, list) and len(words) == len(tags) > 0):
        return None
    wrong = [word for word in words if not isinstance(word, str) or not word.strip()]
    wrong += [tag for tag in tags if isinstance(tag, bool) or not isinstance(tag, str | int) or tag == ""]
    return None if wrong else Sentence(list(words), [str(tag) for tag in tags])


def tag_numbers(sentences: Sequence[Sentence], known: Sequence[str] | None = None) -> dict[str, int]:
    """The number of each tag: by letters, O first; of `known` ones in their order.

    Raises DataError for tags that are not known, and where there are fewer than two.
    """
    met = {tag for sentence in sentences for tag in sentence.tags or ()}
    if known is None:
        known = sorted(met, key=lambda tag: (tag != "O", tag))
        if len(known) < 2:
            raise DataError("tags", "", None, f"{', '.join(known) or 'none'}", "two or more")
    unknown = sorted(met - set(known))
    if unknown:
        raise DataError("tags", "", None, f"{', '.join(unknown)} not met in training", ", ".join(known))
    return {tag: i for i, tag in enumerate(known)}


def word_ids(tokenizer: Any, words: Sequence[str], longest: int) -> tuple[Ids, NDArray[np.int64]]:
    """(ids with what stands around a text, the place of each word's first token), of as many words as fit.

    A word is encoded as it stands in running text, behind a space unless it is the first.
    """
    before, after = surroundings(tokenizer)
    parts, firsts, length = [before], list[int](), len(before)
    for i, word in enumerate(words):
        ids = as_array(tokenizer.coder, f" {word}" if i else word)
        if not len(ids) or length + len(ids) + len(after) > longest:
            break
        firsts.append(length)
        parts.append(ids)
        length += len(ids)
    return np.concatenate([*parts, after]).astype(np.int32), np.array(firsts, np.int64)


class Tagged:
    """Sentences in an order by position, another in each epoch: targets are the tags' numbers at the first token of
    each word, else -100. What is beyond `longest` tokens is cut; cut counts the words. Raises DataError for no word.
    """

    def __init__(
        self, sentences: Sequence[Sentence], tokenizer: Any, numbers: dict[str, int], longest: int, seed: int = 0
    ) -> None:
        self.seed, self.cut = seed, 0
        self.rows: list[tuple[Ids, Ids]] = []
        for sentence in sentences:
            ids, firsts = word_ids(tokenizer, sentence.words, longest)
            targets = np.full(len(ids), IGNORED, np.int32)
            targets[firsts] = [numbers[tag] for tag in (sentence.tags or ())[: len(firsts)]]
            self.cut += len(sentence.words) - len(firsts)
            if len(firsts):
                self.rows.append((ids, targets))
        if not self.rows:
            raise DataError("tagged", "", None, "no sentence has a word that fits", "one at least")

    @property
    def identity(self) -> str:
        """sha256 of all sentences."""
        digest = sha256()
        for ids, targets in self.rows:
            digest.update(len(ids).to_bytes(8, "little") + ids.tobytes() + targets.tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, position: int, size: int) -> Batch:
        """Sentences at positions position to position + size - 1, end to end."""
        found = [self.rows[i] for i in shuffled(position, size, len(self), self.seed).tolist()]
        starts = np.cumsum([0, *(len(ids) for ids, _ in found)]).astype(np.int32)
        return Batch(np.concatenate([ids for ids, _ in found]), np.concatenate([each for _, each in found]), starts)
