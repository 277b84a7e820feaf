"""The team of workers: the same bits whoever does which share, in children of a fork, with callers who queue."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from pyllm import _core, ops

RANDOM = np.random.default_rng(0)
A, B = (RANDOM.standard_normal((300, 300), dtype=np.float32) for _ in range(2))


@pytest.fixture(autouse=True)
def as_before():
    """The number of threads is the process's."""
    before = _core.threads()
    yield
    _core.set_threads(before)


def product() -> bytes:
    return ops.matmul(A, B).tobytes()


def succeeds_in_child(check) -> bool:
    """Whether check() is true in a fork; a child that hangs is killed."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    alarm = threading.Timer(60, os.kill, (child, 9))
    alarm.start()
    status = os.waitpid(child, 0)[1]
    alarm.cancel()
    return status == 0


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_any_number_of_workers_gives_the_same_bits(workers):
    _core.set_threads(1)
    alone = product()
    _core.set_threads(workers)
    assert all(product() == alone for _ in range(20))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_and_its_fork_have_teams_of_their_own():
    _core.set_threads(2)
    wanted = product()
    assert succeeds_in_child(lambda: product() == wanted and succeeds_in_child(lambda: product() == wanted))
    assert product() == wanted


def test_callers_queue_while_the_team_changes_its_size():
    _core.set_threads(2)
    wanted = product()
    found: list[bytes] = []

    def call():
        for _ in range(50):
            found.append(product())

    callers = [threading.Thread(target=call) for _ in range(4)]
    for each in callers:
        each.start()
    for i in range(40):
        _core.set_threads(1 + i % 4)
    for each in callers:
        each.join()
    assert len(found) == 200 and set(found) == {wanted}


def test_what_no_worker_takes_the_caller_does():
    """Workers that never come: OpenMP gives one thread where three were asked for."""
    code = "import hashlib, test_workers as t; t._core.set_threads(3); print(hashlib.sha256(t.product()).hexdigest())"
    settings = os.environ | {"OMP_THREAD_LIMIT": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=settings)
    assert done.stdout.split() == [hashlib.sha256(product()).hexdigest()], done.stderr


def test_workers_on_one_core_give_the_same_bits():
    """Whichever runs does what the others have not begun."""
    _core.set_threads(3)
    wanted = product()

    def check():
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        return all(product() == wanted for _ in range(30))

    assert succeeds_in_child(check)


class Stop(Exception):
    """Raised by a signal's handler."""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_leaves_an_update_done_or_not_begun(workers):
    """Never half of the weights: each is the same number before and after."""
    _core.set_threads(workers)
    n = 60_000_000
    p, m, v, g = (np.ones(n, np.float32) for _ in range(4))

    def stop(*_: object) -> None:
        raise Stop

    before, stopped = signal.signal(signal.SIGALRM, stop), 0
    try:
        for step in range(1, 9):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.001 * step)
                _core.adamw(p, g, m, v, 1e-3, 0.9, 0.95, 1e-8, 0.0, step)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Stop:
                stopped += 1
            assert p.min() == p.max() and m.min() == m.max()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert stopped


def test_idle_workers_leave():
    """What OpenMP counts as running slows other users of it in the process."""
    code = (
        "import os, time, test_workers as t\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "t._core.set_threads(3); before = count(); end = time.monotonic() + 30\n"
        "while count() < before + 3 and time.monotonic() < end: t.product()\n"  # they come while the caller works
        "came = count() - before\n"
        "while count() > before and time.monotonic() < end: time.sleep(0.01)\n"
        "print(came, count() - before, t.product() == t.product())"
    )
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=settings)
    assert done.stdout.split() == ["3", "0", "True"], done.stdout + done.stderr
