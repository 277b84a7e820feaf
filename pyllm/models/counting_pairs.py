"""How many numbers an encoder-decoder has, as counting.py has it for the others."""

from __future__ import annotations

from pyllm.models.counted import Cache, Count, Group, Part, dense, encoder_layer, norm, output


def _cross(hidden: int) -> tuple[Part, ...]:
    """What a layer of a decoder has besides: attention over the source, with biases and a norm."""
    return (*dense("cross attention query, key, value, output", hidden, hidden, 4), *norm("cross norm", hidden))


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
    each: bool = False,
) -> Count:
    """T5: one embedding for both sides, relative positions in buckets, no biases; the first version's output matrix is
    the embedding.

    size: of a head, unless hidden / heads; decoder: its layers, unless as many as the encoder's. each: every layer has
    relative positions of its own (UMT5).
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
        return (*squares, up, down, Part("norms", (hidden,), len(attentions) + 1), *(distances if each else ()))

    distances = (Part("relative positions", (buckets, heads)),)
    ends = (*(() if each else distances), Part("final norm", (hidden,)))
    found = [
        Group("shared embedding", (Part("embedding", (vocabulary, hidden)),)),
        Group("encoder layers", layer("attention"), layers),
        Group("encoder ends", ends),
        Group("decoder layers", layer("attention", "cross attention"), decoder or layers),
        Group("decoder ends", ends),
    ]
    return Count(found + output(vocabulary, hidden, tied), Cache(decoder or layers, heads, wide // heads))


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
        ends = (*table, *(norm("norm", hidden, norms) if norms else ()))
        found += [Group(f"{side} positions and norm" if table else f"{side} norm", ends)] if ends else []
        found.append(Group(f"{side} layers", (*encoder_layer(hidden, wide), *more), count))
    return Count(found + output(targets or vocabulary, hidden, tied), Cache(decoder or layers, 1, hidden))


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
    every = encoder_layer(hidden, inner), _cross(hidden), norm("norm", hidden)
    layer, cross, last = (tuple(part for part in parts if bias or part.kind == "weights") for parts in every)
    found = _tables(vocabulary, hidden, shared)
    found += [Group("encoder layers", layer, encoder), Group("encoder norm", last)]
    found += [Group("decoder layers", (*layer, *cross), decoder), Group("decoder norm", last)]
    if not tied:
        found.append(Group("output", dense("output", vocabulary, hidden)))
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
        found.append(Group("output", dense("output", vocabulary, hidden)))
    return Count(found, None)
