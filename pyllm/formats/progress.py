"""A progress bar on stderr: share, rate and time left on a terminal, two lines where nobody watches."""

from __future__ import annotations

import sys
import time

_WIDTH = 28
_EVERY = 0.1  # seconds between two drawings


class Progress:
    """Shows how many of `total` bytes of `name`, or of what `unit` says, are there.

    A context manager: leaving it ends the line.
    """

    def __init__(
        self, name: str, total: int, verbs: tuple[str, str] = ("fetching", "fetched"), unit: str = "bytes"
    ) -> None:
        self.name, self.verbs, self.unit = name, verbs, unit
        self.total = total
        self.done = 0
        self._start = time.monotonic()
        self._drawn = 0.0
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        if not self._terminal:
            size = f"{self.total / 1e6:.0f} MB" if self.unit == "bytes" else f"{self.total:,} {self.unit}"
            print(f"{self.verbs[0]} {self.name}, {size}", file=sys.stderr, flush=True)
        return self

    def show(self, done: int) -> None:
        """Draw the bar for `done` bytes, at most ten times a second."""
        self.done = max(self.done, min(done, self.total))
        now = time.monotonic()
        if self._terminal and now - self._drawn >= _EVERY:
            self._drawn = now
            print(f"\r{self.line(now - self._start)}\x1b[K", end="", file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """The bar as text after `seconds`."""
        share = self.done / self.total
        bar = "#" * int(share * _WIDTH)
        rate = self.done / seconds if seconds > 0 else 0.0
        left = f"{(self.total - self.done) / rate:.0f} s left" if rate else "waiting"
        if self.unit == "bytes":
            sizes = f"{self.done / 1e6:.1f} of {self.total / 1e6:.1f} MB, {rate / 1e6:.1f} MB/s"
        else:
            sizes = f"{self.done:,} of {self.total:,} {self.unit}, {rate:,.0f}/s"
        return f"{self.name} [{bar:<{_WIDTH}}] {share:4.0%} {sizes}, {left}"

    def __exit__(self, kind: object, *_: object) -> None:
        seconds = time.monotonic() - self._start
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr)
        if kind is None:
            print(f"{self.name}: {self.verbs[1]} in {seconds:.1f} s", file=sys.stderr, flush=True)
