"""Rewrite a GGUF file in another storage type: F32, F16, BF16, Q8_0, Q4_0 or Q4_1. Arguments as llama.cpp's."""

from __future__ import annotations

import argparse
import os
from typing import Any

from pyllm.cli import options, output
from pyllm.errors import printable

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm quantize IN OUT TYPE [--check] [--allow-requantize] [--overwrite] [--json]`."""
    parser.add_argument("source", metavar="IN", help="name or GGUF file")
    parser.add_argument("target", metavar="OUT", help="GGUF file to write")
    parser.add_argument("type", metavar="TYPE", type=str.upper, choices=TYPES, help=", ".join(TYPES))
    parser.add_argument("--check", action="store_true", help="print the error of each tensor: |new - old| / |old|")
    parser.add_argument("--allow-requantize", action="store_true", help="also from one block type to another")
    options.add_overwrite(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Write the file; says what became of it."""
    from pyllm.formats import GGUF, download, open_model
    from pyllm.formats.gguf_quantize import quantize

    with open_model(download.resolve(args.source)) as source:
        if not isinstance(source, GGUF):
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
