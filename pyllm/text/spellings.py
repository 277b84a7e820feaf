"""Special tokens as they are spelled in texts: cut out where a text may hold them, broken up where it may not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyllm.errors import TokenizerError, printable

# Special tokens as RoBERTa and those after it call them.
SEPARATED = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>",
             "pad_token": "<pad>", "mask_token": "<mask>"}  # fmt: skip
_PROPERTIES = ("single_word", "lstrip", "rstrip", "normalized")


class Spellings:
    """The special tokens of a vocabulary: text -> id."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids = {text.encode("utf-8", "surrogatepass"): i for text, i in ids.items()}
        self.texts = sorted(ids, key=len, reverse=True)
        either = "|".join(map(re.escape, self.texts))
        self.found = re.compile(either.encode("utf-8", "surrogatepass"))
        self.overlapping = re.compile(f"(?={either})")

    def parts(self, data: bytes, breaks: Sequence[int] = ()) -> Iterator[int | bytes]:
        """The ids of special tokens and the text between them; no token reaches across a break (byte offsets)."""
        begin = search = 0
        while self.ids and (match := self.found.search(data, search)) is not None:
            if any(match.start() < place < match.end() for place in breaks):
                search = match.start() + 1
                continue
            if match.start() > begin:
                yield data[begin : match.start()]
            yield self.ids[match.group()]
            begin = search = match.end()
        if begin < len(data):
            yield data[begin:]

    def shield(self, text: str, mark: str) -> str:
        """The text with a mark inside every spelling, and in what could become one at its end."""
        if not self.texts:
            return text
        starts = {match.start() for match in self.overlapping.finditer(text)}
        for content in self.texts:
            starts |= {len(text) - size for size in range(1, len(content)) if text.endswith(content[:size])}
        places = [0, *(i + 1 for i in sorted(starts)), len(text)]
        return mark.join(text[i:j] for i, j in itertools.pairwise(places)) if starts else text


def content(value: Any) -> str:
    """A special token's text, of a name or of an object with `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def added_tokens(
    folder: Any,
    ids: Mapping[str, int],
    defaults: Mapping[str, str],
    name: str,
    marks: Mapping[str, Any],
    special: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The `added_tokens` of a tokenizer.json, by the files beside a vocabulary, in the order of their ids.

    defaults: special tokens by name, which count where the vocabulary has them; marks: properties of some, where the
    files tell none; special, whole: tokens of the vocabulary that are special, or never cut. Raises TokenizerError for
    ids that are neither the vocabulary's nor follow it one by one.
    """
    config = {**folder.special_tokens_map, **folder.tokenizer_config}
    found: dict[str, dict[str, Any]] = {}

    def add(value: Any, control: bool, i: int | None = None, **more: Any) -> None:
        text = content(value)
        given = value if isinstance(value, Mapping) else {}
        if text:
            flags = {key: given[key] for key in _PROPERTIES if isinstance(given.get(key), bool)}
            new = {**dict.fromkeys(_PROPERTIES, False), "normalized": not control, **more, **flags}
            found[text] = {**found.get(text, {"id": i}), **new, "content": text, "special": control or text in named}

    names = {key: config.get(key, default) for key, default in defaults.items()}
    names |= {key: value for key, value in config.items() if key.endswith("_token") and content(value)}
    more = [*(config.get("additional_special_tokens") or ()), *_listed(config.get("extra_special_tokens"))]
    named = {content(each) for each in (*names.values(), *more)}
    for text, i in (folder.ids("added_tokens.json") if folder.has("added_tokens.json") else {}).items():
        add(text, False, i)
    for i, value in (config.get("added_tokens_decoder") or {}).items():
        add(value, isinstance(value, dict) and value.get("special") is True, int(i) if str(i).isdecimal() else None)
    for key, value in names.items():
        if content(value) in ids or key in config:
            add(value, True, **({} if content(value) in found else marks.get(key, {})))
    for value in more:
        add(value, True)
    for text in (*special, *whole):
        if text not in found:
            add(text, text in special, **({} if text in special else {"normalized": False}))
    free, rows = len(ids), []
    for text, token in found.items():
        known = ids.get(text, token["id"])
        rows.append({**token, "id": free if known is None else known})
        free += text not in ids
    rows.sort(key=lambda each: int(each["id"]))
    beyond = [each["id"] for each in rows if each["content"] not in ids]
    if beyond != list(range(len(ids), len(ids) + len(beyond))):
        wanted = f"those of the vocabulary, or {len(ids):,} and on, one by one"
        raise TokenizerError(f"{name}: added_tokens.json and its like: ids {printable(beyond)}; {wanted}")
    return rows


def _listed(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else list(value) if isinstance(value, list) else []
