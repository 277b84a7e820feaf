"""The parameters of generation under Hugging Face's names and defaults, each checked before anything is computed."""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import GenerationError

DEFAULT_NEW_TOKENS = 20
LARGEST = 2**31 - 1
# What transformers reads of generation_config.json and is not known here -> values that change no answer.
OTHERS: dict[str, tuple[Any, ...]] = {
    **{"num_beam_groups": (1,), "diversity_penalty": (0,), "guidance_scale": (1,), "penalty_alpha": (0,)},
    **{"epsilon_cutoff": (0,), "eta_cutoff": (0,), "top_h": (), "token_healing": (False,), "watermarking_config": ()},
    **{"dola_layers": (), "constraints": ([],), "force_words_ids": ([],), "forced_decoder_ids": ([],)},
}
# What `generate` takes beside the fields below; only needed to guess what a misspelt keyword meant.
ARGUMENTS = ("input_ids", "attention_mask", "tokenizer", "streamer", "logits_processor", "stopping_criteria")


@dataclass
class GenerationConfig:
    """Everything that `generate` may be told; None means "not said".

    Without max_new_tokens and max_length, 20 new tokens are made, as Hugging Face's default does.
    temperature=0 is greedy also with do_sample=True; top_k=0 and top_p=1.0 cut nothing.
    presence_penalty and frequency_penalty count generated tokens (OpenAI); repetition_penalty looks at the prompt too.
    prompt_lookup_num_tokens: drafts at a time, from what followed the last tokens (max_matching_ngram_size of them at
    most, 2) where they stood before; the answer is the same, only sooner.
    renormalize_logits: beams add up log-probabilities of what edits have left, as MarianMT's folders ask for.
    begin_suppress_tokens: not at once. sequence_bias: [[token ids, number], ...] added to the last of them behind the
    others. exponential_decay_length_penalty: (start, factor) by which the end grows for each token after `start` new
    ones. encoder_no_repeat_ngram_size, encoder_repetition_penalty: of the source, or the prompt.
    forced_bos_token_id, forced_eos_token_id: what must come second, and last where there is room for no more.
    decoder_start_token_id, output_attentions: of encoder-decoders.
    seed: one integer, or one per prompt; None draws a fresh one. See `generate` for what each field does.
    Raises GenerationError naming the field, what was found and what is allowed.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int = 0
    max_time: float | None = None
    stop_strings: str | Sequence[str] | None = None
    do_sample: bool = False
    num_beams: int = 1
    early_stopping: bool | str = False
    length_penalty: float = 1.0
    use_cache: bool = True
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float | None = 1.0
    min_p: float | None = None
    typical_p: float | None = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    logit_bias: Mapping[int, float] | None = None
    sequence_bias: Any = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    encoder_no_repeat_ngram_size: int = 0
    encoder_repetition_penalty: float = 1.0
    renormalize_logits: bool = False
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int | None = None
    num_return_sequences: int = 1
    return_dict_in_generate: bool = False
    output_scores: bool = False
    output_logits: bool = False
    logprobs: bool | None = None
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    seed: int | Sequence[int] | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    decoder_start_token_id: int | None = None
    forced_bos_token_id: int | Sequence[int] | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    output_attentions: bool = False

    def __post_init__(self) -> None:
        for name, check in CHECKS.items():
            setattr(self, name, check(name, getattr(self, name)))
        if self.num_beams > 1 and self.do_sample and self.temperature > 0:
            raise GenerationError("num_beams", self.num_beams, "beams do not sample: do_sample=False, or num_beams=1")
        if self.num_beams > 1 and self.prompt_lookup_num_tokens:
            raise GenerationError("prompt_lookup_num_tokens", self.prompt_lookup_num_tokens, "not with num_beams > 1")
        if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
            raise GenerationError(
                "num_return_sequences", self.num_return_sequences, f"at most num_beams={self.num_beams}"
            )

    @property
    def samples(self) -> bool:
        """True when tokens are drawn, false when the likeliest is taken."""
        return self.do_sample and self.temperature > 0

    def least(self, begin: int) -> int:
        """New tokens at least, behind `begin` others; min_new_tokens, where it is said, is what counts."""
        return self.min_new_tokens or max(0, self.min_length - begin)

    @property
    def end_ids(self) -> list[int]:
        """The ids that end a sequence."""
        return self.listed(self.eos_token_id)

    @staticmethod
    def listed(ids: Any) -> list[int]:
        """Checked token ids, perhaps none, as a list."""
        return [] if ids is None else list(ids)

    def update(self, **changes: Any) -> GenerationConfig:
        """A copy with these fields changed; an unknown name is refused with the nearest known one."""
        for name in changes:
            if name not in FIELDS:
                raise unknown(name, changes[name])
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GenerationConfig:
        """From a model's generation_config.json: fields that are null are passed over, and those that are not known
        here. Raises GenerationError for one of these that would give another answer."""
        for name, neutral in OTHERS.items():
            if values.get(name) not in (None, *neutral):
                allowed = "not known here, and gives another answer: generation_config=GenerationConfig() leaves it out"
                raise GenerationError(name, values[name], allowed)
        return cls(**{name: value for name, value in values.items() if name in FIELDS and value is not None})

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        plain = type(self)()
        return {n: getattr(self, n) for n in FIELDS if getattr(self, n) != getattr(plain, n)}


def unknown(name: str, value: object) -> GenerationError:
    """The error for a keyword nobody knows, with its nearest neighbour."""
    near = difflib.get_close_matches(name, [*FIELDS, *ARGUMENTS], 1, 0.5)
    allowed = f"no such parameter; did you mean {near[0]!r}?" if near else "no such parameter"
    return GenerationError(name, value, allowed)


def integer(name: str, value: object, least: int, most: int = LARGEST) -> int:
    """value as an int in [least, most]; bools and fractions are refused."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not least <= number <= most:
        raise GenerationError(name, value, f"needs an integer from {least} to {most}")
    return number


def real(name: str, value: object, least: float, most: float, above: bool = False) -> float:
    """value as a finite float in [least, most], or (least, most] with `above`."""
    try:
        number = math.nan if isinstance(value, bool | str | bytes) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not least <= number <= most or not math.isfinite(number) or (above and number == least):
        edge = f"above {least:g}" if above else f"from {least:g}"
        limit = "and finite" if most == math.inf else f"to {most:g}"
        raise GenerationError(name, value, f"needs a number {edge} {limit}")
    return number


def ids(name: str, value: object) -> list[int]:
    """value as a list of token ids."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise GenerationError(name, value, "needs a list of token ids")
    return [integer(name, item, 0) for item in value]


Check = Callable[[str, Any], Any]


def whole(least: int, most: int = LARGEST) -> Check:
    """A check for integers."""
    return lambda name, value: integer(name, value, least, most)


def number(least: float, most: float = math.inf, above: bool = False) -> Check:
    """A check for finite reals."""
    return lambda name, value: real(name, value, least, most, above)


def optional(check: Check, otherwise: Any = None) -> Check:
    """A check that lets None pass, as `otherwise`."""
    return lambda name, value: otherwise if value is None else check(name, value)


def flag(name: str, value: object) -> bool:
    """A check for True and False."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool_", "bool"):
        raise GenerationError(name, value, "needs True or False")
    return bool(value)


def early(name: str, value: object) -> bool | str:
    """A check for early_stopping."""
    if not isinstance(value, bool) and value != "never":
        raise GenerationError(name, value, "needs True, False or 'never'")
    return value  # type: ignore[return-value]


def strings(name: str, value: object) -> list[str]:
    """A check for stop strings: one, or a list; an empty string would stop at once and is refused."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, Iterable) or isinstance(found, bytes | Mapping):
        raise GenerationError(name, value, "needs a string or a list of strings")
    found = list(found)
    if any(not isinstance(item, str) or not item for item in found):
        raise GenerationError(name, value, "needs strings of at least one character")
    return found


def words(name: str, value: object) -> list[list[int]]:
    """A check for bad_words_ids: a list of lists of ids, none of them empty."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise GenerationError(name, value, "needs a list of lists of token ids")
    found = [ids(name, item) for item in value]
    if not all(found):
        raise GenerationError(name, value, "an empty list bans nothing")
    return found


def bias(name: str, value: object) -> dict[int, float]:
    """A check for logit_bias: id (also as a decimal string, as JSON has it) -> finite number, or -inf for "never"."""
    if not isinstance(value, Mapping):
        raise GenerationError(name, value, "needs a dict of token id -> number")
    found: dict[int, float] = {}
    for key, amount in value.items():
        token = int(key) if isinstance(key, str) and key.isdecimal() and len(key) < 11 else key
        if isinstance(amount, float) and amount == -math.inf:
            found[integer(name, token, 0)] = amount
        else:
            found[integer(name, token, 0)] = real(f"{name}[{token}]", amount, -1e30, 1e30)
    return found


def sequences(name: str, value: Any) -> list[tuple[list[int], float]]:
    """A check for sequence_bias: [[ids, number], ...], or a dict of ids -> number."""
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple) or any(not isinstance(e, list | tuple) or len(e) != 2 for e in pairs):
        raise GenerationError(name, value, "needs a list of [token ids, number]")
    found = zip(words(name, [ids for ids, _ in pairs]), (amount for _, amount in pairs), strict=True)
    return [(row, bias(name, {0: amount})[0]) for row, amount in found]


def decay(name: str, value: Any) -> tuple[int, float]:
    """A check for exponential_decay_length_penalty."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise GenerationError(name, value, "needs (start, factor)")
    return integer(name, value[0], 0), real(name, value[1], 0, 1e30, above=True)


def seeds(name: str, value: object) -> int | list[int]:
    """A check for seed: an integer of 64 bits, or one per prompt."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        return [integer(name, item, 0, 2**64 - 1) for item in value]
    return integer(name, value, 0, 2**64 - 1)


def end(name: str, value: object) -> list[int]:
    """A check for eos_token_id: one id or several; transformers' -1 for "none" is understood."""
    found = [value] if not isinstance(value, Iterable) or isinstance(value, str | bytes) else list(value)
    return [integer(name, item, 0) for item in found if item != -1 or isinstance(item, bool)]


CHECKS: dict[str, Check] = {
    "max_length": optional(whole(1)),
    "max_new_tokens": optional(whole(1)),
    "min_length": optional(whole(0), 0),
    "min_new_tokens": optional(whole(0), 0),
    "max_time": optional(number(0)),
    "stop_strings": optional(strings),
    "do_sample": flag,
    "num_beams": whole(1, 1024),
    "early_stopping": early,
    "length_penalty": number(-1e3, 1e3),
    "use_cache": flag,
    "temperature": number(0),
    "top_k": optional(whole(0), 0),
    "top_p": optional(number(0, 1), 1.0),
    "min_p": optional(number(0, 1), 0.0),
    "typical_p": optional(number(0, 1, above=True), 1.0),
    "repetition_penalty": number(0, above=True),
    "presence_penalty": number(-1e30, 1e30),
    "frequency_penalty": number(-1e30, 1e30),
    "no_repeat_ngram_size": optional(whole(0), 0),
    "bad_words_ids": optional(words),
    "suppress_tokens": optional(ids),
    "begin_suppress_tokens": optional(ids),
    "logit_bias": optional(bias),
    "sequence_bias": optional(sequences),
    "exponential_decay_length_penalty": optional(decay),
    "encoder_no_repeat_ngram_size": optional(whole(0), 0),
    "encoder_repetition_penalty": number(0, above=True),
    "renormalize_logits": flag,
    "prompt_lookup_num_tokens": optional(whole(0, 64), 0),
    "max_matching_ngram_size": optional(whole(1, 64), 2),
    "num_return_sequences": whole(1, 65536),
    "return_dict_in_generate": flag,
    "output_scores": flag,
    "output_logits": flag,
    "logprobs": optional(flag),
    "top_logprobs": whole(0, 1024),
    "prompt_logprobs": flag,
    "seed": optional(seeds),
    "pad_token_id": optional(whole(0)),
    "bos_token_id": optional(whole(0)),
    "eos_token_id": optional(end),
    "decoder_start_token_id": optional(whole(0)),
    "forced_bos_token_id": optional(end),
    "forced_eos_token_id": optional(end),
    "output_attentions": flag,
}
FIELDS = tuple(field.name for field in dataclasses.fields(GenerationConfig))
