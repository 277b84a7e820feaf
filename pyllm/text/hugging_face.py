"""Coders of what PyPI's `tokenizers` (extra `hf`) reads or is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from pyllm.errors import TokenizerError, printable
from pyllm.text.encoding import Pieces
from pyllm.text.spellings import Spellings
from pyllm.text.tokenizer import Text

SPACE_MARK = "\u2581"
bytes_ = bytes  # the class below has a method of that name


def spelling() -> dict[str, int]:
    """GPT-2's visible character for each byte -> the byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


class HuggingFaceCoder:
    """The Coder over a `tokenizers.Tokenizer`."""

    def __init__(self, tokenizer: Any) -> None:
        tokenizer.no_padding()  # which some files ask for; here it is the caller who does
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.lock = threading.Lock()  # encode_special_tokens is a setting of the object, not of the call
        self.added = {i: (t.content, t.special) for i, t in tokenizer.get_added_tokens_decoder().items()}
        self.vocab_size = max(tokenizer.get_vocab_size(with_added_tokens=True), max(self.added, default=-1) + 1)
        decoder = describe(tokenizer.decoder)
        self.byte_level = spelling() if any(d.get("type") == "ByteLevel" for d in decoder) else None
        self.word_piece = next((d.get("prefix", "##") for d in decoder if d.get("type") == "WordPiece"), None)
        stripped = any(d.get("type") == "Strip" and d.get("content") == " " and d.get("start") for d in decoder)
        meta = next((d for d in decoder if d.get("type") == "Metaspace"), None)
        lead = stripped or self.word_piece is not None or (meta and meta.get("prepend_scheme") != "never")
        self.lead = b" " if lead else b""
        self.spellings = Spellings({text: i for i, (text, special) in self.added.items() if special and text})
        self.before, self.after = self._around()

    def __reduce__(self) -> tuple[Any, ...]:
        return HuggingFaceCoder, (self.tokenizer,)  # all else follows from it, and a lock is of one process

    def document(self) -> dict[str, Any]:
        """The value of tokenizer.json."""
        found: dict[str, Any] = json.loads(self.tokenizer.to_str())
        return found

    def _around(self) -> tuple[list[int], list[int]]:
        """What the file's post-processor puts before and after a text."""
        bare = self.tokenizer.encode("a", add_special_tokens=False).ids
        full = self.tokenizer.encode("a", add_special_tokens=True).ids
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return full[:start], full[start + len(bare) :]
        return [], []

    def post_processor(self) -> Any:
        """What tokenizer.json says of the tokens around texts; None where it says nothing."""
        found = self.tokenizer.post_processor
        return None if found is None else json.loads(found.__getstate__())

    def exchange(self, old: int, new: int) -> None:
        """Put a token in the place of another that stands around texts."""
        said, name = self.post_processor(), self.name(new)
        for each in said.get("processors", [said]):
            special = each.get("special_tokens", {})
            if special.pop(self.name(old), None):
                special[name] = {"id": name, "ids": [new], "tokens": [name]}
            for part in each.get("single", []) + each.get("pair", []):
                token = part.get("SpecialToken")
                if token and token["id"] == self.name(old):
                    token["id"] = name
        found = self.tokenizer.post_processor
        found.__setstate__(json.dumps(said).encode())
        with self.lock:
            self.tokenizer.post_processor = found
            self.before, self.after = self._around()

    def copied(self) -> HuggingFaceCoder:
        """Another one like this, whose tokens around texts are its own."""
        return HuggingFaceCoder(deepcopy(self.tokenizer))

    def encode(self, text: Text, allow_special: bool, breaks: Sequence[int] = ()) -> list[int]:
        """Ids of the text, nothing added; malformed UTF-8 and lone surrogates become U+FFFD.

        No special token is found across one of the breaks (byte offsets).
        """
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        if not (allow_special and breaks):
            return self._encode(data, allow_special)
        parts = self.spellings.parts(data, breaks)
        return [i for part in parts for i in ([part] if isinstance(part, int) else self._encode(part, False))]

    def _encode(self, data: bytes_, allow_special: bool) -> list[int]:
        with self.lock:
            self.tokenizer.encode_special_tokens = not allow_special
            ids: list[int] = self.tokenizer.encode(data.decode("utf-8", "replace"), add_special_tokens=False).ids
        return ids

    def pieces(
        self,
        texts: list[Text],
        pairs: list[Text] | None,
        special: bool,
        allow_special: bool,
        longest: int | None,
        strategy: str,
        side: str,
    ) -> Pieces:
        """Texts, with their second texts, as the file's post-processor has them; cut to `longest` ids unless None.

        Raises TokenizerError where that many ids do not hold the special tokens.
        """
        given: list[Any] = [_text(text) for text in texts]
        if pairs is not None:
            given = list(zip(given, map(_text, pairs), strict=True))
        with self.lock:
            self.tokenizer.encode_special_tokens = not allow_special
            try:
                if longest is not None:
                    self.tokenizer.enable_truncation(longest, strategy=strategy, direction=side)
                found = self.tokenizer.encode_batch(given, add_special_tokens=special)
            except Exception as error:
                raise TokenizerError(f"truncation: max_length {longest}: {printable(error)}") from None
            finally:
                self.tokenizer.no_truncation()
        if longest is not None and any(len(each.ids) > longest for each in found):
            raise TokenizerError(f"truncation: max_length {longest}, the special tokens alone are more")
        return Pieces(
            [each.ids for each in found],
            [each.type_ids for each in found],
            [each.offsets for each in found],
            [each.special_tokens_mask for each in found],
        )

    def shield(self, text: str, mark: str) -> str:
        """The text with a mark inside every spelling of a special token, and of what could become one at its end."""
        return self.spellings.shield(text, mark)

    def bytes(self, token_id: int) -> bytes:
        """What the token stands for, by the kind of decoder that the file names."""
        if token_id in self.added:
            return self.added[token_id][0].encode("utf-8", "surrogatepass")
        token = self.name(token_id)
        if self.byte_level is not None:
            if all(c in self.byte_level for c in token):
                return bytes(self.byte_level[c] for c in token)
            return token.encode("utf-8", "surrogatepass")
        if self.word_piece is not None:
            plain = token.removeprefix(self.word_piece)
            return (plain if plain != token else " " + token).encode()
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes.fromhex(token[3:5])
        return token.replace(SPACE_MARK, " ").encode("utf-8", "surrogatepass")

    def name(self, token_id: int) -> str:
        """The token as the vocabulary spells it."""
        found = self.tokenizer.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
        if found is None:
            raise TokenizerError(f"token id {token_id}; 0 to {self.vocab_size - 1}")
        return str(found)

    def join(self, tokens: list[str]) -> str:
        """The text of spellings, by the file's decoder; side by side without one."""
        decoder = self.tokenizer.decoder
        return " ".join(tokens) if decoder is None else str(decoder.decode(tokens))

    def find(self, name: str) -> int | None:
        """The id of a spelling."""
        found: int | None = self.tokenizer.token_to_id(name)
        return found

    def special(self, token_id: int) -> bool:
        """Whether the file calls the token special."""
        return token_id in self.added and bool(self.added[token_id][1])


def _text(text: Text) -> str:
    """As encode() reads it."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return data.decode("utf-8", "replace")


def describe(decoder: Any) -> list[dict[str, Any]]:
    """The decoder's settings, a sequence as its parts."""
    if decoder is None:
        return []
    state = json.loads(decoder.__getstate__())
    parts: list[dict[str, Any]] = state.get("decoders", [state])
    return parts
