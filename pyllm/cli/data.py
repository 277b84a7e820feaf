"""Text for training: `prepare` turns it into shards of tokens, `info` describes shards.

Text is txt, jsonl or parquet, each also .gz, .xz or .zst; a folder stands for such files in it. A txt file is cut at
paragraphs into documents of at most 16,384 bytes; with --separator, a document is what stands between two of them.
"""

from __future__ import annotations

import argparse
import codecs
from typing import Any

from pyllm.cli import options, output
from pyllm.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm data prepare TEXT... --tokenizer TOK -o SHARDS [...]`, `pyllm data info SHARDS [--tokenizer TOK]`."""
    add = parser.add_argument
    add("what", choices=("prepare", "info"), help="what to do")
    add("paths", nargs="+", metavar="PATH", help="prepare: files and folders of text; info: a folder of shards")
    add("--tokenizer", metavar="TOK", help="name, GGUF file or folder (info: to show samples)")
    add("-o", "--output", metavar="SHARDS", help="folder to write")
    add("--valid", type=options.real(0.0, 0.999), default=0.01, metavar="X", help="share for validation (0.01)")
    add("-s", "--seed", type=options.whole(0, 2**63 - 1), default=0, metavar="N", help="of the split (0)")
    add("--text-field", default="text", metavar="NAME", help="field of jsonl, column of parquet (text)")
    add("--separator", type=unescaped, metavar="TEXT", help="between documents of a txt file; `blank`: blank lines")
    add("--shard-tokens", type=options.whole(1, 2**40), default=100_000_000, metavar="N", help="per file (100000000)")
    add("--skip-bad-records", action="store_true", help="count records that are no text instead of stopping")
    rules = parser.add_argument_group("rules", "which documents are left out, besides empty ones and duplicates")
    add = rules.add_argument
    add("--min-chars", type=options.whole(0), default=1, metavar="N", help="shortest document (1)")
    add("--max-chars", type=options.whole(1), default=10_000_000, metavar="N", help="longest document (10000000)")
    add("--max-bad", type=options.real(0.0, 1.0), default=0.01, metavar="X", help="share that is no UTF-8 (0.01)")
    add("--max-repeated", type=options.real(0.0, 1.0), default=0.5, metavar="X", help="share in repeated lines (0.5)")
    add("--max-symbols", type=options.real(0.0, 1.0), default=0.5, metavar="X", help="no letter, digit, space (0.5)")
    add("--nfc", action="store_true", help="compose letters and accents (Unicode NFC)")
    options.add_overwrite(parser)
    options.add_json(parser)


def unescaped(text: str) -> str:
    """A separator as typed: `\\n` and its like stand for what they mean."""
    try:
        found = codecs.decode(text.encode("latin-1", "backslashreplace"), "unicode_escape")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{printable(text)!r}: {error}") from None
    if not found:
        raise argparse.ArgumentTypeError("an empty text divides nothing")
    return found


def prepare(args: argparse.Namespace) -> int:
    """Write the shards; says what became of the documents."""
    if args.tokenizer is None or args.output is None:
        raise options.UsageError("prepare needs --tokenizer and -o")
    from pyllm import data

    names = ("valid", "seed", "text_field", "separator", "skip_bad_records", "shard_tokens", "overwrite", "nfc")
    given = {name: getattr(args, name) for name in (*names, *("min_chars", "max_chars"))}
    shares = {name: getattr(args, name) for name in ("max_bad", "max_repeated", "max_symbols")}
    with output.Bar("text", ("reading", "read")) as bar:
        found = data.prepare(args.paths, args.tokenizer, args.output, report=bar.show, **given, **shares)
    return output.facts(args, {"output": args.output, **found}, counts(found, args.valid))


def counts(found: dict[str, Any], valid: float) -> str:
    """What became of the documents, as lines; `valid` is the share that was asked for."""
    rows = [("files", f"{found['files']:,}"), ("documents", f"{found['documents']:,}")]
    rows += [(f"  {rule.replace('_', ' ')}", f"{count:,}") for rule, count in found["dropped"].items() if count]
    rows += [("kept", f"{found['kept']:,}"), ("characters", f"{found['characters']:,}")]
    repaired = found["repaired"]
    if repaired["documents"]:
        what = f"{repaired['not_utf8']:,} places no UTF-8, {repaired['controls']:,} control characters"
        rows.append(("repaired", f"{repaired['documents']:,} documents: {what}"))
    for split, row in found["splits"].items():
        rows.append((split, f"{row['tokens']:,} tokens, {row['documents']:,} documents, {row['shards']:,} shards"))
    rows.append(("seconds", f"{found['seconds']:.1f}"))
    if valid and not found["splits"]["valid"]["documents"]:
        rows.append(("hint", "no document fell to validation: more text, or a larger --valid"))
    return output.table(rows)


def info(args: argparse.Namespace) -> int:
    """Print the manifest's facts, how the shards came about, and a few samples."""
    from pyllm.data import manifest

    if len(args.paths) != 1:
        raise options.UsageError("info describes one folder")
    facts = manifest.read(args.paths[0])
    shards = [shard._asdict() for shard in facts.shards]
    found: dict[str, Any] = {"folder": args.paths[0], "dtype": facts.dtype, "vocabulary": facts.vocabulary,
                             "eos": facts.eos, "tokenizer": facts.tokenizer, "shards": shards,
                             "report": facts.report, "samples": samples(args)}  # fmt: skip
    rows = [("tokenizer", f"{facts.tokenizer[:16]}..., {facts.vocabulary:,} tokens, end of text: {facts.eos}")]
    rows += [(s.file, f"{s.tokens:,} tokens, {s.documents:,} documents, {facts.dtype}") for s in facts.shards]
    rows += [(f"{each['split']} {each['document']:,}", printable(each["text"], 80)) for each in found["samples"]]
    return output.facts(args, found, output.table(rows))


def samples(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The beginnings of the first, the middle and the last document of each split, where a tokenizer is given."""
    if args.tokenizer is None:
        return []
    from pyllm import data
    from pyllm.data import manifest
    from pyllm.data.fingerprint import open_tokenizer

    tokenizer, found = open_tokenizer(args.tokenizer), []
    for split in sorted({shard.split for shard in manifest.read(args.paths[0]).shards}):
        with data.Shards(args.paths[0], split, tokenizer=tokenizer) as shards:
            for number in sorted({0, len(shards) // 2, len(shards) - 1}):
                ids = shards.document(number)
                text = tokenizer.decode(ids[:64], skip_special_tokens=True)
                found.append({"split": split, "document": number, "tokens": len(ids), "text": text})
    return found


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    return prepare(args) if args.what == "prepare" else info(args)
