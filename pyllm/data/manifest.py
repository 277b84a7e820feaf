"""manifest.json of a folder of shards: what it says, and whether it can be believed."""

from __future__ import annotations

import json
import os
import re
from typing import Any, NamedTuple

from pyllm.errors import DataError, ModelFileError, printable
from pyllm.formats.json_file import load_json

NAME = "manifest.json"
TOKENIZER = "tokenizer"  # folder of the tokenizer's files
FORMAT, VERSION = "pyllm-shards", 1
SPLITS = ("train", "valid")
DTYPES = {"uint16": 2, "uint32": 4}
LIMIT = 64 << 20  # bytes of a manifest: about 200,000 shards
MOST = 1 << 48  # tokens or documents
FILES = re.compile(r"(train|valid)-\d{5,}\.(bin|idx)")
_SHA = re.compile("[0-9a-f]{64}")


class Shard(NamedTuple):
    """One pair of files: FILE.bin holds tokens, FILE.idx where documents start among them (uint64)."""

    file: str
    tokens: int
    documents: int
    sha256: str
    starts_sha256: str
    split: str

    @property
    def starts_file(self) -> str:
        """The name of the file of document starts."""
        return self.file.removesuffix(".bin") + ".idx"


class Manifest(NamedTuple):
    """The checked fields. `report` says how the shards came about and is not interpreted."""

    path: str
    dtype: str
    tokenizer: str
    vocabulary: int
    eos: int | None
    shards: tuple[Shard, ...]
    report: dict[str, Any]

    def written(self) -> bytes:
        """The text of the file; equal manifests give equal bytes."""
        rows = [{name: getattr(shard, name) for name in Shard._fields} for shard in self.shards]
        fields = {"format": FORMAT, "version": VERSION, "dtype": self.dtype, "tokenizer": self.tokenizer,
                  "vocabulary": self.vocabulary, "eos": self.eos, "shards": rows, "report": self.report}  # fmt: skip
        return (json.dumps(fields, ensure_ascii=False, indent=1) + "\n").encode()


def dtype_for(vocabulary: int) -> str:
    """The smallest type that holds every id."""
    return "uint16" if vocabulary <= 1 << 16 else "uint32"


def read(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of a folder. Raises DataError when it is missing, foreign, of another version or contradictory."""
    path = os.path.join(os.fspath(folder), NAME)
    if not os.path.isdir(folder):
        raise DataError(folder, "", None, "is not a folder", "one that `pyllm data prepare` has written")
    try:
        value = load_json(path, LIMIT)
    except ModelFileError as error:
        raise DataError(error.file, error.field, error.offset, error.found, error.allowed) from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else type(value).__name__
        raise DataError(path, "'format'", None, printable(repr(found)), repr(FORMAT))
    if value.get("version") != VERSION or isinstance(value["version"], bool):
        raise DataError(path, "'version'", None, printable(repr(value.get("version"))), f"{VERSION} is known")
    return _checked(path, value)


def _checked(path: str, value: dict[str, Any]) -> Manifest:
    dtype = value.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise DataError(path, "'dtype'", None, printable(repr(dtype)), " or ".join(DTYPES))
    vocabulary = _whole(path, value, "vocabulary", 1, 1 << 31)
    if vocabulary > 1 << 8 * DTYPES[dtype]:
        raise DataError(path, "'vocabulary'", None, f"{vocabulary:,}", f"at most {1 << 8 * DTYPES[dtype]:,}: {dtype}")
    eos = None if value.get("eos") is None else _whole(path, value, "eos", 0, vocabulary - 1)
    tokenizer = _matching(path, value, "tokenizer", _SHA, "sha256, 64 hexadecimal digits")
    rows = value.get("shards")
    if not isinstance(rows, list) or not rows:
        raise DataError(path, "'shards'", None, f"{type(rows).__name__}", "a list of at least one")
    shards = tuple(_shard(path, row, f"shards[{i}].") for i, row in enumerate(rows))
    names = [shard.file for shard in shards]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice:
        raise DataError(path, "'shards'", None, f"{twice} stands twice", "each file once")
    report = value.get("report")
    return Manifest(path, dtype, tokenizer, vocabulary, eos, shards, report if isinstance(report, dict) else {})


def _shard(path: str, row: Any, place: str) -> Shard:
    if not isinstance(row, dict):
        raise DataError(path, f"'{place[:-1]}'", None, type(row).__name__, "an object")
    file = _matching(path, row, "file", FILES, "a name like train-00000.bin", place)
    split = row.get("split")
    if split not in SPLITS or not file.startswith(f"{split}-") or not file.endswith(".bin"):
        raise DataError(path, f"'{place}split'", None, f"{printable(repr(split))} of {file}", "what the name says")
    tokens = _whole(path, row, "tokens", 1, MOST, place)
    documents = _whole(path, row, "documents", 1, tokens, place)
    sums = [_matching(path, row, name, _SHA, "64 hexadecimal digits", place) for name in ("sha256", "starts_sha256")]
    return Shard(file, tokens, documents, sums[0], sums[1], split)


def _whole(path: str, value: dict[str, Any], name: str, low: int, high: int, place: str = "") -> int:
    found = value.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or not low <= found <= high:
        raise DataError(path, f"'{place}{name}'", None, printable(repr(found)), f"a whole number, {low} to {high:,}")
    return found


def _matching(
    path: str, value: dict[str, Any], name: str, pattern: re.Pattern[str], allowed: str, place: str = ""
) -> str:
    found = value.get(name)
    if not isinstance(found, str) or not pattern.fullmatch(found):
        raise DataError(path, f"'{place}{name}'", None, printable(repr(found)), allowed)
    return found
