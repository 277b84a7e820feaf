"""Public collections as the commands of RESULTS.md take them.

corpora.py brown  english.brown.txt.xz OUT    800,000 words, the next 200,000, the rest: as Bengio et al. 2003
corpora.py cmudict DICTIONARY OUT             letters TAB phonemes; a twentieth of the words to judge by, one to test
corpora.py t0     FOLDER OUT                  prompts and answers as chats; those of 1,000 characters at most
corpora.py sst    FOLDER OUT                  texts and labels, divided by sentences (benchmarks/sst.py)
corpora.py mix    FOLDER OUT                  SST-2, CoLA and Multi30k as pairs of texts, each with its task before it
corpora.py english FOLDER OUT                 the English files as SST-2 writes English

DICTIONARY is CMU's, a word and its phonemes a line, as PyPI's pocketsphinx 5.1.1 has it; t0's FOLDER holds nothing but
jsonl files of {"prompt", "completion"}, one for a template; those of the others hold SST-2, CoLA, Multi30k and English
texts under the names below. What falls where depends on the texts alone.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import lzma
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import sst

BROWN = 800_000, 1_000_000  # words before validation, before the test
LONGEST = 1000  # characters of a prompt with its answer
TESTED = 500  # chats
VALIDATED = 1000  # sentences of SST-2
NAMES, ROLES = ("negative", "positive"), ("user", "assistant")
COLA_TIMES, PAIRS_TIMES = 2, 3  # how often a pass goes over them: translating is what takes longest to learn


def brown(source: Path, out: Path) -> None:
    """train.txt, valid.txt, test.txt, cut between two sentences; `` and '' become ", one token as they were."""
    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    words = 0
    with lzma.open(source, "rt", encoding="utf-8") as file:
        for line in file:
            name = "train" if words < BROWN[0] else "valid" if words < BROWN[1] else "test"
            parts[name].append(re.sub("``|''", '"', line))
            words += len(line.split())
    for name, lines in parts.items():
        (out / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {sum(len(line.split()) for line in lines):,} words")


def pronunciations(dictionary: Path) -> dict[str, list[str]]:
    """Each word of letters and apostrophes with all of its pronunciations, `AH B AW T`."""
    found: dict[str, list[str]] = {}
    for line in dictionary.read_text(encoding="utf-8").splitlines():
        word, _, phonemes = line.partition(" ")
        word = re.sub(r"\(\d+\)$", "", word)
        if re.fullmatch(r"[a-z']+", word):
            found.setdefault(word, []).append(" ".join(phonemes.split()))
    return found


def cmudict(source: Path, out: Path) -> None:
    """train.tsv, valid.tsv, test.tsv: no word stands in two of them, whatever its pronunciations."""
    known = pronunciations(source)
    ordered = sorted(known)
    words = [ordered[i] for i in np.random.default_rng(0).permutation(len(known))]
    each = len(words) // 20
    for name, chosen in (("test", words[:each]), ("valid", words[each : 2 * each]), ("train", words[2 * each :])):
        rows = [f"{' '.join(word)}\t{said}" for word in chosen for said in known[word]]
        (out / f"{name}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        print(f"{name}: {len(chosen):,} words, {len(rows):,} pronunciations")


def t0(source: Path, out: Path) -> None:
    """train.jsonl, test.jsonl: the messages of a chat a line, of all templates, in any order."""
    rows = []
    for path in sorted(source.rglob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            said = record["prompt"].strip(), record["completion"].removesuffix("<|endoftext|>").strip()
            if all(said) and len("".join(said)) <= LONGEST:
                rows.append([{"role": role, "content": text} for role, text in zip(ROLES, said, strict=True)])
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    for name, chosen in (("test", rows[:TESTED]), ("train", rows[TESTED:])):
        write(out / f"{name}.jsonl", ({"messages": each} for each in chosen))
        print(f"{name}: {len(chosen):,} chats")


def sentiment(source: Path, out: Path) -> None:
    """train.csv of phrases, test.csv of whole sentences no phrase of which is learned; to choose settings by, train.csv
    in two that are as far apart: learn.csv and valid.csv."""
    known = sst.split(sst.read(source))
    inner = sst.split(known.phrases, VALIDATED)
    parts = {"train": known.phrases, "test": known.test, "learn": inner.phrases, "valid": inner.test}
    for name, rows in parts.items():
        with (out / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *((text, NAMES[label]) for text, label in rows)])
        print(f"{name}: {len(rows):,} texts")


def mix(source: Path, out: Path) -> None:
    """train.tsv in any order, sst2.tsv, cola.tsv and en-de.tsv to judge by; an eighth of CoLA is held out."""
    known, random = sst.split(sst.read(source)), np.random.default_rng(0)
    with gzip.open(source / "cola.in_domain_train.tsv.gz", "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    cola = [(f"cola: {row[3]}", ("unacceptable", "acceptable")[int(row[1])]) for row in rows if len(row) == 4]
    cola = [cola[i] for i in random.permutation(len(cola))]
    each = len(cola) // 8
    judged = {"sst2": _told(known.test), "cola": cola[:each], "en-de": _pairs(source, "val")}
    train = [*_told(known.phrases), *cola[each:] * COLA_TIMES, *_pairs(source, "train") * PAIRS_TIMES]
    for name, pairs in {"train": [train[i] for i in random.permutation(len(train))], **judged}.items():
        (out / f"{name}.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
        print(f"{name}: {len(pairs):,} pairs")


def _told(rows: list[tuple[str, int]]) -> list[tuple[str, str]]:
    return [(f"sst2: {text}", NAMES[label]) for text, label in rows]


def _pairs(source: Path, name: str) -> list[tuple[str, str]]:
    sides = []
    for language in ("en", "de"):
        with gzip.open(source / f"m30k.{name}.{language}.gz", "rt", encoding="utf-8") as file:
            sides.append([" ".join(line.split()) for line in file])
    return [(f"english to german: {a}", b) for a, b in zip(*sides, strict=True) if a and b]


def english(source: Path, out: Path) -> None:
    """A file for each, documents between blank lines."""
    for path in sst.general(source, out):
        print(f"{path.name}: {path.stat().st_size:,} bytes")


def write(path: Path, records: Iterable[object]) -> None:
    """One record a line."""
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records), encoding="utf-8")


KINDS = {"brown": brown, "cmudict": cmudict, "t0": t0, "sst": sentiment, "mix": mix, "english": english}


def main() -> None:
    """Read what was named, write the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(KINDS))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    KINDS[args.what](args.source, args.out)


if __name__ == "__main__":
    main()
