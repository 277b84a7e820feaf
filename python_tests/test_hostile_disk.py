"""Paths that are no model files, disks that fail, files with holes: typed errors in finite time."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hostile import folder_cases, gguf_writer, safetensors_cases
from hostile.gguf_writer import ARRAY, U8, U32, array, tiny_llama

import pyllm
from pyllm.errors import ModelFileError
from pyllm.formats import GGUF, Folder, check_weights, memory, open_model, read_config
from pyllm.formats.safetensors import SafeTensors
from pyllm.formats.types import TensorInfo

HERE = Path(__file__).parent


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_llama().pack())
    return path


@pytest.mark.parametrize("reader", [GGUF, SafeTensors])
def test_paths_that_are_no_regular_files(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "looped").symlink_to("looped")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path, said in (
            (tmp_path / "pipe", "is a named pipe; a regular file is wanted"),
            (tmp_path / "folder", "is a directory"),
            (tmp_path / "socket", "cannot be opened"),
            (tmp_path / "absent", "cannot be opened: No such file"),
            (tmp_path / "looped", "cannot be opened: Too many levels"),
            ("/dev/zero", "is a character device"),
            ("/dev/random", "is a character device"),
            ("a\0b", "cannot be opened"),
            ("x" * 5000, "cannot be opened: File name too long"),
        ):
            start = time.monotonic()
            with pytest.raises(ModelFileError, match=said):
                reader(path)
            assert time.monotonic() - start < 1


def test_open_model_says_what_it_wants(tmp_path):
    with pytest.raises(ModelFileError, match=r"no config\.json and 0 GGUF files"):
        open_model(tmp_path)
    (tmp_path / "a.gguf").write_bytes(tiny_llama().pack())
    with open_model(tmp_path) as file:
        assert isinstance(file, GGUF)
    (tmp_path / "b.gguf").write_bytes(b"")
    with pytest.raises(ModelFileError, match="2 GGUF files"):
        open_model(tmp_path)
    with pytest.raises(ModelFileError, match="the folder that it lies in"):
        open_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_input_output_error_is_named(model, monkeypatch, after):
    calls = []

    def failing(fd, buffers, offset):
        calls.append(offset)
        if len(calls) > after:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, buffers, offset)

    real = os.preadv
    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(ModelFileError, match=rf"at 0x\w+: reading failed: Input/output error \(errno {errno.EIO}\)"):
        file = GGUF(model)
        for info in file.tensors.values():
            file.read(info)
    assert len(calls) == after + 1


@pytest.mark.parametrize("size", [1, 3, 7])
def test_short_reads_are_continued(model, monkeypatch, size):
    with GGUF(model) as file:
        expected = {name: file.read(info).tobytes() for name, info in file.tensors.items()}
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: real(fd, [buffers[0][:size]], offset))
    with GGUF(model) as file:
        assert {name: file.read(info).tobytes() for name, info in file.tensors.items()} == expected


def test_reading_works_where_the_system_has_no_preadv(model, monkeypatch):
    with GGUF(model) as file:
        expected = {name: file.read(info).tobytes() for name, info in file.tensors.items()}
    monkeypatch.delattr(os, "preadv")
    with GGUF(model) as file:
        assert {name: file.read(info).tobytes() for name, info in file.tensors.items()} == expected
        os.truncate(model, 100)
        with pytest.raises(ModelFileError, match="early"):
            file.read(file.tensors["output_norm.weight"])


def test_a_file_replaced_after_opening_stays_what_it_was(model):
    with GGUF(model) as file:
        info = file.tensors["output_norm.weight"]
        before = file.read(info).tobytes()
        other = model.with_name("other")
        other.write_bytes(b"x")
        other.replace(model)
        assert file.read(info).tobytes() == before


def test_holes_are_logged_and_harmless(tmp_path, caplog):
    good = tiny_llama()
    moved = good.with_tensor(len(good.tensors) - 1, offset=good.tensors[-1].offset + 64)
    (tmp_path / "m.gguf").write_bytes(replace(moved, data=good.data + bytes(64 + 40)).pack())
    with caplog.at_level(logging.WARNING, "pyllm"), GGUF(tmp_path / "m.gguf") as file:
        assert len(file.tensors) == len(good.tensors)
    assert "64 unused bytes" in caplog.text and "before 'output_norm.weight'" in caplog.text
    assert "40 unused bytes" in caplog.text and "after the last tensor" in caplog.text


def sparse(path: Path, file: gguf_writer.File, size: int) -> Path:
    path.write_bytes(file.pack())
    os.truncate(path, size)
    return path


def test_a_header_only_file_of_a_terabyte_opens_and_does_not_fit(tmp_path):
    wide = tiny_llama().with_tensor(len(tiny_llama().tensors) - 1, dims=(2**32, 64))
    path = sparse(tmp_path / "m.gguf", wide, 1 << 41)
    with GGUF(path) as file:
        needed = sum(info.nbytes for info in file.tensors.values())
    assert needed > 1 << 40
    with pytest.raises(ModelFileError, match=r"m\.gguf: the model needs 1,024\.0 GiB of memory; \S+ GiB are available"):
        memory.check_fits(path, needed)
    memory.check_fits(path, 1 << 20)


def test_the_limit_of_the_address_space_counts():
    script = "import resource; from pyllm.formats import memory; "
    script += "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); print(memory.available() < 1 << 30)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ | search_path()
    )
    assert done.stdout == "True\n"


def search_path() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(Path(pyllm.__file__).parent.parent), *sys.path])}


@pytest.mark.parametrize("kind", [U8, gguf_writer.STRING])
def test_headers_have_a_largest_size(tmp_path, kind):
    """A sparse file has room for a huge array; only what a header may have is ever read."""
    huge = replace(tiny_llama(), metadata=(("x", array(kind, [], 1 << 36)),))
    with pytest.raises(ModelFileError, match=r"metadata 'x' at .* a header of at most 134,217,728 bytes"):
        GGUF(sparse(tmp_path / "m.gguf", huge, 1 << 41))


def test_strings_of_nothing_cost_what_their_bytes_cost(tmp_path):
    """Two million empty strings are 16 MB of zeros: allowed, and held in arrays, not in Python strings."""
    body = struct.pack("<IIQ", ARRAY, gguf_writer.STRING, 2_000_000) + bytes(16_000_000)
    file = replace(tiny_llama(), metadata=(("general.alignment", gguf_writer.value(U32, 32)), ("x", body)))
    (tmp_path / "m.gguf").write_bytes(file.pack())
    start = time.monotonic()
    with GGUF(tmp_path / "m.gguf") as opened:
        assert len(opened.metadata["x"]) == 2_000_000 and opened.metadata["x"][1_999_999] == ""
    assert time.monotonic() - start < 2


def test_keys_that_name_code_are_logged_and_ignored(tmp_path, caplog):
    named = {
        "auto_map": {"AutoModel": "x--y.Z"},
        "_attn_implementation_internal": "org/kernel",
        "trust_remote_code": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(folder_cases.LLAMA | named))
    (tmp_path / "model.safetensors").write_bytes(safetensors_cases.tiny())
    (tmp_path / "y.py").write_text("raise SystemExit('ran')")
    with caplog.at_level(logging.WARNING, "pyllm"), Folder(tmp_path) as folder:
        config = read_config(folder)
    assert not any(key in config for key in named)
    for key in named:
        assert f"config.json: '{key}' is ignored" in caplog.text


def test_weights_are_compared_by_name_shape_and_type():
    def info(name, shape, dtype="F32"):
        return name, TensorInfo(name, shape, dtype, 0, 0)

    expected = {f"w{i}": (2, 3) for i in range(3)}
    check_weights("m.gguf", expected, dict(info(name, (2, 3)) for name in expected))
    check_weights("m.gguf", {}, dict([info("extra", (1,))]), ignored={"extra"})
    wrong = dict([info("w0", (3, 2)), info("w1", (2, 3), "I64"), info("extra\x1b", (1,))])
    with pytest.raises(ModelFileError) as caught:
        check_weights("dir/m.gguf", expected, wrong)
    assert str(caught.value) == (
        "m.gguf: weights: 'w0' is [3, 2], expected [2, 3]; 'w1' is stored as I64, which pyllm does not compute with; "
        "'w2' [2, 3] is missing; 'extra\\x1b' is unexpected"
    )
    with pytest.raises(ModelFileError, match=r"'b9' \[1\] is missing; and 20 more$"):
        check_weights("m", {f"b{i}": (1,) for i in range(30)}, {})


def test_every_tensor_of_a_tiny_model_deleted_or_resized(tmp_path):
    """Whatever is missing or of another shape is named, tensor by tensor."""
    good = tiny_llama()
    shapes = {tensor.name: tensor.dims[::-1] for tensor in good.tensors}
    for index, tensor in enumerate(good.tensors):
        (tmp_path / "m.gguf").write_bytes(good.with_tensor(index, name="renamed").pack())
        with (
            GGUF(tmp_path / "m.gguf") as file,
            pytest.raises(ModelFileError, match="is missing; 'renamed' is unexpected"),
        ):
            check_weights(file.path, shapes, file.tensors)
        with GGUF(tmp_path / "m.gguf") as file, pytest.raises(ModelFileError, match="expected"):
            check_weights(
                file.path,
                shapes | {tensor.name: (1, *tensor.dims)},
                file.tensors | {tensor.name: file.tensors["renamed"]},
            )
