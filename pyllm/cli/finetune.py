"""Train a model on conversations: `finetune MODEL --data chat.jsonl --out RUN`; ends with answers before and after.
An encoder-decoder learns on from pairs, as `pyllm pretrain` reads them: `finetune RUN --data more.tsv --out RUN2`.

Records are {"messages": [{"role", "content"}, ...]}, {"prompt", "completion"} or {"text"}; answers alone are learned.
With `--task classify` it learns which class a text is of, with `--task tag` an encoder learns a tag for each word, of
CoNLL's columns or jsonl {"tokens", "tags"}; both end with their scores on what was held out. With `--lora R` the model
stays as it is stored, an adapter learns, and the run's folder is PEFT's: `pyllm convert RUN FOLDER` merges them.
"""

from __future__ import annotations

import argparse
from typing import Any

from pyllm.cli import classify, options, tag, training

_USUAL = {"lr": 1e-4, "batch": 4, "epochs": 1.0, "context": 512}  # of conversations


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm finetune MODEL --data FILE --out RUN [...]`."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="name, GGUF file or folder")
    files = "jsonl, also .gz, .xz, .zst; one or two of pairs; texts: also csv, tsv"
    add("--data", required=True, nargs="+", metavar="FILE", help=files)
    add("--task", choices=("chat", "classify", "tag"), default="chat", help="answers, classes of texts, tags (chat)")
    add("--valid", nargs="+", metavar="PAIRS", help="pairs to judge by (some of the data are held out)")
    add("--source-language", metavar="CODE", help="of pairs for a model of many languages (mBART: en_XX)")
    add("--target-language", metavar="CODE", help="of what it learns to say")
    add("--held-out", type=options.whole(1), default=64, metavar="N", help="records to judge by (64)")
    add("--lora", type=options.whole(1, 65536), metavar="R", help="rank of an adapter that learns in the model's stead")
    add("--lora-alpha", type=options.real(0.0), metavar="X", help="its scale times R (2 R)")
    add("--lora-targets", metavar="NAMES", help="matrices that it changes, of q,k,v,o,gate,up,down (all)")
    add("--lora-dropout", type=options.real(0.0, 0.99), default=0.0, metavar="X", help="of what it reads (0)")
    training.add_training(parser, rate=1e-4, batch=4, context=512)
    classify.add_finetune(parser)
    parser.set_defaults(**dict.fromkeys(_USUAL))  # as the task has it


def run(args: argparse.Namespace) -> int:
    """Train; the same command goes on where it was interrupted."""
    from pyllm.auto import is_of_pairs
    from pyllm.train import ProgressBar
    from pyllm.train.language import finetune
    from pyllm.train.pairs import tune_pairs

    of_tasks: dict[str, dict[str, Any]] = {"chat": _USUAL, "classify": classify.USUAL, "tag": tag.USUAL}
    for name, value in of_tasks[args.task].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    bars = [ProgressBar()]
    if args.task != "chat":
        if len(args.data) > 1 or args.valid:
            raise options.UsageError("--data: one file of labelled texts; --valid and two files are for pairs")
        return (classify if args.task == "classify" else tag).finetune(args, adapter(args))
    if is_of_pairs(args.model):
        training.check_pairs(args)
        rest = args.context, args.valid, bars, training.command(), adapter(args)
        languages = {"src_lang": args.source_language, "tgt_lang": args.target_language}
        return training.tell(args, tune_pairs(args.model, args.data, training.arguments(args), *rest, languages))
    if args.source_language or args.target_language:
        raise options.UsageError("--source-language and --target-language: of pairs, which encoder-decoders learn")
    if len(args.data) > 1 or args.valid:
        raise options.UsageError("--data: one file of conversations; --valid and two files are for encoder-decoders")
    settings = training.arguments(args)
    result = finetune(
        args.model, args.data[0], settings, args.context, args.held_out, bars, training.command(), adapter(args)
    )
    return training.tell(args, result)


def adapter(args: argparse.Namespace) -> Any:
    """What --lora and its like ask for, None without them. Raises UsageError for the others alone."""
    from pyllm.train import LoraConfig

    if args.lora is None:
        if args.lora_alpha is not None or args.lora_targets is not None or args.lora_dropout:
            raise options.UsageError("--lora-alpha, --lora-targets and --lora-dropout go with --lora R")
        return None
    names = None if args.lora_targets is None else tuple(each.strip() for each in args.lora_targets.split(","))
    return LoraConfig(args.lora, args.lora_alpha or 2 * args.lora, args.lora_dropout, names)
