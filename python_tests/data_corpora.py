"""Small corpora and tokenizers for the tests of pyllm.data."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import gguf
import numpy as np
import tiny_tokenizers

import pyllm.data

EOS = 1
WORDS = tiny_tokenizers.WORDS.split()
PACKERS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def zstd(data: bytes) -> bytes:
    """One frame."""
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


PACKERS[".zst"] = zstd


def native(path: Path, kind: str = "bpe", size: int = 400) -> Path:
    """A GGUF file with the tiny tokenizer of pyllm's own C++ (kind "bpe" or "spm") and no weights."""
    writer = gguf.GGUFWriter(path, "llama")
    tiny_tokenizers.write_fields(writer, size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def document(seed: int, words: int = 30) -> str:
    """A text of its own for each seed."""
    rng = np.random.default_rng(seed)
    return " ".join([f"no{seed}", *(WORDS[i] for i in rng.integers(len(WORDS), size=words))])


def jsonl(path: Path, rows: list, pack: str = "") -> Path:
    """A jsonl file of rows, packed."""
    path = path.with_name(path.name + pack)
    path.write_bytes(PACKERS[pack]("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def texts(shards: pyllm.data.Shards, tokenizer) -> list[str]:
    """The documents of a split as text, without their end-of-text tokens."""
    found = []
    for number in range(len(shards)):
        ids = shards.document(number)
        assert ids[-1] == EOS and EOS not in ids[:-1]
        found.append(tokenizer.decode(ids[:-1]))
    return found


def kept(folder: Path, tokenizer) -> dict[str, list[str]]:
    """The documents of every split that has one."""
    splits = {shard.split for shard in pyllm.data.Shards(folder, any_split(folder)).manifest.shards}
    return {split: texts(pyllm.data.Shards(folder, split, verify=True), tokenizer) for split in sorted(splits)}


def any_split(folder: Path) -> str:
    """A split that has tokens."""
    rows = json.loads((folder / "manifest.json").read_text())["shards"]
    return rows[0]["split"]
