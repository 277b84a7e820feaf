"""Vocabularies and texts for the tests of tokenizers; everything follows from fixed seeds."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import tiny_tokenizers

from pyllm.formats import StringArray

SCRIPTS = (
    (0x61, 0x7A), (0x41, 0x5A), (0x30, 0x39), (0x21, 0x2F), (0xC0, 0x24F), (0x370, 0x3FF), (0x400, 0x52F),
    (0x5D0, 0x5EA), (0x620, 0x669), (0x900, 0x97F), (0xE00, 0xE5B), (0x3041, 0x30FF), (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3), (0x1F300, 0x1F6FF), (0x300, 0x36F), (0x2000, 0x206F),
)  # fmt: skip
JOINTS = (
    " ",
    "  ",
    "\n",
    "\r\n",
    " \n\n",
    "\t",
    "'s ",
    "'LL",
    "'",
    "123",
    " 45",
    ", ",
    "_",
    "/",
    "!\n",
    "\u3000",
    "\u00a0",
)
DAMAGE = (b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc0\x80", b"\xed\xa0\x80", b"\x80", b"\xe0\x80\xaf")

PROSE = """The old mill stood by the river, and the river ran past it to the sea. "Who's there?" they'd asked in 1987;
nobody'll answer. It's 12,345 steps from the mill to the sea, we've counted them — naïve, café, Straße, Ελλάδα, 東京.

\tThe river    runs on; the mill has stopped.\r\n\r\nEnd of the first part.   \n\n\n
   The second part: running, runner, ran.
"""


def mixed_text(words: int, seed: int, damaged: bool = False) -> bytes:
    """Words of many scripts with odd joints; with `damaged`, also bytes that are no UTF-8."""
    draw = random.Random(seed).random
    pieces: list[bytes] = []
    for _ in range(words):
        first, last = SCRIPTS[int(draw() * len(SCRIPTS))]
        pieces += [chr(first + int(draw() * (last - first + 1))).encode() for _ in range(1 + int(draw() * 7))]
        pieces.append(JOINTS[int(draw() * len(JOINTS))].encode())
        if damaged and draw() < 0.2:
            pieces.append(DAMAGE[int(draw() * len(DAMAGE))])
    return b"".join(pieces)


def string_array(strings: list[bytes]) -> StringArray:
    """What a GGUF file would hold."""
    lengths = np.array([len(s) for s in strings], np.uint64)
    starts = (np.cumsum(lengths) - lengths).astype(np.uint64)
    return StringArray(memoryview(b"".join(strings)), starts, lengths)


def pairs_metadata(pre: str) -> dict[str, Any]:
    """A vocabulary of all bytes and all pairs of bytes, merged in a shuffled order: ids show where words end."""
    characters = tiny_tokenizers.byte_characters()
    pairs = [(a, b) for a in characters for b in characters]
    draw = random.Random(0).random
    pairs.sort(key=lambda _: draw())
    tokens = ["<|a|>", "<|b|>", *characters, *(a + b for a, b in pairs)]
    return byte_level(tokens, [f"{a} {b}" for a, b in pairs], 2, pre)


def byte_level(tokens: list[str], merges: list[str], control: int, pre: str) -> dict[str, Any]:
    """Metadata of the model "gpt2"; the first `control` tokens are control tokens."""
    kinds = np.ones(len(tokens), np.int32)
    kinds[:control] = 3
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": string_array([t.encode() for t in tokens]),
        "tokenizer.ggml.merges": string_array([m.encode() for m in merges]),
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": min(1, len(tokens) - 1),
        "tokenizer.ggml.add_bos_token": False,
    }


class File:
    """Metadata that passes for an open GGUF file."""

    def __init__(self, metadata: dict[str, Any]) -> None:
        self.metadata = metadata
        self.path = "folder/test.gguf"
