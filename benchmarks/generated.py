"""GGUF files of random weights in the shapes of known models, for speed alone: what they say means nothing.

generated.py SHAPE TYPE FILE, for instance `generated.py 7B Q4_K_M /tmp/7B.gguf`

Blocks are random bytes with scales that make the weights' deviation 1 / sqrt(inputs), so that activations stay finite.
Types of tensors as llama.cpp's quantiser chooses them for LLaMA (src/llama-quant.cpp).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pyllm.formats.gguf_writer import write_gguf
from pyllm.formats.types import TYPES, size_in_bytes
from pyllm.formats.writing import NewTensor

VOCABULARY = 32000
PIECE = 1 << 24  # random bytes that repeat


class Shape(NamedTuple):
    """A LLaMA: width, layers, query heads, key heads, inner width."""

    width: int
    layers: int
    heads: int
    groups: int
    inner: int


SHAPES = {
    "7B": Shape(4096, 32, 32, 32, 11008),  # LLaMA-7B
    "1B": Shape(2048, 16, 32, 8, 8192),  # LLaMA-3.2-1B, but for its vocabulary
    "tiny": Shape(256, 2, 4, 2, 512),
}

# Where the halves (f16) of a block stand, and what they are for weights of deviation 1: value = scale * code - minimum.
# With codes and factors spread evenly over their range, the deviation of scale * code is known.
SCALES = {
    "Q4_0": {0: 1 / 4.61}, "Q4_1": {0: 1 / 4.61, 2: -7.5 / 4.61},
    "Q5_0": {0: 1 / 9.23}, "Q5_1": {0: 1 / 9.23, 2: -15.5 / 9.23}, "Q8_0": {0: 1 / 73.9},
    "Q2_K": {80: 1 / 17, 82: 1.5 / 17}, "Q3_K": {108: 1 / 42},
    "Q4_K": {0: 1 / 258, 2: 7.5 / 258}, "Q5_K": {0: 1 / 525, 2: 15.5 / 525}, "Q6_K": {208: 1 / 1367},
}  # fmt: skip
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12,
              "Q4_K": 15, "Q4_K_M": 15, "Q5_K": 17, "Q6_K": 18, "BF16": 32}  # fmt: skip


def more_bits(layer: int, layers: int) -> bool:
    """Whether llama.cpp's mixes keep more bits of this layer: the first and last eighth, and each third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def type_of(mix: str, part: str, layer: int, layers: int) -> str:
    """The storage type of a matrix in a file that is called `mix`."""
    if mix == "Q4_K_M":
        fine = part == "output" or (part in ("attn_v", "ffn_down") and more_bits(layer, layers))
        return "Q6_K" if fine else "Q4_K"
    return "Q6_K" if mix == "Q4_0" and part == "output" else mix


def blocks(kind: str, inputs: int) -> np.ndarray:
    """Random bytes of weights of a type, about PIECE of them."""
    rng = np.random.default_rng(3)
    deviation = inputs**-0.5
    if kind in ("F32", "F16", "BF16"):
        values = (rng.standard_normal(PIECE // 4, np.float32) * deviation).astype(np.float32)
        if kind == "BF16":
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return values.astype(np.float16 if kind == "F16" else np.float32).view(np.uint8)
    size = TYPES[kind].nbytes
    data = rng.integers(0, 256, (PIECE // size, size), np.uint8)
    for at, value in SCALES[kind].items():
        data[:, at : at + 2] = np.frombuffer(np.float16(value * deviation).tobytes(), np.uint8)
    return data.reshape(-1)


def repeated(data: np.ndarray, nbytes: int) -> Callable[[], Iterator[Any]]:
    """The bytes again and again, up to so many."""

    def pieces() -> Iterator[Any]:
        for start in range(0, nbytes, len(data)):
            yield data[: min(len(data), nbytes - start)]

    return pieces


def tensors(shape: Shape, mix: str) -> Iterator[NewTensor]:
    """Every tensor, in the order of use."""
    made: dict[tuple[str, int], np.ndarray] = {}

    def matrix(name: str, part: str, rows: int, inputs: int, layer: int = 0) -> NewTensor:
        kind = type_of(mix, part, layer, shape.layers)
        if (kind, inputs) not in made:
            made[kind, inputs] = blocks(kind, inputs)
        dims = (rows, inputs)
        return NewTensor(f"{name}.weight", dims, kind, repeated(made[kind, inputs], size_in_bytes(kind, dims)))

    def ones(name: str) -> NewTensor:
        data = np.ones(shape.width, np.float32).view(np.uint8)
        return NewTensor(f"{name}.weight", (shape.width,), "F32", repeated(data, len(data)))

    narrow = shape.width // shape.heads * shape.groups
    yield matrix("token_embd", "token_embd", VOCABULARY, shape.width)
    for i in range(shape.layers):
        yield ones(f"blk.{i}.attn_norm")
        for part, rows in (("attn_q", shape.width), ("attn_k", narrow), ("attn_v", narrow),
                           ("attn_output", shape.width)):  # fmt: skip
            yield matrix(f"blk.{i}.{part}", part, rows, shape.width, i)
        yield ones(f"blk.{i}.ffn_norm")
        yield matrix(f"blk.{i}.ffn_gate", "ffn_gate", shape.inner, shape.width, i)
        yield matrix(f"blk.{i}.ffn_up", "ffn_up", shape.inner, shape.width, i)
        yield matrix(f"blk.{i}.ffn_down", "ffn_down", shape.width, shape.inner, i)
    yield ones("output_norm")
    yield matrix("output", "output", VOCABULARY, shape.width)


def metadata(shape: Shape, mix: str, name: str) -> dict[str, Any]:
    """A LLaMA with a SentencePiece vocabulary of made-up words after the 256 bytes."""
    words = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % i for i in range(256))]
    words += [b"\xe2\x96\x81w%d" % i for i in range(VOCABULARY - len(words))]
    kinds = np.ones(VOCABULARY, np.int32)
    kinds[0], kinds[1:3], kinds[3:259] = 2, 3, 6
    return {
        "general.architecture": "llama", "general.name": name, "general.file_type": FILE_TYPES[mix],
        "general.quantization_version": 2,
        "llama.block_count": shape.layers, "llama.context_length": 4096, "llama.embedding_length": shape.width,
        "llama.feed_forward_length": shape.inner, "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.groups, "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.vocab_size": VOCABULARY,
        "llama.rope.dimension_count": shape.width // shape.heads,
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": words, "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": -np.arange(VOCABULARY, dtype=np.float32),
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
    }  # fmt: skip


def write(shape: str, mix: str, path: str) -> None:
    """Write the file. Raises ModelFileError when the disk has no room."""
    write_gguf(path, metadata(SHAPES[shape], mix, f"random {shape} {mix}"), list(tensors(SHAPES[shape], mix)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("type", choices=FILE_TYPES)
    parser.add_argument("file")
    options = parser.parse_args()
    write(options.shape, options.type, options.file)
