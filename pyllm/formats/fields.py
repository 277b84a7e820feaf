"""One field of a configuration: its type and range, and the error that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from pyllm.errors import ModelFileError, printable

REQUIRED = object()
_SPECIAL = tuple(
    f"{name}_token_id" for name in ("bos", "eos", "pad", "decoder_start", "forced_bos", "forced_eos")
)  # token ids, which must lie within the vocabulary


class Field(NamedTuple):
    """One field: `kind` int, float, bool, ids, choice, or layers (a choice for each of them).

    low and high are its range, or `choices` its values.
    """

    name: str
    kind: str
    low: float = 0
    high: float = 0
    default: Any = REQUIRED
    choices: tuple[str, ...] = ()


def changed(fields: tuple[Field, ...], *others: Field) -> tuple[Field, ...]:
    """The fields, with others of the same names in their places and new ones at the end."""
    named = {field.name: field for field in fields} | {field.name: field for field in others}
    return tuple(named.values())


class Raw(NamedTuple):
    """Unchecked values under Hugging Face's names, and how an error names a field and the place where it stands."""

    file: str
    values: dict[str, Any]
    label: Callable[[str], str]
    offset: Callable[[str], int | None] = lambda name: None

    def refuse(self, name: str, found: object, allowed: object) -> NoReturn:
        """Raise ModelFileError for one field."""
        raise ModelFileError(self.file, self.label(name), self.offset(name), found, allowed)


def check_field(raw: Raw, field: Field) -> Any:
    """The value of one field, in its type and range. Raises ModelFileError naming the field and the value."""
    value = raw.values.get(field.name)
    if value is None:
        if field.default is REQUIRED:
            raw.refuse(field.name, "missing", _range(field))
        return field.default
    shown = printable(repr(value), 100)
    if field.kind == "bool":
        if not isinstance(value, bool):
            raw.refuse(field.name, shown, "true or false")
        return value
    if field.kind == "choice":
        if not isinstance(value, str) or value not in field.choices:
            raw.refuse(field.name, shown, f"known are: {', '.join(field.choices)}")
        return value
    if field.kind == "layers":
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            raw.refuse(field.name, shown, f"a list of: {', '.join(field.choices)}")
        odd = next((each for each in value if each not in field.choices), None)
        if odd is not None:
            raw.refuse(field.name, printable(repr(odd), 100), f"known are: {', '.join(field.choices)}")
        return tuple(value)
    if field.kind == "ids":
        return _check_ids(raw, field.name, value)
    if isinstance(value, bool) or not isinstance(value, int if field.kind == "int" else (int, float)):
        raw.refuse(field.name, shown, _range(field))
    if not field.low <= value <= field.high:
        raw.refuse(field.name, shown, _range(field))
    return float(value) if field.kind == "float" else int(value)


def _range(field: Field) -> str:
    """What a field may hold, in words."""
    if field.kind == "int":
        return f"a whole number from {field.low:,} to {field.high:,}"
    if field.kind == "float":
        return f"a number from {field.low:g} to {field.high:g}"
    return field.kind


def _check_ids(raw: Raw, name: str, value: Any) -> int | list[int]:
    """A token id or a list of them."""
    ids = value if isinstance(value, list) else [value]
    if len(ids) > 1000 or not all(isinstance(each, int) and not isinstance(each, bool) for each in ids):
        raw.refuse(name, printable(repr(value), 100), "a token id or a list of token ids")
    return list(ids) if isinstance(value, list) else value


def check_fields(raw: Raw, fields: tuple[Field, ...]) -> dict[str, Any]:
    """All of the fields; ids must lie within the vocabulary."""
    found = {field.name: check_field(raw, field) for field in fields}
    for name in _SPECIAL:
        ids = found.get(name)
        for each in ids if isinstance(ids, list) else [ids]:
            if each is not None and not 0 <= each < found["vocab_size"]:
                raw.refuse(name, each, f"0 to {found['vocab_size'] - 1:,}, the vocabulary")
    return found
