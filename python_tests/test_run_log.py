"""The log of a run: equal numbers are equal bytes, a cut log goes on as if nothing had been."""

import errno
import json
import math
import os

import numpy as np
import pytest

from pyllm.train import LOG, TIMINGS, CheckpointError, Log, read
from pyllm.train import log as module


def written(folder, steps, step=None):
    with Log(folder, step) as log:
        for i in steps:
            log.add(i, loss=np.float32(1 / i), lr=0.1 * i, samples=np.int64(8 * i))
            log.time(i, seconds=i / 7)


def test_lines_are_written_and_read(tmp_path):
    with Log(tmp_path / "run") as log:
        assert log.last == 0
        log.add(1, loss=np.float32(0.1), lr=1e-300, word="ß\n", yes=True, none=None, tokens=np.int64(2**40))
        log.add(2, loss=np.float32("nan"), grad_norm=float("inf"), low=np.float64("-inf"), zero=-0.0)
        log.time(2, seconds=0.25)
        log.sync()
        assert log.last == 2
    assert (tmp_path / "run" / LOG).read_text().splitlines() == [
        '{"step": 1, "loss": 0.10000000149011612, "lr": 1e-300, "word": "\\u00df\\n", "yes": true, "none": null, '
        '"tokens": 1099511627776}',
        '{"step": 2, "loss": "nan", "grad_norm": "inf", "low": "-inf", "zero": -0.0}',
    ]
    first, second = read(tmp_path / "run")
    assert first["word"] == "ß\n" and first["loss"] == np.float32(0.1)
    assert math.isnan(second["loss"]) and (second["grad_norm"], second["low"]) == (math.inf, -math.inf)
    assert read(tmp_path / "run", TIMINGS) == [{"step": 2, "seconds": 0.25}]


@pytest.mark.parametrize("at", [0, 1, 5, 9])
def test_a_cut_log_ends_with_the_same_bytes(tmp_path, at):
    written(tmp_path / "whole", range(1, 10))
    written(tmp_path / "cut", range(1, 10))
    written(tmp_path / "cut", range(at + 1, 10), step=at)
    for name in (LOG, TIMINGS):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_a_torn_last_line_at_every_byte(tmp_path):
    written(tmp_path, [1, 2, 3])
    good = (tmp_path / LOG).read_bytes()
    start = good.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(good)):
        for tail in (b"", b"\0" * 5):
            (tmp_path / LOG).write_bytes(good[:end] + tail)
            assert [line["step"] for line in read(tmp_path)] == [1, 2]
            with Log(tmp_path) as log:
                assert log.last == 2
            assert (tmp_path / LOG).read_bytes() == good[:start]


def test_a_damaged_line_within_is_named(tmp_path):
    written(tmp_path, [1, 2, 3])
    lines = (tmp_path / LOG).read_bytes().splitlines(keepends=True)
    for bad in (b"{\n", b"[1]\n", b'{"step": "2"}\n', b"\n", b"\xff\n", b"[" * 100_000 + b"\n"):
        (tmp_path / LOG).write_bytes(lines[0] + bad + lines[2])
        for use in (read, Log):
            with pytest.raises(CheckpointError, match=rf"{LOG}: line 2 at 0x\w+: is not a line of a log, and others"):
                use(tmp_path)
        with Log(tmp_path, 0) as log:  # what is cut off need not be sound
            assert log.last == 0
        assert (tmp_path / LOG).read_bytes() == b""


def test_what_cannot_be_logged_is_named(tmp_path):
    with Log(tmp_path) as log:
        log.add(5, loss=1.0)
        log.add(5, validation=2.0)  # a step may have several lines
        for error, values, said in [
            (TypeError, {"x": [1]}, "'x' is of type list; a number, text"),
            (TypeError, {"x": np.zeros(2)}, "'x' is of type ndarray"),
            (ValueError, {"x": "nan"}, "'x' is the text 'nan', which means a number"),
        ]:
            with pytest.raises(error, match=said):
                log.add(6, **values)
        with pytest.raises(ValueError, match="step 4 after 5; ascending steps"):
            log.add(4, loss=1.0)
    assert len(read(tmp_path)) == 2


def test_a_line_that_the_disk_refuses_is_taken_back(tmp_path, monkeypatch):
    real = os.write
    failing = []

    def write(file, data):
        if not failing:
            return real(file, data)
        if failing.pop() == "part":
            failing.append("rest")
            return real(file, data[:7])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "write", write)
    with Log(tmp_path) as log:
        log.add(1, loss=1.0)
        failing.append("part")
        with pytest.raises(CheckpointError, match=f"{LOG}: cannot be written: No space left on device"):
            log.add(2, loss=2.0)
        log.add(2, loss=3.0)
        failing.append("part")
        monkeypatch.setattr(module.os, "ftruncate", lambda *_: write(-1, b""))
        with pytest.raises(CheckpointError, match="No space left"):
            log.add(3, loss=1.0)
        failing.clear()
        with pytest.raises(CheckpointError, match="Bad file descriptor"):
            log.add(3, loss=1.0)
    assert read(tmp_path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 3.0}]


def test_paths_that_cannot_be_logs(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read(tmp_path)
    (tmp_path / TIMINGS).mkdir()
    with pytest.raises(CheckpointError, match=f"{TIMINGS}: cannot be written: Is a directory"):
        Log(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made a folder"):
        Log(tmp_path / "file")


def test_every_line_is_json(tmp_path):
    written(tmp_path, range(1, 50))
    for line in (tmp_path / LOG).read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))
