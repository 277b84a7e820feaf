"""Describe this machine as pyllm sees it: processor, instruction sets, threads, pages, versions."""

from __future__ import annotations

import argparse
import os
import platform
from typing import Any

from pyllm import __version__
from pyllm.cli import options, output
from pyllm.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm doctor [--json]`."""
    options.add_json(parser)


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return printable(line.split(":", 1)[1].strip())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def inspect() -> dict[str, Any]:
    """The facts behind `pyllm doctor`."""
    from pyllm import _core  # first: on a processor that is too old its sentence is the clearest

    import jinja2  # isort: skip
    import numpy  # isort: skip

    return {
        "processor": processor(),
        "features": {name: bool(have) for name, have in _core.cpu_features().items()},
        "isas": list(_core.isas()),
        "isa": _core.isa(),
        "isa_forced": os.environ.get("PYLLM_ISA"),
        "threads": _core.threads(),
        "threads_why": _core.threads_reason(),
        "huge_pages": _core.huge_pages(),
        "memory": memory(),
        "versions": {
            "pyllm": __version__,
            "python": platform.python_version(),
            "numpy": numpy.__version__,
            "jinja2": jinja2.__version__,
            "system": platform.platform(),
        },
    }


def memory() -> int | None:
    """Bytes of memory of this machine, None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def run(args: argparse.Namespace) -> int:
    """Print the facts, one per line."""
    data = inspect()
    have = [name for name, yes in data["features"].items() if yes]
    forced = f" (PYLLM_ISA={data['isa_forced']})" if data["isa_forced"] else " (the best this processor runs)"
    rows = [
        ("processor", data["processor"]),
        ("features", " ".join(have)),
        ("instruction sets", " ".join(data["isas"])),
        ("chosen", data["isa"] + forced),
        ("threads", f"{data['threads']} ({data['threads_why']})"),
        ("huge pages", data["huge_pages"]),
        ("memory", "unknown" if data["memory"] is None else output.size(data["memory"])),
        ("versions", ", ".join(f"{name} {version}" for name, version in data["versions"].items())),
    ]
    return output.facts(args, data, output.table(rows))
