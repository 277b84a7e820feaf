"""pyllm beside llama.cpp and ik_llama.cpp on the same work, paired: the rows of compare_rows.py.

compare.py ROW_OR_GROUP ... --model SmolLM2.gguf --peer-python PYTHON [--avx2-python PYTHON] [--ik LLAMA_BENCH]

Each row goes into a file of its own in --out, raw samples included; rows that have one are skipped, so a campaign can
be stopped and started again. Resident processes are driven in turn (paired.py); llama.cpp runs with and without flash
attention, and the ratio that counts is the one against the fastest. Random models are deleted after their rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from compare_files import Files
from compare_rows import GROUPS, Row, chosen
from paired import NoisyError, Side, machine_facts, paired, report

HERE = Path(__file__).parent
WORKERS = HERE / "compare_workers.py"
PYLLM = str(Path(sys.executable).with_name("pyllm"))  # `python -m pyllm` would take the sources in the working folder


class Engine:
    """A worker process that stays."""

    def __init__(self, name: str, python: str, model: Path, threads: int, isa: str = "") -> None:
        self.name = name
        command = [python, str(WORKERS), name, str(model), "--threads", str(threads)]
        environment = {**os.environ, **({"PYLLM_ISA": isa} if isa and name == "pyllm" else {})}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
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


def pinned(command: list[str], threads: int) -> subprocess.Popen:
    """A process on the first CPUs."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            preexec_fn=lambda: os.sched_setaffinity(0, cpus))  # fmt: skip


def first_token(command: list[str], threads: int) -> float:
    """Seconds from the start of a process to its first byte of output."""
    start = time.perf_counter()
    process = pinned(command, threads)
    byte = process.stdout.read(1)
    seconds = time.perf_counter() - start
    process.stdout.read()
    if process.wait() != 0 or not byte:
        raise RuntimeError(f"{command[0]}: ended with {process.returncode} and {'some' if byte else 'no'} output")
    return seconds


def ik_prompt(bench: str, model: Path, threads: int, tokens: int) -> dict[str, Any]:
    """A prompt in ik_llama.cpp's own llama-bench: weights repacked while loading, one warm-up, one run."""
    command = [bench, "-m", str(model), "-p", str(tokens), "-n", "0", "-r", "1", "-t", str(threads), "-rtr", "1",
               "-fa", "1", "-o", "json"]  # fmt: skip
    process = pinned(command, threads)
    text = process.communicate()[0].decode()
    if process.returncode != 0:
        raise RuntimeError(f"{bench}: ended with {process.returncode}")
    return json.loads(text)[0]


class Campaign:
    """The engines that stay from one row to the next that uses the same ones."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.files = Files(options.model, options.cache, options.peer_python)
        self.engines: dict[tuple[str, str, str], Engine] = {}
        self.ik_version = ""

    def engine(self, name: str, file: str, isa: str) -> Engine:
        """The process of an engine, a model and an instruction set."""
        key = (name, file, isa)
        if key not in self.engines:
            python = sys.executable
            if name != "pyllm":
                python = self.options.avx2_python if isa == "avx2" else self.options.peer_python
            self.engines[key] = Engine(name, python, self.files.path(file), self.options.threads, isa)
        return self.engines[key]

    def keep(self, keys: set[tuple[str, str, str]]) -> None:
        """End the engines that are not among these."""
        for key in set(self.engines) - keys:
            self.engines.pop(key).close()

    def sides(self, row: Row) -> list[Side]:
        """pyllm and its peers at the work of a row."""
        if row.work["do"] == "first":
            self.keep(set())
            return [self.fresh(row, name) for name in ("pyllm", *row.peers)]
        names = {"pyllm": row.file} | {name.split("-")[0]: row.peer_file or row.file for name in row.peers}
        self.keep({(name, file, row.isa) for name, file in names.items()})
        return [self.side(row, name, names[name.split("-")[0]]) for name in ("pyllm", *row.peers)]

    def fresh(self, row: Row, name: str) -> Side:
        """A process from its start to its first token."""
        model, threads, text = str(self.files.path(row.file)), self.options.threads, row.work["text"]
        if name == "pyllm":
            command = [PYLLM, "generate", "-m", model, "-p", text, "-n", "1", "--temp", "0",
                       "--threads", str(threads), "--no-display-prompt"]  # fmt: skip
        else:
            command = [self.options.peer_python, str(WORKERS), name, model, "--threads", str(threads), "--first", text]
        return Side(name, lambda: first_token(command, threads))

    def side(self, row: Row, name: str, file: str) -> Side:
        """One of those that stay, or a process per measurement."""
        if name == "ik_llama.cpp":
            return Side(name, lambda: self.ik_seconds(self.files.path(file), row.work["tokens"]))
        engine = self.engine(name.removesuffix("-flash"), file, row.isa)
        work = row.work if name == "pyllm" else {**row.work, "do": row.work["do"].replace("engine", "together")}
        flash = {"flash": True} if name.endswith("-flash") else {}
        return Side(name, lambda: engine.ask(**work, **flash)["seconds"], engine.cpu_seconds)

    def ik_seconds(self, model: Path, tokens: int) -> float:
        """A prompt in a process of its own; its version is kept."""
        found = ik_prompt(self.options.ik, model, self.options.threads, tokens)
        self.ik_version = f"{found['build_commit']}; flash attention, repacked"
        return found["samples_ns"][0] * 1e-9

    def measure(self, row: Row) -> dict[str, Any]:
        """The result of a row."""
        sides = self.sides(row)
        warm = {side.name: [side.run() for _ in range(3)][1:] for side in sides}
        if row.pick:
            best = min(row.peers, key=lambda name: statistics.median(warm[name]))
            sides = [side for side in sides if side.name in ("pyllm", best)]
        found = report(paired(sides, self.options.pairs, self.options.foreign), row.count, self.options.foreign)
        facts = machine_facts()
        facts["engines"] = {engine.name: engine.ask(do="facts") for engine in self.engines.values()}
        if "ik_llama.cpp" in row.peers:
            facts["engines"]["ik_llama.cpp"] = {"version": self.ik_version}
        return {"row": row._asdict(), "threads": self.options.threads, "model": self.files.path(row.file).name,
                "same_greedy_tokens_of_32": self.agreement(row), "warm": warm, **found, "facts": facts}  # fmt: skip

    def agreement(self, row: Row, new: int = 32) -> dict[str, int]:
        """How many greedy tokens llama.cpp shares with pyllm from the start: the same work is done on the same file."""
        if row.work["do"] == "first" or row.peer_file or row.peers[0] != "llama.cpp":
            return {}
        ours = self.engine("pyllm", row.file, row.isa).ask(do="greedy", new=new)["ids"]
        theirs = self.engine("llama.cpp", row.file, row.isa).ask(do="greedy", new=new)["ids"]
        return {"llama.cpp": next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), new)}


def reached(result: dict[str, Any]) -> bool:
    """Whether what is asked for was measured: the interval's lower bound, or the time."""
    row = result["row"]
    if row["seconds"] is not None:
        return bool(row["count"] / result["per_second"]["pyllm"] <= row["seconds"])
    return row["asked"] is None or bool(result["ratio"][result["against"]]["interval"][0] >= row["asked"])


def line(result: dict[str, Any]) -> str:
    """A result in one line."""
    row, ratio = result["row"], result["ratio"][result["against"]]
    low, high = ratio["interval"]
    rates = ", ".join(f"{name} {rate:,.1f}/s" for name, rate in result["per_second"].items())
    asked = f"at most {row['seconds']} s" if row["seconds"] else f"asked {row['asked']}" if row["asked"] else "for show"
    return (f"{row['name']:18} {rates}; {ratio['median']:.2f} x {result['against']} [{low:.2f}, {high:.2f}], "
            f"{asked}: {'reached' if reached(result) else 'MISSED'}, {result['pairs']} pairs, "
            f"{result['dropped']} dropped")  # fmt: skip


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help=f"names, files or groups: {', '.join(GROUPS)}")
    parser.add_argument("--model", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf; default: `pyllm pull`'s")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has llama-cpp-python")
    parser.add_argument("--avx2-python", help="one whose llama.cpp was built for AVX2")
    parser.add_argument("--ik", help="ik_llama.cpp's llama-bench")
    parser.add_argument("--cache", type=Path, default=Path("build/compare/models"), help="for files that are made")
    parser.add_argument("--out", type=Path, default=Path("build/compare"), help="a JSON file per row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--foreign", type=float, default=0.05, help="share of the machine that others may use")
    parser.add_argument("--again", action="store_true", help="measure rows again that have a result")
    parser.add_argument("--keep", action="store_true", help="keep the random models")
    options = parser.parse_args()
    if options.model is None:
        pull = subprocess.run([PYLLM, "pull"], capture_output=True, text=True, check=True)
        options.model = Path(pull.stdout.split("\n")[0].strip())
    return options


def missing(row: Row, options: argparse.Namespace) -> str:
    """What a row needs and is not there, or nothing."""
    if "ik_llama.cpp" in row.peers and not options.ik:
        return "needs --ik"
    return "needs --avx2-python" if row.isa == "avx2" and not options.avx2_python else ""


def main() -> int:
    """Measure and print; 1 when a row misses what is asked for."""
    options = arguments()
    rows = chosen(options.rows or ["smollm2"])
    options.out.mkdir(parents=True, exist_ok=True)
    campaign, results, noisy = Campaign(options), [], False
    for index, row in enumerate(rows):
        path = options.out / f"{row.name}.json"
        if reason := missing(row, options):
            print(f"{row.name:18} left out: {reason}", flush=True)
            continue
        if options.again or not path.exists():
            start = time.perf_counter()
            print(f"{row.name}: {row.file}, {row.what} ...", flush=True)
            try:
                result = campaign.measure(row)
            except NoisyError as error:
                print(f"{row.name:18} not measured: {error}", flush=True)
                noisy = True
            else:
                path.write_text(json.dumps({**result, "took": time.perf_counter() - start}) + "\n")
        if path.exists():
            results.append(json.loads(path.read_text()))
            print(line(results[-1]), flush=True)
        if not options.keep and row.file not in [later.file for later in rows[index + 1 :]]:
            campaign.keep(set())
            campaign.files.remove(row.file)
    campaign.keep(set())
    return 1 if noisy or not all(map(reached, results)) else 0


if __name__ == "__main__":
    sys.exit(main())
