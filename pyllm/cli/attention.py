"""Show where every head of every layer looks while a model reads a text, as one HTML page that needs no network."""

from __future__ import annotations

import argparse
from typing import Any

from pyllm.cli import options, output, running
from pyllm.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm attention MODEL TEXT -o page.html [--target TEXT]`."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="name, GGUF file or folder; also of an encoder-decoder")
    add("text", metavar="TEXT", help="what the model reads")
    add("-o", "--output", required=True, metavar="FILE", help="the page to write")
    add("--target", metavar="TEXT", help="what an encoder-decoder says (its own answer)")
    options.add_threads(parser)
    options.add_overwrite(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Write the page; says what it holds."""
    model, tokenizer = opened(args)
    from pyllm.evaluate.attention import attention_page

    page = attention_page(model, tokenizer, args.text, args.target)
    page.save(args.output, args.overwrite)
    rows = [
        (kind, f"{each['layers']} layers", f"{each['heads']} heads", f"{each['tokens']} tokens")
        for kind, each in page.facts.items()
    ]
    lines = f"{output.table(rows)}\nwritten: {printable(args.output)}"
    return output.facts(args, {"path": args.output, "bytes": len(page.html.encode()), **page.facts}, lines)


def opened(args: argparse.Namespace) -> tuple[Any, Any]:
    """The model and its tokenizer, of any kind that has attention."""
    from pyllm.auto import AutoTokenizer, is_of_pairs
    from pyllm.auto.classifiers import head_of
    from pyllm.auto.encoders import AutoModel
    from pyllm.auto.pairs import AutoModelForSeq2SeqLM
    from pyllm.formats import download

    encoder = head_of(download.resolve(args.model)) != ""
    if not encoder and not is_of_pairs(args.model):
        return running.load(args.model, args)
    kind = AutoModel if encoder else AutoModelForSeq2SeqLM
    return kind.from_pretrained(args.model, threads=args.threads), AutoTokenizer.from_pretrained(args.model)
