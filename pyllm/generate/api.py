"""`generate` and `stream`: prompts in, tokens out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Many
from typing import Any

import numpy as np

from .beam import beam_search
from .cache import borrowed
from .config import GenerationConfig
from .errors import GenerationError
from .output import Collected, GenerateOutput
from .prompts import prompts_of
from .request import Request, check, config_of, lengths_of, listed, request_of
from .sampler import Processor
from .scheduler import Scheduler
from .sequence import Event
from .stopping import Criterion


def stream(
    model: Any,
    input_ids: Any,
    generation_config: Any = None,
    *,
    attention_mask: Any = None,
    tokenizer: Any = None,
    logits_processor: Many[Processor] | None = None,
    stopping_criteria: Many[Criterion] | None = None,
    **kwargs: Any,
) -> Iterator[Event]:
    """An Event per new token, from all sequences as they come; closing the iterator stops at once.

    Takes what `generate` takes; with a tokenizer the events carry text, with logprobs=True
    log-probabilities. An error of a sequence is raised.
    """
    if hasattr(model, "encode"):
        from .pairs import stream as stream_pairs

        listeners = {"logits_processor": logits_processor, "stopping_criteria": stopping_criteria}
        more = {"attention_mask": attention_mask, "tokenizer": tokenizer, **listeners, **kwargs}
        return stream_pairs(model, input_ids, generation_config, **more)
    config = config_of(model, generation_config, tokenizer, **{"return_dict_in_generate": True, **kwargs})
    if config.num_beams > 1:
        raise GenerationError("num_beams", config.num_beams, "beams know their tokens only at the end; use generate()")
    if config.logprobs is None:
        config = config.update(logprobs=False)
    check(config, model, tokenizer)
    request = request_of(model, input_ids, config, tokenizer, attention_mask, logits_processor, stopping_criteria)
    return events(model, request)


def events(model: Any, request: Request) -> Iterator[Event]:
    """Run the sequences of a request to their ends."""
    with borrowed(model) as cache, Scheduler(model, cache) as scheduler:
        for sequence in request.first:
            scheduler.add(sequence)
        for event in scheduler.run():
            if event.error is not None:
                raise event.error
            yield event


def generate(
    model: Any,
    input_ids: Any = None,
    generation_config: GenerationConfig | Mapping[str, Any] | None = None,
    *,
    attention_mask: Any = None,
    tokenizer: Any = None,
    streamer: Any = None,
    logits_processor: Many[Processor] | None = None,
    stopping_criteria: Many[Criterion] | None = None,
    inputs: Any = None,
    **kwargs: Any,
) -> np.ndarray | GenerateOutput:
    """Continue each prompt; int64 (batch * num_return_sequences, length), prompt included, padded with pad_token_id.

    input_ids: integers (batch, length), one list, or lists of different lengths (padded on the left in the result);
    attention_mask marks padding at either end. Keywords are the fields of GenerationConfig.
    streamer: has put and end (one sequence), or is a callable that takes each Event.
    logits_processor: callables (input_ids (1, length), scores (1, vocabulary)) -> scores.
    stopping_criteria: callables (input_ids (1, length), scores or None) -> truthy to stop.
    A sequence ends at an end token, a stop string, max_new_tokens, max_time or when the context is full.
    Returns a GenerateOutput with return_dict_in_generate=True.
    Raises GenerationError for a parameter, ContextError for a prompt that is too long, LogitsError for NaN logits.
    """
    config = config_of(model, generation_config, tokenizer, **kwargs)
    check(config, model, tokenizer)
    prompts = inputs if input_ids is None else input_ids
    if config.num_beams > 1:
        if streamer is not None:
            raise GenerationError("streamer", type(streamer).__name__, "beams know their tokens only at the end")
        padded, rows = prompts_of(prompts, attention_mask, config)
        lengths = lengths_of(config, padded.shape[1])
        listeners = listed(logits_processor), listed(stopping_criteria)
        return beam_search(model, padded, rows, config, lengths, tokenizer, *listeners)
    request = request_of(model, prompts, config, tokenizer, attention_mask, logits_processor, stopping_criteria)
    found = collect(events(model, request), request, streamer)
    return request.output(found) if config.return_dict_in_generate else request.joined()


def collect(running: Iterator[Event], request: Request, streamer: Any) -> list[Collected]:
    """Run the sequences of a request to their ends, telling the streamer."""
    found = [Collected(sequence) for sequence in request.sequences]
    tell = listener(streamer, request)
    try:
        for event in running:
            found[event.index].take(event)
            tell(event)
    finally:  # a reader in another thread must not wait for ever
        if hasattr(streamer, "put"):
            streamer.end()
    return found


def listener(streamer: Any, request: Request) -> Callable[[Event], Any]:
    """A callable for events, from whatever the caller gave as streamer."""
    if streamer is None:
        return lambda event: None
    if not hasattr(streamer, "put"):
        if not callable(streamer):
            raise GenerationError("streamer", type(streamer).__name__, "needs put() and end(), or a callable")
        return streamer  # type: ignore[no-any-return]
    if len(request.sequences) != 1:
        found = f"follows one sequence, here are {len(request.sequences)}"
        raise GenerationError("streamer", type(streamer).__name__, found)
    streamer.put(np.array(request.prompts[0], dtype=np.int64))
    return lambda event: streamer.put(np.array([event.token], dtype=np.int64))
