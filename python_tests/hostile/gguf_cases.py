"""Hostile GGUF files: name -> (bytes, fragments that the error must contain). One per known way to fool a reader."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from math import prod

from hostile.gguf_writer import (
    ARRAY,
    BOOL,
    F32,
    I8,
    I32,
    STRING,
    U8,
    U32,
    U64,
    Tensor,
    array,
    number,
    string,
    tiny_gpt2,
    tiny_llama,
    value,
)

Case = tuple[str, bytes, tuple[str, ...]]

good = tiny_llama()
HUGE = (2**31, 2**32, 2**61, 2**63 - 1, 2**63, 2**64 - 1)


def starts() -> Iterator[Case]:
    """Other files, other versions, nothing at all."""
    packed = good.pack()
    for length in range(24):
        yield f"only {length} bytes", packed[:length], ("truncated", "at 0x")
    yield "four letters", b"GGUF", ("version at 0x4", "truncated")
    for name, magic in (
        ("ggml", b"lmgg"),
        ("ggjt", b"tjgg"),
        ("zip", b"PK\3\4"),
        ("hdf5", b"\x89HDF"),
        ("lfs", b"vers"),
    ):
        yield f"magic of {name}", replace(good, magic=magic).pack(), ("magic number at 0x0", "b'GGUF'")
    yield "magic swapped", replace(good, magic=b"FUGG").pack(), ("big-endian",)
    for version in (0, 1, 4, 5, 65_535, 2**31, 2**32 - 1):
        yield f"version {version}", replace(good, version=number(U32, version)).pack(), ("version at 0x4", "2 or 3")
    for version in (1, 2, 3):
        swapped = struct.pack(">I", version)
        yield f"version {version} swapped", replace(good, version=swapped).pack(), ("big-endian file", f"{version}")


def counts() -> Iterator[Case]:
    """Counts that the file has no room for."""
    for count in (len(good.metadata) + 1, 1000, 100_001, *HUGE):
        yield f"{count} metadata entries", replace(good, metadata_count=count).pack(), ("at 0x",)
    for count in (len(good.tensors) + 1, 1000, 100_001, *HUGE):
        yield f"{count} tensors", replace(good, tensor_count=count).pack(), ("at 0x",)
    for count in HUGE:
        yield f"bare counts {count}", b"GGUF" + struct.pack("<IQQ", 3, count, count), ("tensor count", f"{count:,}")
        yield f"bare metadata count {count}", b"GGUF" + struct.pack("<IQQ", 3, 0, count), ("metadata count",)


def lengths() -> Iterator[Case]:
    """Lengths of strings and arrays that the file has no room for."""
    room = len(good.pack())
    for length in (room, *HUGE):
        yield (
            f"key of {length}",
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, length) + bytes(90),
            ("metadata key 0 at 0x18",),
        )
        text = number(U32, STRING) + string("x", length)
        yield f"text of {length}", good.with_metadata("x", text).pack(), ("metadata 'x'", f"{length:,} bytes")
        named = good.with_tensor(0, name=b"")
        head = replace(named, tensors=()).header()
        lie = head + struct.pack("<Q", length) + bytes(500)
        yield f"tensor name of {length}", lie, ("tensor",)
        for kind, what in ((U8, "u8"), (U64, "u64"), (STRING, "string")):
            lying = good.with_metadata("x", array(kind, [], length))
            yield f"array of {length} {what}", lying.pack(), ("metadata 'x'", f"{length:,} elements")
    for length in (10_000, 2**32, 2**63, 2**64 - 8, 2**64 - 1):
        inside = (
            number(U32, ARRAY) + number(U32, STRING) + number(U64, 3) + string("a") + string("b", length) + string("c")
        )
        lying = good.with_metadata("x", inside)
        yield f"second string of {length}", lying.pack(), ("metadata 'x'", "string 1 of 3", f"{length:,} bytes")


def kinds() -> Iterator[Case]:
    """Types of values that do not exist or are not allowed."""
    for kind in (13, 14, 255, 2**31, 2**32 - 1):
        yield f"value type {kind}", good.with_metadata("x", number(U32, kind)).pack(), ("metadata 'x'", f"type {kind}")
        yield f"element type {kind}", good.with_metadata("x", array(U8, []).replace(
            struct.pack("<II", ARRAY, U8), struct.pack("<II", ARRAY, kind)
        )).pack(), ("metadata 'x'", f"element type {kind}")  # fmt: skip
    yield "array of arrays", good.with_metadata("x", struct.pack("<IIQ", ARRAY, ARRAY, 1)).pack(), ("array of arrays",)
    deep = struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 100_000
    yield "arrays 100,000 deep", good.with_metadata("x", deep).pack(), ("array of arrays",)
    yield "boolean of 7", good.with_metadata("x", number(U32, BOOL) + b"\7").pack(), ("boolean of 7", "0 or 1")
    yield "booleans with a 2", good.with_metadata("x", array(BOOL, [1, 0, 2])).pack(), ("boolean of 2",)


def names() -> Iterator[Case]:
    """Keys and tensor names that are empty, doubled, not text, or made to fool a terminal."""
    twice = replace(good, metadata=(*good.metadata, good.metadata[0]))
    yield "key twice", twice.pack(), ("metadata 'general.architecture'", "twice, first at 0x18")
    yield "empty key", good.with_metadata(b"", value(U8, 0)).pack(), ("0 bytes", "1 to 65,535")
    yield "key of 65,536", good.with_metadata("k" * 65_536, value(U8, 0)).pack(), ("65,536 bytes",)
    yield "key with NUL", good.with_metadata(b"a\0b", value(U8, 0)).pack(), ("NUL", "a\\x00b")
    yield "key not UTF-8", good.with_metadata(b"a\xff\xfe", value(U8, 0)).pack(), ("not UTF-8 (byte 1)", "a\\xff\\xfe")
    yield "tensor twice", good.with_tensor(1, name="token_embd.weight").pack(), ("'token_embd.weight'", "twice")
    yield "empty tensor name", good.with_tensor(1, name=b"").pack(), ("tensor 1 at 0x", "0 bytes")
    yield "tensor name with NUL", good.with_tensor(1, name=b"\0").pack(), ("NUL",)
    yield "tensor name not UTF-8", good.with_tensor(1, name=b"\xc3(").pack(), ("not UTF-8",)
    for label, text in (("escape", "\x1b]0;owned\x07"), ("newline", "a\r\nb: fine"), ("bidi", "\u202eabc")):
        shown = text.encode("unicode_escape").decode() if label != "newline" else "a\\r\\nb: fine"
        bad = good.with_tensor(0, name=text, kind=77)
        yield f"{label} in a name", bad.pack(), (f"tensor '{shown}'", "type 77")
    yield "long name is cut", good.with_tensor(0, name="n" * 60_000, kind=77).pack(), ("n" * 190, "...", "type 77")


def alignments() -> Iterator[Case]:
    """Alignments that are not a small power of two."""
    for wrong in (0, 3, 31, 33, 48, 2**20 + 1, 2**21, 2**30, 2**31, 2**32 - 1):
        packed = good.with_metadata("general.alignment", value(U32, wrong)).pack()
        yield (
            f"alignment {wrong}",
            packed,
            ("metadata 'general.alignment'", f"{wrong}", "a power of two up to 1,048,576"),
        )
    for label, packed in (
        ("a string", value(STRING, "32")),
        ("a byte", value(U8, 32)),
        ("64 bits", value(U64, 32)),
        ("a float", value(F32, 32.0)),
        ("an array", array(U32, [32])),
        ("true", value(BOOL, 1)),
    ):
        yield f"alignment as {label}", good.with_metadata("general.alignment", packed).pack(), ("a 32-bit integer",)
    negative = number(U32, I32) + number(I32, -32)
    yield "alignment -32", good.with_metadata("general.alignment", negative).pack(), ("-32", "a power of two")


WRAPS: tuple[tuple[int, ...], ...] = (
    (2**32, 2**32),
    (2**62 + 1, 4),
    (4194305, 4194305, 211106198978564),
    (2**63 - 1,),
    (2**63,),
    (2**64 - 1,),
    (2**64 - 32,),
    (2**33, 2**31),
    (2**16, 2**16, 2**16, 2**16),
    (2**31, 2**31, 4),
    (2**32, 2**30),
    (2**62,),
    (2**61,),
    (2**60, 8),
    (2**40, 2**23),
    (2**40, 2**24),
    (256, 2**55),
    (256, 2**56),
    (3, 6148914691236517206),
    (2**32, 2**32, 2**32, 2**32),
)


def wraps() -> Iterator[Case]:
    """Shapes whose number of elements or bytes wraps around in 32 or 64 bits."""
    for dims in WRAPS:
        for kind, block, nbytes in ((0, 1, 4), (1, 1, 2), (2, 32, 18), (12, 256, 144)):
            if max(dims) > 2**63 - 1:
                expected = "dimension "
            elif prod(dims) > 2**63 - 1:
                expected = f"hold {prod(dims):,} numbers"
            elif dims[0] % block:
                expected = f"rows of {dims[0]:,} numbers"
            else:
                expected = f"needs {prod(dims) // block * nbytes:,} bytes"
            packed = good.with_tensor(0, dims=dims, kind=kind).pack()
            yield f"shape {dims} type {kind}", packed, ("tensor 'token_embd.weight' at 0x", expected)


def shapes() -> Iterator[Case]:
    """Dimensions that are none, too many, or zero; rows that are no whole blocks; unknown storage types."""
    for count in (0, 5, 255, 2**31, 2**32 - 1):
        packed = good.with_tensor(0, n_dims=count).pack()
        yield f"{count} dimensions", packed, ("'token_embd.weight'", f"{count:,} dimensions", "1 to 4")
    for dims in ((0,), (0, 5), (32, 0), (32, 5, 0), (1, 1, 1, 0)):
        yield f"empty dimension in {dims}", good.with_tensor(0, dims=dims).pack(), ("is 0", "1 to")
    blocks = {2: 32, 3: 32, 6: 32, 7: 32, 8: 32, 10: 256, 11: 256, 12: 256, 13: 256, 14: 256, 20: 32, 23: 256, 39: 32}
    for kind, block in blocks.items():
        for width in (1, block - 1, block + 1):
            packed = good.with_tensor(0, dims=(width, 5), kind=kind).pack()
            yield f"type {kind} in rows of {width}", packed, (f"rows of {width}", f"a multiple of {block}")
    for kind in (4, 5, 9, 15, 31, 32, 33, 36, 38, 200, 2**31, 2**32 - 1):
        yield f"storage type {kind}", good.with_tensor(0, kind=kind).pack(), (f"type {kind:,} is unknown", "2 Q4_0")


def places() -> Iterator[Case]:
    """Tensors that lie past the end, on top of each other, or between the grid lines."""
    last = len(good.tensors) - 1
    size = len(good.data)
    for offset in (size // 32 * 32 + 32, 2**32, 2**63 - 32, 2**63, 2**64 - 32):
        packed = good.with_tensor(last, offset=offset).pack()
        yield f"offset {offset}", packed, ("'output_norm.weight' at 0x", "needs 128 bytes", "file has 0 after")
    yield "one byte short", good.pack()[:-1], ("'output_norm.weight'", "needs 128 bytes; file has 127 after")
    for offset in (1, 31, 33, 2**64 - 1):
        yield (
            f"offset {offset} off the grid",
            good.with_tensor(1, offset=offset).pack(),
            ("a multiple of the alignment",),
        )
    yield "two at one place", good.with_tensor(1, offset=0).pack(), ("overlap those of",)
    ends = good.tensors[2].offset - 32
    yield "one into the next", good.with_tensor(2, offset=ends).pack(), ("tensor 'blk.0.attn_q.weight'", "overlap")
    wide = good.with_tensor(0, dims=(32, 6))
    yield "one row too many", wide.pack(), ("'blk.0.attn_norm.weight'", "overlap those of 'token_embd.weight'")
    hidden = replace(good, tensors=(*good.tensors, Tensor("all", (len(good.data) // 4,), 0, 0)))
    yield "one over all", hidden.pack(), ("overlap",)
    for row in range(len(good.tensors)):
        cut = good.pack()[: len(good.header()) + good.tensors[row].offset]
        yield f"ends before tensor {row}", cut, ("needs", "file has")


NAN, INF = float("nan"), float("inf")

# Metadata that no model can have: key -> (packed value or None for missing, fragment of the error).
BAD_VALUES: dict[str, list[tuple[bytes | None, str]]] = {
    "general.architecture": [
        (None, "known are: gpt2, llama, qwen2"),
        (value(STRING, "mamba"), "'mamba'"),
        (value(U8, 1), "1"),
        (value(STRING, "x" * 100_000), "xxx..."),
    ],
    "llama.attention.head_count": [
        (None, "missing"),
        (value(U32, 0), ": 0; a whole number from 1"),
        (value(U32, 2**32 - 1), "4294967295"),
        (array(U32, [2, 2]), "an array of 2"),
        (value(STRING, "2"), "'2'"),
    ],
    "llama.attention.head_count_kv": [
        (value(U32, 0), ": 0; a whole number from 1"),
        (value(U32, 3), "a divisor of the 2 attention heads"),
        (value(U32, 4), "a divisor of the 2 attention heads"),
        (array(STRING, ["1"]), "an array of 1"),
    ],
    "llama.block_count": [(value(U32, 0), ": 0;"), (value(U32, 10**9), "1000000000"), (None, "missing")],
    "llama.embedding_length": [(value(U32, 0), ": 0;"), (value(U64, 2**40), "1099511627776"), (None, "missing")],
    "llama.feed_forward_length": [(value(U32, 0), ": 0;"), (array(U32, [32]), "an array of 1")],
    "llama.context_length": [(value(U32, 0), ": 0;"), (value(U64, 2**63), "9223372036854775808")],
    "llama.attention.layer_norm_rms_epsilon": [
        (value(F32, 0.0), ": 0.0;"),
        (value(F32, -1e-5), ": -"),
        (value(F32, NAN), ": nan;"),
        (value(F32, INF), ": inf;"),
    ],
    "llama.rope.freq_base": [
        (value(F32, 0.0), ": 0.0;"),
        (value(F32, -1e4), ": -10000.0;"),
        (value(F32, NAN), ": nan;"),
        (value(F32, INF), ": inf;"),
        (value(STRING, "10000"), "'10000'"),
    ],
    "llama.rope.dimension_count": [
        (value(U32, 15), ": 15; 16, the size of a head"),
        (value(U32, 8), ": 8;"),
        (array(U32, [16]), "an array of 1"),
    ],
    "llama.attention.key_length": [(value(U32, 0), ": 0;"), (value(U32, 15), "an even number")],
    "llama.attention.value_length": [(value(U32, 8), ": 8; 16, the size of a head")],
    "llama.vocab_size": [(value(U32, 6), "5, the rows"), (value(U32, 0), "5, the rows"), (value(I8, -1), "-1")],
    "llama.expert_count": [(value(U32, 8), "mixture of experts")],
    "llama.rope.scaling.type": [(value(STRING, "magic"), "known are: default, linear"), (value(U8, 3), "type 3")],
    "llama.rope.scaling.factor": [(value(F32, 0.0), ": 0.0;"), (value(F32, NAN), ": nan;")],
    "tokenizer.ggml.tokens": [
        (array(STRING, ["a"] * 4), "4 tokens"),
        (array(STRING, []), "0 tokens"),
        (array(I32, [1, 2, 3, 4, 5]), "no array of strings"),
        (value(STRING, "abcde"), "no array of strings"),
    ],
    "tokenizer.ggml.bos_token_id": [
        (value(U32, 5), "0 to 4"),
        (value(I32, -1), "0 to 4"),
        (value(F32, 1.0), "a token id"),
    ],
    "tokenizer.ggml.eos_token_id": [(value(U32, 2**32 - 1), "0 to 4"), (array(U32, [1, 2]), "an array of 2")],
    "split.count": [(value(U32, 3), "one of 3 files"), (array(U8, [3]), "an array of 1")],
}

BAD_GPT2_VALUES: list[tuple[str, bytes | None, str]] = [
    ("gpt2.attention.head_count", value(U32, 0), "gpt2.attention.head_count"),
    ("gpt2.attention.head_count", value(U32, 5), "gpt2.embedding_length"),
    ("gpt2.block_count", value(U32, 2**31), "gpt2.block_count"),
    ("gpt2.context_length", None, "gpt2.context_length"),
    ("gpt2.attention.layer_norm_epsilon", value(F32, NAN), "gpt2.attention.layer_norm_epsilon"),
]


def architectures() -> Iterator[Case]:
    """Files that are well formed but describe no model; the reader opens them, read_config refuses them."""
    for key, values in BAD_VALUES.items():
        for index, (packed, fragment) in enumerate(values):
            yield f"{key} {index}", good.with_metadata(key, packed).pack(), (f"metadata '{key}'", fragment)
    three = good.with_metadata("llama.attention.head_count", value(U32, 3))
    three = three.with_metadata("llama.attention.head_count_kv", value(U32, 3))
    yield "32 over 3 heads", three.pack(), ("'llama.embedding_length' at 0x", "32; a multiple of the 3 attention heads")
    small = tiny_gpt2()
    for index, (key, packed, field) in enumerate(BAD_GPT2_VALUES):
        yield f"{key} {index}", small.with_metadata(key, packed).pack(), (f"metadata '{field}'",)
    nameless = good.with_tensor(0, name="embedding")
    yield "no embedding", nameless.pack(), ("tensor 'token_embd.weight'", "missing")
    yield "flat embedding", good.with_tensor(0, dims=(160,)).pack(), ("tensor 'token_embd.weight'", "[160]")
    for label, kind, dims, fragment in (
        ("too many", 0, (9,), "9 frequency factors; 8"),
        ("half precision", 1, (8,), "F16 [8]; F32"),
        ("a matrix", 0, (4, 2), "F32 [2, 4]; F32"),
    ):
        changed = good.with_tensor(len(good.tensors) - 1, name="rope_freqs.weight", kind=kind, dims=dims)
        yield f"frequencies: {label}", changed.pack(), (fragment,)
    zeros = good.with_tensor(1, name="rope_freqs.weight", dims=(8,), kind=0)
    yield (
        "frequencies: zero",
        replace(zeros, data=bytes(len(zeros.data))).pack(),
        ("frequency factor that is not finite",),
    )


def all_cases() -> list[Case]:
    """Every case; names are unique."""
    groups = (starts, counts, lengths, kinds, names, alignments, wraps, shapes, places, architectures)
    return [case for group in groups for case in group()]
