"""`generate` and `stream`: prompts in, tokens out."""

from __future__ import annotations

import secrets
import time
from array import array
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Many
from typing import Any

import numpy as np

from .beam import beam_search
from .cache import borrowed
from .config import DEFAULT_NEW_TOKENS, GenerationConfig, end
from .errors import GenerationError
from .output import Collected, GenerateOutput, joined, output_of
from .prompts import check_ids, check_length, prompts_of
from .sampler import Processor, Sampler
from .scheduler import Scheduler
from .sequence import Event, Sequence, Wants
from .stopping import Criterion, StopRules


def config_of(model: Any, generation_config: Any = None, tokenizer: Any = None, **changes: Any) -> GenerationConfig:
    """What is asked for: the given configuration, else the model's own, with the keywords on top.

    Pad and beginning tokens that nobody named come from model.config, else from the tokenizer; end tokens from both.
    """
    base = generation_config if generation_config is not None else getattr(model, "generation_config", None)
    if base is None:
        base = GenerationConfig()
    elif isinstance(base, Mapping):
        base = GenerationConfig.from_dict(base)
    elif not isinstance(base, GenerationConfig):
        raise GenerationError("generation_config", type(base).__name__, "needs a GenerationConfig or a dict")
    config = base.update(**changes)
    found: dict[str, Any] = {}
    if config.eos_token_id is None and "eos_token_id" not in changes:
        ends = {*end("eos_token_id", none_as(model.config, "eos_token_id", -1)), *getattr(tokenizer, "end_ids", ())}
        found["eos_token_id"] = sorted(ends) or None
    for name in ("pad_token_id", "bos_token_id"):
        if getattr(config, name) is None and name not in changes:
            found[name] = none_as(model.config, name, getattr(tokenizer, name, None))
    return config.update(**found)


def none_as(config: Any, name: str, otherwise: Any) -> Any:
    """An attribute, or something else where it is missing or None."""
    value = getattr(config, name, None)
    return otherwise if value is None else value


def check(config: GenerationConfig, model: Any, tokenizer: Any) -> None:
    """Refuse what cannot work together, before anything is computed."""
    vocabulary = model.config.vocab_size
    if config.stop_strings and tokenizer is None:
        raise GenerationError("stop_strings", config.stop_strings, "needs tokenizer=")
    named = {"eos_token_id": config.end_ids, "logit_bias": config.logit_bias, "suppress_tokens": config.suppress_tokens}
    named["bad_words_ids"] = [token for word in config.bad_words_ids or [] for token in word]
    for name, ids in named.items():
        for token in ids or []:
            if token >= vocabulary:
                raise GenerationError(name, token, f"the vocabulary has ids 0 to {vocabulary - 1}")
    if not config.return_dict_in_generate:
        for name in ("logprobs", "top_logprobs", "prompt_logprobs", "output_scores", "output_logits"):
            if getattr(config, name):
                raise GenerationError(name, getattr(config, name), "needs return_dict_in_generate=True")


def lengths_of(config: GenerationConfig, padded: int) -> tuple[int, int]:
    """(least, most) new tokens, where a padded prompt counts as Hugging Face counts it."""
    if config.max_new_tokens is not None:
        most = config.max_new_tokens
    elif config.max_length is not None:
        most = config.max_length - padded
        if most < 1:
            raise GenerationError("max_length", config.max_length, f"the prompt has {padded}; try max_new_tokens")
    else:
        most = DEFAULT_NEW_TOKENS
    return max(config.min_new_tokens, config.min_length - padded), most


def seeds_of(config: GenerationConfig, prompts: int) -> list[tuple[int, int]]:
    """(seed, first stream) per prompt: one seed serves all through different streams, a list gives each its own."""
    if isinstance(config.seed, list):
        if len(config.seed) != prompts:
            raise GenerationError("seed", config.seed, f"needs one integer, or {prompts}: one per prompt")
        return [(seed, 0) for seed in config.seed]
    seed = secrets.randbits(64) if config.seed is None else config.seed
    return [(seed, i * config.num_return_sequences) for i in range(prompts)]  # type: ignore[misc]


def sequences_of(
    model: Any,
    prompts: list[list[int]],
    padded: int,
    config: GenerationConfig,
    seeds: list[tuple[int, int]],
    tokenizer: Any = None,
    processors: Many[Processor] = (),
    criteria: Many[Criterion] = (),
) -> list[list[Sequence]]:
    """Per prompt the sequences that will continue it."""
    context = model.config.context_length
    least, most = lengths_of(config, padded)
    sampler = Sampler(config.update(min_new_tokens=least), processors)
    deadline = None if config.max_time is None else time.monotonic() + config.max_time
    report = config.return_dict_in_generate
    wants = Wants(
        report and config.logprobs is not False,
        config.top_logprobs,
        config.output_scores,
        config.output_logits,
        config.prompt_logprobs,
    )
    groups = []
    for number, (prompt, (seed, stream)) in enumerate(zip(prompts, seeds, strict=True)):
        check_ids(prompt, model.config.vocab_size, number)
        check_length(len(prompt), context)
        rules = StopRules(
            frozenset(config.end_ids), min(len(prompt) + most, context), config.stop_strings or (), criteria, deadline
        )
        first = number * config.num_return_sequences
        common = {"seed": seed, "tokenizer": tokenizer, "wants": wants}
        groups.append(
            [
                Sequence(array("q", prompt), sampler, rules, index=first + i, stream=stream + i, **common)
                for i in range(config.num_return_sequences)
            ]
        )
    return groups


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
    config = config_of(model, generation_config, tokenizer, **{"return_dict_in_generate": True, **kwargs})
    if config.num_beams > 1:
        raise GenerationError("num_beams", config.num_beams, "beams know their tokens only at the end; use generate()")
    if config.logprobs is None:
        config = config.update(logprobs=False)
    check(config, model, tokenizer)
    padded, prompts = prompts_of(input_ids, attention_mask, config)
    seeds = seeds_of(config, len(prompts))
    groups = sequences_of(
        model, prompts, padded.shape[1], config, seeds, tokenizer, listed(logits_processor), listed(stopping_criteria)
    )
    return events(model, groups)


def events(model: Any, groups: list[list[Sequence]]) -> Iterator[Event]:
    """Run groups of sequences, each over one prompt, to their ends."""
    with borrowed(model) as cache, Scheduler(model, cache) as scheduler:
        for group in groups:
            first, *first.siblings = group
            scheduler.add(first)
        for event in scheduler.run():
            if event.error is not None:
                raise event.error
            yield event


def listed(given: Any) -> list[Any]:
    """A callable, a list of them or None, as a list."""
    if given is None:
        return []
    return [given] if callable(given) else list(given)


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
    padded, prompts = prompts_of(inputs if input_ids is None else input_ids, attention_mask, config)
    processors, criteria = listed(logits_processor), listed(stopping_criteria)
    if config.num_beams > 1:
        if streamer is not None:
            raise GenerationError("streamer", type(streamer).__name__, "beams know their tokens only at the end")
        lengths = lengths_of(config, padded.shape[1])
        return beam_search(model, padded, prompts, config, lengths, tokenizer, processors, criteria)
    seeds = seeds_of(config, len(prompts))
    groups = sequences_of(model, prompts, padded.shape[1], config, seeds, tokenizer, processors, criteria)
    found = collect(model, groups, prompts, streamer)
    if config.return_dict_in_generate:
        seed = config.seed if isinstance(config.seed, list) else seeds[0][0]
        return output_of(padded, found, config, seed)
    return joined(padded, [one.sequence.generated for one in found], config.num_return_sequences, config)


def collect(model: Any, groups: list[list[Sequence]], prompts: list[list[int]], streamer: Any) -> list[Collected]:
    """Run the sequences to their ends, telling the streamer."""
    found = [Collected(sequence) for group in groups for sequence in group]
    tell = listener(streamer, prompts, len(found))
    try:
        for event in events(model, groups):
            found[event.index].take(event)
            tell(event)
    finally:  # a reader in another thread must not wait for ever
        if hasattr(streamer, "put"):
            streamer.end()
    return found


def listener(streamer: Any, prompts: list[list[int]], sequences: int) -> Any:
    """A callable for events, from whatever the caller gave as streamer."""
    if streamer is None:
        return lambda event: None
    if not hasattr(streamer, "put"):
        if not callable(streamer):
            raise GenerationError("streamer", type(streamer).__name__, "needs put() and end(), or a callable")
        return streamer
    if sequences != 1:
        raise GenerationError("streamer", type(streamer).__name__, f"follows one sequence, here are {sequences}")
    streamer.put(np.array(prompts[0], dtype=np.int64))
    return lambda event: streamer.put(np.array([event.token], dtype=np.int64))
