"""Encoder-decoders of equal size that learn the same pairs for the same time: what `pyllm compare` compares."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import ops
from pyllm.auto.new import new_config, new_model
from pyllm.data.packed import IGNORED, Batch
from pyllm.optim import AdamW

Ids = NDArray[np.int32]
Point = tuple[float, float]
_RECURRENT = {"attention": "none", "num_layers": 1, "bidirectional": False}
_TRANSFORMER = {"nhead": 4, "num_encoder_layers": 2, "num_decoder_layers": 2, "tie_word_embeddings": False,
                "share_encoder_decoder_embeddings": False, "norm_first": True}  # fmt: skip
# What differs: the family, its fields, which fields are one size times how much, the learning rate that suits it.
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, int], float]] = {
    "RNN": ("seq2seq", _RECURRENT | {"cell": "tanh"}, {"embedding_size": 4, "hidden_size": 4}, 2e-3),
    "LSTM": ("seq2seq", _RECURRENT | {"cell": "lstm"}, {"embedding_size": 4, "hidden_size": 4}, 4e-3),
    "GRU": ("seq2seq", _RECURRENT | {"cell": "gru"}, {"embedding_size": 4, "hidden_size": 4}, 4e-3),
    "LSTM + attention": (
        "seq2seq",
        _RECURRENT | {"cell": "lstm", "attention": "general", "bidirectional": True},
        {"embedding_size": 4, "hidden_size": 4},
        4e-3,
    ),
    "Transformer": ("transformer", _TRANSFORMER, {"d_model": 4, "dim_feedforward": 16}, 2e-3),
}
_WARM = 50  # steps until the learning rate is whole
_MOST_NORM = 1.0  # longer gradients are cut to it


class Pair(NamedTuple):
    """Token ids of a source and of its target, each with what ends it."""

    source: Ids
    target: Ids


class Curve(NamedTuple):
    """A training: after how many seconds which loss in nats, a step each."""

    seconds: list[float]
    losses: list[float]


def config_of(kind: str, parameters: int, vocabulary: int, longest: int, dropout: float = 0.0) -> Any:
    """Of the largest model of at most so many parameters. Raises ValueError where none is so small."""
    family, fields, sizes, _ = KINDS[kind]
    common = {"vocab_size": vocabulary, "max_position_embeddings": longest, "dropout": dropout, "label_smoothing": 0.0}

    def sized(n: int) -> Any:
        return new_config(family, **common | fields | {name: n * each for name, each in sizes.items()})

    def count(n: int) -> int:
        return int(new_model(sized(n), 0).num_parameters())

    if count(1) > parameters:
        least_of_all = f"{count(1):,} or more, which a {kind} of {vocabulary:,} tokens has"
        raise ValueError(f"compare: {parameters:,} parameters, allowed are {least_of_all}")
    least, most = 1, 2
    while count(most) <= parameters:
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if count(middle) <= parameters else (least, middle)
    return sized(least)


def batch_of(pairs: Sequence[Pair], start_id: int) -> Batch:
    """Pairs end to end, as encoder-decoders learn them: the target follows start_id."""
    ids: list[Any] = []
    targets: list[Any] = []
    lengths: list[int] = []
    for source, target in pairs:
        ids += [source, [start_id], target[:-1]]
        targets += [np.full(len(source), IGNORED), target]
        lengths += [len(source), len(target)]
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    return Batch(np.concatenate(ids).astype(np.int32), np.concatenate(targets).astype(np.int32), starts)


def learn(
    model: Any,
    batches: Iterator[Sequence[Pair]],
    seconds: float,
    rate: float,
    seed: int,
    tick: Callable[[float], None] = lambda passed: None,
) -> Curve:
    """AdamW for so many seconds, at least one step; tick hears how many seconds each step took."""
    optimizer = AdamW(model.train().parameters(), lr=rate)
    found, passed = Curve([], []), 0.0
    for step, pairs in enumerate(batches):
        batch, begin = batch_of(pairs, model.start_id), time.perf_counter()
        optimizer.zero_grad()
        with ops.noise(seed, step), ops.documents(batch.starts):
            loss = model.loss(batch.ids, batch.targets)
        loss.backward()
        norm = optimizer.grad_norm()
        # Down to a tenth along a cosine over the time there is, whose steps nobody knows beforehand.
        falling = 0.55 + 0.45 * math.cos(math.pi * min(passed / seconds, 1.0))
        optimizer.scale_rates(min(1.0, (step + 1) / _WARM) * falling)
        optimizer.step(min(1.0, _MOST_NORM / (norm + 1e-6)))
        took = time.perf_counter() - begin
        passed += took
        found.seconds.append(passed)
        found.losses.append(float(loss.item()))
        tick(took)
        if passed >= seconds:
            break
    return found


def judged(model: Any, pairs: Sequence[Pair], together: int = 64) -> tuple[float, float]:
    """(mean loss in nats, share that is the likeliest) of target tokens, each after the true ones before it."""
    total, right, count = 0.0, 0, 0
    for first in range(0, len(pairs), together):
        some = pairs[first : first + together]
        shifted = [np.concatenate([[model.start_id], target[:-1]]).astype(np.int32) for _, target in some]
        logits = np.asarray(model.eval().forward([pair.source for pair in some], shifted), np.float64)
        wanted = np.concatenate([target for _, target in some])
        top = logits.max(axis=-1)
        total += float((np.log(np.exp(logits - top[:, None]).sum(axis=-1)) + top).sum())
        total -= float(logits[np.arange(len(wanted)), wanted].sum())
        right += int((logits.argmax(axis=-1) == wanted).sum())
        count += len(wanted)
    return total / count, right / count


def reach(model: Any, pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """How far a gradient comes: |d loss of the last target token / d embedding of source token t|, the mean of pairs.

    Sources hold no token twice, so that the table's gradient is each token's own; all are as long.
    """
    found = []
    weight = model.train().source_embedding.weight.value
    for source, target in pairs:
        batch = batch_of([Pair(source, target)], model.start_id)
        targets = np.full(len(batch.targets), IGNORED)
        targets[-1] = batch.targets[-1]
        model.zero_grad()
        with ops.documents(batch.starts):
            model.loss(batch.ids, targets).backward()
        found.append(np.linalg.norm(np.asarray(weight.grad, np.float64)[source], axis=1))
    return np.mean(found, axis=0)
