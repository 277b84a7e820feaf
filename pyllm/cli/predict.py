"""Predict a column of new rows with a net that `pyllm fit` has written, or classes of texts with a text classifier,
or tags of words with a tagger."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from pyllm.cli import classify, options, output, tag
from pyllm.errors import ModelFileError, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm predict FOLDER DATA.csv [-o OUT.csv] [--json]`, `pyllm predict FOLDER TEXT...`."""
    parser.add_argument("run", metavar="FOLDER", help="of `pyllm fit` or `pyllm finetune --task classify|tag`")
    data = "the same columns; others are left alone. Of a text classifier: texts, or files (csv, tsv, jsonl, lines)"
    parser.add_argument("data", nargs="+", metavar="DATA", help=data)
    parser.add_argument("--text", metavar="NAME", help="column or field of the text")
    parser.add_argument("-o", "--output", metavar="FILE", help="CSV file to write (standard output)")
    options.add_threads(parser)
    options.add_overwrite(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print or write a row for each row: the prediction, and of classes the probability."""
    from pyllm.auto.classifiers import head_of, is_classifier

    if is_classifier(args.run):
        return classify.predict(args)
    if head_of(args.run) == "ForTokenClassification":
        return tag.predict(args)
    if os.path.isfile(os.path.join(args.run, "config.json")):
        allowed = "of `pyllm fit` or `pyllm finetune --task classify|tag`"
        raise ModelFileError(args.run, "", None, "a model without classes or tags", allowed)
    if len(args.data) != 1:
        raise options.UsageError(f"{len(args.data)} files; one, as the net of a table takes them")
    from pyllm import _core
    from pyllm.formats.csv_file import CsvFile
    from pyllm.train.table_files import open_table

    if args.threads:
        _core.set_threads(args.threads)
    table = open_table(args.run)
    parts = Parts(table.predict_parts(CsvFile(args.data[0])))
    header = [table.target.name, "probability"] if table.target.classes else [table.target.name]
    facts = {"target": table.target.name, "task": table.target.task}
    if args.output is not None:
        save(args.output, args.overwrite, header, parts)
        text = f"{printable(args.output)}: {parts.count:,} predictions of '{printable(table.target.name)}'"
        output.facts(args, {"path": args.output, **facts, **parts.facts()}, text)
    elif args.json:
        rows = [row for part in parts for row in part]
        named = zip(("predictions", "probabilities"), zip(*rows, strict=True) if rows else ([], []), strict=False)
        print(json.dumps({**facts, **parts.facts(), **dict(named)}, ensure_ascii=False, allow_nan=False))
    else:
        sys.stdout.write(written([header]))
        for part in parts:
            sys.stdout.write(written(part))
    for name, count in parts.unknown.items():
        output.note(f"{printable(name)}: {count:,} unknown words, which count as no word")
    for name, count in parts.missing.items():
        output.note(f"{printable(name)}: {count:,} missing")
    return 0


class Parts:
    """Rows (prediction, probability of a class) some at a time; counts the rows, missing and unknown fields in them."""

    def __init__(self, parts: Iterator[Any]) -> None:
        self._parts = parts
        self.count = 0
        self.missing: dict[str, int] = {}
        self.unknown: dict[str, int] = {}

    def __iter__(self) -> Iterator[list[tuple[Any, ...]]]:
        for part in self._parts:
            rows = part.rows()
            self.count += len(rows)
            for counts, more in ((self.missing, part.missing), (self.unknown, part.unknown)):
                for name, count in more.items():
                    counts[name] = counts.get(name, 0) + count
            yield rows

    def facts(self) -> dict[str, Any]:
        """What has come by so far."""
        return {"rows": self.count, "missing": self.missing, "unknown": self.unknown}


def written(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def save(path: str, overwrite: bool, header: list[str], parts: Parts) -> None:
    """Write a CSV file, whole or not at all. Raises ModelFileError."""
    from pyllm.formats.writing import Staging, check_target

    with Staging(check_target(path, overwrite)) as staging, staging.create(os.path.basename(path)) as file:
        file.write(written([header]).encode())
        for part in parts:
            file.write(written(part).encode())
