"""Write a model as a GGUF file (-o NAME.gguf) or as a Hugging Face folder (-o NAME), with its tokenizer."""

from __future__ import annotations

import argparse
import os

from pyllm.cli import options, output
from pyllm.cli.quantize import TYPES
from pyllm.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm convert MODEL -o OUT [--type TYPE] [--overwrite] [--json]`."""
    parser.add_argument("model", metavar="MODEL", help="name, GGUF file or folder")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="NAME.gguf, or a folder")
    parser.add_argument(
        "--type", type=str.upper, choices=TYPES, metavar="TYPE", help=f"{', '.join(TYPES)} (the float type it is in)"
    )
    parser.add_argument("--allow-requantize", action="store_true", help="also from one block type to another")
    options.add_overwrite(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Write it; says where it lies and how large it is."""
    import pyllm

    name = os.path.basename(os.path.normpath(args.output))
    with output.Bar(name) as bar:
        pyllm.convert(
            args.model,
            args.output,
            args.type or "auto",
            overwrite=args.overwrite,
            allow_requantize=args.allow_requantize,
            report=bar.show,
        )
    if os.path.isdir(args.output):
        nbytes = sum(entry.stat().st_size for entry in os.scandir(args.output) if entry.is_file())
    else:
        nbytes = os.path.getsize(args.output)
    data = {"path": args.output, "bytes": nbytes}
    return output.facts(args, data, f"{printable(args.output)}: {output.size(nbytes)}")
