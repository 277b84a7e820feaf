"""What templates may call: filters, tests, functions and methods of text, each bounded before it runs."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

from jinja2 import filters, tests
from jinja2.runtime import Undefined
from jinja2.sandbox import SandboxedFormatter
from jinja2.utils import pass_context

from pyllm.errors import TemplateError
from pyllm.text.budget import OUTPUT, Budget, current

WIDEST = 1_000  # columns of padding, precision, indentation, pieces of a batch
LONGEST_RANGE = 100_000
Guard = Callable[..., None]


def refuse(what: str) -> TemplateError:
    """The error of this file."""
    return TemplateError(f"chat template: {what}")


def narrow(name: str, *values: Any) -> None:
    """Refuses widths and counts beyond WIDEST."""
    for value in values:
        if isinstance(value, int) and abs(value) > WIDEST:
            raise refuse(f"{name}: {value:,}; at most {WIDEST:,}")


def plain(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> None:
    """Nothing to check: the result is no longer than a few times the value."""


def texts(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> None:
    """The value will be turned into text, at most six times as long."""
    budget.text(6 * budget.as_text(value))


def items(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> None:
    """A text will be taken apart into characters."""
    if isinstance(value, str):
        budget.tick(64 * len(value))


def widths(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> None:
    """Numbers among the arguments are widths."""
    texts(budget, value)
    narrow("width", *args, *kwargs.values())
    longest = max((len(a) for a in (*args, *kwargs.values()) if isinstance(a, str)), default=WIDEST)
    if isinstance(value, str):
        budget.text(len(value) + (value.count("\n") + 2) * max(longest, WIDEST if args or kwargs else 4))


def pieces(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> None:
    """batch and slice: few pieces, nothing to fill them up with."""
    items(budget, value)
    narrow("pieces", *args[:1], kwargs.get("linecount"), kwargs.get("slices"))
    if len(args) > 1 or "fill_with" in kwargs:
        raise refuse("batch and slice fill up with nothing; without fill_with")


def joined(budget: Budget, value: Any, d: Any = "", attribute: Any = None) -> None:
    """value | join(d)"""
    items(budget, value)
    if attribute is not None:
        raise refuse("join: attribute is not supported; map(attribute=...) before join")
    between = budget.as_text(d)
    parts = list(value) if not isinstance(value, Undefined) else []
    markup = 5 if hasattr(d, "__html__") or any(hasattr(part, "__html__") for part in parts) else 1
    budget.text(markup * sum(budget.as_text(part) + between for part in parts))


def replaced(budget: Budget, value: Any, old: Any = "", new: Any = "", count: Any = None) -> None:
    """value.replace(old, new)"""
    budget.text(6 * budget.as_text(value))
    text, old, new = str(value), str(old), str(new)
    budget.text((len(text) + text.count(old) * len(new)) * (5 if hasattr(value, "__html__") else 1))


def numbers(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> None:
    """Sums and rounding: no start value but a number, small precision."""
    for argument in (*args, *kwargs.values()):
        if not isinstance(argument, int | float | str | None):
            raise refuse(f"sum and round: {type(argument).__name__}; numbers")
        if isinstance(argument, int) and abs(argument) > 30:
            raise refuse(f"round: precision {argument:,}; at most 30")


FORMATS = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(\*|\d*)(?:\.(\*|\d*))?")


def percent(budget: Budget, template: str, values: Any) -> Any:
    """template % values"""
    fields = 0
    for match in FORMATS.finditer(template):
        fields += 1
        for width in match.groups():
            if width == "*" or (width and (len(width) > 4 or int(width) > WIDEST)):
                raise refuse(f"%: width {width[:20]}; at most {WIDEST:,}")
    listed = isinstance(values, tuple | Mapping | list)
    longest = 6 * budget.size(values) if listed else budget.as_text(values)
    markup = 5 if hasattr(template, "__html__") else 1
    budget.text(markup * (len(template) + fields * (longest + WIDEST)))
    return budget.made(template % values)


class _Environment:
    """What SandboxedFormatter asks for: only keys and indices, no attributes."""

    def getattr(self, value: Any, name: str) -> Any:
        raise refuse(f"format: attribute {name!r} is not allowed")

    def getitem(self, value: Any, key: Any) -> Any:
        return value[key]


def str_format(template: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """template.format(*args, **kwargs) without attributes, nested fields and wide padding."""
    budget = current()
    if re.search(r"\d{4}|\{[^{}]*\{|![^{}]*:[^{}]*\{", template.replace("{{", "").replace("}}", "")):
        raise refuse("format: widths of four digits and fields in fields are not allowed")
    longest = 6 * budget.size((*args, *kwargs.values()))
    budget.text(len(template) + template.count("{") * (longest + WIDEST))
    return SandboxedFormatter(_Environment()).vformat(template, args, kwargs)  # type: ignore[arg-type]


def text_method(budget: Budget, text: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Checks a call of a method of str."""
    markup = 5 if hasattr(text, "__html__") else 1
    if name == "join" and args:
        joined(budget, args[0], text)
    elif name == "replace" and len(args) > 1:
        replaced(budget, text, args[0], args[1])
    elif name in ("split", "rsplit"):
        separator = args[0] if args else kwargs.get("sep")
        parts = text.count(separator) if isinstance(separator, str) and separator else len(text) // 2
        budget.tick(64 * parts)
    elif name == "splitlines":
        budget.tick(64 * (1 + sum(text.count(end) for end in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")))
    budget.text(3 * markup * len(text))


def to_json(
    budget: Budget,
    value: Any,
    ensure_ascii: Any = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: Any = False,
) -> str:
    """Hugging Face's tojson: no HTML escapes, an indentation if wanted."""
    narrow("tojson", indent)
    if isinstance(indent, str) and len(indent) > WIDEST:
        raise refuse(f"tojson: indent of {len(indent):,} characters; at most {WIDEST:,}")
    budget.text(6 * budget.size(value))
    found, length = [], 0
    encoder = json.JSONEncoder(
        ensure_ascii=bool(ensure_ascii), indent=indent, separators=separators, sort_keys=bool(sort_keys)
    )
    for piece in encoder.iterencode(value):
        found.append(piece)
        length += len(piece)
        if length > OUTPUT:
            budget.text(length)
    return "".join(found)


def tojson(budget: Budget, *args: Any, **kwargs: Any) -> None:
    """to_json checks as it goes."""


def range_of(*bounds: int) -> list[int]:
    """range(...), at most LONGEST_RANGE numbers."""
    found = range(*bounds)
    if found and (found[-1] - found[0]) // found.step >= LONGEST_RANGE:
        raise refuse(f"range: more than {LONGEST_RANGE:,} numbers")
    return list(found)


def dict_of(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """dict(...)"""
    return dict(*args, **kwargs)


def raise_exception(message: Any) -> None:
    """How a template refuses a conversation."""
    raise TemplateError(f"chat template: {str(message)[:1000]}")


def strftime_now(form: str) -> str:
    """The present local time."""
    if not isinstance(form, str) or len(form) > 200 or re.search(r"\d{4}", form):
        raise refuse("strftime_now: a format of at most 200 characters without widths")
    return datetime.datetime.now().strftime(form)


def guarded(function: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
    """The filter behind its guard, its result charged; generators become lists."""
    wants = getattr(function, "jinja_pass_arg", None)

    @pass_context
    @wraps(function, updated=())
    def call(context: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = current()
        budget.tick()
        guard(budget, value, *args, **kwargs)
        if wants is None:
            found = function(value, *args, **kwargs)
        else:
            given = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
            found = function(given[wants.name], value, *args, **kwargs)
        if isinstance(found, Iterable) and not isinstance(found, str | Mapping | list | tuple | Undefined):
            found = list(found)
        return budget.made(found)

    return call


def tested(function: Any) -> Callable[..., bool]:
    """The test, a step each time."""

    @pass_context
    def call(context: Any, value: Any, *args: Any) -> bool:
        current().tick()
        return bool(function(value, *args))

    return call


GUARDS: dict[Guard, str] = {
    plain: "abs attr_ count d default dictsort first groupby items last length map max min reject rejectattr select "
    "selectattr",
    texts: "capitalize e escape float int lower safe string title trim upper wordcount",
    items: "list reverse sort unique",
    widths: "center indent truncate",
    pieces: "batch slice",
    joined: "join",
    replaced: "replace",
    numbers: "round sum",
}
TEST_NAMES = (
    "boolean callable defined divisibleby eq equalto == even false float ge >= gt greaterthan > in integer iterable "
    "le <= lower lt lessthan < mapping ne != none number odd sameas sequence string true undefined upper"
)
FILTERS = {
    name: guarded(filters.FILTERS[name], guard)
    for guard, names in GUARDS.items()
    for name in names.split()
    if name in filters.FILTERS
}
FILTERS["tojson"] = guarded(lambda value, *args, **kwargs: to_json(current(), value, *args, **kwargs), tojson)
FILTERS["format"] = guarded(lambda value, *args, **kwargs: percent(current(), str(value), kwargs or args), texts)
known: dict[str, Any] = dict(tests.TESTS)
TESTS = {name: tested(known[name]) for name in TEST_NAMES.split()}
GLOBALS: dict[str, Callable[..., Any]] = {
    "range": range_of,
    "dict": dict_of,
    "raise_exception": raise_exception,
    "strftime_now": strftime_now,
}
