"""A GGUF writer that can lie: every count, length, type and offset can be set apart from what follows it."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from math import prod

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
LETTERS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}


def number(kind: int, value) -> bytes:
    return struct.pack("<" + LETTERS[kind], value)


def string(text: str | bytes, length: int | None = None) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data) if length is None else length) + data


def value(kind: int, content) -> bytes:
    """A metadata value: its type and its bytes."""
    body = string(content) if kind == STRING else number(kind, content)
    return number(U32, kind) + body


def array(kind: int, items, count: int | None = None) -> bytes:
    """An array value, which may claim another count than it has."""
    body = b"".join(string(item) if kind == STRING else number(kind, item) for item in items)
    return struct.pack("<IIQ", ARRAY, kind, len(items) if count is None else count) + body


@dataclass(frozen=True)
class Tensor:
    """An entry of the tensor table, dims innermost first; n_dims and offset may lie."""

    name: str | bytes
    dims: tuple[int, ...]
    kind: int = 0
    offset: int = 0
    n_dims: int | None = None

    def pack(self) -> bytes:
        count = len(self.dims) if self.n_dims is None else self.n_dims
        dims = struct.pack(f"<{len(self.dims)}Q", *self.dims)
        return string(self.name) + number(U32, count) + dims + struct.pack("<IQ", self.kind, self.offset)


@dataclass(frozen=True)
class File:
    """A whole file; `metadata` holds (key, packed value) pairs. Counts default to the truth."""

    metadata: tuple[tuple[str | bytes, bytes], ...] = ()
    tensors: tuple[Tensor, ...] = ()
    data: bytes = b""
    magic: bytes = b"GGUF"
    version: bytes = number(U32, 3)
    tensor_count: int | None = None
    metadata_count: int | None = None
    alignment: int = 32
    extra: bytes = field(default=b"")

    def header(self) -> bytes:
        tensors = len(self.tensors) if self.tensor_count is None else self.tensor_count
        entries = len(self.metadata) if self.metadata_count is None else self.metadata_count
        parts = [self.magic, self.version, struct.pack("<QQ", tensors, entries)]
        parts += [string(key) + packed for key, packed in self.metadata]
        parts += [tensor.pack() for tensor in self.tensors]
        return b"".join(parts) + self.extra

    def pack(self) -> bytes:
        header = self.header()
        return header + bytes(-len(header) % self.alignment) + self.data

    def with_metadata(self, key: str | bytes, packed: bytes | None) -> File:
        """The same with one value replaced, added, or taken away (None)."""
        kept = tuple((k, v) for k, v in self.metadata if k != key)
        return replace(self, metadata=kept if packed is None else (*kept, (key, packed)))

    def with_tensor(self, index: int, **changes) -> File:
        """The same with fields of one tensor's entry changed."""
        tensors = list(self.tensors)
        tensors[index] = replace(tensors[index], **changes)
        return replace(self, tensors=tuple(tensors))


# Block sizes and bytes of the types that the tiny model uses.
BLOCKS = {0: (1, 4), 2: (32, 18)}


def lay_out(shapes: list[tuple[str, tuple[int, ...], int]], alignment: int = 32) -> tuple[tuple[Tensor, ...], bytes]:
    """Tensors one after the other, aligned, with plausible bytes; no padding after the last."""
    tensors, data = [], b""
    for name, dims, kind in shapes:
        data += bytes(-len(data) % alignment)
        tensors.append(Tensor(name, dims, kind, len(data)))
        block, nbytes = BLOCKS[kind]
        data += bytes(i % 251 for i in range(prod(dims) // block * nbytes))
    return tuple(tensors), data


def tiny_llama() -> File:
    """One layer, hidden 32, 2 query and 1 key heads of 16, vocabulary of 5."""
    layer = [("attn_norm", (32,), 0), ("attn_q", (32, 32), 2), ("attn_k", (32, 16), 2), ("attn_v", (32, 16), 2)]
    layer += [("attn_output", (32, 32), 2), ("ffn_norm", (32,), 0), ("ffn_gate", (32, 32), 2), ("ffn_up", (32, 32), 2)]
    layer += [("ffn_down", (32, 32), 2)]
    shapes = [("token_embd.weight", (32, 5), 0), *((f"blk.0.{n}.weight", d, t) for n, d, t in layer)]
    tensors, data = lay_out([*shapes, ("output_norm.weight", (32,), 0)])
    metadata = {
        "general.architecture": value(STRING, "llama"),
        "general.alignment": value(U32, 32),
        "llama.block_count": value(U32, 1),
        "llama.context_length": value(U32, 64),
        "llama.embedding_length": value(U32, 32),
        "llama.feed_forward_length": value(U32, 32),
        "llama.attention.head_count": value(U32, 2),
        "llama.attention.head_count_kv": value(U32, 1),
        "llama.attention.layer_norm_rms_epsilon": value(F32, 1e-5),
        "llama.rope.freq_base": value(F32, 1e4),
        "llama.rope.dimension_count": value(U32, 16),
        "llama.vocab_size": value(U32, 5),
        "tokenizer.ggml.model": value(STRING, "gpt2"),
        "tokenizer.ggml.tokens": array(STRING, ["a", "b", "ab", "<|a|>", "<|b|>"]),
        "tokenizer.ggml.token_type": array(I32, [1, 1, 1, 3, 3]),
        "tokenizer.ggml.scores": array(F32, [0.0, -1.0, -2.0, 0.0, 0.0]),
        "tokenizer.ggml.merges": array(STRING, ["a b"]),
        "tokenizer.ggml.bos_token_id": value(U32, 3),
        "tokenizer.ggml.eos_token_id": value(U32, 4),
        "tokenizer.ggml.add_bos_token": value(BOOL, 0),
    }
    return File(tuple(metadata.items()), tensors, data)


def tiny_gpt2() -> File:
    """One layer, embedding 32, 2 heads, vocabulary of 5; enough for its configuration to be read."""
    tensors, data = lay_out([("token_embd.weight", (32, 5), 0), ("position_embd.weight", (32, 8), 0)])
    metadata = {
        "general.architecture": value(STRING, "gpt2"),
        "gpt2.block_count": value(U32, 1),
        "gpt2.context_length": value(U32, 8),
        "gpt2.embedding_length": value(U32, 32),
        "gpt2.feed_forward_length": value(U32, 128),
        "gpt2.attention.head_count": value(U32, 2),
        "gpt2.attention.layer_norm_epsilon": value(F32, 1e-5),
        "tokenizer.ggml.tokens": array(STRING, ["a", "b", "c", "d", "e"]),
    }
    return File(tuple(metadata.items()), tensors, data)


def naive_walk(data: bytes) -> tuple[dict, dict, int]:
    """Metadata and tensor entries read without a single check, and where the header ends: an oracle for good files."""
    at = 8

    def take(kind: int):
        nonlocal at
        if kind == STRING:
            length = take(U64)
            at += length
            return data[at - length : at]
        size = struct.calcsize("<" + LETTERS[kind])
        at += size
        return struct.unpack("<" + LETTERS[kind], data[at - size : at])[0]

    tensor_count, metadata_count = take(U64), take(U64)
    metadata = {}
    for _ in range(metadata_count):
        key, kind = take(STRING).decode(), take(U32)
        if kind == ARRAY:
            inner, count = take(U32), take(U64)
            metadata[key] = [take(inner) for _ in range(count)]
        else:
            metadata[key] = take(kind)
    tensors = {}
    for _ in range(tensor_count):
        name = take(STRING).decode()
        dims = tuple(take(U64) for _ in range(take(U32)))
        tensors[name] = (dims, take(U32), take(U64))
    return metadata, tensors, at
