"""Flags shared by the verbs, in llama.cpp's names, and their twins in the environment."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping

from pyllm.errors import printable

# `pull` fetches this one when nothing else is asked for; formats.download knows what it is.
DEFAULT_MODEL = "smollm2-135m-instruct"
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


class UsageError(Exception):
    """Flags that do not go together; ends as argparse's own complaints do, with code 2."""


def whole(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """A parser of whole numbers in low..high."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{printable(text)!r}: a whole number from {low} to {high} is wanted")
        return value

    return parse


def real(low: float, high: float = math.inf) -> Callable[[str], float]:
    """A parser of finite numbers in low..high; NaN and infinities are refused."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high):
            span = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"{printable(text)!r}: a finite number {span} is wanted")
        return value

    return parse


def counts(text: str) -> list[int]:
    """Whole numbers from 1, separated by commas: `1,16`."""
    return [whole(1, 4096)(part) for part in text.split(",")]


def twin(action: argparse.Action) -> str | None:
    """The environment variable that stands for a flag, None for a positional argument or --help."""
    longs = [name for name in action.option_strings if name.startswith("--")]
    if not longs or isinstance(action, argparse._HelpAction):
        return None
    return "PYLLM_" + longs[0][2:].replace("-", "_").upper()


def environment(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Take the defaults of the flags from their PYLLM_ twins; a bad value ends as bad usage does."""
    for action in parser._actions:
        name = twin(action)
        if name is None or name not in environ:
            continue
        text = environ[name]
        try:
            action.default = convert(action, text)
        except (argparse.ArgumentTypeError, ValueError) as error:
            parser.error(f"{name}: {error}")


def convert(action: argparse.Action, text: str) -> object:
    """The value that `text` in the environment gives to a flag."""
    if action.nargs == 0:
        if text.lower() not in TRUE + FALSE:
            raise argparse.ArgumentTypeError(f"{printable(text)!r}: 1 or 0 is wanted")
        return text.lower() in TRUE
    value = action.type(text) if callable(action.type) else text
    if action.choices is not None and value not in action.choices:
        raise argparse.ArgumentTypeError(f"{printable(text)!r}: one of {', '.join(map(str, action.choices))} is wanted")
    return value


def add_checkpointing(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """`--gradient-checkpointing`."""
    text = "keep the inputs of layers alone and run each again on the way back: less memory, more time, the same result"
    parser.add_argument("--gradient-checkpointing", action="store_true", help=text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print the facts as one JSON object")


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """--overwrite."""
    parser.add_argument("--overwrite", action="store_true", help="replace what is there already")


def add_threads(parser: argparse.ArgumentParser) -> None:
    """-t/--threads."""
    parser.add_argument("-t", "--threads", type=whole(1, 4096), metavar="N", help="worker threads (`pyllm doctor`)")


def add_context(parser: argparse.ArgumentParser) -> None:
    """-c/--ctx-size."""
    parser.add_argument("-c", "--ctx-size", type=whole(1), metavar="N", help="tokens of context (the model's own)")


def add_run(parser: argparse.ArgumentParser) -> None:
    """What a running model needs: which one, threads, context, arithmetic."""
    what = f"name, GGUF file, folder or run ({DEFAULT_MODEL})"
    parser.add_argument("-m", "--model", default=DEFAULT_MODEL, metavar="MODEL", help=what)
    # The same without its flag: left out, it must leave alone what -m or the environment said.
    parser.add_argument("model", nargs="?", default=argparse.SUPPRESS, metavar="MODEL", help="as --model")
    add_threads(parser)
    add_context(parser)
    parser.add_argument(
        "-b", "--batch-size", type=whole(1, 512), default=512, metavar="N", help="tokens of a prompt at a time (512)"
    )
    parser.add_argument(
        "--cache-type", choices=("f32", "bf16", "q8_0"), help="of keys and values (bf16, or f32 where the weights are)"
    )
    add_arithmetic(parser)


def add_arithmetic(parser: argparse.ArgumentParser) -> None:
    """--precision."""
    parser.add_argument(
        "--precision", choices=("default", "high"), default="default", help="`high`: no 8-bit activations"
    )


def add_sampling(parser: argparse.ArgumentParser, new: int) -> None:
    """How the next token is chosen; -n defaults to `new`."""
    group = parser.add_argument_group("sampling", "--temp 0 takes the likeliest token: the same answer every time")
    add = group.add_argument
    add("-n", "--n-predict", type=whole(-1), default=new, metavar="N", help=f"new tokens ({new}; -1: no limit)")
    add("-s", "--seed", type=whole(-1, 2**63 - 1), default=-1, metavar="N", help="-1, the default: another each time")
    add("--temp", type=real(0.0), default=0.0, metavar="X", help="temperature (0)")
    add("--top-k", type=whole(0), default=40, metavar="N", help="keep the N likeliest (40; 0: all)")
    add("--top-p", type=real(0.0, 1.0), default=0.95, metavar="X", help="keep the likeliest that sum to X (0.95)")
    add("--min-p", type=real(0.0, 1.0), default=0.05, metavar="X", help="keep those above X times the best (0.05)")
    add("--repeat-penalty", type=real(1e-3, 100.0), default=1.0, metavar="X", help="divide repeated logits by X (1.0)")
    add("--presence-penalty", type=real(-100.0, 100.0), default=0.0, metavar="X", help="subtract once per seen token")
    add("--frequency-penalty", type=real(-100.0, 100.0), default=0.0, metavar="X", help="subtract per occurrence")
    add("--lookup", type=whole(0, 64), default=0, metavar="N",
        help="draft up to N tokens from what the text repeats; the same answer, sooner (0)")  # fmt: skip
    add("--stop", action="append", metavar="TEXT", help="end before this text (may be given again)")
