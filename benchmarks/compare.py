"""pyllm and llama.cpp on the same file, paired: prompt, decoding, and process start to first token.

compare.py MODEL.gguf --peer-python PYTHON [--threads 2] [--prompt 512] [--new 128] [--pairs 15] [--json FILE]

Resident processes are driven in turn, A B then B A; whoever waits must sleep, which /proc shows. A pair during which
more than 1 % of the machine was stolen, or more than --foreign of it went to other programs, is dropped: a busy machine
favours whoever waits for its threads the least. What is reported is the median of per-pair ratios with a bootstrap
95 % interval, because the two sides of a pair share the machine's mood and absolute speeds do not keep. llama.cpp runs
with and without flash attention; the ratio that counts is the one against the faster of both.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PEERS = ("llama.cpp", "llama.cpp-flash")
WORKERS = Path(__file__).with_name("compare_workers.py")
FIRST = "The capital of France is"


class Engine:
    """A worker process."""

    def __init__(self, name: str, python: str, options: argparse.Namespace) -> None:
        self.name = name
        context = max(options.prompt, options.fill + options.new) + 64
        command = [python, str(WORKERS), name, str(options.model), "--threads", str(options.threads)]
        self.process = subprocess.Popen(
            [*command, "--context", str(context)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request and its answer."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: the process ended with {self.process.wait()}")
        return json.loads(line)

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


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


def turn(engine: Engine, others: list[Engine], request: dict[str, Any]) -> tuple[float, float]:
    """(seconds, CPU share that the waiting processes used meanwhile)."""
    time.sleep(0.3)  # OpenMP runtimes spin for a while after their last region
    before = sum(other.cpu_seconds() for other in others)
    start = time.perf_counter()
    seconds = engine.ask(**request)["seconds"]
    spent = time.perf_counter() - start
    return seconds, (sum(other.cpu_seconds() for other in others) - before) / spent


def paired(engines: list[Engine], request: dict[str, Any], pairs: int) -> list[dict[str, Any]]:
    """Rounds in alternating order: {"seconds": {engine: s}, "idle": worst share, "steal": share, "foreign": share}."""
    for engine in engines:
        for _ in range(2):
            engine.ask(**request)
    rounds = []
    for index in range(pairs):
        order = engines if index % 2 == 0 else engines[::-1]
        machine = Machine(lambda: children_seconds() + sum(engine.cpu_seconds() for engine in engines))
        seconds, idle = {}, 0.0
        for engine in order:
            others = [other for other in engines if other is not engine]
            seconds[engine.name], share = turn(engine, others, request)
            idle = max(idle, share)
        rounds.append({"seconds": seconds, "idle": idle, **machine.shares()})
    return rounds


def interval(values: list[float], seed: int = 1) -> list[float]:
    """Bootstrap 95 % interval of the median."""
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(values, (4000, len(values))), axis=1)
    return [float(x) for x in np.quantile(medians, (0.025, 0.975))]


def report(rounds: list[dict[str, Any]], count: int, foreign: float = 0.05) -> dict[str, Any]:
    """Rates and ratios of the rounds that count; `count` tokens (or 1) per measurement."""
    kept = [r for r in rounds if r["steal"] <= 0.01 and r["foreign"] <= foreign]
    if len(kept) < 3:
        shares = ", ".join(f"{r['foreign']:.0%}" for r in rounds)
        raise RuntimeError(f"only {len(kept)} of {len(rounds)} pairs on a quiet machine; other programs took {shares}")
    names = list(kept[0]["seconds"])
    rate = {name: count / statistics.median(r["seconds"][name] for r in kept) for name in names}
    ratios = {}
    for peer in (name for name in names if name != "pyllm"):
        values = [r["seconds"][peer] / r["seconds"]["pyllm"] for r in kept]
        ratios[peer] = {"median": statistics.median(values), "interval": interval(values), "min": min(values),
                        "max": max(values)}
    best = min(ratios, key=lambda name: ratios[name]["median"])
    return {"per_second": rate, "ratio": ratios, "against": best, "pairs": len(kept),
            "dropped": len(rounds) - len(kept), "worst_idle_cpu": max(r["idle"] for r in kept), "raw": rounds}


def first_token_seconds(command: list[str], threads: int) -> float:
    """From the start of a process to its first byte of output."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    byte = process.stdout.read(1)
    seconds = time.perf_counter() - start
    process.stdout.read()
    if process.wait() != 0 or not byte:
        raise RuntimeError(f"{command[0]}: ended with {process.returncode} and {'some' if byte else 'no'} output")
    return seconds


def first_token(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rounds of fresh processes, shaped like `paired`'s."""
    threads, model = str(options.threads), str(options.model)
    commands = {
        "pyllm": [sys.executable, "-m", "pyllm", "generate", "-m", model, "-p", FIRST, "-n", "1", "--temp", "0",
                  "--threads", threads, "--no-display-prompt"],
        "llama.cpp": [options.peer_python, str(WORKERS), "llama.cpp", model, "--threads", threads, "--first", FIRST],
    }
    for command in commands.values():
        first_token_seconds(command, options.threads)
    rounds = []
    for index in range(options.pairs):
        names = list(commands) if index % 2 == 0 else list(commands)[::-1]
        machine = Machine(children_seconds)
        seconds = {name: first_token_seconds(commands[name], options.threads) for name in names}
        rounds.append({"seconds": seconds, "idle": 0.0, **machine.shares()})
    return rounds


def facts(engines: list[Engine]) -> dict[str, Any]:
    """The machine and the versions."""
    cpu = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "cpu": cpu, "cpus": os.cpu_count(), "kernel": platform.release(), "date": time.strftime("%Y-%m-%d"),
        "huge_pages": pages.read_text().strip() if pages.exists() else "unknown",
        "environment": {k: v for k, v in os.environ.items() if k.startswith(("OMP_", "GOMP_", "PYLLM_", "KMP_"))},
        "engines": {engine.name: engine.ask(do="facts") for engine in engines},
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--peer-python", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--fill", type=int, default=1, help="tokens in the cache when decoding starts")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--foreign", type=float, default=0.05, help="share of the machine that others may use")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def agreement(engines: list[Engine], new: int = 32) -> dict[str, int]:
    """How many greedy tokens each peer shares with pyllm from the start; equal work is checked before it is timed."""
    ids = {engine.name: engine.ask(do="greedy", new=new)["ids"] for engine in engines}
    equal = {name: [a == b for a, b in zip(ids["pyllm"], other, strict=True)] for name, other in ids.items()}
    return {name: next((i for i, same in enumerate(row) if not same), new) for name, row in equal.items()}


def main() -> int:
    """Measure and print; 1 when pyllm is not ahead of the faster peer everywhere."""
    options = arguments()
    engines = [Engine("pyllm", sys.executable, options), *(Engine(n, options.peer_python, options) for n in PEERS)]
    result: dict[str, Any] = {"model": options.model.name, "threads": options.threads,
                              "same_greedy_tokens_of_32": agreement(engines)}
    prompt = {"do": "prompt", "tokens": options.prompt}
    decode = {"do": "decode", "fill": options.fill, "new": options.new}
    result["prompt"] = report(paired(engines, prompt, options.pairs), options.prompt, options.foreign)
    result["decode"] = report(paired(engines, decode, options.pairs), options.new, options.foreign)
    result["facts"] = facts(engines)
    for engine in engines:
        engine.close()
    result["first_token"] = report(first_token(options), 1, options.foreign)
    for name in ("prompt", "decode", "first_token"):
        part = result[name]
        ratio = part["ratio"][part["against"]]
        low, high = ratio["interval"]
        print(f"{name:12} " + ", ".join(f"{k} {v:,.1f}/s" for k, v in part["per_second"].items())
              + f"; {ratio['median']:.2f} x {part['against']} [{low:.2f}, {high:.2f}], {part['pairs']} pairs")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    behind = [name for name in ("prompt", "decode", "first_token")
              if result[name]["ratio"][result[name]["against"]]["interval"][0] <= 1]
    print("behind: " + ", ".join(behind) if behind else "ahead everywhere")
    return 1 if behind else 0


if __name__ == "__main__":
    sys.exit(main())
