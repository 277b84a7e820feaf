"""jinja2's sandbox with every way to spend much closed: an environment that charges a Budget for what a template does.

The parsed template is rewritten before it is compiled: each loop pass, macro call, comparison, list, slice and joining
of texts reports to the budget, and nothing is computed while compiling. Filters, tests and methods are those of a list.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import BlockReference, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from pyllm.errors import TemplateError
from pyllm.text.budget import BITS, current
from pyllm.text.template_tools import FILTERS, GLOBALS, TESTS, percent, str_format, text_method

FORBIDDEN = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
CALLABLE = (Macro, BlockReference, LoopContext, Joiner, Undefined)  # the last one raises its own explanation
TEXT_METHODS = (
    "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric isspace "
    "istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit "
    "rstrip split splitlines startswith strip swapcase title upper format"
)
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(TEXT_METHODS.split()),
    list: frozenset(("count", "index", "copy")),
    tuple: frozenset(("count", "index")),
    dict: frozenset(("get", "items", "keys", "values", "copy")),
    float: frozenset(("is_integer",)),
    LoopContext: frozenset(("cycle", "changed")),
    Cycler: frozenset(("next", "reset")),
}


class Generation(Extension):
    """{% generation %} ... {% endgeneration %}, which marks what the assistant says: its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node:
        """The body in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def tick(made: int = 0) -> bool:
    """A step of the current budget."""
    return current().tick(made)


def made(value: Any) -> Any:
    """A list, tuple or mapping that a template wrote down."""
    return current().made(value)


def join(*values: Any) -> Any:
    """a ~ b."""
    budget = current()
    budget.text(sum(budget.as_text(value) for value in values))
    return budget.made("".join([str(value) for value in values]))


def cut(value: Any, start: Any, stop: Any, step: Any) -> Any:
    """value[start:stop:step]"""
    return current().made(value[start:stop:step])


def finalize(value: Any) -> Any:
    """What {{ }} prints, charged."""
    budget = current()
    if isinstance(value, Undefined):
        budget.tick()
        return value
    budget.as_text(value)
    return budget.made(value if isinstance(value, str) else str(value))


OWN = {"tick": tick, "made": made, "join": join, "cut": cut}


class Rewrite(NodeTransformer):
    """Puts the calls of OWN into a parsed template."""

    def call(self, name: str, arguments: list[nodes.Expr], node: nodes.Node) -> nodes.Expr:
        """OWN[name](*arguments) at the place of `node`."""
        function = nodes.EnvironmentAttribute(f"pyllm_{name}", lineno=node.lineno)
        return nodes.Call(function, arguments, [], None, None, lineno=node.lineno)

    def step(self, node: nodes.Node, made: int = 0) -> nodes.Node:
        """A statement that takes a step, which makes so many bytes."""
        return nodes.ExprStmt(self.call("tick", [nodes.Const(made)], node), lineno=node.lineno)

    def visit_Output(self, node: nodes.Output) -> list[nodes.Node]:
        """A step that pays for the plain text; finalize() pays for the rest."""
        texts = [part.data for part in node.nodes if isinstance(part, nodes.TemplateData)]
        self.generic_visit(node)
        return [self.step(node, sum(len(text) if text.isascii() else 4 * len(text) for text in texts)), node]

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """A step per pass, also for passes that the loop's condition leaves out."""
        self.generic_visit(node)
        node.body = [self.step(node), *node.body]
        if node.test is not None:
            node.test = nodes.And(self.call("tick", [], node), node.test, lineno=node.lineno)
        return node

    def visit_body(self, node: Any) -> nodes.Node:
        """A step per call."""
        self.generic_visit(node)
        node.body = [self.step(node), *node.body]
        return node

    visit_Macro = visit_CallBlock = visit_Block = visit_body
    visit_AssignBlock = visit_FilterBlock = visit_body

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """tick() and a < b"""
        self.generic_visit(node)
        return nodes.And(self.call("tick", [], node), node, lineno=node.lineno)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        """Tuples that are read, not assigned to."""
        self.generic_visit(node)
        return self.call("made", [node], node) if node.ctx == "load" else node

    def visit_literal(self, node: Any) -> nodes.Node:
        """made([...])"""
        self.generic_visit(node)
        return self.call("made", [node], node)

    visit_List = visit_Dict = visit_literal

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """join(a, b)"""
        self.generic_visit(node)
        return self.call("join", node.nodes, node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """a[b:c] -> cut(a, b, c, None)"""
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = [bound or nodes.Const(None) for bound in (node.arg.start, node.arg.stop, node.arg.step)]
        return self.call("cut", [node.node, *bounds], node)

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        """Refuses what would load other files."""
        if isinstance(node, FORBIDDEN):
            raise TemplateError(f"chat template: line {node.lineno}: {type(node).__name__.lower()} is not allowed")
        return super().generic_visit(node, *args, **kwargs)


class Environment(ImmutableSandboxedEnvironment):
    """As Hugging Face sets it up (trim_blocks, lstrip_blocks, break and continue, tojson, ...), on a budget."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, loopcontrols],
            optimized=False,
            finalize=finalize,
            cache_size=0,
        )
        self.filters = dict(FILTERS)
        self.tests = dict(TESTS)
        self.globals = {**GLOBALS, "namespace": Namespace, "cycler": Cycler, "joiner": Joiner}
        for name, function in OWN.items():
            setattr(self, f"pyllm_{name}", function)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return Rewrite().visit(super()._parse(source, name, filename))

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Raises at once; the sandbox would print nothing."""
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__} is not allowed")

    def wrap_str_format(self, value: Any) -> None:
        """str.format stays itself: call() looks after it."""

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call in a template: own functions, macros, and the methods of METHODS."""
        known = __obj if isinstance(__obj, FunctionType | type) else None
        if known in OWN_FUNCTIONS:
            return __obj(*args)
        budget = current()
        budget.tick()
        owner = getattr(__obj, "__self__", None)
        name = getattr(__obj, "__name__", "")
        if known in GLOBAL_FUNCTIONS or isinstance(__obj, CALLABLE):
            return budget.made(__context.call(__obj, *args, **kwargs))
        for scope in ("_loop_vars", "_block_vars"):  # compiled code passes them along with what the template wrote
            kwargs.pop(scope, None)
        if isinstance(owner, str) and name == "format":
            return budget.made(str_format(owner, args, kwargs))
        for kind, names in METHODS.items():
            if isinstance(owner, kind) and name in names:
                if isinstance(owner, str):
                    text_method(budget, owner, name, args, kwargs)
                return budget.made(__obj(*args, **kwargs))
        raise SecurityError(f"call of {name or type(__obj).__name__!r} is not allowed")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic on numbers of at most BITS bits, sums and repetitions of bounded texts and lists, formatting."""
        budget = current()
        if operator == "%" and isinstance(left, str):
            return percent(budget, left, right)
        sized = (str, list, tuple)
        if operator == "+" and isinstance(left, sized) and isinstance(right, sized):
            budget.text((len(left) + len(right)) * (5 if hasattr(left, "__html__") else 1))
        elif operator == "*" and (isinstance(left, sized) or isinstance(right, sized)):
            repeated, times = (left, right) if isinstance(left, sized) else (right, left)
            if isinstance(times, int):
                budget.text(max(0, times) * max(1, budget.size(repeated) - 16))
        elif operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > BITS:
                raise TemplateError(f"chat template: {operator} makes a number of {bits:,} bits; at most {BITS:,}")
        return budget.made(super().call_binop(context, operator, left, right))


OWN_FUNCTIONS = frozenset(OWN.values())
GLOBAL_FUNCTIONS = frozenset((*GLOBALS.values(), Namespace, Cycler, Joiner))
