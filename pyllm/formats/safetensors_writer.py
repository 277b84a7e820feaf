"""Write safetensors: one file, or shards with their index, streamed piece by piece."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

from pyllm.formats.folder import INDEX, WEIGHTS
from pyllm.formats.writing import NewFile, NewTensor, Staging

# Weights that an older save of the same folder may have left: beside an index a plain model.safetensors would be read.
OLD_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def size_limit(text: int | str) -> int:
    """Bytes of "5GB" (decimal), "4GiB" (binary) or a whole number. Raises ValueError."""
    match = re.fullmatch(r"\s*(\d+)\s*([KMGT]?I?B)?\s*", str(text).upper())
    if match is None or (match.group(2) or "") not in {*_UNITS, "B"} or int(match.group(1)) < 1:
        raise ValueError(f"max_shard_size: {text!r}; a number of bytes, or text such as '5GB' or '200MiB'")
    unit = match.group(2) or ""
    return int(match.group(1)) * _UNITS["" if unit == "B" else unit]


def shards(tensors: Sequence[NewTensor], limit: int) -> list[list[NewTensor]]:
    """The tensors in order, cut so that no part has more than `limit` bytes unless one tensor alone has."""
    parts: list[list[NewTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if parts[-1] and size + tensor.nbytes > limit:
            parts.append([])
            size = 0
        parts[-1].append(tensor)
        size += tensor.nbytes
    return parts


def write_weights(staging: Staging, tensors: Sequence[NewTensor], limit: int) -> None:
    """model.safetensors, or shards of at most `limit` bytes and their index; older weights of the folder go."""
    parts = shards(tensors, limit)
    count = len(parts)
    names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)] if count > 1 else [WEIGHTS]
    for old in os.listdir(staging.folder):
        if OLD_WEIGHTS.fullmatch(old) and old not in names and (old != INDEX or count == 1):
            staging.remove(old)
    for name, part in zip(names, parts, strict=True):
        with staging.create(name) as file:
            write_safetensors(file, part)
    if count == 1:
        return
    where = {tensor.name: name for name, part in zip(names, parts, strict=True) for tensor in part}
    index = {"metadata": {"total_size": sum(each.nbytes for each in tensors)}, "weight_map": where}
    with staging.create(INDEX) as file:
        file.write((json.dumps(index, indent=2) + "\n").encode())


def write_safetensors(file: NewFile, tensors: Sequence[NewTensor]) -> None:
    """A 64-bit length, a JSON header padded to eight bytes, the tensors' bytes without holes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # without it transformers refuses the file
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors:
        file.write_tensor(tensor)
