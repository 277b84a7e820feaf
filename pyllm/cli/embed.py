"""Turn texts into vectors: their cosine similarities, or the vectors themselves with -o or --json."""

from __future__ import annotations

import argparse
from typing import Any

from pyllm.cli import options, output, running
from pyllm.errors import printable

DECODERS, ENCODERS = ("mean", "last"), ("mean", "cls", "max")  # poolings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm embed MODEL (TEXT... | -f FILE) [-o FILE.npy] [--pooling mean|last|cls|max] [--json]`."""
    parser.add_argument("model", metavar="MODEL", help="name, GGUF file or folder")
    parser.add_argument("text", nargs="*", metavar="TEXT", help="what to embed")
    parser.add_argument("-f", "--file", metavar="FILE", help="one text per line (-: standard input)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write a .npy file: float32 (texts, width)")
    parser.add_argument(
        "--pooling",
        choices=(*DECODERS, *(each for each in ENCODERS if each not in DECODERS)),
        help="over all tokens (mean, max), a decoder's last, an encoder's first (cls); usually as the folder says",
    )
    options.add_threads(parser)
    options.add_arithmetic(parser)
    options.add_json(parser)


def vectors_of(args: argparse.Namespace, texts: list[str]) -> Any:
    """Vectors of length 1 by an encoder or a decoder."""
    from pyllm.auto import is_encoder
    from pyllm.formats import download

    encodes = is_encoder(download.resolve(args.model))
    allowed = ENCODERS if encodes else DECODERS
    if args.pooling is not None and args.pooling not in allowed:
        kind = "an encoder" if encodes else "a decoder"
        raise options.UsageError(f"--pooling {args.pooling}: of {kind}, allowed are {', '.join(allowed)}")
    if encodes:
        from pyllm.evaluate.sentences import SentenceEncoder

        encoder = SentenceEncoder(args.model, args.pooling, threads=args.threads)
        return encoder.encode(texts, normalize_embeddings=True)
    model, tokenizer = running.load(args.model, args)
    from pyllm.evaluate import embedding

    return embedding.embed(model, texts, tokenizer, pooling=args.pooling or "mean")


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
    vectors = vectors_of(args, texts)
    from pyllm.evaluate import embedding

    data = {"texts": texts, "width": vectors.shape[1], "cosines": embedding.similarities(vectors)}
    if args.output is not None:
        embedding.save(args.output, vectors)
        output.note(f"{args.output}: float32 {vectors.shape}")
        return 0
    return output.facts(args, {**data, "embeddings": vectors.tolist()}, text(data))
