"""`generate` of encoder-decoders: greedy and beam search for targets, many sources at a time.

The encoder runs once for each source, and the keys and values that its memory gives serve all of its beams; the beams
of all sources that are under way are one step of the model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Sequence as Many
from typing import Any

import numpy as np

from .beam import BEAMS, Beam, BeamSearch, result
from .config import GenerationConfig
from .errors import ContextError, GenerationError
from .output import GenerateOutput
from .prompts import check_ids, masks_of, rows_of, unpad
from .request import check, config_of, listed
from .sampler import Processor, Sampler
from .stopping import Criterion, StopRules

REFUSED = ("top_logprobs", "prompt_logprobs", "output_scores", "output_logits", "prompt_lookup_num_tokens")


def generate(
    model: Any,
    input_ids: Any = None,
    generation_config: GenerationConfig | Mapping[str, Any] | None = None,
    *,
    attention_mask: Any = None,
    tokenizer: Any = None,
    logits_processor: Many[Processor] | None = None,
    stopping_criteria: Many[Criterion] | None = None,
    inputs: Any = None,
    **kwargs: Any,
) -> np.ndarray | GenerateOutput:
    """Targets of sources; int64 (batch * num_return_sequences, length), the start token first, padded at the end.

    input_ids: integers (batch, length), one list, or lists of different lengths, each with its end token where the
    model has learned with one; attention_mask marks padding at either end. Keywords are the fields of GenerationConfig;
    without max_new_tokens and max_length a target has twice the tokens of its source and 10 more at most.
    num_beams=1 takes the likeliest token each time. A target's bytes are the same whatever the batch.
    Returns a GenerateOutput with return_dict_in_generate=True; sequences_scores are sums of log-probabilities divided
    by length ** length_penalty. Raises GenerationError for a parameter, ContextError for a source that is too long.
    """
    config = config_of(model, generation_config, tokenizer, **kwargs)
    check(config, model, tokenizer)
    for name in REFUSED:
        if getattr(config, name):
            raise GenerationError(name, getattr(config, name), "not with an encoder-decoder")
    if config.samples:
        raise GenerationError("do_sample", True, "an encoder-decoder takes the likeliest: do_sample=False")
    if config.num_return_sequences > config.num_beams:
        allowed = f"at most num_beams={config.num_beams}"
        raise GenerationError("num_return_sequences", config.num_return_sequences, allowed)
    sources = _sources(model, inputs if input_ids is None else input_ids, attention_mask, config)
    sampler = Sampler(config.update(min_new_tokens=_least(config)), listed(logits_processor))
    deadline = None if config.max_time is None else time.monotonic() + config.max_time
    greedy = config.num_beams == 1
    searched = config.update(early_stopping=True) if greedy else config
    searches = []
    for source in sources:
        most = min(1 + _most(config, len(source)), model.context_length)
        ends, strings = frozenset(config.end_ids), config.stop_strings or ()
        rules = StopRules(ends, most, strings, listed(stopping_criteria), deadline)
        searches.append(BeamSearch([model.start_id], searched, sampler, rules, tokenizer))
    size = max(1, BEAMS // config.num_beams)
    for first in range(0, len(sources), size):
        search_together(model, sources[first : first + size], searches[first : first + size])
    starts = np.full((len(sources), 1), model.start_id, np.int64)
    return result(starts, searches, config)


def search_together(model: Any, sources: list[list[int]], searches: list[BeamSearch]) -> None:
    """Run searches to their ends: one step of the model for all beams of all that are not done."""
    state = model.start(sources)
    going = list(searches)
    while going:
        rows = model.step(state, [beam.tokens[-1] for search in going for beam in search.running])
        index: list[int] = []
        first = 0
        for search in going:
            beams: list[Beam] = search.running
            search.running = search.advance(rows[first : first + len(beams)])
            index += [first + beam.parent for beam in search.running]
            first += len(beams)
        going = [search for search in going if not search.done]
        if going:
            state.reorder(index)


def _sources(model: Any, input_ids: Any, attention_mask: Any, config: GenerationConfig) -> list[list[int]]:
    """Each source without its padding. Raises GenerationError, ContextError."""
    rows = rows_of(input_ids)
    if not rows:
        raise GenerationError("input_ids", input_ids, "needs at least one source")
    masks = masks_of(attention_mask, rows, config)
    sources = [unpad(row, mask, i).tolist() for i, (row, mask) in enumerate(zip(rows, masks, strict=True))]
    for number, source in enumerate(sources):
        if not source:
            raise GenerationError(f"input_ids[{number}]", [], "a source needs at least one token")
        check_ids(source, model.config.vocab_size, number)
        if len(source) > model.context_length:
            found = f"a source of {len(source):,} tokens, the model's context has {model.context_length:,}"
            raise ContextError(f"generate: {found}; shorten it")
    return sources


def _most(config: GenerationConfig, source: int) -> int:
    """New tokens of a target at most."""
    if config.max_new_tokens is not None:
        return config.max_new_tokens
    if config.max_length is not None:
        return max(config.max_length - 1, 1)
    return 2 * source + 10


def _least(config: GenerationConfig) -> int:
    return max(config.min_new_tokens, config.min_length - 1)
