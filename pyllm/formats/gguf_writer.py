"""Write GGUF files, version 3: metadata, the table of tensors, then their bytes, streamed piece by piece."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyllm.formats.gguf import MAGIC
from pyllm.formats.gguf_header import ARRAY, BOOL, INT32, NUMBERS, STRING, UINT32
from pyllm.formats.strings import StringArray
from pyllm.formats.types import TYPES
from pyllm.formats.writing import NewTensor, Report, Staging, check_target

ALIGNMENT = 32
VERSION = 3
FLOAT32, UINT64, INT64 = 6, 10, 11

# `general.file_type` of llama.cpp: what most of the matrices are stored as.
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "BF16": 32}


class Encoded(bytes):
    """A metadata value as it stands in a file: its type, then its bytes."""


def encode_value(value: Any) -> bytes:
    """A metadata value with its type before it. Whole numbers become uint32 where they fit, floats float32.

    Lists and StringArray are arrays of strings (str or bytes), numpy arrays arrays of their own type.
    """
    if isinstance(value, Encoded):
        return bytes(value)
    if isinstance(value, str | bytes):
        return _u32(STRING) + _string(value)
    if isinstance(value, np.ndarray):
        if value.dtype == bool:
            kind = BOOL
        else:
            kind = next(number for number, (_, dtype) in NUMBERS.items() if value.dtype == dtype and number != BOOL)
        return _u32(ARRAY) + _u32(kind) + _u64(len(value)) + value.tobytes()
    if isinstance(value, StringArray):
        value = [value.bytes(i) for i in range(len(value))]
    if isinstance(value, list | tuple):
        return _u32(ARRAY) + _u32(STRING) + _u64(len(value)) + b"".join(map(_string, value))
    kind = _kind(value)
    return _u32(kind) + NUMBERS[kind][0].pack(value)


def _kind(value: Any) -> int:
    """The type that llama.cpp reads such a number as."""
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, float):
        return FLOAT32
    if value >= 0:
        return UINT32 if value < 1 << 32 else UINT64
    return INT32 if value >= -(1 << 31) else INT64


def _u32(number: int) -> bytes:
    return struct.pack("<I", number)


def _u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def _string(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return _u64(len(raw)) + raw


def write_gguf(
    path: str,
    metadata: Mapping[str, Any],
    tensors: Sequence[NewTensor],
    overwrite: bool = False,
    report: Report = lambda done, total: None,
) -> None:
    """Write a whole file under its name, or nothing. metadata: key -> value, see encode_value.

    Raises ModelFileError for a folder that is missing, a file that is in the way, and whatever the disk refuses.
    Specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    folder = check_target(path, overwrite)
    fields = {key: value for key, value in metadata.items() if key != "general.alignment"}
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(fields))]
    for key, value in fields.items():
        parts += [_string(key), encode_value(value)]
    offset = 0
    for tensor in tensors:
        sizes = tensor.shape[::-1]
        parts += [_string(tensor.name), struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)]
        parts += [struct.pack("<IQ", TYPES[tensor.dtype].id, offset)]
        offset += _padded(tensor.nbytes)
    header = b"".join(parts)
    header += bytes(_padded(len(header)) - len(header))
    with Staging(folder, len(header) + offset, report) as staging, staging.create(os.path.basename(path)) as file:
        file.write(header)
        for tensor in tensors:
            file.write_tensor(tensor)
            file.write(bytes(_padded(tensor.nbytes) - tensor.nbytes))


def _padded(nbytes: int) -> int:
    """Up to the next multiple of the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
