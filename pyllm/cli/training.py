"""Flags that pretrain and finetune share, and what they mean to the trainer."""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
from itertools import zip_longest
from typing import Any

from pyllm.cli import options, output
from pyllm.errors import printable
from pyllm.train.arguments import OPTIMIZERS


def add_training(parser: argparse.ArgumentParser, rate: float, batch: int, context: int | None) -> None:
    """`--steps --epochs --batch --accumulate --context --lr --schedule --warmup ... --out`."""
    add = parser.add_argument
    add("--out", required=True, metavar="RUN", help="folder of the run: checkpoints, logs, at the end the model")
    add("--steps", type=options.whole(0), default=0, metavar="N", help="steps (0: by --epochs)")
    add("--epochs", type=options.real(0.0), default=1.0, metavar="X", help="passes over the data (1)")
    add("--batch", type=options.whole(1), default=batch, metavar="N", help=f"samples at a time ({batch})")
    add("--accumulate", type=options.whole(1), default=1, metavar="N", help="batches before a step (1)")
    add("--context", type=options.whole(1), default=context, metavar="N", help="tokens of a sample")
    add("--lr", type=options.real(0.0), default=rate, metavar="X", help=f"highest learning rate ({rate:g})")
    names = "constant, linear, cosine, one_cycle, inverse_sqrt, slanted_triangular"
    add("--schedule", default="cosine", metavar="NAME", help=names)
    add("--optim", choices=OPTIMIZERS, default="adamw", help="adafactor: T5's; nt_asgd needs --eval-every (adamw)")
    add("--warmup", type=options.whole(0), default=0, metavar="N", help="steps of a rising rate (0)")
    add("--weight-decay", type=options.real(0.0), default=0.1, metavar="X", help="of matrices (0.1)")
    smoothed = "of what cross-entropies learn, the share of all classes alike (0)"
    add("--label-smoothing", type=options.real(0.0, 0.99), default=0.0, metavar="X", help=smoothed)
    add("--clip", type=options.real(0.0), default=1.0, metavar="X", help="largest norm of the gradient (1; 0: any)")
    add("--dtype", choices=("fp32", "bf16"), default="bf16", help="of products; weights and sums are fp32 (bf16)")
    options.add_checkpointing(parser)
    add("--save-every", type=options.whole(0), default=500, metavar="N", help="steps between checkpoints (500)")
    add("--eval-every", type=options.whole(0), default=0, metavar="N", help="steps between evaluations (0: at the end)")
    add("-s", "--seed", type=options.whole(0), default=0, metavar="N", help="of weights and order (0)")
    options.add_threads(parser)
    options.add_json(parser)


def arguments(args: argparse.Namespace) -> Any:
    """The trainer's own."""
    from pyllm import _core
    from pyllm.train import TrainingArguments

    if args.threads is not None:
        _core.set_threads(args.threads)
    return TrainingArguments(
        output_dir=args.out,
        per_device_train_batch_size=args.batch,
        per_device_eval_batch_size=args.batch,
        gradient_accumulation_steps=args.accumulate,
        max_steps=args.steps,
        num_train_epochs=args.epochs,
        learning_rate=args.lr,
        lr_scheduler_type=args.schedule,
        warmup_steps=args.warmup,
        weight_decay=args.weight_decay,
        max_grad_norm=args.clip,
        bf16=args.dtype == "bf16",
        gradient_checkpointing=args.gradient_checkpointing,
        save_steps=args.save_every,
        eval_steps=args.eval_every,
        seed=args.seed,
        optim=args.optim,
        label_smoothing_factor=args.label_smoothing,
    )


def check_pairs(args: argparse.Namespace) -> None:
    """Raise UsageError where --data or --valid name more files than a source and a target."""
    for name, files in (("--data", args.data), ("--valid", args.valid or [])):
        if len(files) > 2:
            raise options.UsageError(f"{name}: {len(files)} files, allowed is one of pairs, or two that are parallel")


def command() -> str:
    """This command line, as it could be typed again."""
    return shlex.join(["pyllm", *sys.argv[1:]])


def fields(text: str | None) -> dict[str, Any]:
    """`n_layer=4,n_embd=128` as a mapping; numbers, true and false where they look like it. Raises UsageError."""
    found: dict[str, Any] = {}
    for part in (text or "").split(",") if text else ():
        name, equals, value = (each.strip() for each in part.partition("="))
        if not equals or not name or not value:
            raise options.UsageError(f"--config: {part!r}, allowed is NAME=VALUE,NAME=VALUE")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def side_by_side(answers: Any) -> str:
    """Answers before and after in two columns, under what was asked and what was wanted."""
    lines = []
    for each in answers:
        lines += [f"> {_line(each['prompt'], 110)}", f"  wanted: {_line(each['wanted'], 102)}"]
        columns = [textwrap.wrap(_line(each[when], 10**6), 54) or [""] for when in ("before", "after")]
        rows = zip_longest(["before", "------", *columns[0]], ["after", "-----", *columns[1]], fillvalue="")
        lines += [f"  {left:<54}  {right}".rstrip() for left, right in rows]
        lines.append("")
    return "\n".join(lines)


def _line(text: str, most: int) -> str:
    """Text as one line that cannot drive a terminal."""
    return printable(" ".join(text.split()), most)


def tell(args: argparse.Namespace, result: Any) -> int:
    """What came of a run; 1 where it was interrupted."""
    facts = {"step": result.step, "loss": result.loss, "valid_loss": result.valid_loss, "complete": result.complete}
    valid = "" if result.valid_loss is None else f", validation loss {result.valid_loss:.4f}"
    state = "done" if result.complete else "interrupted, the same command goes on"
    line = f"{args.out}: step {result.step:,}, loss {result.loss:.4f}{valid}; {state}"
    facts = {name: value if value == value else None for name, value in facts.items()}  # JSON has no NaN
    if result.answers:
        facts["answers"] = list(result.answers)
        line = f"{side_by_side(result.answers)}\n{line}"
    output.facts(args, facts, line)
    return 0 if result.complete else 1
