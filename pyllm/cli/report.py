"""Show a training run as one HTML page: curves, samples, parameters, configuration. The page needs no network."""

from __future__ import annotations

import argparse
import os

from pyllm.cli import options, output
from pyllm.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm report RUN [-o FILE] [--overwrite] [--json]`."""
    parser.add_argument("run", metavar="RUN", help="folder of a training run: log.jsonl, timings.jsonl, run.json")
    parser.add_argument("-o", "--output", metavar="FILE", help="the page (RUN/report.html, which is replaced)")
    options.add_overwrite(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Write the page; says where it lies and the run in a few numbers."""
    from pyllm.evaluate import report

    page = report(args.run)
    path = args.output or os.path.join(args.run, "report.html")
    page.save(path, overwrite=args.overwrite or args.output is None)
    lines = [(name.replace("_", " "), number(value)) for name, value in page.facts.items()]
    text = "\n".join([*([output.table(lines)] if lines else []), f"written: {printable(path)}"])
    return output.facts(args, {"path": path, **page.facts}, text)


def number(value: float) -> str:
    """A figure as text."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
