"""Measure a model: loss, perplexity and bits per byte on shards, `eval MODEL --data SHARDS`; or an encoder-decoder's
answers beside the targets of pairs, `eval RUN --data PAIRS` (BLEU, chrF); a text classifier's on labelled texts,
a tagger's on tagged ones; any model on the tasks of its pretraining, `eval RUN --data SHARDS --objective mlm`.
"""

from __future__ import annotations

import argparse
import os

from pyllm.cli import classify, options, output, tag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm eval MODEL --data SHARDS [--split valid] [--context N]`, `--data PAIRS --metric NAMES`, `--data TEXTS`."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="name, GGUF file, folder or run")
    add("--data", required=True, nargs="+", metavar="DATA",
        help="folder that `pyllm data prepare` wrote; one or two files of pairs; labelled texts")  # fmt: skip
    add("--split", default="valid", choices=("train", "valid"), help="which part of shards (valid)")
    add("--objective", metavar="NAME", help="what is measured on shards (what the run was pretrained on)")
    add("--context", type=options.whole(1), metavar="N", help="tokens of a sample (the model's, 1,024 at most)")
    add("--samples", type=options.whole(1), metavar="N", help="how many samples at most")
    add("--metric", metavar="NAMES", help="separated by commas: accuracy, f1, mcc; f1_micro; mse, pearson; bleu, chrf")
    add("--beam", type=options.whole(1, 1024), default=4, metavar="N", help="beams of a search for targets (4)")
    add("--length-penalty", type=options.real(-1000.0, 1000.0), default=1.0, metavar="X", help="of their scores (1)")
    classify.add_columns(parser)
    options.add_threads(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from pyllm.auto import is_of_pairs
    from pyllm.auto.classifiers import head_of, is_classifier
    from pyllm.cli import running
    from pyllm.evaluate.shards import measure

    if is_classifier(args.model):
        return classify.evaluate(args)
    head = head_of(args.model)
    if head == "ForTokenClassification":
        return tag.evaluate(args)
    of_pairs = is_of_pairs(args.model)
    if args.metric is not None or (of_pairs and all(map(os.path.isfile, args.data))):
        return pairs(args)
    if len(args.data) > 1:
        raise options.UsageError(f"--data: {len(args.data)} places; without --metric one folder of shards is measured")
    if head or args.objective not in (None, "next") or of_pairs:
        return objective(args)
    model, tokenizer = running.load(args.model, args)
    facts = measure(model, tokenizer, args.data[0], args.split, args.context, args.samples)
    line = (
        f"loss {facts['loss']:.4f} nats per token, perplexity {facts['perplexity']:.4f}, "
        f"{facts['bits_per_byte']:.4f} bits per byte; {facts['tokens']:,} tokens, {facts['bytes']:,} bytes"
    )
    return output.facts(args, facts, line)


def objective(args: argparse.Namespace) -> int:
    """What a model makes of the tasks that it was pretrained on."""
    from pyllm.evaluate.objectives import measure, told

    facts = measure(args.model, args.data[0], args.split, args.objective, args.context, args.samples, args.threads)
    return output.facts(args, facts, told(facts))


def pairs(args: argparse.Namespace) -> int:
    """Answers beside targets."""
    from pyllm.auto import AutoTokenizer
    from pyllm.auto.pairs import AutoModelForSeq2SeqLM
    from pyllm.evaluate.translation import measure

    names = [name.strip() for name in (args.metric or "bleu,chrf").split(",")]
    model = AutoModelForSeq2SeqLM.from_pretrained(args.model, threads=args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    found, count, seconds = measure(model, tokenizer, args.data, names, args.samples, args.beam, args.length_penalty)
    lines = [f"{name:<9} {each.value:.4f}  {each.signature}".rstrip() for name, each in found.items()]
    lines.append(f"{count:,} pairs, beam {args.beam}, {seconds:.1f} s")
    signatures = {name: each.signature for name, each in found.items() if each.signature}
    facts = {name: each.value for name, each in found.items()} | {"signatures": signatures, "pairs": count}
    return output.facts(args, facts | {"beam": args.beam, "seconds": round(seconds, 3)}, "\n".join(lines))
