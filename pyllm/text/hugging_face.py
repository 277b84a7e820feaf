"""Tokenizers from tokenizer.json, through PyPI's `tokenizers` (extra `hf`)."""

from __future__ import annotations

import itertools
import json
import os
import re
import threading
from collections.abc import Sequence
from typing import Any

from pyllm.errors import TokenizerError, printable
from pyllm.formats.json_file import parse_json
from pyllm.text import native, saving
from pyllm.text.encoding import Pieces
from pyllm.text.gguf import ENDINGS
from pyllm.text.tokenizer import Coder, Text, Tokenizer
from pyllm.text.word_piece import word_piece

VOCABULARY = "vocab.txt"  # of BERT's first folders: a token a line
SHORT = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")
TYPED = ("Bert", "Albert")
LONGEST = 1 << 30  # files say 1e30 where they mean that nobody knows
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
        special = sorted((text for text, special in self.added.values() if special and text), key=len, reverse=True)
        either = "|".join(map(re.escape, special))
        self.spellings = re.compile(either.encode()) if special else None
        self.overlapping = re.compile(f"(?={either})")
        self.before, self.after = self._around()

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

    def encode(self, text: Text, allow_special: bool, breaks: Sequence[int] = ()) -> list[int]:
        """Ids of the text, nothing added; malformed UTF-8 and lone surrogates become U+FFFD.

        No special token is found across one of the breaks (byte offsets).
        """
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        if allow_special and breaks and self.spellings is not None:
            return self._encode_parts(data, breaks, self.spellings)
        return self._encode(data, allow_special)

    def _encode(self, data: bytes_, allow_special: bool) -> list[int]:
        with self.lock:
            self.tokenizer.encode_special_tokens = not allow_special
            ids: list[int] = self.tokenizer.encode(data.decode("utf-8", "replace"), add_special_tokens=False).ids
        return ids

    def _encode_parts(self, data: bytes_, breaks: Sequence[int], spellings: re.Pattern[bytes_]) -> list[int]:
        """Special tokens are cut out here, and what lies between them is encoded as plain text."""
        ids: list[int] = []
        begin = search = 0
        while (match := spellings.search(data, search)) is not None:
            if any(match.start() < place < match.end() for place in breaks):
                search = match.start() + 1
                continue
            if match.start() > begin:
                ids += self._encode(data[begin : match.start()], False)
            ids.append(self.tokenizer.token_to_id(match.group().decode()))
            begin = search = match.end()
        return ids + self._encode(data[begin:], False) if begin < len(data) else ids

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
        if self.spellings is None:
            return text
        starts = {match.start() for match in self.overlapping.finditer(text)}
        for content, special in self.added.values():
            ends = (size for size in range(1, len(content)) if special and text.endswith(content[:size]))
            starts |= {len(text) - size for size in ends}
        places = [0, *(i + 1 for i in sorted(starts)), len(text)]
        return mark.join(text[i:j] for i, j in itertools.pairwise(places)) if starts else text

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


def load(folder: Any) -> Tokenizer:
    """The tokenizer of an open folder. Raises TokenizerError that names the file; ImportError without `tokenizers`.

    Words and characters as train() writes them are read by pyllm's core, byte-level BPE too where `tokenizers` is not
    installed.
    """
    name = os.path.basename(os.path.normpath(os.fspath(folder.path)))
    text = folder.tokenizer_json
    if text is None and not folder.has(VOCABULARY):
        found = "neither tokenizer.json nor vocab.txt; pyllm reads no other tokenizer of a folder"
        raise TokenizerError(f"{printable(name)}: {found}")
    if text is None:
        return build(HuggingFaceCoder(word_piece(folder)), folder, name)
    try:
        import tokenizers
    except ImportError:
        missing = True
    else:
        missing = False
    if missing or '"WordLevel"' in text:
        path = os.path.join(os.fspath(folder.path), "tokenizer.json")
        own = native.open_document(parse_json(text.encode(), path))
        if own is not None:
            return build(own, folder, name)
    if missing:
        raise ImportError("tokenizer.json needs the package `tokenizers`: pip install 'pyllm[hf]'")
    try:
        coder = HuggingFaceCoder(tokenizers.Tokenizer.from_str(text))
    except BaseException as error:
        # Rust panics arrive as PanicException, which is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{printable(name)}: tokenizer.json: {printable(error)}") from None
    return build(coder, folder, name)


def build(coder: Coder, folder: Any, name: str) -> Tokenizer:
    """The tokenizer with the special tokens that tokenizer_config.json and generation_config.json name."""
    config = folder.tokenizer_config
    names = {**folder.special_tokens_map, **config}
    special = {short: token_id(coder, names, f"{short}_token") for short in SHORT}
    if folder.tokenizer_json is None:
        special |= {short: coder.find(f"[{short.upper()}]") for short in SHORT[2:] if special[short] is None}
    ends = {i for text in ENDINGS if (i := coder.find(text)) is not None and coder.special(i)}
    ends |= {i for i in [special["eos"]] if i is not None}
    given = folder.generation_config.get("eos_token_id")
    ends |= {i for i in (given if isinstance(given, list) else [given]) if isinstance(i, int)}
    found = Tokenizer(coder, **special, end_ids=ends, chat_template=folder.chat_template, name=name)
    path = os.fspath(folder.path)
    found.files = lambda: saving.copied(path)
    found.typed = is_typed(folder, config)
    longest = config.get("model_max_length")
    if isinstance(longest, int) and not isinstance(longest, bool) and 0 < longest < LONGEST:
        found.model_max_length = longest
    side = config.get("padding_side")
    if side in ("left", "right"):
        found.padding_side = side
    return found


def is_typed(folder: Any, config: dict[str, Any]) -> bool:
    """Whether models are told the texts of a pair apart: by model_input_names, else as BERT's and ALBERT's are."""
    names = config.get("model_input_names")
    if isinstance(names, list):
        return "token_type_ids" in names
    kind = config.get("tokenizer_class")
    if isinstance(kind, str) and not kind.startswith(("PreTrained", "Tokenizers")):
        return kind.startswith(TYPED)
    return folder.has("config.json") and str(folder.raw_config.get("model_type")).startswith(("bert", "albert"))


def token_id(coder: Coder, config: dict[str, Any], key: str) -> int | None:
    """The id of a special token that the config names by its text or by an object with `content`."""
    value = config.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    return coder.find(value) if isinstance(value, str) else None
