"""Show the likeliest next words of a text, with bars."""

from __future__ import annotations

import argparse
from typing import Any

from pyllm.cli import options, output, running
from pyllm.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm next MODEL TEXT [--top N] [--json]`."""
    parser.add_argument("model", metavar="MODEL", help="name, GGUF file or folder")
    parser.add_argument("text", metavar="TEXT", help="what the words follow")
    parser.add_argument("--top", type=options.whole(1, 1000), default=10, metavar="N", help="how many (10)")
    options.add_threads(parser)
    options.add_json(parser)


def shown(token: str) -> str:
    """A token as one word on a line: control characters escaped, a leading space kept visible."""
    word = printable(token)
    return "␣" + word[1:] if word.startswith(" ") else word


def text(data: dict[str, Any]) -> str:
    """One line per word: the word, its probability, a bar as long as its share of the best."""
    best = data["words"][0]["probability"]
    rows = [
        (shown(word["text"]), f"{100 * word['probability']:6.2f} %", output.bar(word["probability"] / best))
        for word in data["words"]
    ]
    return f"{output.table(rows)}\n{len(rows)} of {data['of']:,}"


def run(args: argparse.Namespace) -> int:
    """Load, score the text, print."""
    model, tokenizer = running.load(args.model, args)
    from pyllm.evaluate.next_words import next_words

    words = next_words(model, tokenizer, args.text, args.top)
    data = {
        "text": args.text,
        "words": [{"text": word, "id": i, "probability": share} for word, i, share in words],
        "of": model.config.vocab_size,
    }
    return output.facts(args, data, text(data))
