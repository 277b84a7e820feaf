"""Show the likeliest words in the places of a text that are masked, with bars."""

from __future__ import annotations

import argparse
from typing import Any

from pyllm.cli import options, output
from pyllm.cli.next import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm fill MODEL TEXT [--top N] [--json]`."""
    parser.add_argument("model", metavar="MODEL", help="the folder of an encoder: BERT, RoBERTa, ...")
    parser.add_argument("text", metavar="TEXT", help="with the model's mask in it, [MASK] or <mask>")
    parser.add_argument("--top", type=options.whole(1, 1000), default=10, metavar="N", help="how many (10)")
    options.add_threads(parser)
    options.add_json(parser)


def text(masks: list[list[dict[str, Any]]]) -> str:
    """For each mask a line per word: the word, its probability, a bar as long as its share of the best."""
    tables = [
        output.table(
            [
                (shown(word["token_str"]), f"{100 * word['score']:6.2f} %", output.bar(word["score"] / row[0]["score"]))
                for word in row
            ]
        )
        for row in masks
    ]
    return "\n\n".join(tables)


def run(args: argparse.Namespace) -> int:
    """Load, fill in, print."""
    from pyllm.evaluate.pipelines import pipeline

    found = pipeline("fill-mask", args.model, threads=args.threads)(args.text, top_k=args.top)
    masks = found if isinstance(found[0], list) else [found]
    return output.facts(args, {"text": args.text, "masks": masks}, text(masks))
