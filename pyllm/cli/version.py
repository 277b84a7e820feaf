"""Print the version of pyllm and of what it runs on."""

from __future__ import annotations

import argparse
import platform

from pyllm import __version__
from pyllm.cli import options, output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm version [--json]`."""
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print one line, or the facts."""
    data = {"pyllm": __version__, "python": platform.python_version(), "platform": platform.platform()}
    return output.facts(args, data, f"pyllm {__version__} (Python {data['python']}, {data['platform']})")
