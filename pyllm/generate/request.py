"""What is asked for, checked: prompts and settings as sequences that are ready to run."""

from __future__ import annotations

import secrets
import time
from array import array
from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any

import numpy as np

from .config import DEFAULT_NEW_TOKENS, GenerationConfig, end
from .errors import GenerationError
from .lookup import lookup_of
from .output import Collected, GenerateOutput, joined, output_of
from .prompts import check_ids, check_length, prompts_of
from .sampler import Processor, Sampler
from .sequence import Sequence, Wants
from .stopping import Criterion, StopRules


@dataclass(eq=False)
class Request:
    """Prompts that are continued with the same settings; groups has the sequences over each prompt.

    padded: int64 (prompts, longest), as Hugging Face pads on the left.
    """

    config: GenerationConfig
    padded: np.ndarray
    prompts: list[list[int]]
    groups: list[list[Sequence]]
    seed: int | list[int]

    @property
    def sequences(self) -> list[Sequence]:
        """All of them, in the order of Event.index."""
        return [sequence for group in self.groups for sequence in group]

    @property
    def first(self) -> list[Sequence]:
        """The first over each prompt; the others are its siblings, and come with it."""
        return [group[0] for group in self.groups]

    def output(self, found: list[Collected]) -> GenerateOutput:
        """What `generate` returns with return_dict_in_generate=True, from what the sequences brought."""
        return output_of(self.padded, found, self.config, self.seed)

    def joined(self) -> np.ndarray:
        """What `generate` returns without it: int64 (sequences, length), prompts and new tokens."""
        new = [sequence.generated for sequence in self.sequences]
        return joined(self.padded, new, self.config.num_return_sequences, self.config)


def request_of(
    model: Any,
    input_ids: Any,
    config: GenerationConfig,
    tokenizer: Any = None,
    attention_mask: Any = None,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
) -> Request:
    """A request for a configuration that `check` has passed. Raises GenerationError, ContextError."""
    padded, prompts = prompts_of(input_ids, attention_mask, config)
    seeds = seeds_of(config, len(prompts))
    processors, criteria = listed(logits_processor), listed(stopping_criteria)
    groups = sequences_of(model, prompts, padded.shape[1], config, seeds, tokenizer, processors, criteria)
    return Request(config, padded, prompts, groups, config.seed if isinstance(config.seed, list) else seeds[0][0])


def listed(given: Any) -> list[Any]:
    """A callable, a list of them or None, as a list."""
    if given is None:
        return []
    return [given] if callable(given) else list(given)


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
    vocabulary = getattr(model, "target_vocabulary", model.config.vocab_size)
    if config.stop_strings and tokenizer is None:
        raise GenerationError("stop_strings", config.stop_strings, "needs tokenizer=")
    named: dict[str, Any] = {
        "eos_token_id": config.end_ids,
        "logit_bias": config.logit_bias,
        "suppress_tokens": config.suppress_tokens,
        "begin_suppress_tokens": config.begin_suppress_tokens,
        "sequence_bias": [token for ids, _ in config.sequence_bias or [] for token in ids],
    }
    named |= {"forced_bos_token_id": config.forced_bos_token_id, "forced_eos_token_id": config.forced_eos_token_id}
    named["bad_words_ids"] = [token for word in config.bad_words_ids or [] for token in word]
    for name, ids in named.items():
        for token in ids or []:
            if token >= vocabulary:
                raise GenerationError(name, token, f"the vocabulary has ids 0 to {vocabulary - 1}")
    if not config.return_dict_in_generate:
        for name in ("logprobs", "top_logprobs", "prompt_logprobs", "output_scores", "output_logits",
                     "output_attentions"):  # fmt: skip
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
    return config.least(padded), most


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
    context = model.context_length
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
    groups: list[list[Sequence]] = []
    for number, (prompt, (seed, stream)) in enumerate(zip(prompts, seeds, strict=True)):
        check_ids(prompt, model.config.vocab_size, number)
        check_length(len(prompt), context)
        rules = StopRules(
            frozenset(config.end_ids), min(len(prompt) + most, context), config.stop_strings or (), criteria, deadline
        )
        first = number * config.num_return_sequences
        common: dict[str, Any] = {"seed": seed, "tokenizer": tokenizer, "wants": wants}
        groups.append([])
        for i in range(config.num_return_sequences):
            own: dict[str, Any] = {"index": first + i, "stream": stream + i, "lookup": lookup_of(config)}
            groups[-1].append(Sequence(array("q", prompt), sampler, rules, **own, **common))
        groups[-1][0].siblings = groups[-1][1:]
    return groups
