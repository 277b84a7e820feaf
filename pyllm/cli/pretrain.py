"""Train a new model to predict the next token: `pretrain --model gpt2 --config n_layer=4 --data SHARDS --out RUN`."""

from __future__ import annotations

import argparse

from pyllm.cli import training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm pretrain --model FAMILY [--config NAME=VALUE,...] --data SHARDS --out RUN [...]`."""
    add = parser.add_argument
    add("--model", required=True, metavar="FAMILY", help="gpt2, llama, mistral, qwen2, qwen3, rnn, lstm, gru, awd-lstm")
    add("--config", metavar="FIELDS", help="fields of the configuration: n_layer=4,n_head=4,n_embd=128")
    add("--data", required=True, metavar="SHARDS", help="folder that `pyllm data prepare` wrote")
    add("--tokenizer", metavar="TOK", help="instead of the one that lies beside the shards")
    training.add_training(parser, rate=6e-4, batch=8, context=None)


def run(args: argparse.Namespace) -> int:
    """Train; the same command goes on where it was interrupted."""
    from pyllm.train import ProgressBar
    from pyllm.train.language import pretrain

    result = pretrain(
        args.model,
        training.fields(args.config),
        args.data,
        training.arguments(args),
        args.context,
        args.tokenizer,
        [ProgressBar()],
        training.command(),
    )
    return training.tell(args, result)
