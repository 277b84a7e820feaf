"""Turn texts into vectors: their cosine similarities, or the vectors themselves with -o or --json."""

from __future__ import annotations

import argparse
from typing import Any

from pyllm.cli import options, output, running
from pyllm.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm embed MODEL (TEXT... | -f FILE) [-o FILE.npy] [--pooling mean|last] [--json]`."""
    parser.add_argument("model", metavar="MODEL", help="name, GGUF file or folder")
    parser.add_argument("text", nargs="*", metavar="TEXT", help="what to embed")
    parser.add_argument("-f", "--file", metavar="FILE", help="one text per line (-: standard input)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write a .npy file: float32 (texts, width)")
    parser.add_argument("--pooling", choices=("mean", "last"), default="mean", help="over all tokens, or the last")
    options.add_threads(parser)
    options.add_arithmetic(parser)
    options.add_json(parser)


def texts_of(args: argparse.Namespace) -> list[str]:
    """The texts of the command line, or the lines of the file that are not empty."""
    if bool(args.text) == (args.file is not None):
        raise options.UsageError("texts are needed: TEXT ..., or -f FILE")
    return args.text or [line for line in running.given_text(None, args.file).splitlines() if line.strip()]


def text(data: dict[str, Any]) -> str:
    """The cosines as a table with a number for each text."""
    names = [f"{i + 1}" for i in range(len(data["texts"]))]
    rows = [("", *(name.rjust(6) for name in names), "")]
    for name, cosines, line in zip(names, data["cosines"], data["texts"], strict=True):
        rows.append((name, *(f"{x:6.3f}" for x in cosines), printable(line, 60)))
    return output.table(rows) if len(names) > 1 else f"{data['width']} numbers; --json or -o FILE gives them"


def run(args: argparse.Namespace) -> int:
    """Embed, then write or print."""
    texts = texts_of(args)
    model, tokenizer = running.load(args.model, args)
    from pyllm.evaluate import embedding

    vectors: Any = embedding.embed(model, texts, tokenizer, pooling=args.pooling)
    data = {"texts": texts, "width": vectors.shape[1], "cosines": embedding.similarities(vectors)}
    if args.output is not None:
        embedding.save(args.output, vectors)
        output.note(f"{args.output}: float32 {vectors.shape}")
        return 0
    return output.facts(args, {**data, "embeddings": vectors.tolist()}, text(data))
