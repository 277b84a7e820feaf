"""Hostile safetensors files: name -> (bytes, fragments that the error must contain)."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

Case = tuple[str, bytes, tuple[str, ...]]


def entry(dtype: Any = "F32", shape: Any = (2, 3), offsets: Any = (0, 24), **more: Any) -> dict[str, Any]:
    """One tensor's entry of the header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def pack(header: Any, data: bytes = bytes(24), length: int | None = None) -> bytes:
    """A file with this header, an object or JSON text, which may claim another length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tiny() -> bytes:
    """A good file with three tensors, a scalar and an empty one."""
    header = {
        "__metadata__": {"format": "pt"},
        "b": entry("BF16", (4,), (24, 32)),
        "a": entry(),
        "empty": entry("F32", (0, 5), (32, 32)),
        "one": entry("F16", (), (32, 34)),
    }
    return pack(header, bytes(range(34)))


def heads() -> Iterator[Case]:
    """The length in front and the text after it."""
    whole = tiny()
    for length in range(8):
        yield f"only {length} bytes", whole[:length], ("header at 0x0", f"the file has {length} bytes")
    for length in (0, 1):
        yield f"header of {length}", pack(b"{}", b"", length), ("header at 0x0", f"{length} bytes", "'{}'")
    for length in (100_000_001, 2**32, 2**63, 2**64 - 1):
        yield f"header of {length}", pack({"a": entry()}, length=length), (f"{length:,} bytes", "at most 100,000,000")
    yield "header longer than the file", pack({"a": entry()}, length=5_000), ("5,000 bytes", "left")
    for label, text in (("a list", b"[]"), ("a number", b"12"), ("a space", b' {"a":1}'), ("a BOM", b"\xef\xbb\xbf{}")):
        yield f"header is {label}", pack(text, b""), ("header that starts with", "'{'")
    yield "not UTF-8", pack(b'{"\xff":1}', b""), ("not UTF-8", "at 0xa")
    yield "not JSON", pack(b'{"a":}', b""), ("not JSON", "line 1, column 6")
    yield "second line", pack(b'{"a":\n  tru}', b""), ("not JSON", "line 2, column 3")
    yield "junk after", pack(b'{"a":1} x', b""), ("not JSON", "column 9")
    for depth in (65, 1000, 100_000):
        yield f"{depth} deep", pack(b'{"a":' + b"[" * depth + b"]" * depth + b"}", b""), ("nested", "at most 64")
    yield "open brackets", pack(b'{"a":' + b'{"b":[' * 50_000, b""), ("nested", "at most 64")
    for constant in (b"NaN", b"Infinity", b"-Infinity"):
        yield constant.decode(), pack(b'{"NaN":\n' + constant + b"}", b""), (constant.decode(), "line 2, column 1")
    yield "huge float", pack(b'{"a":1e999}', b""), ("1e999",)
    yield "5,000 digits", pack(b'{"a":' + b"7" * 5000 + b"}", b""), ("an integer of 5,000 digits",)
    twice = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    yield "key twice", pack(twice, b"x"), ("'a' stands twice",)
    yield "dtype twice", pack(b'{"a":{"dtype":"U8","dtype":"I8"}}', b"x"), ("'dtype' stands twice",)
    for label, bad in (("a list", []), ("a number", {"a": 1}), ("text", "x"), ("nested", {"a": {}})):
        yield f"metadata is {label}", pack({"__metadata__": bad}, b""), ("'__metadata__'", "not an object of strings")


def entries() -> Iterator[Case]:
    """Entries that contradict themselves."""
    for bad in (1, "x", [], None, True):
        yield f"entry {bad!r}", pack({"a": bad}), ("tensor 'a'", "an object with dtype")
    for bad in ("f32", "F31", "", 7, None, [], {"F32": 1}, "Q4_0", "x" * 10_000):
        yield f"dtype {bad!r}"[:40], pack({"a": entry(dtype=bad)}), ("tensor 'a'", "dtype", "known are: ")
    shapes: tuple[Any, ...] = (None, 6, "23", [-1, 6], [2.0, 3.0], [True, 6], ["2", 3], [2**64], [[2, 3]], [1] * 33)
    for bad in shapes:
        yield f"shape {bad}"[:40], pack({"a": entry(shape=bad)}), ("tensor 'a'", "shape", "whole numbers")
    offsets: tuple[Any, ...] = (None, 24, [24], [0, 24, 24], [24, 0], [-1, 23], [0.0, 24.0], ["0", 24], [0, 2**64])
    for bad in offsets:
        yield f"offsets {bad}", pack({"a": entry(offsets=bad)}), ("tensor 'a'", "data_offsets", "[begin, end]")
    for shape, dtype in (((2, 2), "F32"), ((2, 3), "F16"), ((24,), "I16"), ((0,), "F32"), ((), "F32"), ((2, 4), "F32")):
        yield f"{shape} of {dtype}", pack({"a": entry(dtype, shape)}), ("tensor 'a'", "needs", "data_offsets have 24")
    wraps = ((4194305, 4194305, 211106198978564), (2**32, 2**32), (2**62 + 1, 4), (2**63,), (2**64 - 1,), (2**62,))
    for shape in wraps:
        for size in (0, 4, 24):
            yield (
                f"{shape} in {size}",
                pack({"a": entry("F32", shape, (0, size))}, bytes(size)),
                ("tensor 'a'", "shape"),
            )
    yield "half a byte", pack({"a": entry("F4", (3,), (0, 1))}, b"x"), ("whole bytes",)


def layouts() -> Iterator[Case]:
    """Tensors that overlap, leave holes, or stop before the end of the file: every byte has one owner."""
    one = entry()
    for label, second in (("same place", (0, 24)), ("inside", (8, 16)), ("one byte early", (23, 47))):
        size = second[1] - second[0]
        header = {"a": one, "b": entry("U8", (size,), second)}
        yield f"overlap: {label}", pack(header, bytes(max(24, second[1]))), ("overlap",)
    yield "hole", pack({"a": one, "b": entry("U8", (4,), (25, 29))}, bytes(29)), ("tensor 'b'", "unused bytes")
    yield "hole in front", pack({"a": entry(offsets=(1, 25))}, bytes(25)), ("unused bytes after the header",)
    yield "past the end", pack({"a": one}, bytes(23)), ("tensor 'a'", "data end at")
    yield "bytes at the end", pack({"a": one}, bytes(25)), ("data at 0x", "1 bytes after the last tensor")
    yield "a zip at the end", pack({"a": one}, bytes(24) + b"PK\3\4" + bytes(50)), ("54 bytes after the last tensor",)
    yield "no tensors but bytes", pack({}, b"x"), ("1 bytes after the last tensor",)
    yield "empty tensor in a hole", pack({"a": one, "e": entry("F32", (0,), (30, 30))}), ("tensor 'e'", "unused")
    yield "empty tensor inside", pack({"a": one, "e": entry("F32", (0,), (8, 8))}), ("tensor 'e'", "overlap")
    far = entry("U8", (2**40,), (24, 24 + 2**40))
    yield "a terabyte", pack({"a": one, "b": far}), ("tensor 'b'", "data end at")
    yield "escape in a name", pack({"\x1b]0;x\x07": entry("F31")}), ("tensor '\\x1b]0;x\\x07'",)
    yield "surrogate in a name", pack(b'{"\\ud800": 1}', b""), ("tensor '\\ud800'",)


def all_cases() -> list[Case]:
    """Every case; names are unique."""
    return [case for group in (heads, entries, layouts) for case in group()]
