"""Habits of transformers' outputs: out["logits"] beside out.logits, "loss" in out, keys(), return_dict=True."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def named(kind: type[T]) -> type[T]:
    """A class of named tuples whose fields are also had by name, those that have a value."""
    extra: dict[str, Any] = {"__getitem__": _item, "__contains__": _has, "keys": _keys, "items": _items, "get": _get}
    for name, method in extra.items():
        setattr(kind, name, method)
    return kind


def _keys(output: Any) -> tuple[str, ...]:
    """Names of what is there."""
    return tuple(name for name in output._fields if getattr(output, name) is not None)


def _items(output: Any) -> Iterator[tuple[str, Any]]:
    """Each name with its value."""
    return ((name, getattr(output, name)) for name in _keys(output))


def _item(output: Any, key: Any) -> Any:
    """output["logits"], or what a tuple has there. Raises KeyError for a name that has no value."""
    if not isinstance(key, str):
        return tuple.__getitem__(output, key)
    if key not in _keys(output):
        raise KeyError(f"{type(output).__name__}: no {key!r}; it has {', '.join(_keys(output))}")
    return getattr(output, key)


def _has(output: Any, key: Any) -> bool:
    """Whether a name has a value; arrays are found as themselves."""
    return key in _keys(output) if isinstance(key, str) else any(key is each for each in output)


def _get(output: Any, key: str, default: Any = None) -> Any:
    """The value of a name, default where it has none."""
    return getattr(output, key) if key in _keys(output) else default


def check_return_dict(return_dict: bool | None) -> None:
    """Raise ValueError for False, as transformers' tuples leave out what is None and have the loss first."""
    if return_dict is not None and not return_dict:
        raise ValueError("model: return_dict is False, allowed is True: outputs are tuples with names")
