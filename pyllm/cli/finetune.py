"""Train a model on conversations: `finetune MODEL --data chat.jsonl --out RUN`; ends with answers before and after.

Records are {"messages": [{"role", "content"}, ...]}, {"prompt", "completion"} or {"text"}; answers alone are learned.
"""

from __future__ import annotations

import argparse

from pyllm.cli import options, training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm finetune MODEL --data FILE --out RUN [...]`."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="name, GGUF file or folder")
    add("--data", required=True, metavar="FILE", help="jsonl, also .gz, .xz, .zst")
    add("--held-out", type=options.whole(1), default=64, metavar="N", help="records to judge by (64)")
    training.add_training(parser, rate=1e-4, batch=4, context=512)


def run(args: argparse.Namespace) -> int:
    """Train; the same command goes on where it was interrupted."""
    from pyllm.train import ProgressBar
    from pyllm.train.language import finetune

    settings = training.arguments(args)
    bars = [ProgressBar()]
    result = finetune(args.model, args.data, settings, args.context, args.held_out, bars, training.command())
    return training.tell(args, result)
