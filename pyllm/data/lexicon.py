"""What objectives know of a tokenizer's tokens: which are special, where words and sentences begin."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm.data.fingerprint import open_tokenizer
from pyllm.errors import DataError, TokenizerError

MASKS = ("[MASK]", "<mask>", "<|mask|>")
SENTINEL = "<extra_id_{}>"  # T5's spelling
_STOPS = b".!?\n"
_QUOTES = b"\"')"
_SPACES = b" \t\r\n"

Flags = NDArray[np.bool_]
Ids = NDArray[np.int32]


class Lexicon:
    """Facts of every token, (vocabulary,) bool each, and the ids that objectives put into texts.

    special: never masked. ends: stand around documents. opens, closes: begin, end within a word. spaced: begins with
    white space. stops: may end a sentence. before, after: (n,) ids around a text of encoders; opening: of
    those before it the ones that the tokenizer itself puts there. mask: the mask token, or None.
    sentinels: (n,) <extra_id_0>, <extra_id_1>, ...
    """

    def __init__(self, tokenizer: Any) -> None:
        tokenizer = open_tokenizer(tokenizer)
        coder, size = tokenizer.coder, tokenizer.vocab_size
        spelled = [_bytes(coder, i) for i in range(size)]
        self.size = size
        self.special: Flags = np.array([coder.special(i) for i in range(size)])
        self.opens: Flags = np.array([bool(text) and _in_word(text[0]) for text in spelled]) & ~self.special
        self.closes: Flags = np.array([bool(text) and _in_word(text[-1]) for text in spelled]) & ~self.special
        self.spaced: Flags = np.array([text[:1] in (b" ", b"\t", b"\r", b"\n") for text in spelled])
        stripped = [text.rstrip(b" ").rstrip(_QUOTES) for text in spelled]
        self.stops: Flags = np.array([bool(text) and text[-1] in _STOPS for text in stripped]) & ~self.special
        self.before, self.after = surroundings(tokenizer)
        self.opening: Ids = np.array(coder.before, np.int32)
        self.ends: Flags = np.zeros(size, bool)
        around = [*self.before, *self.after, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
        self.ends[[i for i in around if i is not None]] = True
        self.mask = mask_of(tokenizer)
        found: list[int] = []
        while (i := coder.find(SENTINEL.format(len(found)))) is not None:
            found.append(i)
        self.sentinels: Ids = np.array(found, np.int32)
        self.plain: Ids = np.flatnonzero(~self.special).astype(np.int32)

    def words(self, ids: Ids) -> Flags:
        """(n,) where a word begins: not where one letter or digit follows another."""
        found = np.ones(len(ids), bool)
        found[1:] = ~(self.opens[ids[1:]] & self.closes[ids[:-1]])
        return found

    def sentences(self, ids: Ids) -> Flags:
        """(n,) where a sentence begins: at the start, and at a space or line after a full stop."""
        found = np.ones(len(ids), bool)
        lines = self.stops[ids[:-1]]
        found[1:] = lines & self.spaced[ids[1:]]
        return found

    def inner(self, ids: Ids) -> Ids:
        """The ids without those that stand around documents."""
        inside = np.flatnonzero(~self.ends[ids])
        return ids[inside[0] : inside[-1] + 1] if len(inside) else ids[:0]

    def need_mask(self, objective: str) -> int:
        """The mask token. Raises DataError without one."""
        if self.mask is None:
            allowed = f"one of {', '.join(MASKS)}: pyllm tokenizer train --special '<mask>'"
            raise DataError(objective, "tokenizer", None, "has no mask token", allowed)
        return self.mask


def mask_of(tokenizer: Any) -> int | None:
    """The token that stands for a masked one; None where there is none."""
    named = getattr(tokenizer, "mask_token_id", None)
    if named is not None:
        return int(named)
    found = (tokenizer.coder.find(name) for name in MASKS)
    return next((i for i in found if i is not None and tokenizer.coder.special(i)), None)


def surroundings(tokenizer: Any) -> tuple[Ids, Ids]:
    """(ids before, ids after) a text: what the tokenizer puts there, else its tokens that begin and end texts.

    BERT's are [CLS] and [SEP], RoBERTa's <s> and </s>. Raises DataError for a tokenizer that has none.
    """
    first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
    before = list(tokenizer.coder.before) or [i for i in (first, last) if i is not None][:1]
    after = list(tokenizer.coder.after) or [i for i in (last, first) if i is not None][:1]
    if not before or not after:
        raise DataError("tokenizer", "", None, "no token that begins and ends texts", "one, such as <s> or [CLS]")
    return np.array(before, np.int32), np.array(after, np.int32)


def _bytes(coder: Any, token: int) -> bytes:
    try:
        found: bytes = coder.bytes(token)
    except TokenizerError:  # a gap of the vocabulary
        return b""
    return found


def _in_word(byte: int) -> bool:
    """Letters, digits, and all beyond ASCII."""
    return byte >= 0x80 or chr(byte).isalnum()
