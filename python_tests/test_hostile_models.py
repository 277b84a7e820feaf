"""Contradictory models loaded end to end: a typed error or an answer, whatever a number or a shape is changed to."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hostile.gguf_writer import F32, U32, U64, tiny_llama, value

import pyllm
from pyllm.errors import ContextError, ModelFileError

GOOD = tiny_llama()
NUMBERS = (0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 48, 64, 100, 4096, 2**16, 2**20, 2**27, 2**31, 2**32 - 1)
SHAPES = ((32,), (1,), (32, 1), (32, 4), (64, 16), (16, 64), (1, 32), (32, 5, 1), (32, 32, 1))
KINDS = {key: struct.unpack("<I", packed[:4])[0] for key, packed in GOOD.metadata}


def answers(path, data: bytes) -> bool:
    """Does a file load and score two tokens? False when it is refused by a typed error; any other error passes on."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    try:
        logits = pyllm.AutoModelForCausalLM.from_pretrained(path)([[0, 1]]).logits
    except (ModelFileError, ContextError):
        return False
    assert logits.shape == (1, 2, 5) and logits.dtype == np.float32
    return True


def test_the_good_model_answers(tmp_path):
    assert answers(tmp_path / "m.gguf", GOOD.pack())


@pytest.mark.parametrize("key", [key for key, kind in KINDS.items() if kind in (U32, F32)])
def test_numbers_of_the_metadata(tmp_path, key):
    for kind in (F32,) if KINDS[key] == F32 else (U32, U64):
        found = [answers(tmp_path / "m.gguf", GOOD.with_metadata(key, value(kind, n)).pack()) for n in NUMBERS]
        assert not all(found)


@pytest.mark.parametrize("index", range(len(GOOD.tensors)))
def test_shapes_and_types_of_tensors(tmp_path, index):
    tensor = GOOD.tensors[index]
    for dims in SHAPES:
        for kind in (0, 1, 2, 26, 30):
            found = answers(tmp_path / "m.gguf", GOOD.with_tensor(index, dims=dims, kind=kind).pack())
            assert not found or dims == tensor.dims
