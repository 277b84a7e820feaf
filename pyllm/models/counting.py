"""How many numbers a model has, part by part, from the sizes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import NamedTuple

from pyllm.models.presets import Preset


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


def _dense(name: str, out: int, into: int, times: int = 1) -> tuple[Part, Part]:
    """A dense layer with bias."""
    return Part(name, (out, into), times), Part(name, (out,), times, "biases")


def _norm(name: str, hidden: int, times: int = 1) -> tuple[Part, Part]:
    """Layer normalisation: a scale and a shift."""
    return Part(name, (hidden,), times), Part(name, (hidden,), times, "biases")


def _output(vocabulary: int, hidden: int, tied: bool) -> list[Group]:
    """The output matrix, unless it is the embedding."""
    return [] if tied else [Group("output", (Part("output", (vocabulary, hidden)),))]


def mlp(sizes: list[int]) -> Count:
    """Dense layers one after the other."""
    return Count(
        [Group(f"layer {i}", _dense("dense", out, into)) for i, (into, out) in enumerate(pairwise(sizes), 1)], None
    )


def llama(
    hidden: int,
    layers: int,
    inner: int,
    heads: int,
    groups: int,
    vocabulary: int,
    tied: bool,
    size: int = 0,
    bias: bool = False,
    head_norms: bool = False,
    norms: int = 2,
    output_bias: bool = False,
    inner_bias: bool = False,
) -> Count:
    """LLaMA and its relatives: RMSNorm, a gated feed-forward of three matrices.

    size: of a head, unless hidden / heads; bias: of queries, keys and values (Qwen2); head_norms: of queries and keys
    (Qwen3, Gemma 3); norms: of each layer; output_bias, inner_bias: of attention's output and of the feed-forward.
    """
    size = size or hidden // heads
    layer = [
        Part("attention query, output", (heads * size, hidden), 2),
        Part("attention key, value", (groups * size, hidden), 2),
        Part("feed-forward gate, up, down", (inner, hidden), 3),
        Part("norms", (hidden,), norms),
    ]
    if bias:
        layer[1:1] = [Part("attention query", (heads * size,), kind="biases")]
        layer[3:3] = [Part("attention key, value", (groups * size,), 2, "biases")]
    if output_bias:
        layer.append(Part("attention output", (hidden,), kind="biases"))
    if inner_bias:
        layer += [
            Part("feed-forward gate, up", (inner,), 2, "biases"),
            Part("feed-forward down", (hidden,), kind="biases"),
        ]
    if head_norms:
        layer.append(Part("norms of query, key", (size,), 2))
    found = [
        Group("embedding", (Part("embedding", (vocabulary, hidden)),)),
        Group("layers", tuple(layer), layers),
        Group("final norm", (Part("norm", (hidden,)),)),
    ]
    return Count(found + _output(vocabulary, hidden, tied), Cache(layers, groups, size))


def _gpt_layer(hidden: int, inner: int, bias: bool = True) -> tuple[Part, ...]:
    """A layer of GPT-2 or GPT-NeoX; bias: of its attention."""
    attention = (
        *_dense("attention query, key, value", 3 * hidden, hidden),
        *_dense("attention output", hidden, hidden),
    )
    return (
        *_norm("norms", hidden, 2),
        *(part for part in attention if bias or part.kind == "weights"),
        *_dense("feed-forward up", inner, hidden),
        *_dense("feed-forward down", hidden, inner),
    )


def gpt2(
    hidden: int, layers: int, heads: int, vocabulary: int, positions: int, inner: int = 0, tied: bool = True
) -> Count:
    """GPT-2: learned positions, biases everywhere, the output matrix is the embedding. inner: 4 hidden unless given."""
    layer = _gpt_layer(hidden, inner or 4 * hidden)
    embedding = (Part("tokens", (vocabulary, hidden)), Part("positions", (positions, hidden)))
    found = [Group("embedding", embedding), Group("layers", layer, layers), Group("final norm", _norm("norm", hidden))]
    return Count(found + _output(vocabulary, hidden, tied), Cache(layers, heads, hidden // heads))


def neox(
    hidden: int, layers: int, heads: int, vocabulary: int, inner: int = 0, bias: bool = True, tied: bool = False
) -> Count:
    """GPT-NeoX: rotary positions, biases (bias: of attention), an output matrix of its own."""
    found = [
        Group("embedding", (Part("embedding", (vocabulary, hidden)),)),
        Group("layers", _gpt_layer(hidden, inner or 4 * hidden, bias), layers),
        Group("final norm", _norm("norm", hidden)),
    ]
    return Count(found + _output(vocabulary, hidden, tied), Cache(layers, heads, hidden // heads))


def _encoder_layer(hidden: int, inner: int = 0) -> tuple[Part, ...]:
    """A layer of BERT or BART's encoder: attention and feed-forward with biases, two norms. inner: 4 hidden."""
    inner = inner or 4 * hidden
    return (
        *_dense("attention query, key, value, output", hidden, hidden, 4),
        *_dense("feed-forward up", inner, hidden),
        *_dense("feed-forward down", hidden, inner),
        *_norm("norms", hidden, 2),
    )


def _cross(hidden: int) -> tuple[Part, ...]:
    """What a layer of a decoder has besides: attention over the source, with biases and a norm."""
    return (*_dense("cross attention query, key, value, output", hidden, hidden, 4), *_norm("cross norm", hidden))


def bert(
    hidden: int, layers: int, vocabulary: int, positions: int, inner: int = 0, segments: int = 2, pooler: bool = True,
    narrow: int = 0, runs: tuple[int, ...] = (),
) -> Count:  # fmt: skip
    """BERT and its relatives, without the heads of pre-training; 0 segments: no such table.

    narrow: width of the tables, which a matrix makes wide, and runs: how often each layer is run (ALBERT).
    """
    wide = narrow or hidden
    rows = {"tokens": vocabulary, "positions": positions} | ({"segments": segments} if segments else {})
    found = [Group("embedding", (*(Part(name, (n, wide)) for name, n in rows.items()), *_norm("norm", wide)))]
    found += [Group("embedding made wide", _dense("dense", hidden, narrow))] if narrow else []
    times = Counter(runs or (1,) * layers)
    found += [Group("layers", _encoder_layer(hidden, inner), repeat, each) for each, repeat in times.items()]
    return Count([*found, Group("pooler", _dense("dense", hidden, hidden))] if pooler else found, None)


def t5(
    hidden: int,
    layers: int,
    inner: int,
    heads: int,
    vocabulary: int,
    size: int = 0,
    decoder: int = 0,
    buckets: int = 32,
    gated: bool = False,
    tied: bool = True,
) -> Count:
    """T5: one embedding for both sides, relative positions in buckets, no biases; the first version's output matrix is
    the embedding.

    size: of a head, unless hidden / heads; decoder: its layers, unless as many as the encoder's.
    """
    wide = heads * (size or hidden // heads)

    def layer(*attentions: str) -> tuple[Part, ...]:
        squares = [
            part
            for name in attentions
            for part in (
                Part(f"{name} query, key, value", (wide, hidden), 3),
                Part(f"{name} output", (hidden, wide)),
            )
        ]
        up = Part("feed-forward gate, up" if gated else "feed-forward up", (inner, hidden), 2 if gated else 1)
        down = Part("feed-forward down", (hidden, inner))
        return (*squares, up, down, Part("norms", (hidden,), len(attentions) + 1))

    ends = (Part("relative positions", (buckets, heads)), Part("final norm", (hidden,)))
    found = [
        Group("shared embedding", (Part("embedding", (vocabulary, hidden)),)),
        Group("encoder layers", layer("attention"), layers),
        Group("encoder ends", ends),
        Group("decoder layers", layer("attention", "cross attention"), decoder or layers),
        Group("decoder ends", ends),
    ]
    return Count(found + _output(vocabulary, hidden, tied), Cache(decoder or layers, heads, wide // heads))


def bart(
    hidden: int,
    layers: int,
    vocabulary: int,
    positions: int = 0,
    inner: int = 0,
    decoder: int = 0,
    decoder_inner: int = 0,
    norms: int = 1,
    targets: int = 0,
    tied: bool = True,
) -> Count:
    """BART and its relatives: one embedding for both sides and the output, learned positions and norms on each side.

    inner: 4 hidden unless given; decoder, decoder_inner: of the decoder, unless as the encoder's. norms: around the
    layers of a side. positions: 0 where they are computed. targets: tokens of a table of their own; 0: shared.
    """
    found = [Group("shared embedding", (Part("embedding", (vocabulary, hidden)),))]
    if targets:
        found = [Group("source embedding", (Part("source embedding", (vocabulary, hidden)),))]
        found.append(Group("embedding", (Part("embedding", (targets, hidden)),)))
    sides = ("encoder", (), layers, inner), ("decoder", _cross(hidden), decoder or layers, decoder_inner or inner)
    for side, more, count, wide in sides:
        table = (Part("positions", (positions, hidden)),) if positions else ()
        ends = (*table, *(_norm("norm", hidden, norms) if norms else ()))
        found += [Group(f"{side} positions and norm" if table else f"{side} norm", ends)] if ends else []
        found.append(Group(f"{side} layers", (*_encoder_layer(hidden, wide), *more), count))
    return Count(found + _output(targets or vocabulary, hidden, tied), Cache(decoder or layers, 1, hidden))


def recurrent(
    gates: int,
    embedding: int,
    hidden: int,
    layers: int,
    vocabulary: int,
    tied: bool = False,
    head_bias: bool = True,
    narrow: bool = False,
) -> Count:
    """A recurrent language model whose cell has so many gates; two biases a layer, as PyTorch has them.

    narrow: the last layer is as wide as the embedding, AWD-LSTM's.
    """

    def layer(name: str, inputs: int, units: int, times: int = 1) -> Group:
        weights = Part("input weights", (gates * units, inputs)), Part("hidden weights", (gates * units, units))
        return Group(name, (*weights, Part("biases", (gates * units,), 2, "biases")), times)

    last = embedding if narrow else hidden
    found = [Group("embedding", (Part("embedding", (vocabulary, embedding)),))]
    found.append(layer("first layer", embedding, last if layers == 1 else hidden))
    if layers - 1 - narrow > 0:
        found.append(layer("layers above", hidden, hidden, layers - 1 - narrow))
    if narrow and layers > 1:
        found.append(layer("last layer", hidden, last))
    output = () if tied else (Part("output", (vocabulary, last)),)
    bias = (Part("output", (vocabulary,), kind="biases"),) if head_bias else ()
    if output or bias:
        found.append(Group("output bias" if tied else "output", (*output, *bias)))
    return Count(found, None)


def _tables(vocabulary: int, width: int, shared: bool) -> list[Group]:
    """The embedding of both sides, or one for each."""
    if shared:
        return [Group("shared embedding", (Part("embedding", (vocabulary, width)),))]
    return [Group(name, (Part(name, (vocabulary, width)),)) for name in ("source embedding", "embedding")]


def transformer(
    hidden: int, encoder: int, decoder: int, inner: int, heads: int, vocabulary: int, shared: bool, tied: bool,
    bias: bool = True,
) -> Count:  # fmt: skip
    """The Transformer of 2017 with so many layers on each side and a norm at its end; bias: of layers and norms;
    shared: one table for both sides; tied: the output matrix is the targets' table."""
    every = _encoder_layer(hidden, inner), _cross(hidden), _norm("norm", hidden)
    layer, cross, norm = (tuple(part for part in parts if bias or part.kind == "weights") for parts in every)
    found = _tables(vocabulary, hidden, shared)
    found += [Group("encoder layers", layer, encoder), Group("encoder norm", norm)]
    found += [Group("decoder layers", (*layer, *cross), decoder), Group("decoder norm", norm)]
    if not tied:
        found.append(Group("output", _dense("output", vocabulary, hidden)))
    return Count(found, Cache(decoder, heads, hidden // heads))


def seq2seq(
    gates: int,
    embedding: int,
    hidden: int,
    layers: int,
    both: bool,
    attention: str,
    vocabulary: int,
    shared: bool,
    tied: bool,
) -> Count:
    """A recurrent encoder, in both directions or one, and a decoder, with attention of a kind or "none"."""
    ways = 2 if both else 1
    found = _tables(vocabulary, embedding, shared)
    for side, units, times in (("encoder", hidden // ways, ways), ("decoder", hidden, 1)):
        ends = (
            Part("hidden weights", (gates * units, units), times),
            Part("biases", (gates * units,), 2 * times, "biases"),
        )
        found.append(Group(f"{side}, first layer", (Part("input weights", (gates * units, embedding), times), *ends)))
        above = (Part("input weights", (gates * units, hidden), times), *ends)
        found += [Group(f"{side}, layers above", above, layers - 1)] if layers > 1 else []
    squares = {"none": 0, "dot": 0, "general": 1, "additive": 2}[attention]
    parts = [Part("keys and queries", (hidden, hidden), squares)] if squares else []
    parts += [Part("score", (1, hidden))] if attention == "additive" else []
    if attention != "none":
        found.append(Group("attention", (*parts, Part("combine", (hidden, 2 * hidden)))))
    if not tied:
        found.append(Group("output", _dense("output", vocabulary, hidden)))
    return Count(found, None)


SHAPES: dict[str, Callable[..., Count]] = {
    "llama": llama,
    "gpt2": gpt2,
    "neox": neox,
    "bert": bert,
    "t5": t5,
    "bart": bart,
    "recurrent": recurrent,
    "transformer": transformer,
    "seq2seq": seq2seq,
}


def count_preset(preset: Preset) -> Count:
    """The parts of a published size."""
    return SHAPES[preset.shape](**preset.numbers)


# Format -> (numbers in a block, bytes of a block); vectors and rows that are no whole blocks stay fp32.
FORMATS = {"fp32": (1, 4), "bf16": (1, 2), "Q8_0": (32, 34), "Q4_0": (32, 18)}


def bytes_in(count: Count, form: str) -> int:
    """Bytes of all parts in one format: matrices in its blocks, everything else fp32 (bf16 takes all)."""
    block, nbytes = FORMATS[form]
    total = 0
    for group in count.groups:
        for part in group.parts:
            fits = block == 1 or (len(part.shape) > 1 and part.shape[-1] % block == 0)
            numbers = group.repeat * part.size
            total += numbers // block * nbytes if fits else 4 * numbers
    return total
