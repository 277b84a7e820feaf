"""How much memory this process may still take, and the refusal of a model that needs more."""

from __future__ import annotations

import os
import sys

from pyllm.errors import ModelFileError

_GIB = 1 << 30


def _number(path: str) -> int | None:
    """The whole number in a one-line file; None when there is none ("max", no such file)."""
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def _meminfo() -> int | None:
    """MemAvailable of Linux; elsewhere all memory that the machine has."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _reclaimable(folder: str) -> int:
    """Bytes of file cache that a control group counts as used but gives back on demand."""
    try:
        with open(os.path.join(folder, "memory.stat"), encoding="ascii") as lines:
            found = dict(line.split() for line in lines)
        return int(found.get("inactive_file", found.get("total_inactive_file", 0)))
    except (OSError, ValueError):
        return 0


def _group_left(folder: str, limit_file: str, used_file: str) -> int | None:
    """What the limit of one control group leaves; None without a limit."""
    limit = _number(os.path.join(folder, limit_file))
    if limit is None or limit >= 1 << 60:
        return None
    used = _number(os.path.join(folder, used_file)) or 0
    return max(limit - max(used - _reclaimable(folder), 0), 0)


def _cgroup() -> int | None:
    """The smallest remainder among this process's control group and its parents (versions 1 and 2)."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as lines:
            groups = [line.rstrip("\n").split(":", 2) for line in lines]
    except OSError:
        return None
    left: list[int] = []
    for group in groups:
        if len(group) != 3:
            continue
        if group[1] == "":
            root, names = "/sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in group[1].split(","):
            root, names = "/sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        parts = [part for part in group[2].split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            found = _group_left(os.path.join(root, *parts[:depth]), *names)
            if found is not None:
                left.append(found)
    return min(left, default=None)


def _address_space() -> int | None:
    """What `ulimit -v` leaves of the address space; None without a limit."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        return max(limit - used, 0)
    except (ImportError, OSError, ValueError):
        return None


def available() -> int | None:
    """Bytes that this process may still take: the least of free memory, control groups and ulimit; None if unknown."""
    return min((each for each in (_meminfo(), _cgroup(), _address_space()) if each is not None), default=None)


def most_taken() -> int | None:
    """Bytes of memory that this process had at most at once; None where the system does not say.

    Linux's getrusage counts what the process that started this one had, too.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        pass
    try:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    except ImportError:  # Windows
        return None


def check_fits(file: str | os.PathLike[str], needed: int, what: str = "the model") -> None:
    """Raise ModelFileError when `needed` bytes are more than available, before anything is allocated."""
    free = available()
    if free is not None and needed > free:
        found = f"{what} needs {needed / _GIB:,.1f} GiB of memory"
        raise ModelFileError(file, "", None, found, f"{free / _GIB:,.1f} GiB are available")
