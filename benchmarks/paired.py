"""Paired measurement: whoever is compared takes turns, A B then B A, and the ratio of each pair is what counts.

The two sides of a pair share the machine's mood, and absolute speeds do not keep. Whoever waits must sleep, which /proc
shows. A pair during which more than 1 % of the machine was stolen, or more than `foreign` of it went to other programs,
is dropped and measured again, because a busy machine favours whoever waits for its threads the least.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PAUSE = 0.3  # seconds before each turn: OpenMP runtimes spin for a while after their last region
STEAL = 0.01
Round = dict[str, Any]


class NoisyError(RuntimeError):
    """Too few quiet pairs for a figure."""


@dataclass(frozen=True)
class Side:
    """Who is measured: `run` does the work once and gives seconds. cpu: CPU seconds that its process has used."""

    name: str
    run: Callable[[], float]
    cpu: Callable[[], float] | None = None  # the same object for sides that share a process; None: none that stays


class Machine:
    """What happened on all CPUs since this object was made; `own` gives the CPU seconds that the measurement used."""

    def __init__(self, own: Callable[[], float]) -> None:
        self.own = own
        self.start = self.now()

    def now(self) -> tuple[float, float, float, float]:
        """(all, stolen, busy, own) in seconds."""
        ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        hertz = os.sysconf("SC_CLK_TCK")
        idle, waiting, stolen = ticks[3], ticks[4], ticks[7]
        return sum(ticks) / hertz, stolen / hertz, (sum(ticks) - idle - waiting - stolen) / hertz, self.own()

    def shares(self) -> dict[str, float]:
        """{"steal", "foreign"}: shares of the machine."""
        total, stolen, busy, own = (b - a for a, b in zip(self.start, self.now(), strict=True))
        total = max(total, 1e-9)
        return {"steal": stolen / total, "foreign": max(0.0, busy - own) / total}


def children_seconds() -> float:
    """CPU time of this process and of those of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def turn(side: Side, sides: Sequence[Side]) -> tuple[float, float]:
    """(seconds, CPU share that the processes of the others used meanwhile)."""
    waiting = {other.cpu for other in sides} - {side.cpu, None}
    time.sleep(PAUSE)
    before = sum(cpu() for cpu in waiting)
    start = time.perf_counter()
    seconds = side.run()
    return seconds, (sum(cpu() for cpu in waiting) - before) / (time.perf_counter() - start)


def quiet(measured: Round, foreign: float) -> bool:
    """Whether a pair counts."""
    return bool(measured["steal"] <= STEAL and measured["foreign"] <= foreign)


def paired(sides: Sequence[Side], pairs: int, foreign: float = 0.05) -> list[Round]:
    """Rounds in alternating order until `pairs` of them were quiet, three times as many at most.

    A round: {"seconds": {side: s}, "idle": worst share of who waited, "steal": share, "foreign": share}.
    """
    processes = {side.cpu for side in sides} - {None}
    rounds: list[Round] = []
    while sum(quiet(each, foreign) for each in rounds) < pairs and len(rounds) < 3 * pairs:
        machine = Machine(lambda: children_seconds() + sum(cpu() for cpu in processes))
        seconds, idle = {}, 0.0
        for side in sides if len(rounds) % 2 == 0 else sides[::-1]:
            seconds[side.name], share = turn(side, sides)
            idle = max(idle, share)
        rounds.append({"seconds": seconds, "idle": idle, **machine.shares()})
    return rounds


def interval(values: Sequence[float], seed: int = 1) -> list[float]:
    """Bootstrap 95 % interval of the median."""
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(values, (4000, len(values))), axis=1)
    return [float(x) for x in np.quantile(medians, (0.025, 0.975))]


def report(rounds: Sequence[Round], count: float, foreign: float = 0.05) -> dict[str, Any]:
    """Rates and ratios of the rounds that count; `count` tokens (or operations, or 1) per measurement."""
    kept = [each for each in rounds if quiet(each, foreign)]
    if len(kept) < 3:
        shares = ", ".join(f"{each['foreign']:.0%}" for each in rounds)
        raise NoisyError(f"only {len(kept)} of {len(rounds)} pairs on a quiet machine; other programs took {shares}")
    names = list(kept[0]["seconds"])
    rate = {name: count / statistics.median(r["seconds"][name] for r in kept) for name in names}
    ratios = {}
    for peer in (name for name in names if name != "pyllm"):
        values = [r["seconds"][peer] / r["seconds"]["pyllm"] for r in kept]
        ratios[peer] = {"median": statistics.median(values), "interval": interval(values), "min": min(values),
                        "max": max(values)}  # fmt: skip
    best = min(ratios, key=lambda name: ratios[name]["median"])
    return {"count": count, "per_second": rate, "ratio": ratios, "against": best, "pairs": len(kept),
            "dropped": len(rounds) - len(kept), "worst_idle_cpu": max(r["idle"] for r in kept),
            "raw": list(rounds)}  # fmt: skip


def machine_facts() -> dict[str, Any]:
    """The machine and the day."""
    cpu = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())  # fmt: skip
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "cpu": cpu, "cpus": os.cpu_count(), "kernel": platform.release(), "date": time.strftime("%Y-%m-%d"),
        "huge_pages": pages.read_text().strip() if pages.exists() else "unknown",
        "environment": {k: v for k, v in os.environ.items() if k.startswith(("OMP_", "GOMP_", "PYLLM_", "KMP_"))},
    }  # fmt: skip
