"""Greedy requests served in different company: used by the invariance test and the invariance campaign.

`serve` answers requests with a given number of workers, prompt chunk and company, and gives each request's tokens and
a SHA-256 over the float32 logits of every prompt and new position, of which log-probabilities are a function row by
row. None of the settings may change a byte.
"""
from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tiny_families
import tiny_models
from numpy.typing import NDArray

from pyllm import _core

# What is served: tiny random models of every family, (config, type of the weights).
MODELS = {
    "llama-F32": (tiny_models.llama_config(), "F32"),
    "llama-BF16": (tiny_models.llama_config(head_dim=24), "BF16"),
    "llama-Q4_1": (tiny_models.llama_config(), "Q4_1"),
    "llama-Q6_K": (tiny_models.llama_config(hidden_size=256, intermediate_size=256), "Q6_K"),
    "llama-Q4_K": (tiny_models.llama_config(hidden_size=256, intermediate_size=256, num_key_value_heads=1), "Q4_K"),
    "llama-Q5_1": (tiny_models.llama_config(attention_bias=True), "Q5_1"),
    "gpt2-F16": (tiny_models.gpt2_config(), "F16"),
    "gpt2-Q8_0": (tiny_models.gpt2_config(), "Q8_0"),
    "mistral-Q4_0": (tiny_families.config("mistral", sliding_window=20), "Q4_0"),
    "qwen3-F32": (tiny_families.config("qwen3"), "F32"),
    "gemma2-BF16": (tiny_families.config("gemma2", num_hidden_layers=2, sliding_window=20), "BF16"),
    "gemma3-Q8_0": (tiny_families.config("gemma3_text", head_dim=16, query_pre_attn_scalar=16), "Q8_0"),
    "gpt-neox-BF16": (tiny_families.config("gpt_neox"), "BF16"),
    "lstm-F32": (tiny_models.recurrent_config("lstm"), "F32"),
    "lstm-BF16": (tiny_models.recurrent_config("lstm", hidden_size=32), "BF16"),
    "gru-F32": (tiny_models.recurrent_config("gru"), "F32"),
    "rnn-F16": (tiny_models.recurrent_config("tanh"), "F16"),
}

THREADS = (1, 2, 3, 4)
CHUNKS = (1, 7, 64, 512)
COMPANY = (1, 2, 3, 5, 8, 16, 32)


@dataclass(frozen=True)
class Request:
    """A prompt and how many tokens follow it."""

    prompt: tuple[int, ...]
    new: int


@dataclass(frozen=True)
class Mix:
    """How requests are served: workers, tokens of a prompt per step, requests at once, seed of their order."""

    threads: int
    chunk: int
    company: int
    order: int


ALONE = Mix(threads=1, chunk=512, company=1, order=0)


@dataclass
class _Active:
    index: int
    request: Request
    state: Any
    fed: int = 0
    following: int = -1
    tokens: list[int] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)

    def take(self, chunk: int) -> list[int]:
        """The tokens of its next step."""
        if self.fed < len(self.request.prompt):
            part = list(self.request.prompt[self.fed : self.fed + chunk])
            self.fed += len(part)
            return part
        return [self.following]

    def give(self, logits: NDArray) -> bool:
        """Take the step's logits; true when the answer is complete."""
        self.digest.update(np.ascontiguousarray(logits, np.float32).tobytes())
        if self.fed < len(self.request.prompt):
            return False
        self.following = int(logits[-1].argmax())
        self.tokens.append(self.following)
        return len(self.tokens) == self.request.new


def serve(model: Any, requests: list[Request], mix: Mix) -> list[tuple[tuple[int, ...], str]]:
    """(new tokens, digest) of each request, in the order given."""
    before = _core.threads()
    _core.set_threads(mix.threads)
    try:
        return _serve(model, requests, mix)
    finally:
        _core.set_threads(before)


def _serve(model: Any, requests: list[Request], mix: Mix) -> list[tuple[tuple[int, ...], str]]:
    rng = np.random.default_rng(mix.order)
    order = np.arange(len(requests)) if mix.order == 0 else rng.permutation(len(requests))
    waiting = [(int(i), requests[i]) for i in reversed(order)]
    active: list[_Active] = []
    answers: list[tuple[tuple[int, ...], str]] = [((), "")] * len(requests)
    while waiting or active:
        arriving = mix.company if mix.order == 0 else int(rng.integers(1, mix.company + 1))
        while waiting and arriving and len(active) < mix.company:
            active.append(_Active(*waiting.pop(), model.new_state()))
            arriving -= 1
        batch = [(one.state, one.take(mix.chunk)) for one in active]
        logits = np.asarray(model.step(batch, logits="all"))
        ends = np.cumsum([len(ids) for _, ids in batch])
        done = [one.give(rows) for one, rows in zip(active, np.split(logits, ends[:-1]), strict=True)]
        for one, ended in zip(active, done, strict=True):
            if ended:
                answers[one.index] = (tuple(one.tokens), one.digest.hexdigest())
                one.state.free()
        active = [one for one, ended in zip(active, done, strict=True) if not ended]
    return answers


def random_requests(rng: np.random.Generator, count: int, vocabulary: int, longest: int, new: int) -> list[Request]:
    """Prompts of 1 to `longest` tokens, short ones as likely as long ones; 1 to `new` tokens to follow."""
    lengths = np.exp(rng.uniform(0, np.log(longest + 0.5), count)).astype(int).clip(1, longest)
    return [
        Request(tuple(int(t) for t in rng.integers(0, vocabulary, n)), int(rng.integers(1, new + 1))) for n in lengths
    ]


def mixes(rng: np.random.Generator, count: int) -> Iterator[Mix]:
    """Every thread count, chunk and company comes up; the rest is drawn."""
    for i in range(count):
        yield Mix(
            THREADS[i % len(THREADS)],
            CHUNKS[i // len(THREADS) % len(CHUNKS)],
            COMPANY[i % len(COMPANY)],
            int(rng.integers(1, 2**31)),
        )
