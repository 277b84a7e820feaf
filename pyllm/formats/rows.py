"""Read whole rows of a tensor from a file; the same for every format whose tensors lie in one piece."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyllm.errors import ModelFileError, printable
from pyllm.formats.disk import Disk
from pyllm.formats.types import READABLE, TensorInfo


def _place(disk: Disk, info: TensorInfo, row: int, rows: int | None) -> tuple[str, int, int]:
    """(field, offset, bytes) of the wanted rows. Raises IndexError for rows that the tensor does not have."""
    field = f"tensor '{printable(info.name)}'"
    if info.dtype not in READABLE:
        allowed = f"pyllm computes with {', '.join(sorted(READABLE))}"
        raise ModelFileError(disk.path, field, info.offset, f"storage type {info.dtype} is not supported", allowed)
    total = info.rows
    wanted = total - row if rows is None else rows
    if row < 0 or wanted < 0 or row + wanted > total:
        raise IndexError(f"{field}: rows {row} to {row + wanted} are wanted, it has {total:,}")
    stride = info.nbytes // total if total else 0
    return field, info.offset + row * stride, wanted * stride


def read_rows(disk: Disk, info: TensorInfo, row: int, rows: int | None) -> np.ndarray:
    """(bytes,) uint8: `rows` rows of the tensor from `row`, as stored. Raises ModelFileError, IndexError."""
    field, offset, count = _place(disk, info, row, rows)
    data = np.empty(count, np.uint8)
    disk.read_into(offset, data.data, field)
    return data


def read_rows_into(disk: Disk, info: TensorInfo, row: int, rows: int, buffer: Any) -> None:
    """The same into a writable C-contiguous buffer of exactly that size. Raises ValueError when it is not."""
    field, offset, count = _place(disk, info, row, rows)
    view = memoryview(buffer).cast("B")
    if len(view) != count or view.readonly:
        raise ValueError(f"{field}: {rows} rows take {count:,} writable bytes, the buffer has {len(view):,}")
    disk.read_into(offset, view, field)
