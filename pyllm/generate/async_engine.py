"""The engine for asyncio: many tasks share the steps, which run in one worker thread."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from .engine import Engine, EngineStats
from .errors import EngineClosedError
from .output import Collected, GenerateOutput
from .request import Request
from .sequence import Event, Sequence

Reader = tuple[asyncio.AbstractEventLoop, "asyncio.Queue[Event]"]


class AsyncEngine:
    """Continuous batching for asyncio; takes what Engine takes.

        async with pyllm.AsyncEngine(model, tokenizer, memory="2GB") as engine:
            async for event in engine.stream("Once upon a time", max_new_tokens=50):
                print(event.text, end="")

    Any number of tasks may stream at once and share the steps. A task that is cancelled, or leaves its loop, ends its
    request before the next step. The GIL is dropped while the model computes.
    """

    def __init__(self, model: Any, tokenizer: Any = None, **options: Any) -> None:
        self.engine = Engine(model, tokenizer, **options)
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="pyllm")
        self.readers: dict[Sequence, Reader] = {}  # touched by the worker only, like the engine
        self.wishes: deque[Callable[[], Any]] = deque()
        self.lock = threading.Lock()  # of the two below
        self.active = self.closed = False
        self.ended = threading.Event()

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def stream(self, prompt: Any, *, streamer: Any = None, **settings: Any) -> AsyncGenerator[Event, None]:
        """An Event per new token of a prompt (text or ids), or of a list of them; see Engine.submit.

        An error of the request is raised, here and nowhere else. Raises EngineClosedError after close().
        """
        async for event in self.events(self.engine.prepare(prompt, **settings), streamer):
            yield event

    async def generate(self, prompt: Any, *, streamer: Any = None, **settings: Any) -> GenerateOutput:
        """The whole answers to a prompt (text or ids), or to a list of them; see Engine.submit."""
        request = self.engine.prepare(prompt, **settings)
        found = [Collected(sequence) for sequence in request.sequences]
        async for event in self.events(request, streamer):
            found[event.index].take(event)
        return request.output(found)

    async def events(self, request: Request, streamer: Any) -> AsyncGenerator[Event, None]:
        """What a request brings, until it ends or its reader leaves."""
        mail: asyncio.Queue[Event] = asyncio.Queue()
        reader = asyncio.get_running_loop(), mail
        self.ask(lambda: self.begin(request, streamer, reader))
        left = len(request.sequences)
        try:
            while left:
                event = await mail.get()
                if event.error is not None:
                    raise event.error
                left -= event.finish_reason is not None
                yield event
        finally:
            if left:
                with suppress(EngineClosedError):
                    self.ask(lambda: self.cancel(request))

    async def close(self) -> None:
        """End all requests with EngineClosedError, free every page and wait for the worker. May be called twice."""
        with suppress(EngineClosedError):
            self.ask(self.finish, last=True)
        await asyncio.to_thread(self.ended.wait)
        await asyncio.to_thread(self.worker.shutdown)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of texts and answers."""
        return self.engine.tokenizer

    def stats(self) -> EngineStats:
        """Counters, and where the sequences and the pages are."""
        return self.engine.stats()

    def ask(self, wish: Callable[[], Any], last: bool = False) -> None:
        """Let the worker do something before its next step. Raises EngineClosedError after the last wish."""
        with self.lock:
            if self.closed:
                raise EngineClosedError("engine: it has been closed")
            self.closed = last
            self.wishes.append(wish)
            if self.active:
                return
            self.active = True
        self.worker.submit(self.work)

    def work(self) -> None:
        """Wishes, then one step, then the next of the same; one task each, so that the interpreter can end between."""
        try:
            while self.wishes:
                self.wishes.popleft()()
            self.deliver(self.engine.step())
        except Exception as error:  # not of one request: nobody must wait for ever
            self.end_all(error)
        with self.lock:
            self.active = again = bool(self.wishes) or self.engine.busy
        if again:
            self.worker.submit(self.work)

    def begin(self, request: Request, streamer: Any, reader: Reader) -> None:
        """Submit a request whose events are read there."""
        for sequence in request.sequences:
            self.readers[sequence] = reader
        try:
            self.engine.begin(request, streamer)
        except Exception as error:
            self.deliver([sequence.fail(error) for sequence in request.sequences])

    def cancel(self, request: Request) -> None:
        """End a request that nobody reads any more."""
        for sequence in request.sequences:
            self.readers.pop(sequence, None)
        self.engine.cancel(request)

    def end_all(self, error: Exception) -> None:
        """End all requests with an error."""
        self.deliver([sequence.fail(error) for sequence in self.readers])
        self.engine.close()

    def finish(self) -> None:
        """The last wish."""
        self.end_all(EngineClosedError("engine: it has been closed"))
        self.ended.set()

    def deliver(self, events: list[Event]) -> None:
        """Hand events to their readers: one call for each event loop. A loop that has ended loses its requests."""
        letters: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Queue[Event], Event]]] = {}
        for event in events:
            if (reader := self.readers.get(event.sequence)) is not None:
                letters.setdefault(reader[0], []).append((reader[1], event))
            if event.finish_reason is not None:
                self.readers.pop(event.sequence, None)
        for loop, found in letters.items():
            try:
                loop.call_soon_threadsafe(put, found)
            except RuntimeError:
                for _, event in found:
                    if event.sequence in self.engine.requests:
                        self.cancel(self.engine.requests[event.sequence][0])


def put(letters: list[tuple[asyncio.Queue[Event], Event]]) -> None:
    """Events into the queues of their readers; runs in the readers' loop."""
    for mail, event in letters:
        mail.put_nowait(event)
