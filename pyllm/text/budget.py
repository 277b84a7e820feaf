"""What one rendering of a chat template may spend: steps, seconds, bytes of values made, characters of output."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from pyllm.errors import TemplateError

STEPS = 1_000_000
SECONDS = 1.0
OUTPUT = 8 << 20  # characters, of the result and of any string on the way
MADE = 32 << 20  # bytes of strings and lists, beside 16 times the input
DEEPEST = 100
BITS = 4096  # of a whole number


class Budget:
    """The account of one rendering; each method raises TemplateError when it is overdrawn."""

    def __init__(self, given: int) -> None:
        """`given`: bytes of the messages and tools, which a template may copy a few times."""
        self.steps = 0
        self.bytes = 0
        self.limit = MADE + 16 * given
        self.deadline = time.perf_counter() + SECONDS
        self.known: dict[int, tuple[Any, int]] = {}  # id -> (container, its size); holding it keeps the id

    def tick(self, made: int = 0) -> bool:
        """One step, which makes so many bytes. Always true, so that it can stand before `and`."""
        self.steps += 1
        self.bytes += made
        if self.steps > STEPS:
            raise TemplateError(f"chat template: more than {STEPS:,} steps")
        if self.bytes > self.limit:
            raise TemplateError(f"chat template: makes more than {self.limit:,} bytes of text and lists")
        if time.perf_counter() > self.deadline:
            raise TemplateError(f"chat template: takes longer than {SECONDS:g} s")
        return True

    def text(self, characters: int) -> None:
        """A string of that length is about to be made."""
        if characters > OUTPUT:
            raise TemplateError(f"chat template: a text of {characters:,} characters; at most {OUTPUT:,}")

    def size(self, value: Any, depth: int = 0) -> int:
        """Bytes of a value if every place that refers to a string or list held its own copy."""
        if isinstance(value, str):
            return 16 + (len(value) if value.isascii() else 4 * len(value))
        if isinstance(value, int):
            return 16 + value.bit_length() // 3
        if not isinstance(value, list | tuple | Mapping) and not is_view(value):
            return other(value)
        if id(value) in self.known:
            return self.known[id(value)][1]
        if depth > DEEPEST:
            raise TemplateError(f"chat template: lists nested deeper than {DEEPEST}")
        parts = (x for pair in value.items() for x in pair) if isinstance(value, Mapping) else value
        found = 16
        for part in parts:
            found += 8 + self.size(part, depth + 1)
            if found > 4 * OUTPUT:
                raise TemplateError(f"chat template: a list or mapping of more than {4 * OUTPUT:,} bytes")
        self.known[id(value)] = (value, found)
        return found

    def made(self, value: Any) -> Any:
        """The value, after its own size (not that of its parts) has been charged."""
        if isinstance(value, str):
            self.text(len(value))
            self.tick(self.size(value))
        elif isinstance(value, list | tuple | Mapping):
            self.size(value)
            self.tick(16 + 8 * len(value))
        elif isinstance(value, int) and value.bit_length() > BITS:
            raise TemplateError(f"chat template: a number of {value.bit_length():,} bits; at most {BITS:,}")
        else:
            self.tick()
        return value

    def as_text(self, value: Any) -> int:
        """Upper bound of len(str(value)), checked against the longest text."""
        if isinstance(value, str):
            return len(value)
        longest = 6 * self.size(value) if isinstance(value, list | tuple | Mapping) or is_view(value) else 4096
        if not isinstance(value, int | float):
            other(value)
        self.text(longest)
        return longest


def is_view(value: Any) -> bool:
    """Is it what dict.items(), .keys() or .values() returns?"""
    return isinstance(value, type({}.items()) | type({}.keys()) | type({}.values()))


def other(value: Any) -> int:
    """Size of what is no string, number or container; a namespace may hold itself, so it is not printed or listed."""
    from jinja2.runtime import Macro
    from jinja2.utils import Namespace

    if isinstance(value, Namespace):
        raise TemplateError("chat template: a namespace can be neither printed nor put into a list")
    return 64 + len(value.name or "") if isinstance(value, Macro) else 64


_active = threading.local()


def current() -> Budget:
    """The account of the rendering that runs in this thread."""
    found: Budget = _active.budget
    return found


class Spending:
    """`with Spending(budget):` makes it the current one."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def __enter__(self) -> Budget:
        self.before = getattr(_active, "budget", None)
        _active.budget = self.budget
        return self.budget

    def __exit__(self, *_: object) -> None:
        _active.budget = self.before
