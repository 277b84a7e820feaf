"""The lecture as an experiment: RNN, LSTM, GRU, LSTM with attention and Transformer of equal size, as one HTML page."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pyllm.cli import options, output
from pyllm.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm compare [-o FILE] [--seconds S] [--parameters N] [--data PAIRS --tokenizer TOK] [--json]`."""
    add = parser.add_argument
    add("-o", "--output", default="compare.html", metavar="FILE", help="the page (compare.html)")
    add("--seconds", type=options.real(0.01), default=30.0, metavar="S", help="a model learns at each task (30)")
    add("--parameters", type=options.whole(1), default=200_000, metavar="N", help="of each model at most (200,000)")
    add("--data", nargs="+", metavar="PAIRS", help="real pairs too: one file of pairs, or two parallel ones")
    add("--tokenizer", metavar="TOK", help="of the pairs; without one, byte pairs are learned from them")
    add("--vocab", type=options.whole(260, 1 << 20), default=2000, metavar="N", help="tokens of such a one (2,000)")
    add("--seed", type=options.whole(0), default=0, metavar="N", help="of weights and examples (0)")
    options.add_threads(parser)
    options.add_overwrite(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, write the page, print the table."""
    from pyllm import _core
    from pyllm.evaluate.comparison import compare, planned
    from pyllm.formats.progress import Progress
    from pyllm.formats.writing import check_target

    if args.tokenizer is not None and args.data is None:
        raise options.UsageError("--tokenizer is of --data, which is missing")
    check_target(args.output, args.overwrite)  # before the work
    if args.threads is not None:
        _core.set_threads(args.threads)
    pairs, vocabulary = (None, 0) if args.data is None else opened(args)
    total = max(1, round(planned(args.seconds, pairs is not None)))
    with Progress("models", total, ("comparing", "compared"), "seconds of learning") as bar:
        passed = 0.0

        def tell(what: str, more: float) -> None:
            nonlocal passed
            passed += more
            bar.name = what
            bar.show(round(passed))

        found = compare(args.seconds, args.parameters, pairs, vocabulary, args.seed, tell)
        bar.name = "models"
    found.save(args.output, args.overwrite)
    table = found.facts["table"]
    columns = list(next(iter(table.values())))
    lines = [f"{name:<36}" + "".join(f"{table[kind][name]:>18,.4g}" for kind in table) for name in columns]
    head = " " * 36 + "".join(f"{kind:>18}" for kind in table)
    facts = {"path": args.output, "table": table}
    return output.facts(args, facts, "\n".join([head, *lines, f"written: {printable(args.output)}"]))


def opened(args: argparse.Namespace) -> tuple[Any, int]:
    """The pairs as tokens, and how many tokens there are."""
    from pyllm.auto import AutoTokenizer
    from pyllm.data import Pairs, read_pairs
    from pyllm.evaluate.comparison import START
    from pyllm.text.training import train

    if args.tokenizer is not None:
        tokenizer: Any = AutoTokenizer.from_pretrained(args.tokenizer)
    else:
        print(f"learning {args.vocab:,} byte pairs", file=sys.stderr)
        texts = (side for pair in read_pairs(args.data, len(args.data) == 2) for side in pair)
        tokenizer = train(texts, vocab=args.vocab)
    pairs = Pairs(args.data, tokenizer, 128, START, args.seed, parallel=len(args.data) == 2)
    return pairs, int(tokenizer.vocab_size)
