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


def check_device(what: str, *given: Any, **options: Any) -> None:
    """Raise ValueError for anything but the processor: another device, a type of numbers."""
    for each in (*given, *(value for name, value in options.items() if name not in ("non_blocking", "copy"))):
        if str(each).partition(":")[0] != "cpu":
            found = f"to {printable(each)}"
            raise ValueError(f"{what}: {found}, allowed is 'cpu'; from_pretrained(..., dtype=) takes a type of numbers")


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


class CheckpointError(ModelFileError):
    """A checkpoint or a log of a run that cannot be written, trusted or continued; its sentence names folder/file."""

    def sentence(self) -> str:
        """The message, from the parts."""
        folder = os.path.basename(os.path.dirname(self.file))
        return f"{printable(folder)}/{super().sentence()}" if folder else super().sentence()


class LaterVersionError(CheckpointError):
    """A sound file that a later pyllm has written."""


class TrainingError(ValueError):
    """A run that cannot go on: a loss that is no number, a folder of another run."""


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


class DoesNotFitError(MemoryError):
    """A run that needs more memory than there is, refused before it starts.

    rows: (part, how it is computed, bytes); needed and available: bytes; advice: what would fit; table: as text.
    """

    def __init__(self, what: str, rows: list[tuple[str, str, int]], available: int, advice: list[str]) -> None:
        self.what, self.rows, self.available, self.advice = printable(what), rows, available, advice
        self.needed = sum(amount for _, _, amount in rows)
        parts = " + ".join(f"{name} {amount / 1e9:,.2f} GB" for name, _, amount in rows)
        would = f"; this would fit: {'; '.join(advice)}" if advice else ""
        found = f"{parts} = {self.needed / 1e9:,.2f} GB of memory, {available / 1e9:,.2f} GB are available"
        super().__init__(f"{self.what}: {found}{would}")

    @property
    def table(self) -> str:
        """The sum, one part a line."""
        lines = [f"{name:<12} {how} = {amount:,} bytes" for name, how, amount in self.rows]
        return "\n".join([*lines, f"{'sum':<12} {self.needed:,} bytes", f"{'available':<12} {self.available:,} bytes"])

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.what, self.rows, self.available, self.advice))
