"""SST-2's phrases as an experiment may use them: grouped by the sentence that they were cut from, and general English.

The shipped files are together GLUE's training set: 67,349 phrases cut from 6,900 sentences, so that most phrases of one
file occur inside a phrase of the other. Here whole sentences are held out, and every phrase inside one of them is left
out of what is learned.
"""

from __future__ import annotations

import gzip
import lzma
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

FILES = ("SST-2.train.tsv.gz", "SST-2.dev.tsv.gz")
GENERAL = ("brown", "anarchist_faq", "austen_all", "wordnet_glosses")
SHORTEST = 5  # words of a held-out sentence
HELD_OUT = 1000


class Data(NamedTuple):
    """Texts with labels 0 and 1: sentences to learn from, all phrases to learn from, sentences to judge by."""

    sentences: list[tuple[str, int]]
    phrases: list[tuple[str, int]]
    test: list[tuple[str, int]]


def read(folder: Path) -> list[tuple[str, int]]:
    """Every phrase once, with its label; the 0.1 % that have both labels are left out."""
    found: dict[str, set[int]] = {}
    for name in FILES:
        with gzip.open(folder / name, "rt", encoding="utf-8") as file:
            next(file)
            for line in file:
                text, _, label = line.rstrip("\n").rpartition("\t")
                found.setdefault(" ".join(text.split()), set()).add(int(label))
    return [(text, labels.pop()) for text, labels in found.items() if text and len(labels) == 1]


def spans(text: str) -> set[str]:
    """Every run of words in a text."""
    words = text.split()
    return {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}


def split(rows: list[tuple[str, int]], held_out: int = HELD_OUT) -> Data:
    """Sentences are the phrases that lie in no other; the same ones are held out always."""
    covered: set[str] = set()
    sentences = []
    for text, label in sorted(rows, key=lambda row: (-len(row[0].split()), row[0])):
        if text not in covered:
            sentences.append((text, label))
            covered |= spans(text)
    long = [row for row in sentences if len(row[0].split()) >= SHORTEST]
    chosen = np.random.default_rng(0).permutation(len(long))[:held_out]
    test = [long[i] for i in chosen]
    hidden = set().union(*(spans(text) for text, _ in test))
    return Data([row for row in long if row[0] not in hidden], [row for row in rows if row[0] not in hidden], test)


def plain(text: str) -> str:
    """English as SST-2 writes it: lower case, marks and endings apart."""
    text = text.lower().replace("``", '"').replace("''", '"')
    text = re.sub(r"\bcannot\b", "can not", text)
    text = re.sub(r"(\w)n't\b", r"\1 n't", text)
    text = re.sub(r"(\w)'(s|re|ve|d|ll|m)\b", r"\1 '\2", text)
    text = re.sub(r"(\.\.\.|--|[,.!?;:()\[\]\"_*])", r" \1 ", text)
    return " ".join(re.sub(r"(?<=\d) ([.,:]) (?=\d)", r"\1", text).split())


def general(folder: Path, out: Path) -> list[Path]:
    """Files of general English below `out`, documents between blank lines."""
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for name in GENERAL:
        with lzma.open(folder / f"english.{name}.txt.xz", "rt", encoding="utf-8", errors="replace") as file:
            text = file.read()
        parts, joined = (text.splitlines(), "\n") if name == "wordnet_glosses" else (text.split("\n\n"), "\n")
        size = 1 if name == "brown" else 20
        documents = [plain(joined.join(parts[i : i + size])) for i in range(0, len(parts), size)]
        path = out / f"{name}.txt"
        path.write_text("\n\n".join(each for each in documents if each), encoding="utf-8")
        found.append(path)
    return found
