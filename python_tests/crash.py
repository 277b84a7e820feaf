#!/usr/bin/env python3
"""Kill a training run at every call that it makes of the disk and at random times, let the disk fail at every call, let
the run go on, and compare what it ends with, byte for byte, with a run that nobody disturbed.

    crash.py [--kills 500] [--sample N] [--jobs N] [--seed N] [--command PROGRAM ARGUMENT... {folder} ARGUMENT...]

The command stands last; `{folder}` in it becomes the run folder. Without one a small stand-in is trained. What is asked
of a command: it makes the folder; started on a folder that has checkpoints it goes on from the newest; it ends with 0
when it is done, with 1 and a line on stderr without a traceback when the disk refuses; undisturbed it makes the same
calls each time. Compared are the files of the newest checkpoint and log.jsonl. Besides, after every fault all
checkpoints must verify and none that had its name may be lost unless a newer one is there; after a run that went
through nothing unfinished may be left.

Killed and failed are two runs: one on a new folder, and one that goes on from a folder whose run was killed in a save.
Ends with one line of counts; with 1 and a line for each difference when there is any. Needs Linux and a C compiler.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pyllm.train import CheckpointError, read_checkpoint

HERE = Path(__file__).resolve().parent
STAND_IN = [sys.executable, str(HERE / "stand_in.py"), "{folder}"]
TRAINER = [sys.executable, str(HERE / "train_process.py"), "{folder}"]
ERRORS = ("ENOSPC", "EIO", "EINTR", "short")
NAMED = re.compile(r"rename .*/checkpoint-(\d+)$")


class Difference(Exception):
    """What a disturbed run did that it must not."""


class Point(NamedTuple):
    """One disturbance: kill or torn or the name of an error, at which call; which call that was."""

    action: str
    at: int
    call: str


class Start(NamedTuple):
    """Where runs begin: a folder to be copied (None: no folder), the calls of a run from there, the undisturbed end."""

    folder: Path | None
    trace: list[str]
    end: dict[str, bytes]
    seconds: float


def build_shim(folder: Path) -> Path:
    """Compile faults.c into a library."""
    compilers = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    compiler = next(name for name in compilers if name and shutil.which(name))
    library = folder / "faults.so"
    words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "faults.c"), "-ldl"]
    subprocess.run(words, check=True)
    return library


def newest(folder: Path) -> int:
    """Step of the newest checkpoint, 0 where there is none. Raises Difference when any does not verify."""
    steps = [0]
    for path in folder.glob("checkpoint-*"):
        try:
            steps.append(read_checkpoint(path)[0])
        except CheckpointError as error:
            raise Difference(f"a checkpoint is damaged: {error}") from error
    return max(steps)


def end_of(folder: Path) -> dict[str, bytes]:
    """What a run ends with: the newest checkpoint's files and the log."""
    last = max(folder.glob("checkpoint-*"))
    files = [*sorted(last.iterdir()), folder / "log.jsonl"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class Campaign:
    """Disturbed runs of one command, below `work`; `counts` says how many of which kind, `wrong` what was different."""

    def __init__(self, work: Path, command: list[str], patience: float = 120) -> None:
        self.work = Path(os.path.realpath(work))
        self.command = command
        self.patience = patience
        self.shim = build_shim(self.work)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._number = 0
        self._lock = threading.Lock()

    def folder(self, source: Path | None = None) -> Path:
        """The name of a new run folder; a copy of `source` if one is given."""
        with self._lock:
            self._number += 1
            path = self.work / f"run-{self._number:05d}"
        if source is not None:
            shutil.copytree(source, path)
        return path

    def start(self, folder: Path, **faults: object) -> subprocess.Popen[str]:
        """The command as a process, under the shim if there are faults."""
        environ = dict(os.environ)
        if faults:
            environ |= {f"FAULT_{name}": str(value) for name, value in faults.items()}
            environ |= {"LD_PRELOAD": str(self.shim), "FAULT_FOLDER": str(folder)}
        words = [word.replace("{folder}", str(folder)) for word in self.command]
        return subprocess.Popen(words, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def run(self, folder: Path, **faults: object) -> tuple[int, str]:
        """(exit code, stderr) of the command. Raises Difference when it does not end."""
        return self.ended(self.start(folder, **faults))

    def ended(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """(exit code, stderr) of a process. Raises Difference when it does not end."""
        try:
            _, said = process.communicate(timeout=self.patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise Difference(f"no end after {self.patience:.0f} s") from None
        return process.returncode, said

    def undisturbed(self, source: Path | None = None) -> Start:
        """A run that is only watched. Raises Difference when it does not go through."""
        folder = self.folder(source)
        trace = self.work / f"{folder.name}.trace"
        process = self.start(folder, TRACE=trace)
        wait_for_lock(process, folder, self.patience)
        begun = time.monotonic()  # random kills come after the lock: a slow start must not push them behind the end
        code, said = self.ended(process)
        if code != 0:
            raise Difference(f"undisturbed, the command ends with {code}: {said.strip()}")
        return Start(source, trace.read_text().splitlines(), end_of(folder), time.monotonic() - begun)

    def interrupted(self, fresh: Start) -> Start:
        """A folder whose run was killed in its last save, inside the largest file, and what a run from there does."""
        saves = [i for i, line in enumerate(fresh.trace, 1) if line.startswith("write ") and "unfinished" in line]
        folder = self.folder()
        code, said = self.run(folder, AT=saves[-2], DO="torn")
        if code != -signal.SIGKILL:
            raise Difference(f"the kill in the last save did not happen: {code} {said.strip()}")
        return self.undisturbed(folder)

    def check_end(self, folder: Path, end: dict[str, bytes]) -> None:
        """Let the run go on, undisturbed; it must end as if it always had been."""
        code, said = self.run(folder)
        if code != 0:
            raise Difference(f"going on ends with {code}: {said.strip()[-500:]}")
        found = end_of(folder)
        if found != end:
            names = sorted(name for name in {*found, *end} if found.get(name) != end.get(name))
            raise Difference(f"another end: {', '.join(names)}")
        left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
        if left:
            raise Difference(f"left over: {', '.join(left)}")

    def disturb(self, start: Start, point: Point) -> None:
        """One run disturbed at one call, and what comes of it."""
        folder = self.folder(start.folder)
        number = getattr(errno, point.action, None)
        code, said = self.run(folder, AT=point.at, DO=number or point.action)
        killed = point.action in ("kill", "torn")
        if code != -signal.SIGKILL if killed else code not in (0, 1) or "Traceback" in said or (code and not said):
            raise Difference(f"ends with {code}: {said.strip()[-500:]}")
        self._go_on(folder, start, newest_before(start.trace[: point.at - 1]))

    def _go_on(self, folder: Path, start: Start, wanted: int) -> None:
        """Checkpoints verify, none is lost, the end is the same; then the folder may go."""
        if (found := newest(folder)) < wanted:
            raise Difference(f"the checkpoint of step {wanted} is lost, the newest is {found}")
        self.check_end(folder, start.end)
        shutil.rmtree(folder)

    def kill_at_random(self, start: Start, seed: int, kills: int) -> None:
        """Kill runs on one folder again and again, until `kills` are done or the run is; it ends the same."""
        chance = random.Random(seed)
        folder = self.folder()
        for _ in range(kills):
            before = newest(folder)
            process = self.start(folder)
            wait_for_lock(process, folder, self.patience)
            time.sleep(chance.uniform(0, start.seconds / 2))
            process.kill()
            process.communicate()
            if process.returncode == 0:
                break
            if process.returncode != -signal.SIGKILL:
                raise Difference(f"ends with {process.returncode}")
            with self._lock:
                self.counts["at random times"] += 1
            if (found := newest(folder)) < before:
                raise Difference(f"the checkpoint of step {before} is lost, the newest is {found}")
        self.check_end(folder, start.end)
        shutil.rmtree(folder)

    def try_points(self, start: Start, points: Iterable[Point], jobs: int) -> None:
        """Disturb at every point."""
        kind = "on a new folder" if start.folder is None else "going on"

        def attempt(point: Point) -> None:
            try:
                self.disturb(start, point)
            except Difference as difference:
                self.note(f"{kind}, {point.action} at call {point.at} ({point.call}): {difference}")
            with self._lock:
                self.counts[{"kill": "at calls", "torn": "inside writes"}.get(point.action, point.action)] += 1

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(attempt, points))

    def try_random(self, start: Start, kills: int, seed: int, jobs: int) -> None:
        """At least `kills` kills at random times."""
        for first in range(seed, seed + kills * jobs, jobs):
            missing = kills - self.counts["at random times"]
            if missing <= 0:
                return

            def attempt(each: int, most: int = max(1, min(20, missing // jobs))) -> None:
                try:
                    self.kill_at_random(start, each, most)
                except Difference as difference:
                    self.note(f"killed at random times, seed {each}: {difference}")

            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(attempt, range(first, first + jobs)))
        if self.counts["at random times"] < kills:
            self.note(f"only {self.counts['at random times']} of {kills} kills at random times happened")

    def note(self, text: str) -> None:
        """A difference, told at once."""
        print(text, file=sys.stderr, flush=True)
        with self._lock:
            self.wrong.append(text)


def newest_before(trace: list[str]) -> int:
    """Step of the newest checkpoint that these calls have given its name, 0 for none."""
    return max([0, *(int(match.group(1)) for match in map(NAMED.match, trace) if match)])


def wait_for_lock(process: subprocess.Popen[str], folder: Path, patience: float) -> None:
    """Return when the process has written itself into the lock file, or is gone."""
    end = time.monotonic() + patience
    old = (folder / "lock").read_text() if (folder / "lock").exists() else ""
    while process.poll() is None and time.monotonic() < end:
        try:
            text = (folder / "lock").read_text()
        except FileNotFoundError:
            text = ""
        if text not in (old, ""):
            return
        time.sleep(0.001)


def points_of(trace: list[str], action: str, sample: int = 0) -> list[Point]:
    """One point per call, for torn and short per write; at most `sample` of them, evenly spread, if it is not 0."""
    calls = [(i, line.split()[0]) for i, line in enumerate(trace, 1)]
    if action in ("torn", "short"):
        calls = [(i, call) for i, call in calls if call in ("write", "pwrite")]
    points = [Point(action, i, call) for i, call in calls]
    if not sample or sample >= len(points):
        return points
    return [points[(2 * i + 1) * len(points) // (2 * sample)] for i in range(sample)]


def main(words: list[str] | None = None) -> int:
    """The whole campaign; 1 if anything was different."""
    parser = argparse.ArgumentParser(description="kill a training run everywhere; it must end the same")
    parser.add_argument("--kills", type=int, default=500, help="kills at random times")
    parser.add_argument("--sample", type=int, default=0, help="at most this many calls of each kind of fault; 0: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at the same time")
    parser.add_argument("--seed", type=int, default=0, help="of the random times")
    parser.add_argument("--command", nargs=argparse.REMAINDER, default=STAND_IN, help="what trains; stands last")
    chosen = parser.parse_args(words)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pyllm-crash-") as folder:
        campaign = Campaign(Path(folder), chosen.command)
        fresh = campaign.undisturbed()
        going_on = campaign.interrupted(fresh)
        if going_on.end != fresh.end:
            campaign.note("killed in the last save: another end")
        for start in (fresh, going_on):
            for action in ("kill", "torn", *ERRORS):
                campaign.try_points(start, points_of(start.trace, action, chosen.sample), chosen.jobs)
        campaign.try_random(fresh, chosen.kills, chosen.seed, chosen.jobs)
    counts = campaign.counts
    kinds = ("at calls", "inside writes", "at random times")
    kills = ", ".join(f"{counts[kind]} {kind}" for kind in kinds)
    faults = ", ".join(f"{counts[kind]} {kind}" for kind in ERRORS)
    total = sum(counts[kind] for kind in kinds)
    seconds = time.monotonic() - begun
    print(f"{total} kills ({kills}), faults: {faults}; {len(campaign.wrong)} differences, {seconds:.0f} s")
    return 1 if campaign.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
