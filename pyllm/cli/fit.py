"""Learn a table: from a CSV file to a net that predicts one of its columns, step by step."""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import Any

from pyllm.cli import options, output
from pyllm.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm fit mlp DATA.csv --target COLUMN --out FOLDER`."""
    add = parser.add_argument
    add("model", choices=("mlp",), help="mlp: dense layers one after the other")
    add("data", metavar="DATA.csv", help="the first line names the columns; comma, semicolon or tab between fields")
    add("--target", required=True, metavar="COLUMN", help="the column to predict")
    add("--out", required=True, metavar="FOLDER", help="folder of the run, to be written")
    add("--hidden", type=sizes, default=(64, 32), metavar="N,N", help="sizes of hidden layers (64,32; none: linear)")
    add("--act", choices=("relu", "tanh", "sigmoid", "gelu", "silu"), default="relu", help="after each of them (relu)")
    add("--task", choices=("auto", "classification", "regression"), default="auto", help="what the target is (auto)")
    length = parser.add_mutually_exclusive_group()
    usual = "40, of 1000 to 20000 steps"
    length.add_argument("--epochs", type=options.whole(1), metavar="N", help=f"times that every row is seen ({usual})")
    length.add_argument("--steps", type=options.whole(1), metavar="N", help="changes of the weights")
    add("--batch", type=options.whole(1), default=64, metavar="N", help="rows a step (64)")
    add("--lr", type=options.real(0.0, 1000.0), default=1e-3, metavar="X", help="AdamW's rate at its peak (0.001)")
    add("--weight-decay", type=options.real(0.0, 1000.0), default=0.01, metavar="X", help="AdamW's (0.01)")
    add(
        "--schedule",
        choices=("constant", "linear", "cosine", "one_cycle"),
        default="cosine",
        help="of the rate (cosine)",
    )
    add("--valid", type=options.real(0.001, 0.999), default=0.2, metavar="X", help="share of rows held out (0.2)")
    add(
        "-s", "--seed", type=options.whole(0, 2**63 - 1), default=0, metavar="N", help="the same seed, the same net (0)"
    )
    add("--drop", type=names, default=(), metavar="A,B", help="columns to leave out")
    add("--drop-constant", action="store_true", help="leave out columns that say the same in every row")
    options.add_threads(parser)
    options.add_overwrite(parser)
    options.add_json(parser)


def sizes(text: str) -> tuple[int, ...]:
    """Sizes separated by commas, or `none`."""
    return () if text == "none" else tuple(options.whole(1, 1 << 16)(part) for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


class Steps:
    """Progress on stderr: a bar for the file, then one for the steps; a context manager."""

    def __init__(self, name: str) -> None:
        self.name, self.what = name, ""
        self._stack = contextlib.ExitStack()
        self._bar: Any = None

    def __enter__(self) -> Steps:
        return self

    def show(self, what: str, done: int, total: int) -> None:
        """So much of reading or training is done."""
        if what != self.what:
            from pyllm.formats.progress import Progress

            self._stack.close()
            self.what = what
            verbs, unit = (("reading", "read"), "bytes") if what == "reading" else (("training", "trained"), "steps")
            self._bar = self._stack.enter_context(Progress(self.name, total, verbs, unit))
        self._bar.show(done)
        if done >= total:
            self._stack.close()

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def run(args: argparse.Namespace) -> int:
    """Fit and write the folder; each stage is told as it ends."""
    from pyllm.train.table_files import check_free
    from pyllm.train.tabular import fit_table

    check_free(args.out, args.overwrite)
    start = time.monotonic()
    told: dict[str, str] = {}

    def tell(stage: str, text: str) -> None:
        told[stage] = text
        if not args.json:
            print(f"{stage:<8}  {text}", flush=True)

    settings = {name: getattr(args, name) for name in (
        "hidden", "act", "task", "epochs", "steps", "batch", "lr", "weight_decay", "schedule", "valid", "seed", "drop",
        "drop_constant",
    )}  # fmt: skip
    with Steps(printable(args.data, 60)) as steps:
        table = fit_table(args.data, args.target, tell=tell, report=steps.show, threads=args.threads, **settings)
    table.save(args.out, args.overwrite)
    text = "\n".join(
        [*evaluated(table.target.task, table.scores, table.target.classes), f"written   {printable(args.out)}"]
    )
    data = {"folder": args.out, "told": told, **table.facts, "seconds": round(time.monotonic() - start, 3)}
    return output.facts(args, data, text)


def evaluated(task: str, scores: dict[str, Any], classes: tuple[str, ...]) -> list[str]:
    """The scores as lines."""
    rows = f"of {scores['rows']:,} rows held out"
    if task == "regression":
        lines = [f"evaluate  RMSE {scores['rmse']:.4g}, R^2 {share(scores['r2'])} {rows}"]
        return [*lines, f"          always the mean: RMSE {scores['mean_rmse']:.4g}, R^2 {share(scores['mean_r2'])}"]
    lines = [f"evaluate  accuracy {scores['accuracy']:.2%} {rows}, loss {scores['loss']:.4g}"]
    lines.append(f"          always '{printable(scores['majority_class'], 40)}': {scores['majority_accuracy']:.2%}")
    if len(classes) > 20:
        return lines
    shown = [printable(name, 12) for name in classes]
    table = [
        ("is \\ said", *shown),
        *((name, *map(str, row)) for name, row in zip(shown, scores["confusion"], strict=True)),
    ]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lined = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return [*lines, *(f"          {line}" for line in lined)]


def share(value: float | None) -> str:
    """R^2, which is not defined where the numbers do not differ."""
    return "undefined" if value is None else f"{value:.4f}"
