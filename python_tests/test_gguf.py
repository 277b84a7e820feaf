"""Valid GGUF files: everything that PyPI's gguf writes is read back as it was written."""

from __future__ import annotations

import itertools
import os

import gguf
import numpy as np
import pytest

from pyllm import _core
from pyllm.errors import ModelFileError
from pyllm.formats import GGUF, TYPES, StringArray
from pyllm.formats.types import READABLE, TYPES_BY_ID

rng = np.random.default_rng(0)


def write(path, *, alignment=None, tokens=("a", "b", "ü"), tensors=None):
    writer = gguf.GGUFWriter(path, "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_uint8("x.u8", 255)
    writer.add_int8("x.i8", -128)
    writer.add_uint16("x.u16", 65_535)
    writer.add_int16("x.i16", -32_768)
    writer.add_uint32("x.u32", 2**32 - 1)
    writer.add_int32("x.i32", -(2**31))
    writer.add_uint64("x.u64", 2**64 - 1)
    writer.add_int64("x.i64", -(2**63))
    writer.add_float32("x.f32", 0.5)
    writer.add_float64("x.f64", 0.1)
    writer.add_bool("x.true", True)
    writer.add_bool("x.false", False)
    writer.add_string("x.text", "grüß\n\0dich")
    writer.add_array("x.ints", [1, -2, 3])
    writer.add_array("x.floats", [0.5, 1.5])
    writer.add_array("x.bools", [True, False, True])
    writer.add_token_list(list(tokens))
    for name, array in (tensors or {"w": np.arange(12, dtype=np.float32).reshape(3, 4)}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_of_every_type_come_back(tmp_path):
    with GGUF(write(tmp_path / "m.gguf")) as file:
        found = file.metadata
    assert file.version == 3
    assert found["general.architecture"] == "llama"
    expected = {"u8": 255, "i8": -128, "u16": 65_535, "i16": -32_768, "u32": 2**32 - 1, "i32": -(2**31)}
    expected |= {"u64": 2**64 - 1, "i64": -(2**63), "f32": 0.5, "f64": 0.1, "text": "grüß\n\0dich"}
    assert {key: found[f"x.{key}"] for key in expected} == expected
    assert found["x.true"] is True and found["x.false"] is False
    assert found["x.ints"].tolist() == [1, -2, 3] and found["x.ints"].dtype == np.int32
    assert found["x.floats"].tolist() == [0.5, 1.5] and found["x.floats"].dtype == np.float32
    assert found["x.bools"].tolist() == [True, False, True] and found["x.bools"].dtype == bool


def test_a_version_2_file_is_read(tmp_path):
    path = write(tmp_path / "m.gguf")
    data = bytearray(path.read_bytes())
    data[4] = 2
    path.write_bytes(data)
    with GGUF(path) as file:
        assert file.version == 2 and file.tensors["w"].shape == (3, 4)


def test_strings_stay_bytes_until_asked_for(tmp_path):
    words = ["", "a", "ü" * 300, "<|end|>", "漢字"]
    with GGUF(write(tmp_path / "m.gguf", tokens=words)) as file:
        tokens = file.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, StringArray) and len(tokens) == 5
    assert list(tokens) == words and tokens[-1] == words[-1] and tokens[1:3] == words[1:3]
    assert tokens.bytes(4) == "漢字".encode()
    assert tokens.starts.dtype == tokens.lengths.dtype == np.uint64
    assert [bytes(tokens.data[s : s + n]).decode() for s, n in zip(tokens.starts, tokens.lengths, strict=True)] == words
    with pytest.raises(IndexError):
        tokens[5]


def test_a_header_larger_than_the_first_read_is_read_in_steps(tmp_path):
    words = [f"token {i} " + "x" * (i % 97) for i in range(60_000)]
    with GGUF(write(tmp_path / "m.gguf", tokens=words)) as file:
        assert file.data_offset > 3 << 20
        assert list(file.metadata["tokenizer.ggml.tokens"]) == words
        assert file.read(file.tensors["w"]).view("<f4").tolist() == list(range(12))


@pytest.mark.parametrize("alignment", [None, 1, 8, 64, 4096])
def test_tensors_come_back_at_every_alignment(tmp_path, alignment):
    arrays = {
        "one": rng.normal(size=5).astype(np.float32),
        "two": rng.normal(size=(3, 7)).astype(np.float16),
        "three": rng.normal(size=(2, 3, 5)).astype(np.float32),
        "four": rng.normal(size=(2, 1, 3, 4)).astype(np.float32),
    }
    with GGUF(write(tmp_path / "m.gguf", alignment=alignment, tensors=arrays)) as file:
        assert list(file.tensors) == list(arrays)
        for name, array in arrays.items():
            info = file.tensors[name]
            assert info.shape == array.shape and info.nbytes == array.nbytes
            assert file.read(info).tobytes() == array.tobytes()


@pytest.mark.parametrize("name", sorted(READABLE))
def test_rows_of_every_type_are_those_that_the_reference_reads(tmp_path, name):
    kind = gguf.GGMLQuantizationType[name]
    block, nbytes = gguf.GGML_QUANT_SIZES[kind]
    stored = rng.integers(0, 256, (6, 2 * nbytes), dtype=np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("w", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUF(tmp_path / "m.gguf") as file:
        info = file.tensors["w"]
        assert (info.dtype, info.shape, info.rows) == (name, (6, 2 * block), 6)
        assert np.array_equal(file.read(info).reshape(6, -1), stored)
        for row, rows in itertools.product(range(6), range(6)):
            if row + rows <= 6:
                assert np.array_equal(file.read(info, row, rows), stored[row : row + rows].ravel())
        buffer = np.zeros(3 * 2 * nbytes, np.uint8)
        file.read_into(info, 2, 3, buffer)
        assert np.array_equal(buffer.reshape(3, -1), stored[2:5])
        with pytest.raises(ValueError, match=r"takes? .* writable bytes"):
            file.read_into(info, 2, 2, buffer)
        for row, rows in ((6, 1), (-1, 1), (0, 7), (0, -1)):
            with pytest.raises(IndexError, match="rows"):
                file.read(info, row, rows)


def test_the_table_of_types_is_the_references():
    for name, kind in TYPES.items():
        assert gguf.GGMLQuantizationType[name] == kind.id
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]] == (kind.block, kind.nbytes)
    assert TYPES_BY_ID[3].name == "Q4_1"


def test_a_type_that_is_known_but_not_computed_with_is_refused_when_its_data_are_needed(tmp_path):
    with GGUF(write(tmp_path / "m.gguf", tensors={"ids": np.arange(4, dtype=np.int32)})) as file:
        assert file.tensors["ids"].dtype == "I32"
        with pytest.raises(ModelFileError, match=r"m\.gguf: tensor 'ids' at 0x\w+: storage type I32 is not supported"):
            file.read(file.tensors["ids"])


def test_a_file_cut_after_opening_gives_a_typed_error(tmp_path):
    path = write(tmp_path / "m.gguf")
    with GGUF(path) as file:
        info = file.tensors["w"]
        os.truncate(path, info.offset + 8)
        with pytest.raises(ModelFileError, match=r"tensor 'w' at .*: the file ends 40 bytes early") as caught:
            file.read(info)
    assert caught.value.offset == info.offset + 8


def test_reading_after_close_gives_a_typed_error(tmp_path):
    file = GGUF(write(tmp_path / "m.gguf"))
    file.close()
    file.close()
    with pytest.raises(ModelFileError, match="closed"):
        file.read(file.tensors["w"])


def test_scan_strings_reports_where_the_buffer_ends():
    packed = b"".join(len(word).to_bytes(8, "little") + word for word in (b"ab", b"", b"xyz"))
    starts, lengths, end = _core.scan_strings(b"??" + packed, 2, 3)
    assert (starts.tolist(), lengths.tolist(), end) == ([10, 20, 28], [2, 0, 3], 2 + len(packed))
    with pytest.raises(ValueError) as caught:
        _core.scan_strings(packed[:-1], 0, 3)
    assert caught.value.args == (2, 18, 3)
    for count in (4, 2**61, 2**64 - 1):
        with pytest.raises(ValueError) as caught:
            _core.scan_strings(packed, 0, count)
    with pytest.raises(ValueError):
        _core.scan_strings(packed, len(packed) + 1, 0)
