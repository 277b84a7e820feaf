"""Checkpoints and logs of a run: what is written comes back, what is damaged is passed over, what is killed goes on."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import stand_in

from pyllm.train import CheckpointError, Checkpoints, LaterVersionError, check_facts, read_checkpoint
from pyllm.train import checkpoint as module

TENSORS, MANIFEST = "tensors.safetensors", "manifest.json"


def equal(found, wanted):
    """The same names in the same order, with the same types, shapes and bytes."""
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
    return True


def small(step):
    return {"w": np.full((3, 5), step, np.float32), "n": np.arange(step, dtype=np.int64)}


@pytest.fixture
def run(tmp_path):
    with Checkpoints(tmp_path / "run") as checkpoints:
        yield checkpoints


def test_everything_comes_back(run, monkeypatch):
    monkeypatch.setattr(module, "SLICE", 1 << 10)  # so that small tensors are several slices
    cube, codes = np.arange(24).reshape(2, 3, 4), ("f8", "f2", "?", "i4", "i2", "i1", "u8", "u4", "u2")
    tensors = stand_in.beginning() | {code: cube.astype(code) for code in codes}
    tensors["every other"] = np.arange(5000, dtype=np.int64)[::2]
    tensors["swapped"] = np.arange(504, dtype=np.float32).reshape(9, 8, 7).swapaxes(0, 2)
    tensors |= {"ünï \n": np.array([np.nan, -0.0, np.inf], np.float32)}
    facts = {"rng": {"state": 2**127, "floats": [0.1, 1e300, -0.0]}, "names": ("a", "ß"), "none": None, "yes": True}
    assert run.newest() is None and run.steps() == []
    run.save(7, tensors, facts)
    step, found, again = run.newest()
    assert step == 7 and equal(found, tensors) and again == facts | {"names": ["a", "ß"]}
    assert all(array.flags.writeable and array.flags.c_contiguous for array in found.values())
    assert sorted(os.listdir(run.folder)) == ["checkpoint-00000007", "lock"]
    from safetensors.numpy import load_file

    assert set(load_file(os.path.join(run.folder, "checkpoint-00000007", TENSORS))) == set(tensors)


def test_the_same_state_is_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        with Checkpoints(tmp_path / name) as run:
            run.save(1, stand_in.beginning(), stand_in.FACTS)
    for name in (TENSORS, MANIFEST):
        one, other = (tmp_path / run / "checkpoint-00000001" / name for run in "ab")
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_stay(tmp_path, keep):
    with Checkpoints(tmp_path, keep=keep) as run:
        for step in range(0, 60, 10):
            run.save(step, small(step), {})
            assert run.steps() == list(range(0, step + 1, 10))[-keep:]
        with pytest.raises(CheckpointError, match="checkpoint-00000040: cannot be saved: there is checkpoint-00000050"):
            run.save(40, small(40), {})
        run.save(50, small(51), {"again": 1})  # the same step is replaced
        assert run.newest()[2] == {"again": 1} and len(run.steps()) == keep
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_what_cannot_be_stored_is_named(run):
    for facts, error, said in [
        ({"a": [{"b": float("nan")}]}, ValueError, r"facts\.a\[0\]\.b: nan; a finite number is allowed"),
        ({"a": {1: 2}}, TypeError, r"facts\.a: the key 1 is of type int"),
        ({"a": np.zeros(2)}, TypeError, r"facts\.a: is of type ndarray"),
        ({"a": 10**50}, CheckpointError, r"checkpoint-00000001/manifest\.json: an integer of 51 digits"),
    ]:
        with pytest.raises(error, match=said):
            run.save(1, small(1), facts)
    for tensors, error, said in [
        ({"a": np.zeros(2, np.complex64)}, TypeError, "tensor 'a' is complex64; arrays of float64, float32"),
        ({"a": [1.0]}, TypeError, "tensor 'a' is list"),
        ({"a": np.zeros(2, ">f4")}, TypeError, "tensor 'a' is >f4"),
        ({"__metadata__": np.zeros(2)}, ValueError, "any other text"),
    ]:
        with pytest.raises(error, match=said):
            run.save(1, tensors, {})
    with pytest.raises(ValueError, match="step -1; at least 0"):
        run.save(-1, {}, {})
    with pytest.raises(ValueError, match="keep=0; at least 1"):
        Checkpoints(run.folder, keep=0)
    assert os.listdir(run.folder) == ["lock"]


def damaged(path, how):
    """Damage a file in one of several ways; the word that the reason must have."""
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
        return "cannot be opened: No such file"
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "longer":
        path.write_bytes(data + b"\0")
    elif how == "folder":
        path.unlink()
        path.mkdir()
        return "is a directory"
    return ""


@pytest.mark.parametrize("file", [TENSORS, MANIFEST])
@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "longer", "folder"])
def test_a_damaged_newest_one_is_passed_over(run, caplog, file, how):
    for step in (1, 2):
        run.save(step, small(step), {"step": step})
    reason = damaged(Path(run.folder) / "checkpoint-00000002" / file, how)
    with caplog.at_level(logging.WARNING, "pyllm"):
        step, tensors, facts = run.newest()
    assert step == 1 and equal(tensors, small(1)) and facts == {"step": 1}
    said = caplog.text
    assert f"checkpoint-00000002/{file}: " in said and reason in said and "passed over" in said
    assert list(run.refused) == [2]
    run.save(2, small(2), {"step": 2})  # going on from step 1 comes past it again
    assert run.newest()[0] == 2 and run.steps() == [1, 2] and run.refused == {}


@pytest.mark.parametrize("file", [TENSORS, MANIFEST])
def test_a_flip_of_any_bit_is_seen(run, file):
    run.save(3, {"w": np.arange(6, dtype=np.float32)}, {"lr": 0.1})
    path = Path(run.folder) / "checkpoint-00000003" / file
    good = path.read_bytes()
    for at in range(len(good)):
        for bit in range(8) if file == TENSORS or at % 5 == 0 else (0, 4):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])
            with pytest.raises(CheckpointError, match=f"checkpoint-00000003/{file}: ") as caught:
                read_checkpoint(path.parent)
            assert not isinstance(caught.value, LaterVersionError)
    path.write_bytes(good)
    assert read_checkpoint(path.parent)[0] == 3


def test_files_of_another_step_are_seen(run):
    for step in (1, 2):
        run.save(step, {"w": np.full(4, step, np.float32)}, {})
    one, two = (Path(run.folder) / f"checkpoint-0000000{step}" for step in (1, 2))
    kept = (two / TENSORS).read_bytes()
    (two / TENSORS).write_bytes((one / TENSORS).read_bytes())
    with pytest.raises(CheckpointError, match=r"tensors\.safetensors: sha256: [0-9a-f]{64}; [0-9a-f]{64} was written"):
        read_checkpoint(two)
    (two / TENSORS).write_bytes(kept)
    (two / MANIFEST).write_bytes((one / MANIFEST).read_bytes())
    with pytest.raises(CheckpointError, match=r"manifest\.json: step: 1; the step that the folder is named after"):
        read_checkpoint(two)


def test_none_that_verifies_is_none_and_refused_ones_go_after_a_save(run):
    for step in (1, 2):
        run.save(step, small(step), {})
        (Path(run.folder) / f"checkpoint-0000000{step}" / MANIFEST).unlink()
    assert run.newest() is None and run.steps() == [1, 2] and sorted(run.refused) == [1, 2]
    run.save(1, small(5), {})
    assert run.steps() == [1] and equal(run.newest()[1], small(5))


def resealed(path, change):
    """Change a manifest and give it the hash that belongs to it."""
    content = json.loads(path.read_text())
    del content["sha256"]
    change(content)
    path.write_bytes(module._sealed(content))


def test_a_later_version_is_refused_by_name(run):
    for step in (1, 2):
        run.save(step, small(step), {})
    path = Path(run.folder) / "checkpoint-00000002" / MANIFEST
    resealed(path, lambda content: content.update(version=2))
    with pytest.raises(LaterVersionError) as caught:
        run.newest()
    said = "checkpoint-00000002/manifest.json: version: 2; at most 1: a later pyllm has written it"
    assert str(caught.value) == said and run.steps() == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(format="other"),
        lambda content: content.update(version="1"),
        lambda content: content.update(version=0),
        lambda content: content.update(step="1"),
        lambda content: content.update(facts=[]),
        lambda content: content.pop("files"),
        lambda content: content["files"].clear(),
        lambda content: content["files"][TENSORS].update(bytes="1"),
        lambda content: content["files"][TENSORS].pop("sha256"),
    ],
)
def test_a_manifest_that_says_too_little_is_refused(run, change):
    run.save(1, small(1), {})
    path = Path(run.folder) / "checkpoint-00000001" / MANIFEST
    resealed(path, change)
    with pytest.raises(CheckpointError, match=r"checkpoint-00000001/manifest\.json: "):
        read_checkpoint(path.parent)


def test_a_write_that_did_not_arrive_is_seen_before_older_ones_go(run, monkeypatch):
    run.save(1, small(1), {})
    real = os.fsync

    def spoil(file):
        name = os.readlink(f"/proc/self/fd/{file}")
        if name.endswith(TENSORS):
            with open(name, "r+b") as spoiled:
                spoiled.seek(-3, os.SEEK_END)
                spoiled.write(b"\xff")
        real(file)

    monkeypatch.setattr(os, "fsync", spoil)
    for step in (2, 3, 4):
        with pytest.raises(CheckpointError, match=f"checkpoint-0000000{step}/{TENSORS}: sha256"):
            run.save(step, small(step), {})
    assert run.newest()[0] == 1 and sorted(os.listdir(run.folder)) == ["checkpoint-00000001", "lock"]


def test_facts_that_changed_are_named():
    saved = {"config": {"lr": 0.1, "sizes": [1, 2], "old": 1}, "data": {"sha256": "ab"}, "tokenizer": "x", "rng": 1}
    check_facts(saved, saved | {"rng": 2, "config": {"lr": 0.1, "sizes": (1, 2), "old": 1}})
    current = {"config": {"lr": 0.2, "sizes": [1, 3], "new": None}, "data": {"sha256": "cd"}, "tokenizer": "x"}
    with pytest.raises(CheckpointError) as caught:
        check_facts(saved, current)
    assert str(caught.value) == (
        "manifest.json: facts: config.lr is 0.2, allowed is 0.1; config.sizes is [1, 3], allowed is [1, 2]; "
        'config.old is null, allowed is 1; data.sha256 is "cd", allowed is "ab"; '
        "the same as in the checkpoint, or a run of its own"
    )
    with pytest.raises(CheckpointError, match=r'tokenizer is null, allowed is "x"'):
        check_facts(saved, {"config": saved["config"], "data": saved["data"]})


HOLD = """
import os, sys, time
from pyllm.train import Checkpoints
with Checkpoints(sys.argv[1]) as run:
    if "fork" in sys.argv and os.fork() != 0:  # the child tells that both are there
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_one_process_per_folder_until_it_dies(tmp_path, how):
    (tmp_path / "lock").write_text("123456789\n")  # of a dead one, longer than the next
    words = [sys.executable, "-c", HOLD, str(tmp_path), how]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout.readline() == "held\n"
        said = f"{tmp_path.name}/lock: the folder is in use by process {process.pid}; one process per run folder"
        with pytest.raises(CheckpointError, match=said):
            Checkpoints(tmp_path)
        process.kill()  # a child that it may have forked lives on
        process.wait()
        with Checkpoints(tmp_path) as run:
            run.save(1, small(1), {})
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
    with pytest.raises(CheckpointError, match="cannot be saved: the folder has been released"):
        run.save(2, small(2), {})
    with Checkpoints(tmp_path) as run, pytest.raises(CheckpointError, match=f"in use by process {os.getpid()};"):
        Checkpoints(tmp_path)


def test_what_killed_writers_left_is_cleared_or_put_back(tmp_path):
    with Checkpoints(tmp_path) as run:
        for step in (1, 2):
            run.save(step, small(step), {})
    (tmp_path / ".pyllm-unfinished-1-ab").mkdir()
    (tmp_path / ".pyllm-unfinished-1-ab" / TENSORS).write_bytes(b"half")
    os.rename(tmp_path / "checkpoint-00000002", tmp_path / ".pyllm-replaced-checkpoint-00000002")
    (tmp_path / ".pyllm-replaced-checkpoint-00000001").mkdir()
    (tmp_path / "mine.txt").write_text("kept")
    with Checkpoints(tmp_path) as run:
        assert run.newest()[0] == 2
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-00000001", "checkpoint-00000002", "lock", "mine.txt"]


READ_ONLY = """
import os, sys
from pyllm.train import CheckpointError, Checkpoints, read_checkpoint
if os.geteuid() == 0:
    os.setuid(65534)
try:
    Checkpoints(sys.argv[1])
except CheckpointError as error:
    print(error)
print(read_checkpoint(sys.argv[1] + "/checkpoint-00000001")[0])
"""


def test_a_folder_that_can_only_be_read():
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        folder = Path(parent) / "run"
        with Checkpoints(folder) as run:
            run.save(1, small(1), {})
        (folder / "lock").unlink()
        folder.chmod(0o555)
        words = [sys.executable, "-c", READ_ONLY, str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.stdout == "run/lock: cannot be locked: Permission denied\n1\n", done.stderr
        folder.chmod(0o755)


def test_paths_that_cannot_be_run_folders(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file: cannot be made a folder: File exists"):
        Checkpoints(tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"absent/manifest\.json: cannot be opened: No such file"):
        read_checkpoint(tmp_path / "absent")


def test_too_little_space_is_told_with_numbers(run, monkeypatch):
    run.save(1, small(1), {})
    usage = type("usage", (), {"free": 7})
    monkeypatch.setattr("pyllm.formats.writing.shutil.disk_usage", lambda folder: usage)
    said = "checkpoint-00000002: cannot be written: No space left on device; 76 bytes are needed, 7 are free"
    with pytest.raises(CheckpointError, match=said):
        run.save(2, small(2), {})
    assert sorted(os.listdir(run.folder)) == ["checkpoint-00000001", "lock"]


def test_a_checkpoint_that_cannot_be_replaced_keeps_its_name(run, monkeypatch):
    run.save(1, small(1), {"first": True})
    real = os.rename

    def rename(old, new):
        if "unfinished" in old:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(old, new)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(CheckpointError, match="checkpoint-00000001: cannot be written: Input/output error"):
        run.save(1, small(1), {})
    assert sorted(os.listdir(run.folder)) == ["checkpoint-00000001", "lock"]
    assert run.newest()[2] == {"first": True}


MEMORY = """
import sys
import numpy as np
from pyllm.train import Checkpoints
def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name + ":")) / 1024

tensors = {str(i): np.full((25, 1 << 20), i, np.float32) for i in range(3)}
tensors["turned"] = np.full((1 << 20, 25), 3, np.float32).T
with Checkpoints(sys.argv[1]) as run:
    run.save(1, {"w": tensors["0"][:1]}, {})
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = status("VmRSS")
    run.save(2, tensors, {})
    print(status("VmHWM") - before)
"""


def test_saving_400_mb_takes_no_second_copy(tmp_path):
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert 0 <= float(done.stdout) < 64, done.stderr
    assert (tmp_path / "checkpoint-00000002" / TENSORS).stat().st_size > 400 << 20


def test_hashes_are_those_of_the_files(run):
    run.save(1, small(1), {})
    folder = Path(run.folder) / "checkpoint-00000001"
    manifest = json.loads((folder / MANIFEST).read_text())
    data = (folder / TENSORS).read_bytes()
    assert manifest["files"] == {TENSORS: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    assert (manifest["format"], manifest["version"], manifest["step"]) == ("pyllm checkpoint", 1, 1)
