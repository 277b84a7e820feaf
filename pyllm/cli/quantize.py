"""Rewrite a GGUF file in another storage type: F32, F16, BF16, Q8_0, Q4_0 or Q4_1. Arguments as llama.cpp's.

Without OUT nothing is written: `pyllm quantize --check MODEL TYPE` loads a model of any family as float32 and as TYPE,
and tells the error of its matrices and of what it says of a text.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from pyllm.cli import options, output
from pyllm.errors import printable

INTERMIXED = True  # before Python 3.12 a flag before TYPE would end what may stand without one
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
# What a model is loaded as, by the name of a type; other names of the same.
LOADED = {"F16": "float16", "BF16": "bfloat16", "INT8": "int8", "Q8_0": "q8_0", "Q4_0": "q4_0", "Q4_1": "q4_1"}
_SAME = {"FLOAT32": "F32", "FLOAT16": "F16", "BFLOAT16": "BF16"}


def kind(text: str) -> str:
    """The name of a type: of `q8_0` Q8_0, of `bfloat16` BF16. Raises ArgumentTypeError."""
    found = _SAME.get(text.upper(), text.upper())
    if found not in (*TYPES, *LOADED):
        known = f"{', '.join(TYPES)}; to check alone {', '.join(LOADED.values())}"
        raise argparse.ArgumentTypeError(f"{printable(text)!r}: one of {known} is wanted")
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm quantize IN OUT TYPE [--check] [--allow-requantize] [--overwrite] [--json]`,
    `pyllm quantize --check MODEL TYPE [--text FILE] [--threads N] [--json]`."""
    parser.usage = "pyllm quantize IN OUT TYPE [flags]\n       pyllm quantize --check MODEL TYPE [flags]"
    parser.add_argument("source", metavar="IN", help="name or GGUF file; to check alone, also a folder of any family")
    parser.add_argument("target", metavar="OUT", help="GGUF file to write; left out, the model is checked alone")
    types = f"{', '.join(TYPES)}; to check alone: {', '.join(LOADED.values())}"
    parser.add_argument("type", metavar="TYPE", type=kind, nargs="?", help=types)
    checks = "print the error of each tensor: |new - old| / |old|; without OUT also what a text's answers lose"
    parser.add_argument("--check", action="store_true", help=checks)
    parser.add_argument("--text", metavar="FILE", help="text to check by (the first paragraphs of a novel)")
    options.add_threads(parser)
    parser.add_argument("--allow-requantize", action="store_true", help="also from one block type to another")
    options.add_overwrite(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Write the file, says what became of it; or check a model."""
    if args.type is None:
        return check(args)
    if args.type not in TYPES or args.text is not None:
        what = "--text" if args.type in TYPES else args.type
        raise options.UsageError(f"{what}: only to check a model, without OUT; a file is {', '.join(TYPES)}")
    from pyllm.formats import GGUF, download, open_model
    from pyllm.formats.gguf_config import ARCHITECTURES
    from pyllm.formats.gguf_quantize import quantize

    with open_model(download.resolve(args.source)) as source:
        if not isinstance(source, GGUF):
            family = source.config["model_type"]
            if family not in ARCHITECTURES:
                raise options.UsageError(f"IN is a folder of {family}, for which GGUF has no architecture; see --check")
            raise options.UsageError("IN is a folder; `pyllm convert` makes a GGUF file of it")
        path = source.path
    with output.Bar(os.path.basename(args.target)) as bar:
        changes = quantize(
            path,
            args.target,
            args.type,
            allow_requantize=args.allow_requantize,
            overwrite=args.overwrite,
            check=args.check,
            report=bar.show,
        )
    data: dict[str, Any] = {"file": args.target, "type": args.type, "bytes": os.path.getsize(args.target)}
    lines = [f"{printable(args.target)}: {output.size(data['bytes'])}"]
    if args.check:
        data["tensors"] = [each._asdict() for each in changes]
        rows = [(printable(each.name), f"{each.old} -> {each.new}", f"{each.error:.3e}") for each in changes]
        lines = [output.table([("tensor", "type", "rms relative error"), *rows]), *lines]
    return output.facts(args, data, "\n".join(lines))


def check(args: argparse.Namespace) -> int:
    """Print what a model loses as another type: the word that stands where OUT does."""
    if not args.check or args.allow_requantize or args.overwrite:
        allowed = "of two words alone, MODEL TYPE, --check with --text and --threads"
        raise options.UsageError(f"IN OUT TYPE are wanted; {allowed}")
    try:
        loaded = LOADED.get(kind(args.target))
    except argparse.ArgumentTypeError as error:
        raise options.UsageError(f"TYPE: {error}") from None
    if loaded is None:
        raise options.UsageError(f"F32: float32 is what is compared with; {', '.join(LOADED.values())}")
    from pyllm.cli.running import given_text
    from pyllm.evaluate import quantised

    text = quantised.SAMPLE if args.text is None else given_text(None, args.text)
    data = quantised.check(args.source, loaded, text, args.threads)
    return output.facts(args, data, "\n".join(told(data)))


def told(data: dict[str, Any]) -> list[str]:
    """The facts of a check as lines."""
    head = ("matrices", "", f"rms relative error as {data['type']}", "worst")
    rows = [(each["kind"], f"{each['matrices']:,}", f"{each['error']:.3e}", f"{each['worst']:.3e}")
            for each in data["weights"]]  # fmt: skip
    model = data["model"]
    lines = [f"{data['texts']:,} texts of {data['tokens']:,} tokens, beside float32:"]
    for name in ("vectors", "rows"):
        if name in model:
            lines.append(f"  {name}: cosine {model[name]['cosine']:.6f}, the least {model[name]['least']:.6f}")
    if "kl" in model:
        lines.append(f"  next token: KL {model['kl']:.3e} nats in the mean, {model['most_kl']:.3e} at most; "
                     f"the likeliest is the same {model['same_top']:.2%} of {model['judged']:,} times")  # fmt: skip
    for name, each in model.items():
        if name.endswith("logits"):
            words = name.replace("_", " ")
            lines.append(f"  {words}: differ by {each['difference']:.3e} at most; the largest is {each['largest']:.3e}")
    return [output.table([head, *rows]), *lines]
