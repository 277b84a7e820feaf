"""From a row of logits to a token: a pure function of its parameters, the history, the seed and the position."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .. import _core
from .config import GenerationConfig
from .edits import first_edits, last_edits
from .errors import GenerationError

Processor = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Choice:
    """token, and its log-probability by the unprocessed logits (log-softmax in double), None where not asked for.

    top: the likeliest alternatives [(id, logprob), ...] by the unprocessed logits.
    scores: what was chosen from, float32 (vocabulary,), -inf where cut; None where not asked for.
    """

    token: int
    logprob: float | None = None
    top: list[tuple[int, float]] | None = None
    scores: np.ndarray | None = None


def renormalised(_: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores (1, vocabulary) as log-probabilities, of which some may be -inf."""
    return scores - np.float32(_core.log_sum_exp(scores[0]))


class Sampler:
    """Chooses tokens as a GenerationConfig says.

    The order of the steps: logit_bias, repetition_penalty, frequency_penalty and presence_penalty,
    no_repeat_ngram_size, bad_words_ids, suppress_tokens, min_new_tokens, forced tokens, then the caller's processors,
    renormalize_logits, then (only when sampling) temperature, top_k, top_p, min_p, typical_p. Around those that C++
    makes stand first_edits() and last_edits(); source: as they take it. A draw is Philox4x32-10 of (seed, sequence,
    position).
    """

    def __init__(
        self, config: GenerationConfig, processors: Sequence[Processor] = (), source: Sequence[int] | None = None
    ) -> None:
        self.config = config
        self.first, self.last = first_edits(config, source), last_edits(config, source)
        self.processors = list(processors)
        if config.renormalize_logits and (config.num_beams > 1 or config.output_scores):  # no choice depends on it
            self.processors.append(renormalised)
        self.core = _core.Sampling()
        self.core.sample = config.do_sample
        for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "min_new_tokens"):
            setattr(self.core, name, getattr(config, name))
        for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
            setattr(self.core, name, getattr(config, name))
        self.core.no_repeat_ngram = config.no_repeat_ngram_size
        self.core.ends = config.end_ids
        self.core.forced_first = config.listed(config.forced_bos_token_id)
        self.core.forced_last = config.listed(config.forced_eos_token_id)
        self.core.bias = list((config.logit_bias or {}).items())
        # An end id in bad_words_ids is passed over, as in transformers: min_new_tokens is the way to hold it back.
        banned = [word for word in config.bad_words_ids or [] if word[1:] or word[0] not in config.end_ids]
        self.core.banned = banned + [[token] for token in config.suppress_tokens or []]

    @property
    def in_python(self) -> bool:
        """Whether C++ alone does not know what is chosen from."""
        return bool(self.first or self.last or self.processors)

    def edit(self, logits: np.ndarray, tokens: array[int], prompt: int, most: int = 0) -> np.ndarray:
        """A copy of logits (vocabulary,) float32 after all that comes before temperature; most: tokens at most."""
        given = logits.copy() if self.first else logits
        for change in self.first:
            change(given, tokens, prompt)
        edited = self.core.edit(given, tokens, prompt, most)
        for change in self.last:
            change(edited, tokens, prompt)
        for process in self.processors:
            history = np.array(tokens, dtype=np.int64)[None]
            given = np.asarray(process(history, edited[None]), dtype=np.float32)
            if given.shape not in ((1, logits.size), (logits.size,)):
                allowed = f"must return scores of shape (1, {logits.size})"
                raise GenerationError("logits_processor", given.shape, allowed)
            edited = np.ascontiguousarray(given.reshape(-1))
        return edited

    def __call__(
        self,
        logits: np.ndarray,
        tokens: array[int],
        prompt: int,
        *,
        seed: int = 0,
        sequence: int = 0,
        logprob: bool = False,
        top: int = 0,
        scores: bool = False,
        most: int = 0,
    ) -> Choice:
        """The token after `tokens` (int64, the first `prompt` of them given) from logits (vocabulary,) float32.

        Raises LogitsError for logits that hold NaN or inf or leave nothing to choose, ValueError for ids outside.
        """
        edited = self.edit(logits, tokens, prompt, most) if self.in_python or scores else None
        token, value, best = self.core.choose(logits, tokens, prompt, seed, sequence, top, logprob, edited, most)
        return Choice(
            token,
            value if logprob or top else None,
            best if top else None,
            self.core.warp(edited) if scores and edited is not None else None,
        )
