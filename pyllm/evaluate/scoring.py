"""How likely texts are: the log-probability of each token after those before it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..errors import ContextError
from .passages import Passage, hidden_rows, ids_of

HEAD_ROWS = 64  # rows of logits held at once: 12 MB at 49,152 tokens
Top = list[tuple[int, float]]


@dataclass
class Score:
    """tokens: ids (n,). logprobs: float64 (n,), natural logarithms; NaN where nothing comes before: the first.

    top: per token its likeliest alternatives [(id, logprob), ...], None for the first; None where not asked for.
    """

    tokens: list[int]
    logprobs: NDArray[np.float64]
    top: list[Top | None] | None = None

    @property
    def count(self) -> int:
        """Tokens that have a log-probability."""
        return len(self.tokens) - 1

    @property
    def sum(self) -> float:
        """Log-probability of the whole after its first token."""
        return float(self.logprobs[1:].sum())

    @property
    def loss(self) -> float:
        """-sum / count: mean cross-entropy in nats; NaN for a single token."""
        return -self.sum / self.count if self.count else math.nan

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700.0))


@dataclass
class Found:
    """What one block of logits tells of tokens: their log-probabilities, whether each is the likeliest, the likeliest.

    place is that of the first row within its passage: row i judges the token after place + i.
    """

    passage: int
    place: int
    logprobs: NDArray[np.float64]
    likeliest: NDArray[np.bool_]
    top: list[Top]


def judged(model: Any, passages: Sequence[Passage], following: Sequence[list[int]], top: int = 0) -> Iterator[Found]:
    """The wanted rows of passages, judged by the token that follows each: following[p][i] comes after tokens[i]."""
    for hidden, pieces in hidden_rows(model, passages):
        owners = np.repeat(np.arange(len(pieces)), [piece.rows for piece in pieces])
        ids = np.array([token for p, at, n in pieces for token in following[p][at : at + n]], dtype=np.int64)
        starts = np.cumsum([0] + [piece.rows for piece in pieces])
        for begin in range(0, len(ids), HEAD_ROWS):
            block = slice(begin, min(begin + HEAD_ROWS, len(ids)))
            logits = model.logits_of(hidden[block])
            logprobs = _core.log_softmax_at(logits, ids[block])
            likeliest = logits.argmax(axis=1) == ids[block]
            best = [_core.likeliest(row, top) for row in logits] if top else []
            for owner in np.unique(owners[block]):
                piece, start = pieces[owner], starts[owner]
                own = slice(max(start, block.start), min(start + piece.rows, block.stop))
                here = slice(own.start - block.start, own.stop - block.start)
                place = piece.place + own.start - start
                yield Found(piece.passage, int(place), logprobs[here], likeliest[here], best[here])


def windows(length: int, size: int, stride: int | None, number: int) -> list[tuple[int, int, int]]:
    """(begin, end, first token judged) of the windows over a text; one where it fits.

    Raises ContextError where a text is longer than `size` and no stride is given.
    """
    if length <= size:
        return [(0, length, 1)]
    if stride is None:
        raise ContextError(
            f"score: texts[{number}] has {length:,} tokens, the context holds {size:,}; shorten it or give stride="
        )
    found = [(0, size, 1)]
    while found[-1][1] < length:
        begin, before = found[-1][0] + stride, found[-1][1]
        found.append((begin, min(begin + size, length), before))
    return found


def score(
    model: Any,
    texts: Any,
    tokenizer: Any = None,
    *,
    top: int = 0,
    stride: int | None = None,
    max_length: int | None = None,
) -> list[Score]:
    """log p(token | all tokens before it) for each token of each text, in shared steps; one Score per text.

    texts: a text, texts, or token ids (a list, lists, an integer array). tokenizer: the model's own where None.
    top: how many alternatives are told. A text longer than max_length (the context) is a ContextError, or is read in
    windows that begin every `stride` tokens, of which all but the first judge only what no window before has judged.
    Raises ValueError for an empty text, GenerationError for unknown ids, LogitsError for NaN logits.
    """
    context = model.context_length
    size = context if max_length is None else max_length
    if not 2 <= size <= context:
        raise ValueError(f"score: max_length is {size}, allowed are 2 to {context}")
    if stride is not None and not 1 <= stride < size:
        raise ValueError(f"score: stride is {stride}, allowed are 1 to {size - 1}")
    ids = ids_of(model, texts, tokenizer)
    spans = [(i, *span) for i, row in enumerate(ids) for span in windows(len(row), size, stride, i) if len(row) > 1]
    passages = [Passage(ids[i][begin : end - 1], first - 1 - begin) for i, begin, end, first in spans]
    following = [ids[i][begin + 1 : end] for i, begin, end, _ in spans]
    scores = [Score(row, np.full(len(row), np.nan), [None] * len(row) if top else None) for row in ids]
    for found in judged(model, passages, following, top):
        i, begin, _, _ = spans[found.passage]
        here = slice(begin + found.place + 1, begin + found.place + 1 + len(found.logprobs))
        scores[i].logprobs[here] = found.logprobs
        if top:
            scores[i].top[here] = found.top  # type: ignore[index]
    return scores


def continuations(model: Any, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
    """(log p(continuation | context), whether greedy decoding would say it) of each pair of ids.

    Equal contexts are computed once. Context and continuation have a token each at least.
    """
    passages = [Passage([*context, *rest[:-1]], len(context) - 1) for context, rest in pairs]
    following = [[*context[1:], *rest] for context, rest in pairs]
    logprobs = [np.zeros(len(rest)) for _, rest in pairs]
    greedy = [True] * len(pairs)
    for found in judged(model, passages, following):
        start = found.place - passages[found.passage].first
        logprobs[found.passage][start : start + len(found.logprobs)] = found.logprobs
        greedy[found.passage] &= bool(found.likeliest.all())
    return [(float(row.sum()), said) for row, said in zip(logprobs, greedy, strict=True)]


def text_bytes(found: Score, text: str | bytes, tokenizer: Any) -> int:
    """Bytes of the text that its log-probabilities cover: all but those of a first token that is part of it."""
    size = len(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return size if found.tokens[0] == tokenizer.bos_token_id else size - len(tokenizer.token_bytes(found.tokens[0]))


def summary(scores: Sequence[Score], texts: Sequence[str | bytes], tokenizer: Any) -> dict[str, float | int | None]:
    """tokens and bytes judged, loss in nats per token, perplexity, bits per byte: -sum / (bytes ln 2), of all texts."""
    total, count = sum(each.sum for each in scores if each.count), sum(each.count for each in scores)
    size = sum(text_bytes(each, text, tokenizer) for each, text in zip(scores, texts, strict=True))
    return {
        "tokens": count,
        "bytes": size,
        "loss": -total / count if count else None,
        "perplexity": math.exp(min(-total / count, 700.0)) if count else None,
        "bits_per_byte": -total / (size * math.log(2)) if size > 0 else None,
    }
