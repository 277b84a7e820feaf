"""Train a new model: `pretrain --model gpt2 --config n_layer=4 --data SHARDS --out RUN` to predict the next token,
`pretrain --model transformer --data PAIRS --tokenizer TOK --out RUN` to say the target of a source,
`pretrain --model bert --objective mlm --data SHARDS --out RUN` to fill in masked words, and more of the kind.

Pairs are one file of lines "source TAB target" or of objects {"source", "target"} (.jsonl), or two files whose lines
belong together; also packed.
"""

from __future__ import annotations

import argparse

from pyllm.cli import options, training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm pretrain --model FAMILY [--config NAME=VALUE,...] --data SHARDS --out RUN [...]`."""
    add = parser.add_argument
    families = "gpt2, llama, mistral, qwen2, qwen3, rnn, lstm, gru, awd-lstm; bert, roberta, distilbert, albert, "
    pairs = "mpnet, electra; of pairs: transformer, seq2seq, bart, mbart, marian, pegasus, m2m_100, t5, mt5, umt5"
    add("--model", required=True, metavar="FAMILY", help=families + pairs)
    what = "learned from shards: next, prefix (decoders), mlm, mlm+nsp (encoders), span, denoise, prefix (of pairs)"
    add("--objective", metavar="NAME", help=what)
    hidden = "share of tokens that mlm, span (0.15) and denoise (0.3) hide"
    add("--mask-rate", type=options.real(0.0), metavar="X", help=hidden)
    add("--config", metavar="FIELDS", help="fields of the configuration: n_layer=4,n_head=4,n_embd=128")
    add("--data", required=True, nargs="+", metavar="DATA", help="folder that `pyllm data prepare` wrote; or pairs")
    add("--valid", nargs="+", metavar="PAIRS", help="pairs to judge by (some of the data are held out)")
    add("--tokenizer", metavar="TOK", help="instead of the one that lies beside the shards; pairs need one")
    training.add_training(parser, rate=6e-4, batch=8, context=None)


def run(args: argparse.Namespace) -> int:
    """Train; the same command goes on where it was interrupted."""
    from pyllm.auto.new import PAIRS
    from pyllm.train import ProgressBar
    from pyllm.train.language import pretrain

    if args.model in PAIRS and args.objective is None:
        return pairs(args)
    if len(args.data) > 1 or args.valid:
        raise options.UsageError(f"{args.model} learns from one folder of shards; pairs are for {' and '.join(PAIRS)}")
    result = pretrain(
        args.model,
        training.fields(args.config),
        args.data[0],
        training.arguments(args),
        args.context,
        args.tokenizer,
        [ProgressBar()],
        training.command(),
        args.objective,
        args.mask_rate,
    )
    return training.tell(args, result)


def pairs(args: argparse.Namespace) -> int:
    """The same of an encoder-decoder."""
    from pyllm.train import ProgressBar
    from pyllm.train.pairs import learn_pairs

    if args.mask_rate is not None:
        raise options.UsageError("--mask-rate is for objectives on shards: mlm, mlm+nsp, span, denoise")
    training.check_pairs(args)
    if args.tokenizer is None:
        raise options.UsageError("--tokenizer TOK is needed: `pyllm tokenizer train` makes one")
    result = learn_pairs(
        args.model,
        training.fields(args.config),
        args.data,
        args.tokenizer,
        training.arguments(args),
        args.context or 128,
        args.valid,
        [ProgressBar()],
        training.command(),
    )
    return training.tell(args, result)
