"""Special tokens as they are spelled in texts: cut out where a text may hold them, broken up where it may not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


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
