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


def quota() -> float | None:
    """Processors that the control group grants, None without a limit."""
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            share, period = file.read().split()
    except (OSError, ValueError):
        return None
    return None if share == "max" else int(share) / int(period)


def physical_cores() -> int | None:
    """Cores counted without their second hardware threads, None where the system does not say."""
    cores = set()
    for cpu in affinity():
        folder = f"/sys/devices/system/cpu/cpu{cpu}/topology"
        try:
            with open(f"{folder}/thread_siblings_list", encoding="ascii") as file:
                cores.add(file.read().strip())
        except OSError:
            return None
    return len(cores) or None


def affinity() -> list[int]:
    """Numbers of the processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def threads_why(taken: int, asked: str | None) -> tuple[str, dict[str, Any]]:
    """Why `taken` worker threads: which of the limits is the smallest; and the limits themselves."""
    limits = {"affinity": len(affinity()), "cgroup_quota": quota(), "physical_cores": physical_cores()}
    if asked is not None:
        return f"OMP_NUM_THREADS={printable(asked, 20)}", limits
    named = {
        "affinity": f"{limits['affinity']} processors allowed",
        "cgroup_quota": f"quota of {limits['cgroup_quota']} processors",
        "physical_cores": f"{limits['physical_cores']} physical cores",
    }
    why = [text for key, text in named.items() if limits[key] is not None and int(limits[key] or 0) <= taken]
    return " and ".join(why) or "chosen by the core", limits


def inspect() -> dict[str, Any]:
    """The facts behind `pyllm doctor`."""
    import jinja2
    import numpy

    from pyllm import _core

    taken = _core.threads()
    why, limits = threads_why(taken, os.environ.get("OMP_NUM_THREADS"))
    return {
        "processor": processor(),
        "features": {name: bool(have) for name, have in _core.cpu_features().items()},
        "isas": list(_core.isas()),
        "isa": _core.isa(),
        "isa_forced": os.environ.get("PYLLM_ISA"),
        "threads": taken,
        "threads_why": why,
        "limits": limits,
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
