"""Fetch a model into the cache folder ($PYLLM_HOME) and check its hash; prints where it lies."""

from __future__ import annotations

import argparse
import time

from pyllm.cli import options, output
from pyllm.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm pull [MODEL] [--json]`."""
    parser.add_argument("model", nargs="?", default=options.DEFAULT_MODEL, help=f"name ({options.DEFAULT_MODEL})")
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Fetch unless it is there already."""
    from pyllm.formats import download

    start = time.monotonic()
    path = download.pull(args.model)
    seconds = time.monotonic() - start
    output.note(f"{'model ' + printable(args.model):<32} {seconds:6.1f} s")
    return output.facts(args, {"model": args.model, "path": str(path), "seconds": round(seconds, 3)}, str(path))
