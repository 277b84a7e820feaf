"""`generate` of encoder-decoders: greedy and beam search and sampling of targets, many sources at a time.

The encoder runs once for each source, and the keys and values that its memory gives serve all of its beams; the beams
of all sources that are under way are one step of the model.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Many
from typing import Any

import numpy as np

from .api import collect
from .beam import BEAMS, BeamSearch, continued, result
from .config import GenerationConfig
from .errors import ContextError, GenerationError
from .output import GenerateOutput
from .prompts import check_ids, masks_of, rows_of, unpad
from .request import Request, check, config_of, listed, seeds_of
from .sampler import Processor, Sampler
from .sequence import Event, Sequence, Wants
from .stopping import Criterion, StopRules

REFUSED = ("prompt_logprobs", "prompt_lookup_num_tokens")
FORESEEN = 8192  # tokens of all beams for which room is made at first


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
    decoder_input_ids: Any = None,
    **kwargs: Any,
) -> np.ndarray | GenerateOutput:
    """Targets of sources; int64 (batch * num_return_sequences, length), the start token first, padded at the end.

    input_ids: integers (batch, length), one list, or lists of different lengths, each with its end token where the
    model has learned with one; attention_mask marks padding at either end. decoder_input_ids: what every target begins
    with, instead of the start token: one list, or (batch, length). Keywords are the fields of GenerationConfig; without
    max_new_tokens and max_length a target has twice the tokens of its source and 10 more at most. num_beams=1 takes the
    likeliest token each time, or draws with do_sample=True. A target's bytes are the same whatever the batch.
    streamer, logits_processor, stopping_criteria: as pyllm.generate.generate takes them.
    Returns a GenerateOutput with return_dict_in_generate=True; sequences_scores are sums of log-probabilities divided
    by length ** length_penalty; output_scores and output_logits of beams are per step (batch * num_beams, vocabulary).
    Raises GenerationError for a parameter, ContextError for a source that is too long.
    """
    given = model, inputs if input_ids is None else input_ids, attention_mask, generation_config
    asked = Asked(*given, tokenizer, logits_processor, stopping_criteria, decoder_input_ids, kwargs)
    config = asked.config
    if config.num_beams == 1:
        request = asked.request()
        found = collect(events(asked, request), request, streamer)
        out = request.output(found) if config.return_dict_in_generate else request.joined()
        if isinstance(out, GenerateOutput) and out.logprobs is not None:
            out.sequences_scores = np.array([x.sum() / len(x) ** config.length_penalty for x in out.logprobs])
    elif streamer is not None:
        raise GenerationError("streamer", type(streamer).__name__, "beams know their tokens only at the end")
    else:
        out = searched(asked)
    if config.output_attentions and isinstance(out, GenerateOutput):
        add_attentions(asked, out)
    return out


def stream(
    model: Any,
    input_ids: Any,
    generation_config: Any = None,
    *,
    attention_mask: Any = None,
    tokenizer: Any = None,
    logits_processor: Many[Processor] | None = None,
    stopping_criteria: Many[Criterion] | None = None,
    decoder_input_ids: Any = None,
    **kwargs: Any,
) -> Iterator[Event]:
    """An Event per new token of the targets, as they come; takes what `generate` takes, but for beams."""
    kwargs = {"return_dict_in_generate": True, "logprobs": False, **kwargs}
    given = model, input_ids, attention_mask, generation_config
    asked = Asked(*given, tokenizer, logits_processor, stopping_criteria, decoder_input_ids, kwargs)
    if asked.config.num_beams > 1:
        raise GenerationError("num_beams", asked.config.num_beams, "beams know their tokens only at the end")
    return events(asked, asked.request())


class Asked:
    """What is asked for, checked: settings, sources without padding, and what their targets begin with."""

    def __init__(
        self, model: Any, input_ids: Any, mask: Any, generation_config: Any, tokenizer: Any, processors: Any,
        criteria: Any, begin: Any, changes: dict[str, Any],
    ) -> None:  # fmt: skip
        self.model, self.tokenizer = model, tokenizer
        self.config = config = config_of(model, generation_config, tokenizer, **changes)
        check(config, model, tokenizer)
        for name in REFUSED + (("top_logprobs",) if config.num_beams > 1 else ()):
            if getattr(config, name):
                raise GenerationError(name, getattr(config, name), "not with an encoder-decoder")
        if not config.samples and config.num_return_sequences > config.num_beams:
            allowed = f"at most num_beams={config.num_beams}"
            raise GenerationError("num_return_sequences", config.num_return_sequences, allowed)
        self.sources = sources_of(model, input_ids, mask, config)
        self.starts = starts_of(model, config, begin, len(self.sources))
        self.criteria = listed(criteria)
        edited = config.update(min_new_tokens=config.least(self.starts.shape[1]))
        self.samplers = [Sampler(edited, listed(processors), source) for source in self.sources]
        self.deadline = None if config.max_time is None else time.monotonic() + config.max_time

    def rules(self, source: list[int]) -> StopRules:
        """When a target of this source ends."""
        ends, strings = frozenset(self.config.end_ids), self.config.stop_strings or ()
        most = min(_most(self.config, len(source), self.starts.shape[1]), self.model.context_length)
        return StopRules(ends, most, strings, self.criteria, self.deadline)

    def request(self) -> Request:
        """A sequence for each target."""
        config, prompts = self.config, self.starts.tolist()
        seeds = seeds_of(config, len(prompts))
        report = config.return_dict_in_generate
        wants = Wants(
            report and config.logprobs is not False, config.top_logprobs, config.output_scores, config.output_logits
        )
        groups: list[list[Sequence]] = []
        for number, (source, prompt, (seed, draws)) in enumerate(zip(self.sources, prompts, seeds, strict=True)):
            rules, first = self.rules(source), number * config.num_return_sequences
            common: dict[str, Any] = {"seed": seed, "tokenizer": self.tokenizer, "wants": wants}
            groups.append([
                Sequence(array("q", prompt), self.samplers[number], rules, index=first + i, stream=draws + i, **common)
                for i in range(config.num_return_sequences)
            ])  # fmt: skip
        seed_told = config.seed if isinstance(config.seed, list) else seeds[0][0]
        return Request(config, self.starts, prompts, groups, seed_told)

    def started(self, first: int, end: int, copies: int) -> Any:
        """The state of the targets of these sources, which has seen all but the last token that they begin with."""
        foreseen = copies * sum(self.rules(source).most for source in self.sources[first:end])
        state = self.model.start(self.sources[first:end], min(foreseen, FORESEEN))
        for column in self.starts[first:end, :-1].T:
            self.model.step(state, column)
        return state


def events(asked: Asked, request: Request) -> Iterator[Event]:
    """Run the sequences of a request to their ends, so many sources at a time that their targets fit into a step."""
    copies = asked.config.num_return_sequences
    size = max(1, BEAMS // copies)
    for first in range(0, len(asked.sources), size):
        going = [sequence for group in request.groups[first : first + size] for sequence in group]
        state = asked.started(first, first + size, copies)
        index = np.repeat(np.arange(len(going) // copies), copies)
        while going:
            if len(index) != len(state.source) or copies > 1:
                state.reorder(index)
            rows = asked.model.step(state, [sequence.tokens[-1] for sequence in going])
            for sequence, row in zip(going, rows, strict=True):
                yield sequence.advance(row)
            index = np.array([i for i, sequence in enumerate(going) if sequence.finish_reason is None], np.int64)
            going = [going[i] for i in index]


def searched(asked: Asked) -> np.ndarray | GenerateOutput:
    """The best finished beams of each source."""
    config = asked.config
    searches = [
        BeamSearch(begin, config, sampler, asked.rules(source), asked.tokenizer)
        for source, begin, sampler in zip(asked.sources, asked.starts.tolist(), asked.samplers, strict=True)
    ]
    seen: dict[str, list[list[np.ndarray]]] = {"scores": [[] for _ in searches], "logits": [[] for _ in searches]}
    size = max(1, BEAMS // config.num_beams)
    for first in range(0, len(searches), size):
        kept = {name: rows[first : first + size] for name, rows in seen.items() if getattr(config, f"output_{name}")}
        state = asked.started(first, first + size, config.num_beams)
        search_together(asked.model, state, searches[first : first + size], recorder(kept))
    out = result(asked.starts, searches, config)
    if isinstance(out, GenerateOutput):
        for name in (name for name in seen if getattr(config, f"output_{name}")):
            setattr(out, name, of_all_steps(seen[name], config.num_beams))
    return out


def search_together(
    model: Any, state: Any, searches: list[BeamSearch], watch: Callable[[int, BeamSearch, np.ndarray], None]
) -> None:
    """Run searches to their ends: one step of the model for all beams of all that are not done."""
    going = list(enumerate(searches))
    while going:
        rows = model.step(state, [beam.tokens[-1] for _, search in going for beam in search.running])
        index: list[int] = []
        first = 0
        for (number, search), best in zip(going, continued([search for _, search in going], rows), strict=True):
            end = first + len(search.running)
            watch(number, search, rows[first:end])
            search.running = search.advance(best)
            index += [first + beam.parent for beam in search.running]
            first = end
        going = [(number, search) for number, search in going if not search.done]
        if going:
            state.reorder(index)


def recorder(kept: dict[str, list[list[np.ndarray]]]) -> Callable[[int, BeamSearch, np.ndarray], None]:
    """What keeps the rows of every step: `logits` as they are computed, `scores` as they are chosen from."""

    def watch(number: int, search: BeamSearch, rows: np.ndarray) -> None:
        if "logits" in kept:
            kept["logits"][number].append(rows.copy())
        if "scores" in kept:
            kept["scores"][number].append(search.edited(rows))

    return watch


def of_all_steps(rows: list[list[np.ndarray]], beams: int) -> tuple[np.ndarray, ...]:
    """Per step (searches * beams, vocabulary) from what each search had in each, -inf where it had less."""
    steps, vocabulary = max(map(len, rows)), rows[0][0].shape[1]
    whole = np.full((steps, len(rows), beams, vocabulary), -np.inf, np.float32)
    for number, of in enumerate(rows):
        for step, each in enumerate(of):
            whole[step, number, : len(each)] = each
    return tuple(whole.reshape(steps, len(rows) * beams, vocabulary))


def add_attentions(asked: Asked, out: GenerateOutput) -> None:
    """What every layer of the model looked at, of each target: by running it again over the whole of it."""
    out.encoder_attentions, out.decoder_attentions, out.cross_attentions = [], [], []
    copies = asked.config.num_return_sequences
    for number, new in enumerate(out.new_tokens):
        source, begin = asked.sources[number // copies], asked.starts[number // copies].tolist()
        found = asked.model([source], decoder_input_ids=[[*begin, *new[:-1]]], output_attentions=True)
        for name in ("encoder_attentions", "decoder_attentions", "cross_attentions"):
            getattr(out, name).append(tuple(layer[0] for layer in getattr(found, name)))


def sources_of(model: Any, input_ids: Any, attention_mask: Any, config: GenerationConfig) -> list[list[int]]:
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


def starts_of(model: Any, config: GenerationConfig, begin: Any, many: int) -> np.ndarray:
    """What every target begins with, (sources, tokens)."""
    if begin is None:
        start = model.start_id if config.decoder_start_token_id is None else config.decoder_start_token_id
        return np.full((many, 1), start, np.int64)
    rows = rows_of(begin)
    rows = rows * many if len(rows) == 1 else rows
    if len(rows) != many or not rows[0].size or any(row.size != rows[0].size for row in rows):
        found = [row.size for row in rows]
        raise GenerationError("decoder_input_ids", found, f"needs as many tokens for each of {many} sources")
    for number, row in enumerate(rows):
        check_ids(row, model.target_vocabulary, number)
    return np.stack(rows)


def _most(config: GenerationConfig, source: int, begin: int) -> int:
    """Tokens of a target at most, with what it begins with."""
    if config.max_new_tokens is not None:
        return begin + config.max_new_tokens
    if config.max_length is not None:
        return max(config.max_length, begin + 1)
    return begin + 2 * source + 10
