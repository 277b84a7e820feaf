"""The typed errors of pyllm: a sentence that names what was wrong, what was found and what is allowed."""

from __future__ import annotations

import os
from typing import Any

LONGEST_TEXT = 200  # of anything taken from a file
LONGEST_PART = 2000  # of a part of a message, which may list several such texts


def printable(text: object, longest: int = LONGEST_TEXT) -> str:
    """One line that is safe to print: control and undecodable characters escaped, cut at `longest` characters."""
    raw = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes | bytearray) else str(text)
    pieces: list[str] = []
    length = 0
    for character in raw:
        piece = character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        length += len(piece)
        if length > longest:
            pieces.append("...")
            break
        pieces.append(piece)
    return "".join(pieces)


class ModelFileError(ValueError):
    """A model file, or a folder of them, that cannot be trusted or understood.

    The message reads `file: field at offset: found (allowed)`; each part is kept as an attribute:
    file, field, offset (bytes from the start of the file, or None), found, allowed. Whoever quotes a file in a part
    passes the quotation through printable() first, so that it is cut.
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        field: str = "",
        offset: int | None = None,
        found: object = "",
        allowed: object = "",
    ) -> None:
        self.file = os.fspath(file)
        self.field = printable(field, LONGEST_PART)
        self.offset = offset
        self.found = printable(found, LONGEST_PART)
        self.allowed = printable(allowed, LONGEST_PART)
        super().__init__(self.sentence())

    def sentence(self) -> str:
        """The message, from the parts."""
        place = self.field
        if self.offset is not None:
            place = f"{place} at 0x{self.offset:x}".strip()
        parts = [printable(os.path.basename(self.file) or self.file)]
        if place:
            parts.append(place)
        parts.append(f"{self.found}; {self.allowed}" if self.allowed else self.found)
        return ": ".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.file, self.field, self.offset, self.found, self.allowed))


class DataError(ModelFileError):
    """Text, shards of tokens or conversations that cannot be read, trusted or used.

    `field` says which record or shard it is, `offset` the bytes from the start of the file (of its text, where the
    file is compressed).
    """


class TemplateError(ValueError):
    """A chat template that cannot be parsed, tries to escape, or spends more than its budget."""


class TokenizerError(ValueError):
    """A vocabulary or tokenizer description that contradicts itself or is not understood."""


class ContextError(ValueError):
    """A sequence longer than the positions that the model knows."""
