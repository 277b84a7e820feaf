"""Rewrite a GGUF file in another storage type, tensor by tensor; metadata and vocabulary stay as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from pyllm.errors import ModelFileError, printable
from pyllm.formats.encode import WRITABLE, decode, encode
from pyllm.formats.gguf import GGUF
from pyllm.formats.gguf_writer import FILE_TYPES, Encoded, write_gguf
from pyllm.formats.types import TYPES, TensorInfo
from pyllm.formats.writing import NewTensor, Report

AT_ONCE = 4 << 20  # numbers converted at a time: what writing needs beside the source
QUANTIZATION_VERSION = 2
PLAIN = ("F32", "F16", "BF16")
_NOT_MATRICES = ("position_embd.weight", "token_types.weight")


class Change(NamedTuple):
    """What became of a tensor: its types, and the error that caused: |new - old| / |old|, None where not measured."""

    name: str
    old: str
    new: str
    error: float | None


def stored_type(name: str, shape: tuple[int, ...], wanted: str, head: str) -> str:
    """The type of a tensor in a file of type `wanted`, by llama.cpp's rules.

    Vectors and learned positions stay F32. The matrix `head` that gives the logits is Q8_0 in files of four bits
    (llama.cpp: Q6_K where rows are a multiple of 256, else Q8_0). Rows that are no whole blocks are F16.
    """
    if len(shape) < 2 or name in _NOT_MATRICES:
        return "F32"
    kind = "Q8_0" if name == head and wanted in ("Q4_0", "Q4_1") else wanted
    return kind if shape[-1] % TYPES[kind].block == 0 else "F16"


def head_of(names: Any) -> str:
    """The name of the matrix that gives the logits: the embedding where there is no other."""
    return "output.weight" if "output.weight" in names else "token_embd.weight"


def quantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dtype: str,
    *,
    allow_requantize: bool = False,
    overwrite: bool = False,
    check: bool = False,
    report: Report = lambda done, total: None,
) -> list[Change]:
    """Write the GGUF file `target` with the matrices of `source` as F32, F16, BF16, Q8_0, Q4_0 or Q4_1.

    Rounding is that of ggml's reference, byte for byte. Block types become other block types only with
    allow_requantize, because their error adds up. check measures each tensor's error. Memory: one slice of a tensor.
    Raises ValueError for other types, ModelFileError for bad files, numbers that a type cannot hold, and full disks.
    """
    if dtype not in WRITABLE:
        raise ValueError(f"quantize: type is {dtype!r}, allowed are {', '.join(WRITABLE)}")
    with GGUF(source) as file:
        if file.metadata.get("split.count", 0) not in (0, 1):
            raise ModelFileError(file.path, "metadata 'split.count'", None, "one file of several", "merge them first")
        head = head_of(file.tensors)
        changes: list[Change] = []
        tensors = [_converted(file, each, dtype, head, changes, check) for each in file.tensors.values()]
        if not allow_requantize:
            _refuse_requantizing(file, tensors)
        metadata: dict[str, Any] = {key: Encoded(value) for key, value in file.stored_metadata().items()}
        metadata["general.file_type"] = FILE_TYPES[dtype]
        metadata["general.quantization_version"] = QUANTIZATION_VERSION
        write_gguf(os.fspath(target), metadata, tensors, overwrite, report)
    return changes


def _refuse_requantizing(file: GGUF, tensors: list[NewTensor]) -> None:
    for tensor in tensors:
        old = file.tensors[tensor.name].dtype
        if old not in PLAIN and tensor.dtype not in (old, *PLAIN):
            found = f"{old} to {tensor.dtype} would lose twice"
            allowed = "quantize from F32, F16 or BF16, or allow_requantize"
            raise ModelFileError(file.path, f"tensor '{printable(tensor.name)}'", None, found, allowed)


def _converted(
    file: GGUF, info: TensorInfo, wanted: str, head: str, changes: list[Change], check: bool
) -> NewTensor:
    """The tensor in its new type; what it lost is appended to `changes` when it has been written."""
    new = stored_type(info.name, info.shape, wanted, head)

    def pieces() -> Iterator[Any]:
        lost = norm = 0.0
        k = info.shape[-1]
        step = max(1, AT_ONCE // k)
        for row in range(0, info.rows, step):
            rows = min(step, info.rows - row)
            raw = file.read(info, row, rows)
            if info.dtype != new:
                x = decode(info.dtype, raw, rows, k)
                raw = encoded(file.path, info.name, new, x)
                if check:
                    lost += float(np.square(decode(new, raw, rows, k) - x, dtype=np.float64).sum())
                    norm += float(np.square(x, dtype=np.float64).sum())
            yield raw
        error = (sqrt(lost / norm) if norm else 0.0) if check else None
        changes.append(Change(info.name, info.dtype, new, error))

    return NewTensor(info.name, info.shape, new, pieces)


def encoded(path: str, name: str, dtype: str, x: np.ndarray) -> np.ndarray:
    """encode() whose complaint names the file and the tensor."""
    try:
        return encode(dtype, x)
    except ValueError as error:
        raise ModelFileError(path, f"tensor '{printable(name)}'", None, str(error)) from None
