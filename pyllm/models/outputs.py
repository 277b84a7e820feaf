"""Habits of transformers' outputs: out["logits"] beside out.logits, return_dict=True."""

from __future__ import annotations

from typing import Any


def by_name(output: Any, key: Any) -> Any:
    """output["logits"] of a named tuple, or what a tuple has there. Raises KeyError for a name that has no value."""
    if not isinstance(key, str):
        return tuple.__getitem__(output, key)
    found = getattr(output, key) if key in output._fields else None
    if found is None:
        has = ", ".join(name for name in output._fields if getattr(output, name) is not None)
        raise KeyError(f"{type(output).__name__}: no {key!r}; it has {has}")
    return found


def check_return_dict(return_dict: bool | None) -> None:
    """Raise ValueError for False, as transformers' tuples leave out what is None and have the loss first."""
    if return_dict is not None and not return_dict:
        raise ValueError("model: return_dict is False, allowed is True: outputs are tuples with names")
