"""The same work on many items, by a few threads; the work itself drops the GIL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any


def each(work: Callable[[Any], None], items: Iterable[Any], threads: int) -> None:
    """work(item) for every item. The caller is one of the threads; the first error ends all and is raised."""
    waiting = iter(items)
    lock = threading.Lock()
    errors: list[BaseException] = []

    def run() -> None:
        while not errors:
            with lock:
                item = next(waiting, None)
            if item is None:
                return
            try:
                work(item)
            except BaseException as error:  # also an interrupt: the other threads must hear of it
                errors.append(error)

    helpers = [threading.Thread(target=run) for _ in range(threads - 1)]
    for helper in helpers:
        helper.start()
    try:
        run()
    finally:
        for helper in helpers:
            helper.join()
    if errors:
        raise errors[0]
