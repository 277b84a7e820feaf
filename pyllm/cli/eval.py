"""Loss, perplexity and bits per byte of a model on shards: `eval MODEL --data SHARDS`; a text classifier's scores."""

from __future__ import annotations

import argparse

from pyllm.cli import classify, options, output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm eval MODEL --data SHARDS [--split valid] [--context N]`, `eval RUN --data texts.csv [--metric NAMES]`."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="name, GGUF file, folder or run")
    data = "folder that `pyllm data prepare` wrote with its tokenizer; of a text classifier labelled texts"
    add("--data", required=True, metavar="SHARDS", help=data)
    add("--split", default="valid", choices=("train", "valid"), help="which part (valid)")
    add("--context", type=options.whole(1), metavar="N", help="tokens of a sample (the model's, 1,024 at most)")
    add("--samples", type=options.whole(1), metavar="N", help="how many samples at most")
    add("--metric", metavar="NAMES", help="of a text classifier: accuracy,f1,mcc (all)")
    classify.add_columns(parser)
    options.add_threads(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from pyllm.auto.classifiers import is_classifier

    if is_classifier(args.model):
        return classify.evaluate(args)
    from pyllm.cli import running
    from pyllm.evaluate.shards import measure

    model, tokenizer = running.load(args.model, args)
    facts = measure(model, tokenizer, args.data, args.split, args.context, args.samples)
    line = (
        f"loss {facts['loss']:.4f} nats per token, perplexity {facts['perplexity']:.4f}, "
        f"{facts['bits_per_byte']:.4f} bits per byte; {facts['tokens']:,} tokens, {facts['bytes']:,} bytes"
    )
    return output.facts(args, facts, line)
