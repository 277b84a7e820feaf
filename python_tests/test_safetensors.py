"""safetensors files: what the reference writes is read back; what the reference refuses is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hostile import safetensors_cases

from pyllm.errors import ModelFileError
from pyllm.formats.safetensors import BITS, SafeTensors

rng = np.random.default_rng(0)


def test_what_the_reference_writes_comes_back(tmp_path):
    arrays = {
        "f32": rng.normal(size=(3, 4)).astype(np.float32),
        "f16": rng.normal(size=(2, 3, 5)).astype(np.float16),
        "scalar": np.array(1.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "line": np.arange(7, dtype=np.float32),
    }
    safetensors.numpy.save_file(arrays, tmp_path / "m.safetensors", metadata={"format": "pt"})
    with SafeTensors(tmp_path / "m.safetensors") as file:
        assert set(file.tensors) == set(arrays) and file.metadata == {"format": "pt"}
        for name, array in arrays.items():
            info = file.tensors[name]
            assert (info.shape, info.dtype) == (array.shape, "F16" if array.dtype == np.float16 else "F32")
            assert file.read(info).tobytes() == array.tobytes()
        assert file.read(file.tensors["f32"], 1, 2).tobytes() == arrays["f32"][1:3].tobytes()
        buffer = bytearray(16)
        file.read_into(file.tensors["f32"], 2, 1, buffer)
        assert bytes(buffer) == arrays["f32"][2].tobytes()


def test_bfloat16_is_kept_as_stored(tmp_path):
    data = safetensors_cases.pack({"w": safetensors_cases.entry("BF16", (2, 2), (0, 8))}, bytes(range(8)))
    assert reference_accepts(data)
    (tmp_path / "m.safetensors").write_bytes(data)
    with SafeTensors(tmp_path / "m.safetensors") as file:
        assert file.tensors["w"].dtype == "BF16" and file.read(file.tensors["w"]).tobytes() == bytes(range(8))


@pytest.mark.parametrize("dtype", ["I64", "F64", "BOOL", "F8_E4M3", "C64"])
def test_other_types_are_listed_but_not_computed_with(tmp_path, dtype):
    size = 2 * BITS[dtype] // 8
    (tmp_path / "m.safetensors").write_bytes(
        safetensors_cases.pack({"a": safetensors_cases.entry(dtype, (2,), (0, size))}, bytes(size))
    )
    said = rf"tensor 'a' at .*storage type {dtype} is not supported"
    with SafeTensors(tmp_path / "m.safetensors") as file, pytest.raises(ModelFileError, match=said):
        file.read(file.tensors["a"])


def reference_accepts(data: bytes) -> bool:
    try:
        safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return False
    return True


def ours(path, data: bytes) -> str:
    """Our error, or nothing."""
    path.unlink(missing_ok=True)  # a new file: overwriting an old one makes some file systems wait for the disk
    path.write_bytes(data)
    try:
        with SafeTensors(path):
            return ""
    except ModelFileError as error:
        return str(error)


# What pyllm refuses although the reference reads it, each for a reason of its own.
STRICTER = (
    "stands twice",  # the reference keeps the last of two equal keys, or the first, depending on where
    "is too large",  # 1e999 in a field that nobody reads
    "an integer of",  # and thousands of digits there
    "a list of at most 32 whole numbers",  # more dimensions than numpy, or any model, has
    "known are",  # types that this reader does not know
    "an object with dtype",
    "nested",
)


def agree(path, data: bytes) -> None:
    error = ours(path, data)
    if reference_accepts(data):
        assert not error or any(reason in error for reason in STRICTER), (error, data[:300])
    else:
        assert error, data[:300]


@pytest.mark.parametrize("name", [name for name, _, _ in safetensors_cases.all_cases()])
def test_the_reference_agrees_on_hostile_files(tmp_path, name):
    data = next(data for each, data, _ in safetensors_cases.all_cases() if each == name)
    agree(tmp_path / "m.safetensors", data)


def mutated_header(seed: int) -> bytes:
    """A good file with one to three fields of its header changed."""
    pick = np.random.default_rng(seed)
    header = {
        "__metadata__": {"format": "pt"},
        "a": safetensors_cases.entry("F32", [2, 3], [0, 24]),
        "b": safetensors_cases.entry("BF16", [4], [24, 32]),
        "c": safetensors_cases.entry("U8", [0], [32, 32]),
    }
    numbers = [
        0,
        1,
        2,
        3,
        4,
        8,
        23,
        24,
        25,
        31,
        32,
        33,
        2**31,
        2**32,
        2**63,
        2**64 - 1,
        2**64,
        -1,
        1.5,
        None,
        "4",
        True,
    ]

    def any_of(values):
        return values[pick.integers(len(values))]

    for _ in range(pick.integers(1, 4)):
        if (name := any_of(["a", "b", "c"])) not in header:
            continue
        field = any_of(["dtype", "shape", "data_offsets", "name", "extra", "drop", "metadata"])
        if field == "dtype":
            header[name][field] = any_of([*BITS, "F31", "", None, 3])
        elif field in ("shape", "data_offsets"):
            changed = list(header[name].get(field) or [])
            action = pick.integers(3)
            if action == 0 and changed:
                changed[pick.integers(len(changed))] = any_of(numbers)
            elif action == 1:
                changed.append(any_of(numbers))
            else:
                changed = changed[:-1]
            header[name][field] = changed
        elif field == "name":
            header[any_of(["a", "d", "", "\x1b", "ü"])] = header.pop(name)
        elif field == "extra":
            header[name][any_of(["note", "Dtype", "offset"])] = any_of([1, None, [], {"x": [1.0]}])
        elif field == "drop":
            header[name].pop(any_of(["dtype", "shape", "data_offsets"]), None)
        else:
            header["__metadata__"] = any_of([{}, {"x": "y"}, {"x": 1}, [], "x", None])
    size = int(any_of([32, 32, 32, 32, 31, 33, 0, 24]))
    return safetensors_cases.pack(json.dumps(header).encode() + b" " * int(pick.integers(9)), bytes(size))


def test_the_reference_agrees_on_1500_mutations(tmp_path):
    accepted = 0
    for seed in range(1500):
        data = mutated_header(seed)
        agree(tmp_path / "m.safetensors", data)
        accepted += reference_accepts(data)
    assert 100 < accepted < 2900


def test_the_reference_agrees_on_1500_damaged_files(tmp_path):
    good = safetensors_cases.tiny()
    pick = np.random.default_rng(1)
    accepted = 0
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(pick.integers(1, 4)):
            at = int(pick.integers(len(data)))
            what = pick.integers(4)
            if what == 0:
                data[at] = int(pick.integers(256))
            elif what == 1:
                del data[at : at + int(pick.integers(1, 9))]
            elif what == 2:
                data[at:at] = bytes(data[at : at + int(pick.integers(1, 9))])
            else:
                data[at] = b'0123456789[]{}",: '[int(pick.integers(18))]
        agree(tmp_path / "m.safetensors", bytes(data))
        accepted += reference_accepts(bytes(data))
    assert 30 < accepted < 2900
