"""Files are written whole or not at all: full disks, failing disks, kills, names that are taken."""

import errno
import os
import signal
import subprocess
import sys
from io import FileIO

import numpy as np
import pytest

from pyllm.errors import ModelFileError
from pyllm.formats import GGUF, writing
from pyllm.formats.gguf_writer import write_gguf
from pyllm.formats.writing import NewTensor, Staging

SIZE = 1 << 20


def tensor(pieces=4, size=SIZE):
    return NewTensor("w.weight", (size // 4096, 1024), "F32", lambda: iter([bytes(size // pieces)] * pieces))


def write(path, **options):
    write_gguf(str(path), {"general.architecture": "none"}, [tensor()], **options)


def test_a_file_and_nothing_else(tmp_path):
    path = tmp_path / "m.gguf"
    write(path)
    assert os.listdir(tmp_path) == ["m.gguf"]
    with GGUF(path) as file:
        assert file.tensors["w.weight"].shape == (256, 1024)
    assert os.stat(path).st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o22))


def test_names_that_cannot_be_written(tmp_path):
    (tmp_path / "taken").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, said in {
        "taken": "taken: exists already; another name, or overwrite",
        "folder": "folder: cannot be written: is a folder",
        "dangling": "dangling: exists already",
        "absent/m.gguf": "m.gguf: cannot be written: its folder does not exist; create it first",
        "taken/m.gguf": "m.gguf: cannot be written: its folder does not exist",
    }.items():
        with pytest.raises(ModelFileError, match=said):
            write(tmp_path / name)
    assert (tmp_path / "taken").read_bytes() == b"mine"
    write(tmp_path / "taken", overwrite=True)
    assert (tmp_path / "taken").stat().st_size > SIZE


def test_pieces_must_be_what_the_shape_says(tmp_path):
    short = NewTensor("w", (2, 8), "F32", lambda: iter([bytes(60)]))
    with pytest.raises(ModelFileError, match=r"tensor 'w' at 0x.*: 60 bytes; 64: shape"):
        write_gguf(str(tmp_path / "m.gguf"), {}, [short])
    assert os.listdir(tmp_path) == []


def test_too_little_space_is_told_before_anything_is_written(tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ModelFileError, match=r"No space left on device; 1,0[0-9,]+ bytes are needed, 1,000 are free"):
        write(tmp_path / "m.gguf")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", range(5))
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_every_failing_write_is_a_typed_error_and_leaves_the_old_file(tmp_path, monkeypatch, call, number):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")
    calls = iter(range(100))

    class Failing(FileIO):
        def write(self, data):
            if next(calls) == call:
                raise OSError(number, os.strerror(number))
            return super().write(data)

    monkeypatch.setattr(writing, "FileIO", Failing)
    with pytest.raises(ModelFileError, match=f"m.gguf: cannot be written: {os.strerror(number)}"):
        write(path, overwrite=True)
    assert os.listdir(tmp_path) == ["m.gguf"] and path.read_bytes() == b"old"


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_failures_at_the_end(tmp_path, monkeypatch, name):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(writing.os, name, fail)
    with pytest.raises(ModelFileError, match="cannot be written: Input/output error"):
        write(tmp_path / "m.gguf")
    assert os.listdir(tmp_path) == []


def test_short_writes_are_continued(tmp_path, monkeypatch):
    class Slow(FileIO):
        def write(self, data):
            return super().write(data[:70_000])

    monkeypatch.setattr(writing, "FileIO", Slow)
    path = tmp_path / "m.gguf"
    numbers = np.random.default_rng(0).standard_normal((100, 1024)).astype(np.float32)
    write_gguf(str(path), {}, [NewTensor("w", numbers.shape, "F32", lambda: iter([numbers]))])
    with GGUF(path) as file:
        assert np.array_equal(file.read(file.tensors["w"]).view(np.float32).reshape(numbers.shape), numbers)


def run(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)


START = """
import os, sys, resource, signal
from pyllm.formats.gguf_writer import write_gguf
from pyllm.formats.writing import NewTensor
tensor = NewTensor("w", (256, 1024), "F32", lambda: iter([bytes(1 << 18)] * 4))
"""


def test_a_limit_of_the_system(tmp_path):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
    done = run(START + limit + "write_gguf(sys.argv[1], {}, [tensor])", str(tmp_path / "m.gguf"))
    assert done.stderr.splitlines()[-1].endswith("ModelFileError: m.gguf: cannot be written: File too large")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("at", [1, 300_000, SIZE])
def test_a_kill_leaves_the_old_file(tmp_path, at):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")
    kill = f"kill = lambda done, total: done >= {at} and os.kill(os.getpid(), signal.SIGKILL)\n"
    done = run(START + kill + "write_gguf(sys.argv[1], {}, [tensor], True, kill)", str(path))
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    left = [name for name in os.listdir(tmp_path) if name != "m.gguf"]
    assert len(left) == 1 and left[0].startswith(".pyllm-unfinished-")


def test_an_interrupt_leaves_nothing(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "m.gguf", report=interrupt)
    assert os.listdir(tmp_path) == []


def test_several_files_take_their_names_together(tmp_path):
    (tmp_path / "b").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), Staging(str(tmp_path)) as staging:
        for name in "ab":
            with staging.create(name) as file:
                file.write(b"new")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["b"] and (tmp_path / "b").read_bytes() == b"old"
