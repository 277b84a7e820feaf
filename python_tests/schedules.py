"""Requests through the scheduler in different company and memory: used by the invariance test and campaign.

`serve` gives, for each request, the tokens and a SHA-256 over the log-probabilities and the float32 logits that they
were chosen from (and the log-probabilities of the prompt, where asked). No setting of a Schedule may change a byte.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pyllm import _core
from pyllm.generate import GenerationConfig, PagedCache, Sampler, Scheduler, Sequence
from pyllm.generate.sequence import Wants
from pyllm.generate.stopping import StopRules

Answers = list[list[tuple[tuple[int, ...], str]]]


@dataclass(frozen=True)
class Order:
    """What one user asks: seed 0 is greedy; copies are siblings that fork after the prompt."""

    prompt: tuple[int, ...]
    new: int
    seed: int = 0
    copies: int = 1
    scored: bool = False  # the prompt's log-probabilities too


@dataclass(frozen=True)
class Schedule:
    """How orders are served.

    company: sequences at once. memory: "least" is what the largest order needs alone, "double" twice that. warm: all
    orders have been served before from the same cache. cancelled: neighbours that leave at some step. drafts: tokens
    drafted at a time, most of them right. arrival: seed of the order and the steps of arrival, and of who leaves when.
    """

    threads: int = 1
    chunk: int = 512
    company: int = 1
    memory: str = "plenty"
    warm: bool = False
    cancelled: int = 0
    drafts: int = 0
    arrival: int = 0


SETTINGS: dict[str, tuple[Any, ...]] = {
    "threads": (1, 1, 1, 2, 3, 4),  # more than there are processors is slow
    "chunk": (1, 7, 64, 100, 512),
    "company": (1, 2, 3, 5, 8, 16, 32),
    "memory": ("least", "double", "plenty"),
    "warm": (False, True),
    "cancelled": (0, 2, 5),
    "drafts": (0, 1, 3, 10),
}


def schedules(rng: np.random.Generator, count: int) -> Iterator[Schedule]:
    """Random ones."""
    for _ in range(count):
        drawn = {name: values[int(rng.integers(len(values)))] for name, values in SETTINGS.items()}
        yield Schedule(**drawn, arrival=int(rng.integers(1, 2**31)))


class Hints:
    """Drafts from the answer that is expected, a fifth of them wrong."""

    def __init__(self, answer: tuple[int, ...], most: int, counts: Counter[str], seed: int) -> None:
        self.answer, self.most, self.counts = answer, most, counts
        self.rng = np.random.default_rng(seed)

    def drafts(self, tokens: array[int], room: int) -> list[int]:
        count = min(room, int(self.rng.integers(0, self.most + 1)))
        after = self.answer[len(tokens) : len(tokens) + count]
        return [token if self.rng.random() < 0.8 else 0 for token in after]

    def learn(self, drafted: int, held: int) -> None:
        self.counts.update(drafted=drafted, drafts_held=held)


def random_orders(rng: np.random.Generator, count: int, vocabulary: int, longest: int, new: int) -> list[Order]:
    """Prompts of 1 to `longest` tokens that begin like one of three texts for some way; greedy and sampled."""
    stems = rng.integers(0, vocabulary, (3, longest))
    orders = []
    for _ in range(count):
        length = int(np.exp(rng.uniform(0, np.log(longest + 0.5))).clip(1, longest))
        prompt = stems[rng.integers(3), :length].copy()
        own = int(rng.integers(0, length + 1))
        prompt[own:] = rng.integers(0, vocabulary, length - own)
        seed = int(rng.integers(0, 2) * rng.integers(1, 1000))
        copies = int(rng.choice([1, 1, 1, 3]))
        orders.append(Order(tuple(prompt.tolist()), int(rng.integers(1, new + 1)), seed, copies, rng.random() < 0.2))
    return orders


def sequence_of(order: Order) -> Sequence:
    """The first of an order's sequences, with its siblings."""
    sampler = Sampler(GenerationConfig(do_sample=order.seed > 0, top_k=0, temperature=1.2))
    rules = StopRules(most=len(order.prompt) + order.new)
    wants = Wants(logprob=True, logits=True, prompt=order.scored)
    made = [
        Sequence(array("q", order.prompt), sampler, rules, seed=order.seed, stream=i, wants=wants)
        for i in range(order.copies)
    ]
    made[0].siblings = made[1:]
    return made[0]


def serve(
    model: Any,
    orders: list[Order],
    schedule: Schedule,
    counts: Counter[str] | None = None,
    expected: Answers | None = None,
) -> Answers:
    """(tokens, digest) of every sequence of each order, in the order given. Raises where pages are left over.

    expected: what the drafts of the schedule are taken from.
    """
    before = _core.threads()
    _core.set_threads(schedule.threads)
    try:
        cache = PagedCache(model, pages_of(model, orders, schedule) * model.new_pool().page_bytes)
        if schedule.warm:
            attend(model, orders, Schedule(), cache, Counter())
        answers = attend(model, orders, schedule, cache, Counter() if counts is None else counts, expected)
        cache.clear()
        assert cache.used == 0, f"{cache.used} pages are left over"
        return answers
    finally:
        _core.set_threads(before)


def alone(model: Any, orders: list[Order]) -> Answers:
    """What each order gives with nobody beside it, from a cache of its own."""
    return [serve(model, [order], Schedule())[0] for order in orders]


def pages_of(model: Any, orders: list[Order], schedule: Schedule) -> int:
    """The memory of a schedule in pages."""
    least = -(-max(len(order.prompt) + order.new for order in orders) // model.new_pool().page_length)
    return {"least": least, "double": 2 * least, "plenty": 400}[schedule.memory]


def attend(
    model: Any,
    orders: list[Order],
    schedule: Schedule,
    cache: PagedCache,
    counts: Counter[str],
    expected: Answers | None = None,
) -> Answers:
    """Serve all orders from one cache."""
    rng = np.random.default_rng(schedule.arrival)
    first = [sequence_of(order) for order in orders]
    lost = [sequence_of(orders[int(rng.integers(len(orders)))]) for _ in range(schedule.cancelled)]
    coming = [*first, *lost]
    order = rng.permutation(len(coming)) if schedule.arrival else np.arange(len(coming))
    coming = [coming[i] for i in order[::-1]]
    digests = {each: hashlib.sha256() for one in first for each in (one, *one.siblings)}
    siblings = [(one, *one.siblings) for one in first]
    for order, group, answers in zip(orders, siblings, expected or (), strict=False):
        for each, (answer, _) in zip(group, answers, strict=True):
            each.lookup = Hints((*order.prompt, *answer), schedule.drafts, counts, each.stream)
    hits = cache.hits
    with Scheduler(model, cache, chunk=schedule.chunk, max_sequences=schedule.company) as scheduler:
        while coming or scheduler.running or scheduler.waiting:
            arriving = int(rng.integers(0, 4)) if schedule.arrival else len(coming)
            for _ in range(min(arriving, len(coming))):
                scheduler.add(coming.pop())
            if lost and rng.random() < 0.3:
                scheduler.remove(lost.pop())
            for event in scheduler.step():
                assert event.error is None, event.error
                if event.sequence in digests:
                    digests[event.sequence].update(np.float64(event.logprob).tobytes() + event.logits.tobytes())
        counts.update(preempted=scheduler.preemptions, prefix_hits=cache.hits - hits)
    for each, digest in digests.items():
        if each.prompt_logprobs is not None:
            digest.update(each.prompt_logprobs.tobytes())
    return [[(tuple(each.generated), digests[each].hexdigest()) for each in group] for group in siblings]


def compare(model: Any, orders: list[Order], served: list[Schedule], counts: Counter[str]) -> list[str]:
    """Differences in words between orders alone and under each schedule; counts says which cases there were."""
    expected, wrong = alone(model, orders), []
    for schedule in served:
        answers = serve(model, orders, schedule, counts, expected)
        cases = sum(len(group) for group in answers)
        counts.update({"cases": cases, "sampled": sum(order.copies for order in orders if order.seed)})
        counts.update({"forked": sum(order.copies - 1 for order in orders)})
        counts.update({f"{name}={value}": cases for name, value in asdict(schedule).items() if name != "arrival"})
        for i, (found, right) in enumerate(zip(answers, expected, strict=True)):
            if found != right:
                wrong.append(f"order {i}, prompt of {len(orders[i].prompt)}, {schedule}")
    return wrong
