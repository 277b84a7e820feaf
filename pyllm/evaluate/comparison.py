"""The lecture as an experiment: RNN, LSTM, GRU, LSTM with attention and Transformer of equal size, measured.

found = compare(seconds=30)
found.save("compare.html")
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from pyllm import _core
from pyllm.auto.new import new_model
from pyllm.data import Pairs
from pyllm.evaluate import contest
from pyllm.evaluate.contest import KINDS, Curve, Pair, Point
from pyllm.evaluate.curves import Line, curves
from pyllm.evaluate.pages import Report, page, text

TASKS: dict[str, Callable[[Any], Any]] = {"copy": lambda ids: ids, "reverse": lambda ids: ids[::-1]}
SYMBOLS, START, END = 64, 0, 1  # of the tasks; tokens 0 and 1 are before them
LEARNED = 24  # symbols of a source at most while learning; asked for are up to twice as many
LENGTHS = (4, 8, 12, 16, 20, 24, 32, 40, 48)
STEPS = (16, 32, 64, 128, 256)  # tokens of a side, of a step that is timed
SHARES = (1, 3, 10, 30)
LEAST = 200  # examples of share 1
KNOWN = 0.9  # of the tokens right: so long a source is learned
BATCH = 32
LONGEST = 2 * max(STEPS)
_MOST = 48  # tokens of a side of a real pair

Told = Callable[[str, float], None]
Lines = dict[str, list[Point]]


class Found(NamedTuple):
    """What was measured, by task where there are several: {kind: [(x, y), ...]}; the models' sizes."""

    parameters: dict[str, int]
    accuracy: dict[str, Lines]
    times: dict[int, Lines]  # by threads: seconds of a step
    losses: Lines
    data: Lines
    reach: Lines
    seconds: float


def planned(seconds: float, real: bool) -> float:
    """Seconds of learning altogether; what is timed besides takes less."""
    return len(KINDS) * seconds * (len(TASKS) + 1 + real)


def compare(
    seconds: float = 30.0,
    parameters: int = 200_000,
    pairs: Pairs | None = None,
    vocabulary: int = 0,
    seed: int = 0,
    tell: Told = lambda what, passed: None,
) -> Report:
    """Let models of equal size learn for `seconds` each, at each task; the page of it, and its numbers as facts.

    Tasks: copy and reverse sources of random symbols; with `pairs` (of `vocabulary` tokens) real ones too. tell hears
    what goes on and how many seconds of learning have passed since it was told last. Raises ValueError.
    """
    begin = time.perf_counter()
    models: dict[str, dict[str, Any]] = {}
    accuracy: dict[str, Lines] = {}
    losses: Lines = {}
    for task in TASKS:
        models[task], curve, accuracy[task] = _synthetic(task, seconds, parameters, seed, tell)
        losses = losses or {kind: smoothed(each) for kind, each in curve.items()}
    if pairs is not None:
        accuracy["real pairs"], losses = _real(pairs, vocabulary, seconds, parameters, seed, tell)
    data = _shares(pairs, vocabulary, seconds / len(SHARES), parameters, seed, tell)
    reach = {kind: _reach(model, seed) for kind, model in models["reverse"].items()}
    sizes = {kind: int(model.num_parameters()) for kind, model in models["copy"].items()}
    times = {threads: _times(models["copy"], threads, seed, tell) for threads in sorted({1, _core.threads()})}
    return drawn(Found(sizes, accuracy, times, losses, data, reach, time.perf_counter() - begin))


def symbols(random: np.random.Generator, length: int, task: str) -> Pair:
    """A source of so many different symbols, and what the task makes of it."""
    ids = (2 + random.permutation(SYMBOLS)[:length]).astype(np.int32)
    return Pair(*(np.append(each, END).astype(np.int32) for each in (ids, TASKS[task](ids))))


def smoothed(curve: Curve, points: int = 60) -> list[Point]:
    """(seconds, mean loss) of so many stretches of a training at most."""
    parts = np.array_split(np.arange(len(curve.losses)), min(points, len(curve.losses)))
    return [(curve.seconds[part[-1]], float(np.mean([curve.losses[i] for i in part]))) for part in parts]


def _new(kind: str, parameters: int, vocabulary: int, seed: int, dropout: float = 0.0) -> Any:
    return new_model(contest.config_of(kind, parameters, vocabulary, LONGEST, dropout), seed)


def _synthetic(
    task: str, seconds: float, parameters: int, seed: int, tell: Told
) -> tuple[dict[str, Any], dict[str, Curve], Lines]:
    models, found, accuracy = {}, {}, {}
    for kind, (*_, rate) in KINDS.items():
        random = np.random.default_rng(seed)
        batches = ([symbols(random, int(random.integers(1, LEARNED + 1)), task) for _ in range(BATCH)] for _ in count())
        model = models[kind] = _new(kind, parameters, SYMBOLS + 2, seed)
        found[kind] = contest.learn(model, batches, seconds, rate, seed, partial(tell, f"{task}: {kind}"))
        random = np.random.default_rng(seed + 1)
        asked = {n: [symbols(random, n, task) for _ in range(64)] for n in LENGTHS}
        accuracy[kind] = [(float(n), contest.judged(model, some)[1]) for n, some in asked.items()]
    return models, found, accuracy


def _pairs(pairs: Pairs) -> list[Pair]:
    """All of a set of pairs of texts whose sides are not too long, in their own order."""
    sides = (pairs.sides(number) for number in range(len(pairs)))
    return [Pair(source, target) for source, target in sides if max(len(source), len(target)) <= _MOST]


def _drawn_from(pairs: Sequence[Pair], seed: int) -> Iterator[list[Pair]]:
    """Batches of random pairs without an end."""
    random = np.random.default_rng(seed)
    while True:
        yield [pairs[i] for i in random.integers(0, len(pairs), BATCH)]


def _split(pairs: Pairs) -> tuple[list[Pair], list[Pair]]:
    train, held = pairs.held_out(min(1000, max(1, len(pairs) // 10)))
    return _pairs(train), _pairs(held)


def _real(
    pairs: Pairs, vocabulary: int, seconds: float, parameters: int, seed: int, tell: Told
) -> tuple[Lines, Lines]:
    train, held = _split(pairs)
    held.sort(key=lambda pair: len(pair.source))
    accuracy: Lines = {}
    losses: Lines = {}
    for kind, (*_, rate) in KINDS.items():
        model = _new(kind, parameters, vocabulary, seed, 0.1)
        batches = _drawn_from(train, seed)
        curve = contest.learn(model, batches, seconds, rate, seed, partial(tell, f"real pairs: {kind}"))
        losses[kind] = smoothed(curve)
        parts = [part.tolist() for part in np.array_split(np.arange(len(held)), min(6, len(held)))]
        model.eval()
        for part in parts:
            some = [held[i] for i in part]
            at = float(np.mean([len(pair.source) for pair in some]))
            accuracy.setdefault(kind, []).append((at, contest.judged(model, some)[1]))
    return accuracy, losses


def _shares(
    pairs: Pairs | None, vocabulary: int, seconds: float, parameters: int, seed: int, tell: Told
) -> Lines:
    """Held-out loss after as long a training on 1, 3, 10, 30 times the examples; the least while it learned."""
    random = np.random.default_rng(seed)
    if pairs is None:
        vocabulary = SYMBOLS + 2
        many = [symbols(random, int(random.integers(1, 9)), "reverse") for _ in range(LEAST * SHARES[-1] + 256)]
        train, held = many[256:], many[:256]
    else:
        train, held = _split(pairs)
        held = held[:256]
    found: Lines = {}
    for kind, (*_, rate) in KINDS.items():
        found[kind] = []
        for share in SHARES:
            some = train[: len(train) * share // SHARES[-1]]
            model, best = _new(kind, parameters, vocabulary, seed, 0.1), float("inf")
            batches = _drawn_from(some, seed)
            for _ in range(4):  # judged so often: too few examples are soon known by heart
                contest.learn(model, batches, seconds / 4, rate, seed, partial(tell, f"data: {kind}"))
                best = min(best, contest.judged(model, held)[0])
            found[kind].append((float(len(some)), best))
    return found


def _reach(model: Any, seed: int) -> list[Point]:
    random = np.random.default_rng(seed + 2)
    norms = contest.reach(model, [symbols(random, LEARNED, "reverse") for _ in range(16)])[:-1]
    # The last target is the first symbol: a net that reads step by step has to carry it past all the others.
    return [(float(i + 1), float(np.log10(max(norm, 1e-30)))) for i, norm in enumerate(norms)]


def _times(models: dict[str, Any], threads: int, seed: int, tell: Told) -> Lines:
    """Seconds of a step with 8 pairs of each length, the least of three."""
    before, random = _core.threads(), np.random.default_rng(seed)
    found: Lines = {}
    _core.set_threads(threads)
    try:
        for kind, model in models.items():
            found[kind] = []
            for length in STEPS:
                sides = random.integers(2, SYMBOLS, (8, 2, length)).astype(np.int32)
                some = iter([[Pair(*each) for each in sides]] * 4)
                tell(f"step time: {kind}, {threads} threads", 0.0)
                passed = contest.learn(model, some, 1e9, 0.0, seed).seconds
                found[kind].append((float(length), min(np.diff(passed))))
    finally:
        _core.set_threads(before)
    return found


def verdicts(found: Found) -> dict[str, dict[str, float]]:
    """The lecture's table, a measurement for each tick: by kind what its columns say."""
    table: dict[str, dict[str, float]] = {}
    most = max(found.times)
    for kind, parameters in found.parameters.items():
        known = [
            max([x for x, y in lines[kind] if y >= KNOWN], default=0.0)
            for task, lines in found.accuracy.items() if task in TASKS
        ]  # fmt: skip
        short, long = found.times[most][kind][0], found.times[most][kind][-1]
        least, all_ = found.data[kind][0][1], found.data[kind][-1][1]
        table[kind] = {
            "parameters": parameters,
            "longest source learned": min(known),
            "step at the shortest, ms": 1e3 * short[1],
            "step at the longest, ms": 1e3 * long[1],
            "time per token, longest : shortest": long[1] / long[0] / (short[1] / short[0]),
            f"faster with {most} threads": found.times[min(found.times)][kind][-1][1] / long[1],
            "loss after all seconds": found.losses[kind][-1][1],
            f"loss saved by {SHARES[-1]}x the data": least - all_,
        }
    return table


def drawn(found: Found) -> Report:
    """The page: a picture of every measurement, then the table."""
    body = ["<h1>From RNN to Transformer, measured</h1>"]
    body.append(f"<p>Models of equal size, for equal times, on this machine; {found.seconds:,.0f} s in all.</p>")
    for task, lines in found.accuracy.items():
        title = f"Accuracy against length: {task}"
        title += f" (learned: up to {LEARNED})" if task in TASKS else ""
        body.append(_picture(title, lines, "target tokens right", "tokens of the source", dots=True))
    for threads, lines in found.times.items():
        some = {kind: [(x, 1e3 * y) for x, y in points] for kind, points in lines.items()}
        title = f"Time of a training step against length, {threads} thread{'s' * (threads > 1)}"
        body.append(_picture(title, some, "ms, 8 pairs", "tokens of a side", dots=True))
    body.append(_picture("Loss against time", found.losses, "nats per token", "seconds"))
    body.append(_picture("Loss on held-out pairs against data", found.data, "nats per token", "examples", dots=True))
    reach = "Gradient through time: of the last target token, at each token of a reversed source"
    body.append(_picture(reach, found.reach, "log10 of its norm", "place in the source; the answer is at 1"))
    table = verdicts(found)
    columns = list(next(iter(table.values())))
    head = "".join(f"<th>{text(name)}</th>" for name in ("", *columns))
    lines_ = [f"<tr><th>{text(kind)}</th>{''.join(f'<td>{v:,.4g}</td>' for v in row.values())}</tr>"
              for kind, row in table.items()]  # fmt: skip
    body.append(f"<h2>The table</h2><table><tr>{head}</tr>{''.join(lines_)}</table>")
    body.append(f"<p class='none'>Learned: {KNOWN:.0%} of the target tokens right, in every task made of symbols.</p>")
    facts = {"table": table, **found._asdict()}
    return page("From RNN to Transformer, measured", body, facts)


def _picture(title: str, lines: Lines, y_name: str, x_name: str, dots: bool = False) -> str:
    return curves(title, [Line(kind, points, dots) for kind, points in lines.items()], y_name, x_name)
