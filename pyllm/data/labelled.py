"""Texts with labels, from tables and jsonl files, as samples that are functions of the position."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm.data.draws import Draws
from pyllm.data.fingerprint import as_array
from pyllm.data.lexicon import Lexicon, surroundings
from pyllm.data.objectives import MaskedLM
from pyllm.data.packed import IGNORED, Batch, shuffled
from pyllm.data.readers import json_lines
from pyllm.data.sources import find
from pyllm.errors import DataError, printable
from pyllm.formats.csv_file import CsvFile, listed

TEXT_NAMES = ("text", "sentence", "review", "content", "document", "body")
LABEL_NAMES = ("label", "class", "target", "category", "sentiment", "labels")
TABLES = (".csv", ".tsv")

Ids = NDArray[np.int32]
Label = str | tuple[str, ...] | None  # a class or a number, several classes, none


class Texts(NamedTuple):
    """What a file holds: texts, and the label of each, None where it has none."""

    texts: list[str]
    labels: Sequence[Label]


def read_texts(path: str | os.PathLike[str], text: str | None = None, label: str | None = None) -> Texts:
    """The texts of a csv, tsv or jsonl file (also packed), each with its label; of any other file each line is a text.

    text, label: names of the columns or fields; None: the first of TEXT_NAMES and LABEL_NAMES that is there. An empty
    or missing label is none. Labels of jsonl are text, numbers or lists of texts. Raises DataError naming file and
    line, ModelFileError for a bad table.
    """
    name = os.fspath(path)
    if name.lower().endswith(TABLES):
        return _from_table(CsvFile(name), text, label)
    (source,) = find([name])[:1]
    if source.kind == "jsonl":
        return _from_objects(name, source, text, label)
    lines = _lines(name)
    if not lines:
        raise DataError(name, "", None, "holds no text", "a text in each line")
    return Texts(lines, [None] * len(lines))


def _lines(name: str) -> list[str]:
    try:
        with open(name, encoding="utf-8") as file:
            return file.read().splitlines()
    except UnicodeDecodeError as error:
        raise DataError(name, "", error.start, "is not UTF-8", "text in UTF-8, a text in each line") from None
    except OSError as error:
        raise DataError(name, "", None, f"cannot be read: {error.strerror}") from None


def _from_table(file: CsvFile, text: str | None, label: str | None) -> Texts:
    where = file.column(_named(file.path, file.names, text, TEXT_NAMES, True))
    named = _named(file.path, file.names, label, LABEL_NAMES, label is not None)
    rows = [fields for _, fields in file.rows()]
    if not rows:
        file.refuse(None, "has no rows", "rows after the line of names")
    place = file.column(named) if named else -1
    return Texts([row[where] for row in rows], [(row[place] or None) if named else None for row in rows])


def _from_objects(name: str, source: Any, text: str | None, label: str | None) -> Texts:
    texts, labels, met = list[str](), list[Label](), dict[str, None]()
    for line, offset, value in json_lines(source):
        where = f"line {line}"
        if not isinstance(value, dict):
            raise DataError(name, where, offset, f"a {type(value).__name__}", "an object with a text and a label")
        names = [str(each) for each in value]
        met |= dict.fromkeys(names)
        content = value.get(_named(name, names, text, TEXT_NAMES, True))
        given = value.get(_named(name, names, label, LABEL_NAMES, False))
        if not isinstance(content, str):
            raise DataError(name, where, offset, f"its text is {printable(repr(content), 60)}", "text")
        parts = given if isinstance(given, list) else ["" if given is None else given]
        if any(isinstance(each, bool) or not isinstance(each, str | int | float) for each in parts):
            allowed = "text, a number or a list of texts"
            raise DataError(name, where, offset, f"its label is {printable(repr(given), 60)}", allowed)
        texts.append(content)
        several = tuple(str(each) for each in parts)
        labels.append(several if isinstance(given, list) else several[0] or None)
    if not texts:
        raise DataError(name, "", None, "holds no record", "an object in each line")
    _named(name, list(met), label, LABEL_NAMES, label is not None)
    return Texts(texts, labels)


def _named(path: str, names: Sequence[str], asked: str | None, usual: Sequence[str], needed: bool) -> str:
    """The column that was asked for, or a usual one; "" where none is needed. Raises DataError."""
    if asked is not None:
        if asked not in names and needed:
            raise DataError(path, "", None, f"no '{printable(asked, 60)}'", f"one of {listed(names)}")
        return asked if asked in names else ""
    found = next((name for name in usual if name in names), "")
    if not found and needed:
        raise DataError(path, "", None, f"no column of text among {listed(names)}", f"{', '.join(usual)}, or name it")
    return found


def numbered(labels: Sequence[str | None], classes: Sequence[str] | None = None) -> tuple[NDArray[np.int64], list[str]]:
    """(number of each label, -100 where there is none; the classes in order): numbers by size, words by letters.

    classes: those that a classifier knows. Raises DataError that names labels which are not among them, or where there
    are fewer than two.
    """
    found = {label for label in labels if label is not None}
    if classes is None:
        numeric = all(label.removeprefix("-").isdecimal() for label in found)
        classes = sorted(found, key=(lambda each: (int(each), each)) if numeric else None)
        if len(classes) < 2:
            what = f"one class only: {listed(classes)}" if classes else "no label"
            raise DataError("labels", "", None, what, "two classes or more")
    places = {label: i for i, label in enumerate(classes)}
    unknown = sorted(found - set(places))
    if unknown:
        raise DataError("labels", "", None, f"{listed(unknown)} not met in training", listed(list(classes)))
    return np.array([IGNORED if label is None else places[label] for label in labels], np.int64), list(classes)


def encoded(tokenizer: Any, texts: Sequence[str], framed: bool = False) -> list[Ids]:
    """Ids of texts, each after the token that ends texts (or begins them): an empty text is this token alone.

    framed: with what the tokenizer puts around texts instead.
    """
    begin = beginning(tokenizer)
    if framed:
        return [np.array(tokenizer.encode(text) or begin, np.int32) for text in texts]
    return [np.array(begin + list(tokenizer.encode(text, add_special_tokens=False)), np.int32) for text in texts]


def beginning(tokenizer: Any) -> list[int]:
    """The token before a text that is read from left to right: what begins texts, else what ends them."""
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return [0 if first is None else int(first)]


def surrounded(tokenizer: Any, texts: Sequence[str], longest: int) -> list[Ids]:
    """Ids of texts as encoders read them, with what stands around a text; of a longer one its beginning."""
    before, after = surroundings(tokenizer)
    room = longest - len(before) - len(after)
    if room < 1:
        raise DataError("texts", "length", None, f"{longest}", f"at least {longest - room + 1}")
    parts = ([before, as_array(tokenizer.coder, text)[:room], after] for text in texts)
    return [np.concatenate(part).astype(np.int32) for part in parts]


def known_rows(targets: NDArray[Any]) -> NDArray[np.int64]:
    """The numbers of texts that have a label: of targets as problems.targets_of gives them."""
    if targets.dtype.kind == "i":
        return np.flatnonzero(targets != IGNORED)
    return np.flatnonzero(~np.isnan(targets.reshape(len(targets), -1)).any(axis=1))


class Labelled:
    """Samples of texts and targets as problems.targets_of gives them, in an order by position, another in each epoch:
    (ids, targets, starts) of `batch`, as Trainer takes them for a classifier. Those without a label are left out.
    Raises DataError.
    """

    def __init__(self, texts: Sequence[Ids], targets: NDArray[Any], seed: int = 0) -> None:
        known = known_rows(targets)
        self.texts, self.targets, self.seed = [texts[i] for i in known.tolist()], targets[known], seed
        if not len(known):
            raise DataError("labelled", "", None, "no text has a label", "at least one")

    @property
    def identity(self) -> str:
        """sha256 of texts and targets, by which a run that is taken up again knows its data."""
        digest = sha256(self.targets.tobytes())
        for text in self.texts:
            digest.update(len(text).to_bytes(8, "little") + text.tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, position: int, size: int) -> Batch:
        """Samples at positions position to position + size - 1, end to end."""
        rows = shuffled(position, size, len(self), self.seed).tolist()
        return _batch([(self.texts[i], self.targets[i : i + 1]) for i in rows])


class Pieces:
    """The same texts for a language model: pieces of at most `length` tokens, targets the tokens that follow."""

    def __init__(self, texts: Sequence[Ids], length: int, seed: int = 0) -> None:
        ends = [(text, at) for text in texts for at in range(0, len(text) - 1, length)]
        self.pieces = [text[at : at + length + 1] for text, at in ends]
        self.length, self.seed = length, seed
        if not self.pieces:
            raise DataError("pieces", "", None, "no text has a token", "at least one")

    @property
    def identity(self) -> str:
        """sha256 of all pieces."""
        return _identity(self.pieces, self.length)

    def __len__(self) -> int:
        return len(self.pieces)

    def batch(self, position: int, size: int) -> Batch:
        """Pieces at positions position to position + size - 1, end to end."""
        found = [self.pieces[i] for i in shuffled(position, size, len(self), self.seed)]
        return _batch([(piece[:-1], piece[1:]) for piece in found])


class Hidden:
    """The same texts for an encoder: pieces of at most `length` tokens in which words are hidden, at each position
    others; see MaskedLM. Raises DataError.
    """

    def __init__(self, texts: Sequence[Ids], lexicon: Lexicon, length: int, seed: int = 0) -> None:
        self.objective, self.length, self.seed = MaskedLM(lexicon), length, seed
        inner, most = [lexicon.inner(text) for text in texts], length - self.objective.extra
        if most < 1:
            raise DataError("hidden", "length", None, f"{length}", f"at least {1 + self.objective.extra}")
        self.pieces = [text[at : at + most] for text in inner for at in range(0, len(text), most)]
        if not self.pieces:
            raise DataError("hidden", "", None, "no text has a token", "at least one")

    @property
    def identity(self) -> str:
        """sha256 of all pieces."""
        return _identity(self.pieces, self.length)

    def __len__(self) -> int:
        return len(self.pieces)

    def batch(self, position: int, size: int) -> Batch:
        """Pieces at positions position to position + size - 1, end to end, with what stands around a text."""
        places = shuffled(position, size, len(self), self.seed).tolist()
        draws = (Draws(self.seed, "mlm", position + i) for i in range(size))
        return _batch([self.objective.hidden([self.pieces[i]], each) for i, each in zip(places, draws, strict=True)])


def _identity(pieces: Sequence[Ids], length: int) -> str:
    digest = sha256(str(length).encode())
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little") + piece.tobytes())
    return digest.hexdigest()


def _batch(rows: list[tuple[Ids, NDArray[Any]]]) -> Batch:
    starts = np.cumsum([0, *(len(ids) for ids, _ in rows)]).astype(np.int32)
    return Batch(np.concatenate([ids for ids, _ in rows]), np.concatenate([each for _, each in rows]), starts)
