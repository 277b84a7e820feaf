"""Tokenizers as the data room sees them: from where, which ids a document has, and whether two are the same."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from typing import Any

import numpy as np

from pyllm.errors import DataError, TokenizerError

# Scripts, spaces, digits, joined signs: what tokenizers cut differently though their vocabularies are equal.
PROBE = (
    "The quick brown fox's 12,345.67 dogs  can't\tjump\n\n  over it; HELLO_World(x == 1)? \u00c5ngstr\u00f6m caf\u00e9 "
    "cafe\u0301 \u4e2d\u6587\u5b57 \u0939\u093f\u0928\u094d\u0926\u0940 \u0627\u0644\u0639\u0631\u0628 "
    "\u0440\u0443\u0441\u0441 \U0001f469\u200d\U0001f680\u3000\u2014\u00a0\ufb01 https://example.org/a?b=c\r\n"
)


def open_tokenizer(tokenizer: Any) -> Any:
    """A tokenizer as it is, or the one that lies under a path or a model's name. Raises ModelFileError."""
    if not isinstance(tokenizer, str | os.PathLike):
        return tokenizer
    from pyllm import text
    from pyllm.formats import GGUF, download, open_model

    with open_model(download.resolve(tokenizer)) as source:
        return text.from_gguf(source) if isinstance(source, GGUF) else text.from_folder(source)


def fingerprint(tokenizer: Any, bare: bool = False) -> str:
    """sha256, in hexadecimal, over what defines a tokenizer: each id's spelling, bytes and kind, its merges, the ids
    of a probe text, what surrounds a text (bare: nothing). The same whatever file the tokenizer was read from.
    """
    coder = tokenizer.coder
    digest = sha256(b"pyllm-tokenizer-1")

    def note(*parts: bytes) -> None:
        for part in parts:
            digest.update(len(part).to_bytes(8, "little") + part)

    for i in range(tokenizer.vocab_size):
        note(_bytes(coder, i), b"special" if coder.special(i) else b"")
    for pair in _merges(tokenizer):
        note(*(each.encode("utf-8", "surrogatepass") for each in pair))
    sides = ([], []) if bare else (list(coder.before), list(coder.after))
    around = [*sides, tokenizer.eos_token_id]
    note(json.dumps([coder.encode(PROBE, False), *around], separators=(",", ":")).encode())
    return digest.hexdigest()


def _bytes(coder: Any, token: int) -> bytes:
    """What a token stands for; nothing where a vocabulary has a gap."""
    try:
        found: bytes = coder.bytes(token)
    except TokenizerError:
        return b""
    return found


def _merges(tokenizer: Any) -> list[list[str]]:
    """The merges of a byte-pair tokenizer in order of rank, as a tokenizer.json has them; [] for others."""
    try:
        if hasattr(tokenizer.coder, "document"):
            document = tokenizer.coder.document()
        else:
            document = json.loads(tokenizer.files().get("tokenizer.json", b"{}"))
        model = document.get("model") or {}
    except TokenizerError:  # a vocabulary that tokenizer.json cannot describe
        return []
    merges = model.get("merges") or []
    return [each.split(" ", 1) if isinstance(each, str) else list(each) for each in merges]


def as_array(coder: Any, text: str) -> np.ndarray:
    """The ids of a text, int32, nothing added; straight from the core where the coder is its own."""
    if hasattr(coder, "encode_array"):
        found: np.ndarray = coder.encode_array(text.encode("utf-8", "surrogatepass"))
        return found
    return np.asarray(coder.encode(text, False), np.int32)


class Endings:
    """What stands around each document: the ids that the tokenizer puts there, and its end-of-text token."""

    def __init__(self, tokenizer: Any) -> None:
        self.eos: int | None = tokenizer.eos_token_id
        self.before = np.asarray(tokenizer.coder.before, np.int32)
        after = list(tokenizer.coder.after)
        if self.eos is not None and self.eos not in after[-1:]:
            after.append(self.eos)
        self.after = np.asarray(after, np.int32)

    def around(self, ids: np.ndarray) -> np.ndarray:
        """The document with them."""
        return np.concatenate([self.before, ids, self.after])


def check_tokenizer(file: str, expected: str, tokenizer: Any) -> None:
    """Raises DataError when shards were made with another tokenizer. That of a model which has learned from them may
    put tokens around texts where theirs puts none."""
    found = fingerprint(tokenizer)
    if expected not in (found, fingerprint(tokenizer, bare=True)):
        allowed = f"the tokenizer {expected[:16]}... that the shards were made with"
        raise DataError(file, "tokenizer", None, f"another one, {found[:16]}...", allowed)
