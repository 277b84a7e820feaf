"""Many requests over one model: submit and cancel at any time, step for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .api import listener
from .cache import MOST_AT_ONCE, PagedCache
from .errors import GenerationError
from .request import Request, check, config_of, request_of
from .scheduler import Scheduler
from .sequence import Event, Sequence


@dataclass(frozen=True)
class EngineStats:
    """Where the sequences and the pages are.

    cached_pages: full pages that can be found by their tokens, in use or not. hits: sequences that began with such
    pages; reused_tokens: what they did not compute. preemptions: how often pages were taken from a sequence.
    """

    waiting: int
    running: int
    pages: int
    free_pages: int
    cached_pages: int
    page_bytes: int
    hits: int
    reused_tokens: int
    preemptions: int


class Engine:
    """Continuous batching: requests join and leave at any step, in a fixed memory; for one thread. See AsyncEngine.

    tokenizer: None takes the model's own as soon as a prompt is text. memory: of keys and values, in bytes or as "2GB",
    taken once; None takes half of what is free, or what the full contexts of 256 sequences need. chunk: prompt tokens
    fed per step. max_sequences: those that run at once. generation: fields of GenerationConfig that hold where a
    request says nothing else. The bytes of an answer do not depend on what runs beside it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        memory: int | str | None = None,
        chunk: int = 512,
        max_sequences: int = MOST_AT_ONCE,
        generation_config: Any = None,
        **generation: Any,
    ) -> None:
        for name, value in (("chunk", chunk), ("max_sequences", max_sequences)):
            if not isinstance(value, int) or value < 1:
                raise GenerationError(name, value, "needs an integer from 1")
        self.model, self.tokenizer = model, tokenizer
        config_of(model, generation_config, tokenizer, **generation)  # what is wrong is said now
        self.generation_config, self.generation = generation_config, {"return_dict_in_generate": True, **generation}
        self.scheduler = Scheduler(model, PagedCache(model, memory), chunk=chunk, max_sequences=max_sequences)
        self.requests: dict[Sequence, tuple[Request, Callable[[Event], Any]]] = {}

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.scheduler.waiting or self.scheduler.running)

    def prepare(
        self,
        prompt: Any,
        *,
        attention_mask: Any = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        **settings: Any,
    ) -> Request:
        """A checked request, which has not been submitted; what `submit` takes and raises. Any thread may call it."""
        ids = self.encoded(prompt)
        config = config_of(self.model, self.generation_config, self.tokenizer, **{**self.generation, **settings})
        if config.num_beams > 1:
            raise GenerationError("num_beams", config.num_beams, "beams know their tokens only at the end")
        if config.logprobs is None:
            config = config.update(logprobs=False)
        check(config, self.model, self.tokenizer)
        arguments = self.tokenizer, attention_mask, logits_processor, stopping_criteria
        request = request_of(self.model, ids, config, *arguments)
        for sequence in request.first:
            self.scheduler.cache.check_fits(sequence)
        return request

    def encoded(self, prompt: Any) -> Any:
        """Ids of texts; anything else is ids already."""
        texts = [prompt] if isinstance(prompt, str) else prompt
        if not (isinstance(texts, list | tuple) and texts and all(isinstance(text, str) for text in texts)):
            return prompt
        if self.tokenizer is None:
            self.tokenizer = self.model.tokenizer
        return [self.tokenizer.encode(text) for text in texts]

    def submit(self, prompt: Any, *, streamer: Any = None, **settings: Any) -> Request:
        """Let a prompt (text or ids), or a list of them, be continued from the next step on.

        Takes what `generate` takes. Raises, before anything is computed, GenerationError for a parameter, ContextError
        for a prompt that is too long, CacheBudgetError for one that the memory cannot hold.
        """
        return self.begin(self.prepare(prompt, **settings), streamer)

    def begin(self, request: Request, streamer: Any = None) -> Request:
        """Submit what was prepared."""
        tell = listener(streamer, request)
        for sequence in request.sequences:
            self.requests[sequence] = request, tell
        for sequence in request.first:
            self.scheduler.add(sequence)
        return request

    def cancel(self, request: Request) -> None:
        """End a request; its pages are free at once. Nothing if it has ended."""
        for sequence in request.sequences:
            if self.requests.pop(sequence, None) is not None:
                sequence.finish_reason = "cancelled"
                self.scheduler.remove(sequence)

    def step(self) -> list[Event]:
        """One step of the model for all requests; the new tokens. Nothing to do gives none.

        What goes wrong for one request, in its logits or in its callables, comes as an Event with error, to it alone.
        """
        events = []
        for event in self.scheduler.step() if self.busy else ():
            if event.sequence not in self.requests:
                continue  # its request has just been cancelled
            request, tell = self.requests[event.sequence]
            try:
                if event.error is None:
                    tell(event)
            except Exception as error:
                self.cancel(request)
                event = event.sequence.fail(error)
            if event.finish_reason is not None:
                self.requests.pop(event.sequence, None)
            events.append(event)
        return events

    def stats(self) -> EngineStats:
        """Counters, and where the sequences and the pages are."""
        scheduler, cache = self.scheduler, self.scheduler.cache
        return EngineStats(
            len(scheduler.waiting),
            len(scheduler.running),
            cache.pool.pages,
            cache.pool.free_pages,
            len(cache.index),
            cache.pool.page_bytes,
            cache.hits,
            cache.reused,
            scheduler.preemptions,
        )

    def clear(self) -> None:
        """Forget the prefixes that were kept; pages that nobody uses are free then."""
        self.scheduler.cache.clear()

    def close(self) -> None:
        """Cancel all requests and free every page."""
        self.requests.clear()
        self.scheduler.close()
        self.clear()
