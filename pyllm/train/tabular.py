"""From a CSV file to a net that has learned it: read, split, scale, build, train, evaluate.

table = pyllm.fit_table("flowers.csv", "species", hidden=(32,))
table.scores["accuracy"]
table.save("runs/flowers")
pyllm.open_table("runs/flowers").predict("new.csv").values
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import __version__, _core
from pyllm.autograd import no_grad
from pyllm.errors import printable
from pyllm.formats.csv_file import CsvFile, listed
from pyllm.formats.memory import check_fits
from pyllm.models.mlp import MLP
from pyllm.optim import AdamW, schedule
from pyllm.tensor import Array
from pyllm.train.columns import Column, Survey, Values, encode, gather, learn, refuse_constant, survey
from pyllm.train.table_files import FORMAT, VERSION
from pyllm.train.table_model import ACTS, MOST_LAYERS, WIDEST, TableModel, Target, outputs_of
from pyllm.train.table_scores import loss_of, scored

TASKS = ("auto", "classification", "regression")
MOST_CLASSES = 20  # whole numbers that are taken for classes unless the task is said
_USUAL_EPOCHS, _FEWEST_STEPS, _MOST_STEPS = 40, 1000, 20_000  # unless epochs or steps are said
_EVALUATIONS = 50
_SMALL = 50_000_000  # operations of a step below which threads cost more than they save: about a millisecond of one
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Settings:
    """How a table is learned; see fit_table."""

    hidden: tuple[int, ...] = (64, 32)
    act: str = "relu"
    epochs: int | None = None
    steps: int | None = None
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    schedule: str = "cosine"
    valid: float = 0.2
    seed: int = 0
    task: str = "auto"
    drop: tuple[str, ...] = ()
    drop_constant: bool = False

    def check(self) -> None:
        """Raise ValueError that names a setting, its value and what is allowed."""
        rules = {
            "hidden": (
                len(self.hidden) <= MOST_LAYERS and all(_whole(size, 1, WIDEST) for size in self.hidden),
                f"at most {MOST_LAYERS} sizes from 1 to {WIDEST:,}",
            ),
            "act": (self.act in ACTS, ", ".join(ACTS)),
            "epochs": (self.epochs is None or _whole(self.epochs, 1), "a whole number from 1"),
            "steps": (
                self.steps is None or (_whole(self.steps, 1) and self.epochs is None),
                "a whole number from 1, or epochs instead",
            ),
            "batch": (_whole(self.batch, 1), "a whole number from 1"),
            "lr": (_real(self.lr, 0, 1e3), "a number from 0 to 1000"),
            "weight_decay": (_real(self.weight_decay, 0, 1e3), "a number from 0 to 1000"),
            "valid": (_real(self.valid, 0.001, 0.999), "a share from 0.001 to 0.999"),
            "seed": (_whole(self.seed, 0, 2**63 - 1), "a whole number from 0 to 2^63 - 1"),
            "task": (self.task in TASKS, ", ".join(TASKS)),
        }
        for name, (right, allowed) in rules.items():
            if not right:
                raise ValueError(f"fit: {name} is {printable(repr(getattr(self, name)))}; {allowed}")
        schedule(self.schedule, 1)


class Table(NamedTuple):
    """A table that has been read: its columns as surveyed, their values, the target and what it is in each row."""

    file: CsvFile
    surveys: list[Survey]
    values: dict[str, Values]
    target: Target
    wanted: NDArray[Any]  # places of classes (rows,) int64, or numbers (rows,) float64
    left_out: int  # rows without a target
    dropped: list[str]


Tell = Callable[[str, str], None]  # hears of each stage, what it found
Report = Callable[[str, int, int], None]  # hears how much of "reading" or "training" is done, of how much


def fit_table(
    path: str | os.PathLike[str],
    target: str,
    *,
    tell: Tell = lambda stage, text: None,
    report: Report = lambda what, done, total: None,
    threads: int | None = None,
    **settings: Any,
) -> TableModel:
    """A net that has learned to say the column `target` from the other columns of a CSV file.

    hidden=(64, 32): sizes of the hidden layers. act="relu". epochs or steps: how long, else 40 epochs, of at least
    1,000 and at most 20,000 steps. batch=64 rows a step, AdamW with lr=1e-3 along schedule="cosine" and
    weight_decay=0.01. valid=0.2: the share of rows held out, of each class alike. seed=0: of the split, the order and
    the first weights; the same seed gives the same bytes for any number of threads. drop=(): columns left out;
    drop_constant=True: those that are constant too. threads=None: one for a net so small that two would wait for each
    other, else all.

    A column of numbers is scaled to mean 0 and deviation 1 of the training rows, where one is missing the mean stands.
    Any other column has one input per word, missing is a word of its own. The target is a class if it is text or at
    most 20 different whole numbers, else a number; task="classification" or "regression" decides. Rows without a target
    are left out. Raises ModelFileError naming line and column of what cannot be learned, ValueError for settings.
    """
    given: dict[str, Any] = {
        name: tuple(each) if name in ("hidden", "drop") else each for name, each in settings.items()
    }
    unknown = sorted(set(given) - set(Settings.__dataclass_fields__))
    if unknown:
        raise ValueError(f"fit: {', '.join(unknown)} not known; known are {', '.join(Settings.__dataclass_fields__)}")
    wanted = Settings(**given)
    wanted.check()
    if threads is not None and not _whole(threads, 1, 4096):
        raise ValueError(f"fit: threads is {printable(repr(threads))}; a whole number from 1 to 4096")
    table = read_table(path, target, wanted, tell, report)
    rows, held = split(table, wanted)
    count = len(rows) + len(held)
    tell(
        "split",
        f"{len(rows):,} rows to learn from, {len(held):,} held out ({len(held) / count:.0%}), seed {wanted.seed}",
    )
    return _fitted(table, wanted, rows, held, tell, report, threads)


def read_table(path: str | os.PathLike[str], name: str, settings: Settings, tell: Tell, report: Report) -> Table:
    """Read the file twice: once to see what its columns are, once for their values. Raises ModelFileError."""
    file = CsvFile(path)
    total, done = 2 * file.size, 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        report("reading", min(done, total), total)

    for wanted_name in (name, *settings.drop):
        file.column(wanted_name)
    if name in settings.drop:
        file.refuse(None, f"column '{printable(name)}' is the target", "other columns may be dropped")
    names = [each for each in file.names if each != name and each not in settings.drop]
    count, (found, *others) = survey(file, [name, *names], told)
    if not count:
        file.refuse(None, "has no rows", "rows after the line of names")
    for each in (found, *others):
        each.check(file)
    constant = [each.name for each in others if each.constant]
    if not settings.drop_constant:
        refuse_constant(file, others)
    others = [each for each in others if not each.constant]
    if not others:
        file.refuse(None, "no columns are left to learn from", "at least one beside the target")
    places, target = _target(file, found, settings.task)
    wanted = [(each.name, None if each.numeric else _words(each)) for each in others]
    values = gather(file, [*wanted, (name, places)], file.rows(told))
    if len(values[name]) != count:
        file.refuse(None, "has changed while it was read")
    known = np.flatnonzero(values[name] >= 0 if target.classes else ~np.isnan(values[name]))
    values = {key: array[known] for key, array in values.items()}
    answers = values.pop(name).astype(np.int64 if target.classes else np.float64)
    dropped = [*settings.drop, *constant]
    table = Table(file, others, values, target, answers, count - len(known), dropped)
    _tell_table(table, tell)
    return table


def _tell_table(table: Table, tell: Tell) -> None:
    """What has been read."""
    words = [each.name for each in table.surveys if not each.numeric]
    kinds = f"{len(table.surveys) - len(words):,} columns of numbers, {len(words):,} of words"
    text = f"{printable(os.path.basename(table.file.path))}: {len(table.wanted):,} rows, {kinds}"
    if words:
        text += f" ({listed(words)})"
    tell("read", text + (f"; left out: {listed(table.dropped)}" if table.dropped else ""))
    missing = [(each.name, each.missing) for each in table.surveys if each.missing]
    if missing:
        named = [f"{printable(name, 60)} {count:,}" for name, count in missing[:10]]
        more = f" and {len(missing) - 10} more columns" if len(missing) > 10 else ""
        tell("missing", f"{', '.join(named)}{more}: the mean of numbers, a word of its own otherwise")
    target = table.target
    what = f"{len(target.classes)} classes ({listed(target.classes)})" if target.classes else "a number"
    without = f"; {table.left_out:,} rows without it left out" if table.left_out else ""
    tell("target", f"{printable(target.name)}: {what}{without}")


def _words(found: Survey) -> dict[str, int]:
    """Words in order, with their places."""
    return {word: i for i, word in enumerate(sorted(found.distinct))}


def _target(file: CsvFile, found: Survey, task: str) -> tuple[dict[str, int] | None, Target]:
    """How the target's fields are read, and what it is. Raises ModelFileError where there is nothing to learn."""
    where = f"target '{printable(found.name)}'"
    texts = found.distinct - {""}
    numbers = {text: float(text) for text in texts} if found.numeric else {}
    whole = found.numeric and found.whole
    few = whole and len(set(numbers.values())) <= MOST_CLASSES
    if not texts:
        file.refuse(None, f"{where} has no values", "a class or a number in at least two rows")
    if task == "regression" or (task == "auto" and found.numeric and not few):
        if not found.numeric:
            assert found.word is not None
            file.refuse(found.word[0], f"{where}: '{printable(found.word[1], 40)}'", "numbers, for a regression")
        if len(set(numbers.values())) == 1:
            file.refuse(None, f"{where} is constant: {printable(min(texts), 40)}", "numbers that differ")
        return None, Target(found.name)
    named = {text: str(int(numbers[text])) if whole else text for text in texts}
    classes = sorted(set(named.values()), key=(lambda text: (float(text), text)) if found.numeric else None)
    if len(classes) == 1:
        file.refuse(None, f"{where} has one class only: '{printable(classes[0], 40)}'", "two or more")
    if len(texts) > 1000:
        file.refuse(None, f"{where} has more than 1,000 classes", "fewer, or --task regression for numbers")
    return {text: classes.index(named[text]) for text in texts}, Target(found.name, tuple(classes))


def split(table: Table, settings: Settings) -> tuple[Rows, Rows]:
    """(rows to learn from, rows held out), both in a random order; of each class the same share is held out."""
    order = _random(settings.seed, 0).permutation(len(table.wanted))
    groups = [order]
    if table.target.classes:
        classes = table.wanted[order]
        groups = [order[classes == i] for i in range(len(table.target.classes))]
        groups = [group for group in groups if len(group)]
    held = [min(round(len(group) * settings.valid), len(group) - 1) for group in groups]
    if not any(held):
        largest = max(range(len(groups)), key=lambda i: len(groups[i]))
        held[largest] = min(1, len(groups[largest]) - 1)
    if not any(held):
        table.file.refuse(
            None, f"{len(order)} rows with a target", "at least two, of one class, so that one is held out"
        )
    out = np.sort(np.concatenate([group[:count] for group, count in zip(groups, held, strict=True)]))
    return np.setdiff1d(order, out), out


def _fitted(
    table: Table, settings: Settings, rows: Rows, held: Rows, tell: Tell, report: Report, threads: int | None
) -> TableModel:
    """Scale, build, train, evaluate."""
    target, wanted = table.target, table.wanted
    columns: list[Column] = []
    for each in table.surveys:
        words = [] if each.numeric else sorted(each.distinct)
        column = learn(each, table.values[each.name], words, rows)
        if not each.numeric:  # words that only held-out rows have are unknown ones
            places = {word: i for i, word in enumerate(column.values)}  # type: ignore[union-attr]
            moved = np.array([places.get(word, -1) for word in words], np.int32)
            table.values[each.name] = moved[table.values[each.name].astype(np.int64)]
        columns.append(column)
    inputs = sum(column.width for column in columns)
    check_fits(table.file.path, 4 * inputs * len(wanted), "the table as numbers")
    if target.classes:
        answers: NDArray[Any] = wanted
    else:
        mean, deviation = float(wanted[rows].mean()), float(wanted[rows].std())
        if not deviation > 0:
            table.file.refuse(
                None, f"target '{printable(target.name)}' is constant in the training rows", "other numbers"
            )
        target = target._replace(mean=mean, deviation=deviation)
        answers = ((wanted - mean) / deviation).astype(np.float32)[:, None]
    x = encode(columns, table.values)
    tell("scale", f"{len(columns):,} columns to {inputs:,} inputs, by the rows to learn from")
    model = MLP(inputs, *settings.hidden, target.outputs, act=settings.act)
    model.initialise(settings.seed)
    tell("build", repr(model))
    begin = time.monotonic()
    data = (x[rows], answers[rows], x[held], answers[held])
    with workers(threads, 6 * min(settings.batch, len(rows)) * model.num_parameters()):
        log, timings = train(model, target, data, settings, report)
    pace = f"{len(log):,} steps of {min(settings.batch, len(rows))} rows in {time.monotonic() - begin:.1f} s"
    tell("train", f"{pace}: loss {log[0]['loss']:.4g} at first, {log[-1]['loss']:.4g} at last")
    outputs = outputs_of(model.eval(), data[2])
    if not np.isfinite(outputs).all():
        raise ValueError(f"fit: the net's answers are not finite numbers; a smaller lr than {settings.lr:g}")
    scores = scored(target, outputs, data[3], data[1])
    facts = {
        "format": FORMAT, "version": VERSION, "pyllm": __version__, "model": "mlp",
        "config": {"sizes": list(model.sizes), "act": model.act}, "parameters": model.num_parameters(),
        "arguments": {"data": os.path.basename(table.file.path), "target": target.name} | asdict(settings),
        "rows": {"learned": len(rows), "held_out": len(held), "left_out": table.left_out}, "scores": scores,
    }  # fmt: skip
    return TableModel(model, columns, target, facts, log, timings)


@contextmanager
def workers(count: int | None, work: int) -> Iterator[None]:
    """Within it so many threads compute; None: as many as suit `work` operations a step. The results are the same."""
    before = _core.threads()
    _core.set_threads(count or (1 if work < _SMALL else before))
    try:
        yield
    finally:
        _core.set_threads(before)


Data = tuple[Array, NDArray[Any], Array, NDArray[Any]]  # inputs and answers to learn from, and of the held-out rows


def train(
    model: MLP, target: Target, data: Data, settings: Settings, report: Report
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Change the net step by step; (log, timings). Raises ValueError when the loss is no number any more."""
    x, answers, held, wanted = data
    a_pass = math.ceil(len(x) / settings.batch)
    steps = settings.steps or a_pass * (settings.epochs or _USUAL_EPOCHS)
    if settings.steps is None and settings.epochs is None:
        steps = min(max(steps, _FEWEST_STEPS), _MOST_STEPS)
    every = max(1, steps // _EVALUATIONS)
    optimizer = AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    factor = schedule(settings.schedule, steps)
    log, timings, samples, begin = list[dict[str, Any]](), list[dict[str, Any]](), 0, time.monotonic()
    order = np.arange(0)
    for step in range(steps):
        at = step % a_pass
        if at == 0:
            order = _random(settings.seed, 1 + step // a_pass).permutation(len(x))
        batch = order[at * settings.batch : (at + 1) * settings.batch]
        loss = loss_of(target, model(x[batch]), answers[batch])
        if not math.isfinite(loss.item()):
            raise ValueError(f"fit: the loss is {loss.item()} at step {step + 1}; a smaller lr than {settings.lr:g}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.scale_rates(factor(step))
        samples += len(batch)
        line = {"step": step + 1, "samples": samples, "loss": loss.item(), "lr": optimizer.rate}
        log.append(line | {"grad_norm": optimizer.grad_norm()})
        optimizer.step()
        if (step + 1) % every == 0 or step + 1 == steps:
            with no_grad():
                log[-1]["valid_loss"] = float(loss_of(target, outputs_of(model, held), wanted))
            now = time.monotonic()
            timings.append({"step": step + 1, "seconds": now - begin})
            begin = now
            report("training", step + 1, steps)
    return log, timings


def _random(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))


def _whole(value: Any, low: int, high: int = 2**31 - 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _real(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
