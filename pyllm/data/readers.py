"""From files to records: documents of a text, lines of jsonl, rows of parquet, each with the place it came from."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from pyllm.data.sources import Report, Source, needed, open_disk, pieces
from pyllm.errors import DataError, printable

PIECE = 16_384  # bytes of a document cut from a text, at most
LONGEST = 32 << 20  # bytes of a record; what is longer is told and passed over without being held
BLANK = "blank"  # the separator that stands for blank lines
ROWS = 64  # of parquet at once
_SPACES = b" \t\v\f"


class Record(NamedTuple):
    """A document as it was found: text (or bytes not yet decoded), where, and what is wrong with it, if anything."""

    text: str | bytes
    line: int  # line, row or document, from 1
    offset: int | None  # bytes from the start of the unpacked file
    wrong: str = ""  # "bad_record" or "too_long": no text could be taken
    found: str = ""  # what was wrong, in words


def records(
    source: Source, *, separator: str | None = None, text_field: str = "text", report: Report = lambda done: None
) -> Iterator[Record]:
    """The records of a file in order, in bounded memory.

    txt: the whole file, cut at paragraphs into documents of at most PIECE bytes; with `separator` what stands between
    two of them, with "blank" between blank lines. jsonl: `text_field` of the object in each line. parquet: the column
    `text_field`. Raises DataError for damaged files, ImportError without the package that a file needs.
    """
    if source.kind == "parquet":
        yield from _rows(source, text_field, report)
    elif source.kind == "jsonl":
        for line, offset, data in _lines(pieces(source, report), LONGEST):
            if data is None:
                yield Record("", line, offset, "too_long", f"a line of more than {LONGEST:,} bytes")
            elif data.strip():
                yield _json_record(data, line, offset, text_field)
    else:
        stream = _unix(pieces(source, report))
        if separator is None:
            yield from _cut(stream)
        elif separator == BLANK:
            yield from _paragraphs(stream)
        else:
            yield from _separated(stream, separator.encode("utf-8", "surrogatepass"))


def _unix(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same text without a byte order mark and with \\n for \\r\\n and \\r, also across pieces."""
    held, first = b"", True
    for piece in chunks:
        piece = held + piece
        if first:
            if len(piece) < 3:
                held = piece
                continue
            piece, first = piece.removeprefix(b"\xef\xbb\xbf"), False
        held = b"\r" if piece.endswith(b"\r") else b""
        piece = piece[: len(piece) - len(held)]
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if piece:
            yield piece
    rest = held.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if rest:
        yield rest


def _cut(chunks: Iterator[bytes]) -> Iterator[Record]:
    """Documents of at most PIECE bytes that together are the text: they end with a paragraph, a line or a word."""
    held, offset, count = b"", 0, 0
    for chunk in chunks:
        held, at = held + chunk, 0
        while len(held) - at > PIECE:
            size = _cut_at(held, at)
            count += 1
            yield Record(held[at : at + size], count, offset)
            at += size
            offset += size
        held = held[at:]
    if held or not count:
        yield Record(held, count + 1, offset)


def _cut_at(text: bytes, at: int) -> int:
    """Bytes up to the last end of a paragraph in the second half of a piece, or of a line, a word, a character."""
    end = at + PIECE
    for mark in (b"\n\n", b"\n", b" "):
        found = text.rfind(mark, at + PIECE // 2, end)
        if found >= 0:
            return found + len(mark) - at
    while end > at + PIECE - 4 and text[end] & 0xC0 == 0x80:
        end -= 1
    return end - at


def _lines(chunks: Iterator[bytes], longest: int) -> Iterator[tuple[int, int, bytes | None]]:
    """(number, offset, bytes without the end) of each line; None for the bytes of one that is longer than that."""
    held: list[bytes] = []
    size, offset, number = 0, 0, 1
    for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            size += end - start
            yield number, offset, b"".join([*held, chunk[start:end]]) if size <= longest else None
            offset += size + 1
            number, size, start = number + 1, 0, end + 1
            held.clear()
        size += len(chunk) - start
        if size <= longest:
            held.append(chunk[start:])
        else:
            held.clear()
    if size:
        yield number, offset, b"".join(held) if size <= longest else None


def _paragraphs(chunks: Iterator[bytes]) -> Iterator[Record]:
    """Runs of lines that are not blank."""
    held: list[bytes] = []
    size, start, count = 0, 0, 0
    for _, offset, line in _lines(chunks, LONGEST):
        if line is not None and not line.strip(_SPACES):
            if size:
                count += 1
                yield _found(held, size, count, start)
            held, size = [], 0
            continue
        start = start if size else offset
        size += LONGEST + 1 if line is None else len(line) + 1
        if size <= LONGEST and line is not None:
            held.append(line)
        else:
            held = []
    if size:
        yield _found(held, size, count + 1, start)


def _found(lines: list[bytes], size: int, count: int, offset: int) -> Record:
    if size > LONGEST:
        return Record("", count, offset, "too_long", f"more than {LONGEST:,} bytes")
    return Record(b"\n".join(lines), count, offset)


def _separated(chunks: Iterator[bytes], mark: bytes) -> Iterator[Record]:
    """What stands between two marks, without the newlines that touch them."""
    held, start, searched, lost, count = b"", 0, 0, 0, 0
    for chunk in chunks:
        held, at = held + chunk, 0
        while (end := held.find(mark, max(at, searched))) >= 0:
            count += 1
            yield _between(held[at:end], lost, count, start)
            start += lost + end - at + len(mark)
            at = searched = end + len(mark)
            lost = 0
        held = held[at:]
        if len(held) > LONGEST:  # keep what may be the beginning of a mark
            keep = len(mark) - 1
            lost += len(held) - keep
            held = held[len(held) - keep :]
        searched = max(0, len(held) - len(mark) + 1)
    if held.strip() or lost or not count:
        yield _between(held, lost, count + 1, start)


def _between(text: bytes, lost: int, count: int, offset: int) -> Record:
    if lost or len(text) > LONGEST:
        return Record("", count, offset, "too_long", f"more than {LONGEST:,} bytes")
    return Record(text.strip(b"\n"), count, offset)


def _json_record(data: bytes, line: int, offset: int, field: str) -> Record:
    value, wrong = parse(data)
    if wrong:
        return Record("", line, offset, "bad_record", wrong)
    if not isinstance(value, dict):
        return Record("", line, offset, "bad_record", f"{_name(value)}; an object with the field '{printable(field)}'")
    text = value.get(field)
    if not isinstance(text, str):
        found = f"is {_name(text)}" if field in value else "is missing"
        return Record("", line, offset, "bad_record", f"field '{printable(field)}' {found}; a text is wanted")
    return Record(text, line, offset)


def parse(data: bytes) -> tuple[Any, str]:
    """(the value of a line of JSON, "") or (None, what is wrong with it)."""
    try:  # a byte that is no UTF-8 becomes a lone surrogate, as which repair() finds and counts it
        return json.loads(data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")), ""
    except json.JSONDecodeError as error:
        return None, f"not JSON: {error.msg} at column {error.colno}"
    except ValueError as error:  # numbers of thousands of digits
        return None, f"not JSON that is taken: {printable(re.split('[;:]', str(error))[0])}"
    except RecursionError:
        return None, "not JSON that is taken: nested too deeply"


def _name(value: Any) -> str:
    """What JSON calls a value."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def json_lines(source: Source) -> Iterator[tuple[int, int, Any]]:
    """(line, offset, value) of a jsonl file. Raises DataError that names file and line."""
    for line, offset, data in _lines(pieces(source), LONGEST):
        value, wrong = (None, f"more than {LONGEST:,} bytes") if data is None else (None, "")
        if data is not None:
            if not data.strip():
                continue
            value, wrong = parse(data)
        if wrong:
            raise DataError(source.path, f"line {line}", offset, wrong)
        yield line, offset, value


def lines(source: Source) -> Iterator[tuple[int, int, str]]:
    """(line, offset, text) of every line of a text file. Raises DataError that names file and line."""
    for line, offset, data in _lines(_unix(pieces(source)), LONGEST):
        if data is None:
            raise DataError(source.path, f"line {line}", offset, f"more than {LONGEST:,} bytes")
        try:
            yield line, offset, data.decode()
        except UnicodeDecodeError as error:
            raise DataError(source.path, f"line {line}", offset + error.start, "not UTF-8") from error


def _rows(source: Source, field: str, report: Report) -> Iterator[Record]:
    """A column of text, a few rows at a time. A packed parquet file is unpacked to a temporary file first."""
    parquet = needed("pyarrow.parquet", "parquet files")
    arrow = needed("pyarrow", "parquet files")
    place = open_disk(source.path).path
    with tempfile.TemporaryFile() as unpacked, open(place, "rb") as plain:
        if source.packing:
            for piece in pieces(source, report):
                unpacked.write(piece)
            unpacked.seek(0)
        try:
            file = parquet.ParquetFile(unpacked if source.packing else plain, pre_buffer=False, buffer_size=1 << 20)
            _check_column(source, file.schema_arrow, field)
            rows, number = file.metadata.num_rows, 0
            for batch in file.iter_batches(batch_size=ROWS, columns=[field], use_threads=False):
                column = batch.column(0)
                binary = arrow.large_binary() if str(column.type).startswith("large") else arrow.binary()
                for value in column.cast(binary):
                    number += 1
                    data = value.as_py()
                    yield _row(data, number, field)
                report(source.size * number // max(rows, 1))
        except (arrow.ArrowException, OSError) as error:
            found = f"damaged or no parquet: {printable(error)}"
            raise DataError(source.path, "", None, found, "a whole file") from error


def _row(data: bytes | None, number: int, field: str) -> Record:
    if data is None:
        return Record("", number, None, "bad_record", f"column '{printable(field)}' is null; a text is wanted")
    if len(data) > LONGEST:
        return Record("", number, None, "too_long", f"more than {LONGEST:,} bytes")
    return Record(data, number, None)


def _check_column(source: Source, schema: Any, field: str) -> None:
    """Raises DataError unless the column is there and holds text."""
    if schema.names.count(field) != 1:
        names = printable(", ".join(map(str, schema.names)), 500)
        raise DataError(source.path, f"column '{printable(field)}'", None, "is missing", f"there are {names}")
    kind = str(schema.field(field).type)
    if kind not in ("string", "large_string", "binary", "large_binary"):
        raise DataError(source.path, f"column '{printable(field)}'", None, f"is of type {printable(kind)}", "text")
