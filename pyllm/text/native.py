"""tokenizer.json read by pyllm's own core, where it describes no more than that knows; needs no extra."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from pyllm import _core
from pyllm.errors import TokenizerError
from pyllm.text.encoding import Pieces
from pyllm.text.framing import around
from pyllm.text.gguf import CONTROL, NORMAL, UNKNOWN, NativeCoder
from pyllm.text.pre_tokenizers import name_of
from pyllm.text.tokenizer import Text

# Words and characters, as tokenizer.json describes them: (pre_tokenizer, decoder).
PLAIN: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "word": (
        {"type": "Split", "pattern": {"Regex": r"[\p{L}\p{M}\p{N}]+|[^\s\p{L}\p{M}\p{N}]"}, "behavior": "Removed",
         "invert": True},
        None,
    ),
    "character": (
        {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
        {"type": "Fuse"},
    ),
}  # fmt: skip


class DescribedCoder(NativeCoder):
    """A NativeCoder that keeps its description, the value of tokenizer.json."""

    def __init__(self, document: dict[str, Any], vocabulary: Any, model: Any, cut: str = "") -> None:
        lead = b" " if cut == "word" else b""
        super().__init__(vocabulary, model, *(around(document["post_processor"]) or ([], [])), lead)
        self._document, self._cut = document, cut
        greedy = [re.escape(token["content"]) for token in document["added_tokens"] if token.get("lstrip")]
        self._spaces = re.compile(rf"(?<!\s)\s+(?={'|'.join(greedy)})") if greedy else None

    def __reduce__(self) -> tuple[Any, ...]:
        return open_document, (self._document,)

    def document(self) -> dict[str, Any]:
        """The value of tokenizer.json."""
        return self._document

    def encode(self, text: Text, allow_special: bool, breaks: Sequence[int] = ()) -> list[int]:
        """As NativeCoder, but malformed UTF-8 and lone surrogates become U+FFFD, as for other folders.

        No special token is found across one of the breaks, offsets in well-formed text.
        """
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        if breaks:
            return super().encode(data, allow_special, breaks)
        whole = data.decode("utf-8", "replace")
        whole = self._spaces.sub("", whole) if self._spaces is not None and allow_special else whole
        return super().encode(whole.encode(), allow_special)

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
        """Texts, with their second texts, and what stands around them, which is kept where one text is cut to `longest`
        ids. Offsets of words and characters are known, of byte pairs not. Raises TokenizerError for a pair that would
        be cut."""
        before, after = (self.before, self.after) if special else ([], [])
        rows, types, marks = list[list[int]](), list[list[int]](), list[list[int]]()
        spans: list[list[tuple[int, int]]] | None = [] if self._cut else None
        for i, text in enumerate(texts):
            sides = [self.encode(each, allow_special) for each in (text, *(() if pairs is None else (pairs[i],)))]
            most = None if longest is None else longest - len(before) - len(after) * len(sides)
            if most is not None and (most < 0 or (len(sides) == 2 and sum(map(len, sides)) > most)):
                what = "the special tokens alone are more" if most < 0 else "pairs are not cut without `tokenizers`"
                raise TokenizerError(f"truncation: max_length {longest}, {what}")
            places = [self._places(each) for each in (text, *(() if pairs is None else (pairs[i],)))]
            known = spans is not None and list(map(len, places)) == list(map(len, sides))
            if most is not None and len(sides) == 1:
                kept = slice(max(0, len(sides[0]) - most), None) if side == "left" else slice(most)
                sides, places = [sides[0][kept]], [places[0][kept]]
            none = [(0, 0)]
            if spans is not None and known:
                spans.append([*none * len(before), *(at for each in places for at in (*each, *none * len(after)))])
            else:
                spans = None
            rows.append([*before, *(token for each in sides for token in (*each, *after))])
            sizes = [len(each) + len(after) for each in sides]
            types.append([0] * len(before) + [kind for kind, size in enumerate(sizes) for _ in range(size)])
            marks.append([1] * len(before) + [m for each in sides for m in [0] * len(each) + [1] * len(after)])
        return Pieces(rows, types, spans, marks)

    def _places(self, text: Text) -> list[tuple[int, int]]:
        """(first, end) characters of each word or character, as PLAIN cuts them."""
        if not self._cut:
            return []
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        whole = data.decode("utf-8", "replace")
        if self._cut == "character":
            return [(i, i + 1) for i in range(len(whole))]
        found, first = list[tuple[int, int]](), 0
        for kind, group in groupby(whole, _kind):
            end = first + len(list(group))
            if kind is not None:
                found += [(first, end)] if kind else [(i, i + 1) for i in range(first, end)]
            first = end
        return found


def _kind(character: str) -> bool | None:
    """Whether a character is of a word; None: white space, between words."""
    if unicodedata.category(character)[0] in "LMN":
        return True
    return None if character.isspace() and not "\x1c" <= character <= "\x1f" else False


def open_document(document: Any) -> DescribedCoder | None:
    """The coder of a tokenizer.json; None where it asks for what pyllm does not know or is malformed."""
    if not isinstance(document, dict) or any(document.get(key) for key in ("truncation", "padding", "normalizer")):
        return None
    parts = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    document = {**dict.fromkeys(parts), **document, "added_tokens": document.get("added_tokens") or []}
    model = document.get("model")
    names = _names(document, model) if isinstance(model, dict) else None
    beside = around(document["post_processor"])
    if not isinstance(model, dict) or names is None or beside is None:
        return None
    if not all(0 <= i < len(names) for side in beside for i in side):
        return None
    return (_byte_pairs if model.get("type") == "BPE" else _plain)(document, model, names)


def _names(document: dict[str, Any], model: dict[str, Any]) -> list[str] | None:
    """The token of each id, if these are 0 to n - 1 and all added tokens are special, with no property but lstrip."""
    vocabulary = model.get("vocab")
    added = document["added_tokens"]
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        return None
    found = dict(vocabulary)
    for token in added:
        plain = isinstance(token, dict) and token.get("special") is True and isinstance(token.get("content"), str)
        if not plain or any(token.get(key) for key in ("single_word", "rstrip", "normalized")):
            return None
        if not token["content"] or found.setdefault(token["content"], token.get("id")) != token.get("id"):
            return None
    names: list[Any] = [None] * len(found)
    for name, i in found.items():
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < len(names) or names[i] is not None:
            return None
        names[i] = name
    return names


def _vocabulary(names: list[str], document: dict[str, Any], unknown: str | None) -> Any:
    special = {token["content"] for token in document["added_tokens"]}
    kinds = [NORMAL if name not in special else UNKNOWN if name == unknown else CONTROL for name in names]
    return _core.Vocabulary(*_strings(names), np.array(kinds, np.int32))


def _strings(texts: Sequence[str]) -> tuple[bytes, np.ndarray, np.ndarray]:
    """Strings as the core takes them: bytes, starts, lengths."""
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    lengths = np.array([len(part) for part in parts], np.uint64)
    starts = np.concatenate([np.zeros(1, np.uint64), np.cumsum(lengths, dtype=np.uint64)])[: len(parts)]
    return b"".join(parts), starts, lengths


def _byte_pairs(document: dict[str, Any], model: dict[str, Any], names: list[str]) -> DescribedCoder | None:
    """Byte-level BPE with all bytes and a pre-tokenizer that has a name."""
    from pyllm.text.hugging_face import spelling

    more = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    decoder = document["decoder"]
    level = isinstance(decoder, dict) and decoder.get("type") == "ByteLevel"
    known = set(names)
    merges = model.get("merges")
    if not (level and isinstance(merges, list)) or any(model.get(key) for key in more):
        return None
    if not known.issuperset(spelling()):
        return None
    lines = []
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            return None
        if not known.issuperset([*parts, "".join(parts)]) or any(" " in part for part in parts):
            return None
        lines.append(" ".join(parts))
    try:
        pre = name_of(document["pre_tokenizer"], bool(model.get("ignore_merges")))
        vocabulary = _vocabulary(names, document, None)
        return DescribedCoder(document, vocabulary, _core.BytePairs(vocabulary, pre, *_strings(lines)))
    except TokenizerError:
        return None


def _plain(document: dict[str, Any], model: dict[str, Any], names: list[str]) -> DescribedCoder | None:
    """Words or characters, one token each, with a special token for those that have none."""
    unknown = model.get("unk_token")
    if model.get("type") != "WordLevel" or unknown not in [token["content"] for token in document["added_tokens"]]:
        return None
    for cut, (pre, decoder) in PLAIN.items():
        if (document["pre_tokenizer"], document["decoder"]) == (pre, decoder):
            vocabulary = _vocabulary(names, document, unknown)
            table = _core.WordTable(vocabulary, cut, names.index(str(unknown)))
            return DescribedCoder(document, vocabulary, table, cut)
    return None
