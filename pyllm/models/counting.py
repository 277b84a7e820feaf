"""How many numbers a model has, part by part, from the sizes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from pyllm.models.counted import Cache, Count, Group, Part, dense, encoder_layer, norm, output
from pyllm.models.counting_pairs import bart, seq2seq, t5, transformer
from pyllm.models.presets import Preset


def mlp(sizes: list[int]) -> Count:
    """Dense layers one after the other."""
    return Count(
        [Group(f"layer {i}", dense("dense", out, into)) for i, (into, out) in enumerate(pairwise(sizes), 1)], None
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
    return Count(found + output(vocabulary, hidden, tied), Cache(layers, groups, size))


def _gpt_layer(hidden: int, inner: int, bias: bool = True) -> tuple[Part, ...]:
    """A layer of GPT-2 or GPT-NeoX; bias: of its attention."""
    attention = (
        *dense("attention query, key, value", 3 * hidden, hidden),
        *dense("attention output", hidden, hidden),
    )
    return (
        *norm("norms", hidden, 2),
        *(part for part in attention if bias or part.kind == "weights"),
        *dense("feed-forward up", inner, hidden),
        *dense("feed-forward down", hidden, inner),
    )


def gpt2(
    hidden: int, layers: int, heads: int, vocabulary: int, positions: int, inner: int = 0, tied: bool = True
) -> Count:
    """GPT-2: learned positions, biases everywhere, the output matrix is the embedding. inner: 4 hidden unless given."""
    layer = _gpt_layer(hidden, inner or 4 * hidden)
    embedding = (Part("tokens", (vocabulary, hidden)), Part("positions", (positions, hidden)))
    found = [Group("embedding", embedding), Group("layers", layer, layers), Group("final norm", norm("norm", hidden))]
    return Count(found + output(vocabulary, hidden, tied), Cache(layers, heads, hidden // heads))


def neox(
    hidden: int, layers: int, heads: int, vocabulary: int, inner: int = 0, bias: bool = True, tied: bool = False
) -> Count:
    """GPT-NeoX: rotary positions, biases (bias: of attention), an output matrix of its own."""
    found = [
        Group("embedding", (Part("embedding", (vocabulary, hidden)),)),
        Group("layers", _gpt_layer(hidden, inner or 4 * hidden, bias), layers),
        Group("final norm", norm("norm", hidden)),
    ]
    return Count(found + output(vocabulary, hidden, tied), Cache(layers, heads, hidden // heads))


def bert(
    hidden: int, layers: int, vocabulary: int, positions: int, inner: int = 0, segments: int = 2, pooler: bool = True,
    narrow: int = 0, runs: tuple[int, ...] = (), relative: tuple[int, int] = (0, 0),
) -> Count:  # fmt: skip
    """BERT and its relatives, without the heads of pre-training; 0 segments: no such table.

    narrow: width of the tables, which a matrix makes wide, and runs: how often each layer is run (ALBERT). relative:
    buckets of distances and heads, of a table that all layers share (MPNet).
    """
    wide = narrow or hidden
    rows = {"tokens": vocabulary, "positions": positions} | ({"segments": segments} if segments else {})
    found = [Group("embedding", (*(Part(name, (n, wide)) for name, n in rows.items()), *norm("norm", wide)))]
    found += [Group("embedding made wide", dense("dense", hidden, narrow))] if narrow else []
    found += [Group("distances", (Part("relative positions", relative),))] if any(relative) else []
    times = Counter(runs or (1,) * layers)
    found += [Group("layers", encoder_layer(hidden, inner), repeat, each) for each, repeat in times.items()]
    return Count([*found, Group("pooler", dense("dense", hidden, hidden))] if pooler else found, None)


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
    matrix = () if tied else (Part("output", (vocabulary, last)),)
    bias = (Part("output", (vocabulary,), kind="biases"),) if head_bias else ()
    if matrix or bias:
        found.append(Group("output bias" if tied else "output", (*matrix, *bias)))
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
