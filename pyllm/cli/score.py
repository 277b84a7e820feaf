"""Say how likely a text is: loss, perplexity and bits per byte, and with TEXT each token's log-probability."""

from __future__ import annotations

import argparse
import math
from typing import Any

from pyllm.cli import options, output, running
from pyllm.cli.next import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm score MODEL (TEXT | -f FILE) [--tokens] [--stride N] [--json]`."""
    parser.add_argument("model", metavar="MODEL", help="name, GGUF file or folder")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("text", nargs="?", metavar="TEXT", help="what to score, told token by token")
    given.add_argument("-f", "--file", metavar="FILE", help="score a file (-: standard input), told as a whole")
    add = parser.add_argument
    add("--tokens", action="store_true", help="tell the tokens of a file too")
    add("--stride", type=options.whole(1), metavar="N", help="read what is too long in windows, one every N tokens")
    options.add_context(parser)
    options.add_threads(parser)
    options.add_arithmetic(parser)
    options.add_json(parser)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The facts behind `pyllm score`."""
    given = running.given_text(args.text, args.file)
    model, tokenizer = running.load(args.model, args)
    from pyllm.evaluate import scoring

    [found] = scoring.score(model, given, tokenizer, stride=args.stride)
    data: dict[str, Any] = dict(scoring.summary([found], [given], tokenizer))
    if args.file is None or args.tokens:
        logprobs = [None if math.isnan(x) else x for x in found.logprobs.tolist()]
        data["scores"] = [
            {"text": tokenizer.decode([i]), "id": i, "logprob": x} for i, x in zip(found.tokens, logprobs, strict=True)
        ]
    return data


def text(data: dict[str, Any]) -> str:
    """One line per token: its text, log-probability and a bar of its probability; then the summary."""
    rows = [(shown(s["text"]), "", "") if s["logprob"] is None else
            (shown(s["text"]), f"{s['logprob']:9.3f}", output.bar(math.exp(s["logprob"])))
            for s in data.get("scores", ())]  # fmt: skip
    if data["loss"] is None:
        return "\n".join([*[row[0] for row in rows], "one token: nothing comes before it"])
    total = (
        f"loss {data['loss']:.4f} nats per token, perplexity {data['perplexity']:.4f}, "
        f"{data['bits_per_byte'] or math.nan:.4f} bits per byte; {data['tokens']:,} tokens, {data['bytes']:,} bytes"
    )
    return f"{output.table(rows)}\n{total}" if rows else total


def run(args: argparse.Namespace) -> int:
    """Score and print."""
    data = measure(args)
    return output.facts(args, data, text(data))
