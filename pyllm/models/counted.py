"""What a count of a model's numbers is made of: parts, groups of them, and those that many families have."""

from __future__ import annotations

from math import prod
from typing import NamedTuple


class Part(NamedTuple):
    """`times` tensors of one shape: "weights" are matrices and scales, "biases" what is added; a pair has one name."""

    name: str
    shape: tuple[int, ...]
    times: int = 1
    kind: str = "weights"

    @property
    def size(self) -> int:
        """How many numbers in all of them."""
        return self.times * prod(self.shape)


class Group(NamedTuple):
    """Parts that belong together, `repeat` times: an embedding, the layers, the output.

    runs: how often each of them is run for a token; more than once where layers share their weights.
    """

    name: str
    parts: tuple[Part, ...]
    repeat: int = 1
    runs: int = 1

    @property
    def size(self) -> int:
        """Numbers in all repetitions."""
        return self.repeat * sum(part.size for part in self.parts)


class Cache(NamedTuple):
    """Keys and values that a decoder keeps for each token: 2 x layers x heads x size numbers."""

    layers: int
    heads: int
    size: int

    @property
    def per_token(self) -> int:
        """Numbers for one token."""
        return 2 * self.layers * self.heads * self.size


class Count(NamedTuple):
    """A model's groups and its cache (None where nothing is generated token by token)."""

    groups: list[Group]
    cache: Cache | None

    @property
    def total(self) -> int:
        """All numbers."""
        return sum(group.size for group in self.groups)


def dense(name: str, out: int, into: int, times: int = 1) -> tuple[Part, Part]:
    """A dense layer with bias."""
    return Part(name, (out, into), times), Part(name, (out,), times, "biases")


def norm(name: str, hidden: int, times: int = 1) -> tuple[Part, Part]:
    """Layer normalisation: a scale and a shift."""
    return Part(name, (hidden,), times), Part(name, (hidden,), times, "biases")


def output(vocabulary: int, hidden: int, tied: bool) -> list[Group]:
    """The output matrix, unless it is the embedding."""
    return [] if tied else [Group("output", (Part("output", (vocabulary, hidden)),))]


def encoder_layer(hidden: int, inner: int = 0) -> tuple[Part, ...]:
    """A layer of BERT or BART's encoder: attention and feed-forward with biases, two norms. inner: 4 hidden."""
    inner = inner or 4 * hidden
    return (
        *dense("attention query, key, value, output", hidden, hidden, 4),
        *dense("feed-forward up", inner, hidden),
        *dense("feed-forward down", hidden, inner),
        *norm("norms", hidden, 2),
    )
