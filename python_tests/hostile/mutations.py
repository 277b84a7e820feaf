"""Load every truncation and every single-bit change of a file's header; a process of its own, so that a crash shows.

python mutations.py FILE HEADER_BYTES > one JSON line of counts and the first few surprises
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import sys

from hostile.gguf_writer import naive_walk
from pyllm.errors import ModelFileError
from pyllm.formats import GGUF, READABLE, TYPES, StringArray
from pyllm.formats.safetensors import SafeTensors

MOST_SURPRISES = 5


def same(found: object, expected: object) -> bool:
    """Is a value what the unchecked walk over the same bytes found?"""
    if isinstance(expected, bytes):
        return found == expected.decode("utf-8", "replace")
    if isinstance(found, StringArray):
        return [found.bytes(i) for i in range(len(found))] == expected
    if isinstance(expected, list):
        found = found.tolist()
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, float) and math.isnan(expected):
        return math.isnan(found)
    return found == expected


def explain_gguf(file: GGUF, data: bytes) -> str | None:
    """Why a changed file that was accepted is not what its bytes say; None when it is."""
    metadata, tensors, end = naive_walk(data)
    if list(file.metadata) != list(metadata) or list(file.tensors) != list(tensors):
        return "other names"
    wrong = [key for key, expected in metadata.items() if not same(file.metadata[key], expected)]
    if wrong:
        return f"other values of {wrong}"
    start = -(-end // file.alignment) * file.alignment
    taken: list[tuple[int, int]] = []
    for name, (dims, kind, offset) in tensors.items():
        info = file.tensors[name]
        if info.shape != dims[::-1] or info.offset != start + offset:
            return f"'{name}' elsewhere or in another shape"
        if info.offset + info.nbytes > len(data):
            return f"'{name}' ends after the file"
        if TYPES[info.dtype].id != kind or (info.dtype in READABLE and len(file.read(info)) != info.nbytes):
            return f"'{name}' of another type or size"
        taken.append((info.offset, info.offset + info.nbytes))
    taken.sort()
    if any(end > start for (_, end), (start, _) in itertools.pairwise(taken)):
        return "tensors overlap"
    return None


def explain_safetensors(file: SafeTensors, data: bytes) -> str | None:
    """The same for safetensors: every byte of the data has exactly one owner."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    end = 8 + length
    for info in sorted(file.tensors.values(), key=lambda each: (each.offset, each.nbytes)):
        said = header.pop(info.name)
        if list(info.shape) != said["shape"] or info.dtype != said["dtype"] or info.offset != end:
            return f"'{info.name}' elsewhere or in another shape"
        end += info.nbytes
    return "not covered" if header or end != len(data) else None


def attempt(path: str, data: bytes) -> tuple[str, str]:
    """(refused | accepted | surprise, what it was)."""
    kind, explain = (SafeTensors, explain_safetensors) if path.endswith(".safetensors") else (GGUF, explain_gguf)
    try:
        with kind(path) as file:
            why = explain(file, data)
        return ("accepted", "") if why is None else ("surprise", why)
    except ModelFileError:
        return "refused", ""
    except BaseException as error:
        return "surprise", repr(error)


def main(path: str, header: int) -> None:
    """Change the file in place, look, change it back."""
    logging.getLogger("pyllm").setLevel(logging.CRITICAL)
    with open(path, "rb") as file:
        whole = file.read()
    counts = {"refused": 0, "accepted": 0, "surprise": 0}
    surprises: list[str] = []

    def note(what: str, data: bytes, accepted: bool) -> None:
        outcome, why = attempt(path, data)
        if outcome == "accepted" and not accepted:
            outcome, why = "surprise", "accepted"
        counts[outcome] += 1
        if why and len(surprises) < MOST_SURPRISES:
            surprises.append(f"{what}: {why}")

    handle = os.open(path, os.O_RDWR)
    for bit in range(8 * header):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        os.pwrite(handle, changed[bit // 8 : bit // 8 + 1], bit // 8)
        note(f"bit {bit % 8} of byte {bit // 8}", bytes(changed), accepted=True)
        os.pwrite(handle, whole[bit // 8 : bit // 8 + 1], bit // 8)
    flips = dict(counts)
    for size in range(len(whole) - 1, -1, -1):
        os.truncate(handle, size)
        note(f"cut at {size}", whole[:size], accepted=False)
    os.close(handle)
    cuts = {key: counts[key] - flips[key] for key in counts}
    print(json.dumps({"flips": flips, "cuts": cuts, "surprises": surprises}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
