"""Chat templates: jinja2 text that turns messages into a prompt, run as if its author were hostile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pyllm.errors import TemplateError, printable
from pyllm.text.budget import DEEPEST, OUTPUT, Budget, Spending

if TYPE_CHECKING:
    from jinja2 import Template

LONGEST = 1 << 20  # bytes of a template
TOKENS = 20_000  # words and signs of it
# Of a model that has none and learns conversations: it needs no token that the vocabulary lacks.
PLAIN_CHAT = (
    "{%- for message in messages -%}"
    "{{ message['role'] | capitalize + ':\\n' + message['content'] }}"
    "{{ (eos_token if eos_token is defined and message['role'] == 'assistant' else '') + '\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant:\\n' }}{%- endif -%}"
)


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    **variables: Any,
) -> str:
    """The template's text for these messages, as transformers.apply_chat_template renders it.

    Values are what JSON holds (None, bool, int, float, str, lists, mappings with str keys). A template may be 1 MiB
    long, run 1 s or 1,000,000 steps and print 8,388,608 characters. Raises TemplateError for anything else.
    """
    given = {
        "messages": messages,
        "tools": tools,
        "documents": documents,
        "add_generation_prompt": add_generation_prompt,
        **variables,
    }
    values = {name: plain(value, name) for name, value in given.items()}
    compiled = compiled_template(template)
    budget = Budget(0)
    budget.limit += 16 * sum(size_of(value) for value in values.values())
    with Spending(budget):
        try:
            return collect(compiled, values)
        except TemplateError:
            raise
        except RecursionError:
            raise TemplateError("chat template: calls itself too deeply") from None
        except MemoryError:
            raise TemplateError("chat template: out of memory") from None
        except Exception as error:
            raise TemplateError(f"chat template: {printable(error)}{line_of(error)}") from None


def collect(template: Template, values: dict[str, Any]) -> str:
    """The pieces that the template yields, as long as they fit."""
    pieces: list[str] = []
    length = 0
    for piece in template.root_render_func(template.new_context(values)):
        pieces.append(piece)
        length += len(piece)
        if length > OUTPUT:
            raise TemplateError(f"chat template: prints more than {OUTPUT:,} characters")
    return "".join(pieces)


@lru_cache(maxsize=16)
def compiled_template(source: str) -> Template:
    """The template ready to run. Raises TemplateError when it is too long, no template, or loads other files."""
    if not isinstance(source, str):
        raise TemplateError(f"chat template: {type(source).__name__}; a text")
    size = len(source.encode("utf-8", "surrogatepass"))
    if size > LONGEST:
        raise TemplateError(f"chat template: {size:,} bytes; at most {LONGEST:,}")
    env = environment()
    try:
        for count, _ in enumerate(env.lexer.tokeniter(source, None)):
            if count >= TOKENS:
                raise TemplateError(f"chat template: more than {TOKENS:,} words and signs")
        return env.from_string(source)
    except TemplateError:
        raise
    except (RecursionError, MemoryError):
        raise TemplateError("chat template: nested too deeply") from None
    except Exception as error:
        line = getattr(error, "lineno", None)
        place = f" (line {line})" if line else ""
        raise TemplateError(f"chat template: {printable(error)}{place}") from None


@lru_cache(maxsize=1)
def environment() -> Any:
    """The sandbox; jinja2 is imported here."""
    from pyllm.text.sandbox import Environment

    return Environment()


def line_of(error: Exception) -> str:
    """ " (line 3)" when the traceback passes through a template."""
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
            known = trace.tb_frame.f_globals.get("__jinja_template__")
            line = known.get_corresponding_lineno(line) if known is not None else 0
        trace = trace.tb_next
    return f" (line {line})" if line else ""


def plain(value: Any, name: str, depth: int = 0) -> Any:
    """A copy made of JSON's types only, so that a template meets no other object's attributes or methods."""
    if value is None or (isinstance(value, bool | int | float | str) and type(value).__module__ == "builtins"):
        return value
    if depth > DEEPEST:
        raise TemplateError(f"chat template: {printable(name)}: nested deeper than {DEEPEST}")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TemplateError(f"chat template: {printable(name)}: key {printable(repr(key))}; keys are text")
        return {str(key): plain(each, f"{name}[{key!r}]", depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, f"{name}[{i}]", depth + 1) for i, each in enumerate(value)]
    if isinstance(value, str):
        return str(value)
    raise TemplateError(
        f"chat template: {printable(name)}: {type(value).__name__}; None, bool, int, float, str, "
        "lists and mappings of them"
    )


def size_of(value: Any) -> int:
    """Bytes of the text in a value that plain() made."""
    if isinstance(value, str):
        return 4 * len(value)
    if isinstance(value, dict):
        return sum(len(key) + size_of(each) for key, each in value.items())
    return sum(map(size_of, value)) if isinstance(value, list) else 8
