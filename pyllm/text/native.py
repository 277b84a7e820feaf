"""tokenizer.json read by pyllm's own core, where it describes no more than that knows; needs no extra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyllm import _core
from pyllm.errors import TokenizerError
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

    def __init__(self, document: dict[str, Any], vocabulary: Any, model: Any, lead: bytes = b"") -> None:
        super().__init__(vocabulary, model, [], [], lead)
        self._document = document

    def document(self) -> dict[str, Any]:
        """The value of tokenizer.json."""
        return self._document

    def encode(self, text: Text, allow_special: bool, breaks: Sequence[int] = ()) -> list[int]:
        """As NativeCoder, but malformed UTF-8 and lone surrogates become U+FFFD, as for other folders.

        No special token is found across one of the breaks, offsets in well-formed text.
        """
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        return super().encode(data if breaks else data.decode("utf-8", "replace").encode(), allow_special, breaks)


def open_document(document: Any) -> DescribedCoder | None:
    """The coder of a tokenizer.json; None where it asks for what pyllm does not know or is malformed."""
    if not isinstance(document, dict) or any(document.get(key) for key in ("truncation", "padding", "normalizer")):
        return None
    parts = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    document = {**dict.fromkeys(parts), **document, "added_tokens": document.get("added_tokens") or []}
    model = document.get("model")
    names = _names(document, model) if isinstance(model, dict) else None
    if not isinstance(model, dict) or names is None:
        return None
    return (_byte_pairs if model.get("type") == "BPE" else _plain)(document, model, names)


def _names(document: dict[str, Any], model: dict[str, Any]) -> list[str] | None:
    """The token of each id, if these are 0 to n - 1 and every added token is special and has no other properties."""
    vocabulary = model.get("vocab")
    added = document["added_tokens"]
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        return None
    found = dict(vocabulary)
    for token in added:
        plain = isinstance(token, dict) and token.get("special") is True and isinstance(token.get("content"), str)
        if not plain or any(token.get(key) for key in ("single_word", "lstrip", "rstrip", "normalized")):
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
    around, decoder = document["post_processor"], document["decoder"]
    level = isinstance(decoder, dict) and decoder.get("type") == "ByteLevel"
    bare = around is None or (isinstance(around, dict) and around.get("type") == "ByteLevel")
    known = set(names)
    merges = model.get("merges")
    if not (level and bare and isinstance(merges, list)) or any(model.get(key) for key in more):
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
        if (document["pre_tokenizer"], document["decoder"], document["post_processor"]) == (pre, decoder, None):
            vocabulary = _vocabulary(names, document, unknown)
            table = _core.WordTable(vocabulary, cut, names.index(str(unknown)))
            return DescribedCoder(document, vocabulary, table, b" " if cut == "word" else b"")
    return None
