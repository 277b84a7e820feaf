"""What the verbs print: facts as text or JSON, colour where a person looks, bars, sizes."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO


def coloured(stream: TextIO) -> bool:
    """Whether `stream` is a terminal whose owner has not set NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: TextIO | None = None) -> str:
    """`text` in the ANSI colour `code` if the stream (stdout) shows colours."""
    return f"\x1b[{code}m{text}\x1b[0m" if coloured(stream or sys.stdout) else text


def facts(args: argparse.Namespace, data: dict[str, Any], text: str) -> int:
    """Print `data` as JSON under --json, else `text`; returns 0."""
    print(json.dumps(data, ensure_ascii=False, allow_nan=False) if args.json else text)
    return 0


def note(text: str) -> None:
    """One line of progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns of text, each as wide as its widest cell; numbers lean right by being padded already."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)).rstrip() for row in rows)


def bar(share: float, width: int = 30) -> str:
    """A bar `share` (0..1) of `width` columns long, in eighths of a block where the terminal can show them."""
    share = min(max(share, 0.0), 1.0)
    try:
        "█▏".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#" * round(share * width)
    eighths = round(share * width * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def size(nbytes: float) -> str:
    """Bytes as a person reads them: `98.4 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "bytes" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


class Bar:
    """Progress of a file being written (or read: `verbs`), on stderr, from the first report on; a context manager."""

    def __init__(self, name: str, verbs: tuple[str, str] = ("writing", "written")) -> None:
        self.name, self.verbs = name, verbs
        self._stack = contextlib.ExitStack()
        self._progress: Any = None

    def __enter__(self) -> Bar:
        self._stack.__enter__()
        return self

    def show(self, done: int, total: int) -> None:
        """`done` of `total` bytes are written."""
        if self._progress is None:
            from pyllm.formats.progress import Progress

            self._progress = self._stack.enter_context(Progress(self.name, total, self.verbs))
        self._progress.show(done)

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
