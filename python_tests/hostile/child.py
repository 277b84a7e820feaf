"""Load files in a process of its own, watched: no code runs, nothing outside is opened, memory stays bounded.

python child.py FOLDER < list of paths > JSON lines {path, kind, error, seconds, forbidden}
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time

from pyllm.errors import ModelFileError, printable
from pyllm.formats import Folder, open_model, read_config
from pyllm.formats.safetensors import SafeTensors

ROOM = 64 << 20  # beyond four times the bytes of the largest file

FORBIDDEN = (
    "exec",
    "compile",
    "import",
    "pickle.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.startfile",
)
FORBIDDEN += ("subprocess.", "socket.", "ctypes.", "marshal.", "code.", "os.remove", "os.rename", "os.mkdir", "shutil.")

events: list[str] = []
watched = ""


def hook(event: str, args: tuple) -> None:
    """Note whatever a loader has no business with."""
    if not watched:
        return
    if event.startswith(FORBIDDEN):
        events.append(event)
    elif event == "open":
        path = args[0]
        inside = isinstance(path, str) and os.path.realpath(path).startswith(watched)
        if not inside or args[2] & (os.O_WRONLY | os.O_RDWR):
            events.append(f"open {path!r}")


def load(path: str) -> None:
    """Open a model as the library would, read its configuration and every tensor."""
    if path.endswith(".safetensors"):
        with SafeTensors(path) as file:
            for info in file.tensors.values():
                if info.dtype in ("F32", "F16", "BF16"):
                    file.read(info)
        return
    with open_model(path) as model:
        read_config(model)
        for info in model.tensors.values():
            model.read(info)
        if isinstance(model, Folder):
            for name in ("tokenizer_json", "tokenizer_config", "generation_config", "chat_template"):
                getattr(model, name)


def attempt(path: str) -> dict:
    """What happened to one file."""
    global watched
    events.clear()
    start = time.perf_counter()
    kind, text, offset = "loaded", "", None
    watched = os.path.realpath(path)
    try:
        load(path)
    except ModelFileError as error:
        kind, text, offset = "ModelFileError", str(error), error.offset
    except BaseException as error:
        kind, text = type(error).__name__, repr(error)
    finally:
        watched = ""
    seconds = time.perf_counter() - start
    return {"path": path, "kind": kind, "error": text, "offset": offset, "seconds": seconds, "forbidden": events[:5]}


def limit_memory(largest: int) -> None:
    """Let the address space grow by ROOM and four times the largest file, no more."""
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    bound = now + ROOM + 4 * largest
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def main() -> None:
    """Load good files first, so that every module is there; then the hostile ones, watched and limited."""
    logging.getLogger("pyllm").addHandler(logging.NullHandler())
    logging.getLogger("pyllm").propagate = False
    good, *paths = sys.stdin.read().splitlines()
    for path in good.split("\t"):
        load(path)
    printable("\0")  # Python imports the codec behind it at the first use
    sys.addaudithook(hook)
    limit_memory(max(os.path.getsize(path) for path in paths if os.path.isfile(path)))
    for path in paths:
        print(json.dumps(attempt(path)), flush=True)


if __name__ == "__main__":
    main()
