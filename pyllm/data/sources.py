"""Which files are read, and their bytes in pieces: plain, gzip, xz or zstandard, never more than a few MB at once."""

from __future__ import annotations

import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import BufferedIOBase, RawIOBase
from typing import Any, NamedTuple

from pyllm.errors import DataError, ModelFileError, printable
from pyllm.formats.disk import Disk

BLOCK = 1 << 20  # bytes given at once
ZSTD_INPUT = 256  # bytes of which zstandard can make 8 MB at most: 4 may stand for a block of 128 KiB
LARGEST_WINDOW = 1 << 27  # bytes that a decompressor may look back
PACKED = {".gz": "gzip", ".xz": "xz", ".zst": "zstandard"}
ARCHIVES = (".tar", ".tgz", ".zip", ".7z", ".rar", ".bz2")
KINDS = {".txt": "txt", ".text": "txt", ".md": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}

Report = Callable[[int], None]  # told the bytes of the file that have been read


class Source(NamedTuple):
    """A file to read: where, kind ("txt", "jsonl", "parquet"), packing ("", "gzip", ...), size in bytes."""

    path: str
    kind: str
    packing: str
    size: int


def find(paths: Iterable[str | os.PathLike[str]]) -> list[Source]:
    """The files behind paths: a folder stands for the files of known endings in it, in sorted order.

    A file named itself may end as it likes: what is not jsonl or parquet is text. Raises DataError for what is not
    there, is no regular file, or for a folder without a file to read.
    """
    found: list[Source] = []
    for path in [os.fspath(each) for each in paths]:
        if not os.path.isdir(path):
            found.append(_source(path, "txt"))
            continue
        inside = [_source(each, "") for each in _walk(path) if _kind(each)[0]]
        if not inside:
            raise DataError(path, "", None, "no text in this folder", f"files ending {', '.join(KINDS)}, also packed")
        found += inside
    if not found:
        raise DataError("prepare", "texts", None, "none", "at least one file or folder")
    return found


def _kind(path: str, default: str = "") -> tuple[str, str]:
    """(kind, packing) by the endings of a name."""
    stem, ending = os.path.splitext(os.path.basename(path).lower())
    packing = PACKED.get(ending, "")
    if packing:
        ending = os.path.splitext(stem)[1]
    if ending == ".json" and default:  # in a folder it is rather a configuration
        return "jsonl", packing
    return KINDS.get(ending, default), packing


def _walk(folder: str) -> Iterator[str]:
    """Files below a folder, names in sorted order, without hidden ones and without following links to folders."""

    def refuse(error: OSError) -> None:
        raise DataError(error.filename or folder, "", None, f"cannot be listed: {error.strerror}") from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(names) if not name.startswith("."))


def _source(path: str, default: str) -> Source:
    kind, packing = _kind(path, default)
    stem = path.lower().removesuffix(next((end for end in PACKED if path.lower().endswith(end)), ""))
    if stem.endswith(ARCHIVES):
        raise DataError(path, "", None, "is an archive", f"unpacked files, or one packed as {', '.join(PACKED)}")
    disk = open_disk(path)
    disk.close()
    return Source(path, kind, packing, disk.size)


def open_disk(path: str) -> Disk:
    """The open file. Raises DataError."""
    try:
        return Disk(path)
    except ModelFileError as error:
        raise DataError(error.file, error.field, error.offset, error.found, error.allowed) from error


def pieces(source: Source, report: Report = lambda done: None) -> Iterator[bytes]:
    """The bytes of a file, unpacked, piece by piece. Raises DataError where the file is damaged or ends early."""
    disk = open_disk(source.path)
    out = 0
    try:
        for piece in _UNPACK[source.packing](disk, report):
            yield piece
            out += len(piece)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _damaged(source, out, error) from error
    except ModelFileError as error:
        raise DataError(error.file, error.field, error.offset, error.found, error.allowed) from error
    finally:
        disk.close()


def _damaged(source: Source, out: int, error: Exception) -> DataError:
    early = isinstance(error, EOFError)
    found = "the file ends early" if early else f"damaged: {printable(error)}"
    return DataError(source.path, f"{source.packing}, text", out, found, "a whole file")


def raw(disk: Disk, report: Report) -> Iterator[bytes]:
    """The bytes of a file as they are."""
    at = 0
    while at < disk.size:
        piece = bytes(disk.read(at, min(BLOCK, disk.size - at)))
        at += len(piece)
        report(at)
        yield piece


class Stream(RawIOBase):
    """Pieces of bytes as a file that can be read from front to back."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Some bytes, none at the end."""
        while not self._rest:
            piece = next(self._chunks, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _gzip(disk: Disk, report: Report) -> Iterator[bytes]:
    if disk.size == 0:
        raise EOFError
    with gzip.GzipFile(fileobj=Stream(raw(disk, report))) as file:
        yield from _read(file)


def _read(file: BufferedIOBase) -> Iterator[bytes]:
    while piece := file.read(BLOCK):
        yield piece


def _xz(disk: Disk, report: Report) -> Iterator[bytes]:
    """One or several streams, with zeros between them; a dictionary larger than the limit is refused."""
    decoder, streams = None, 0
    for data in raw(disk, report):
        while data or (decoder is not None and not decoder.needs_input):
            if decoder is None:
                data = data.lstrip(b"\0") if streams else data
                if not data:
                    break
                decoder = lzma.LZMADecompressor(memlimit=2 * LARGEST_WINDOW)
            piece = decoder.decompress(data, BLOCK)
            data = b""
            if decoder.eof:
                data, decoder, streams = decoder.unused_data, None, streams + 1
            if piece:
                yield piece
    if decoder is not None or not streams:
        raise EOFError


def _small(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes, a few at a time."""
    for piece in chunks:
        for at in range(0, len(piece), ZSTD_INPUT):
            yield piece[at : at + ZSTD_INPUT]


def _zstd(disk: Disk, report: Report) -> Iterator[bytes]:
    """One or several frames."""
    zstandard = needed("zstandard", ".zst files")
    maker = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW)
    decoder, frames = None, 0
    try:
        for data in _small(raw(disk, report)):
            while data:
                decoder = maker.decompressobj() if decoder is None else decoder
                piece = decoder.decompress(data)
                data = b""
                if decoder.eof:
                    data, decoder, frames = decoder.unused_data, None, frames + 1
                for at in range(0, len(piece), BLOCK):
                    yield piece[at : at + BLOCK]
    except zstandard.ZstdError as error:
        raise zlib.error(str(error)) from error
    if decoder is not None or not frames:
        raise EOFError


_UNPACK: dict[str, Callable[[Disk, Report], Iterator[bytes]]] = {
    "": raw,
    "gzip": _gzip,
    "xz": _xz,
    "zstandard": _zstd,
}


def needed(package: str, what: str) -> Any:
    """A package of the extra `data`. Raises ImportError that names the extra."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise ImportError(f"{what} need the package `{package}`: pip install 'pyllm[data]'") from None
