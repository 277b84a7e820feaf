"""Watching: a fused operation, computed as it is defined, shows what lies between its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# (name, value) to the same value; what is computed next goes through it, so that its gradient passes here too.
Watch = Callable[[str, Any], Any]


def unwatched(name: str, value: Any) -> Any:
    """Nobody looks."""
    return value
