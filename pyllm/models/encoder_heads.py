"""What stands on an encoder's rows: masked words, classes of texts and of tokens, the next sentence; with its loss."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import nn, ops
from pyllm.models.heads import loss_of
from pyllm.models.outputs import named
from pyllm.models.ragged import Ragged, Starts
from pyllm.nn.feedforward import ACTIVATIONS


@named
class HeadOutput(NamedTuple):
    """logits: (batch, length, vocabulary or classes) with zeros for padding, or (batch, classes); loss of labels."""

    logits: Any
    loss: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@named
class PreTrainingOutput(NamedTuple):
    """prediction_logits (batch, length, vocabulary), of the second task (batch, 2); loss: of both labels together."""

    prediction_logits: Any
    seq_relationship_logits: Any
    loss: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None

    @property
    def sop_logits(self) -> Any:
        """What ALBERT's second task, the order of sentences, is called."""
        return self.seq_relationship_logits


def masked_names(dense: str, norm: str, bias: str, decoder: str = "") -> dict[str, tuple[str, str]]:
    """Names in files of a MaskedHead's parts, alone and beside a second task; decoder: {bias}.decoder unless given."""
    parts = {"dense": dense, "norm": norm, "decoder": decoder or f"{bias}.decoder", "decoder.bias": f"{bias}.bias"}
    return {f"{at}.{part}": (name, "") for at in ("head", "head.predictions") for part, name in parts.items()}


class MaskedHead(nn.Module):
    """E norm(act(W h + b)) + c: a score for each word; E is the table of embeddings where the configuration ties it.

    width: of rows, inner: of what the table takes, act under Hugging Face's name.
    """

    task, pooled = "ForMaskedLM", False

    def __init__(self, width: int, words: nn.Embedding, act: str, eps: float, tied: bool) -> None:
        vocabulary, inner = words.weight.shape
        self.dense = nn.Linear(width, inner, bias=True)
        self.norm = nn.LayerNorm(inner, eps)
        self.decoder = nn.Linear(inner, vocabulary, bias=True)
        if tied:
            self.decoder.weight = words.weight
        self.act = ACTIVATIONS[act]

    def inner(self, rows: Any) -> Any:
        """What the table takes, of rows (rows, width)."""
        return self.norm(ops.norm_linear(rows, None, *self.dense.pair, act=self.act))

    def __call__(self, rows: Any) -> Any:
        """Scores (rows, vocabulary)."""
        return self.decoder(self.inner(rows))

    def loss(self, model: Any, rows: Any, starts: Starts, targets: Any) -> Any:
        """Mean cross-entropy in nats of targets (rows,) that are not -100; the others' scores are not computed."""
        wanted = np.asarray(targets).reshape(-1)
        if len(wanted) != starts[-1]:
            raise ValueError(f"loss: {len(wanted)} targets for {starts[-1]} tokens")
        index = np.flatnonzero(wanted != -100)
        index = index if len(index) else np.zeros(1, np.int64)
        x = self.inner(ops.take_rows(rows, index))
        weight, bias = self.decoder.pair
        return ops.linear_cross_entropy(x, weight, wanted[index], bias)

    def output(self, model: Any, rows: Any, batch: Ragged, labels: Any, *seen: Any) -> HeadOutput:
        """labels: as input_ids, -100 where nothing is wanted; what padding hides does not count."""
        scores = model.watch("logits", self(rows))
        loss = None if labels is None else ops.cross_entropy(scores, batch.rows_of(labels, "labels"))
        return HeadOutput(batch.back(scores), loss, *seen)


class SequenceHead(nn.Module):
    """score(drop(x)) of each sequence: x is its pooled row, or act(inner(drop'(first row))) for families without one.

    act: None for a pooled row, else what follows `inner`. dropouts: (drop', drop).
    """

    task = "ForSequenceClassification"

    def __init__(self, c: Any, width: int, dropouts: tuple[float, float], act: str | None = None) -> None:
        self.inner = nn.Linear(width, width, bias=True) if act is not None else None
        self.score = nn.Linear(width, c.num_labels, bias=True)
        self.act, self.pooled = act, act is None
        self.dropouts = [nn.Dropout(p, f"head.{i}") for i, p in enumerate(dropouts)]

    def logits(self, model: Any, rows: Any, starts: Starts) -> Any:
        """(sequences, classes)."""
        if self.inner is None or self.act is None:
            return self.score(self.dropouts[1](model.pooled(rows, starts)))
        first = self.dropouts[0](ops.take_rows(rows, starts[:-1].astype(np.int64)))
        return self.score(self.dropouts[1](ops.activate(self.inner(first), self.act)))

    def loss(self, model: Any, rows: Any, starts: Starts, targets: Any) -> Any:
        """What the configuration's problem_type says, of targets (sequences,) or (sequences, classes)."""
        return loss_of(model.config, self.logits(model, rows, starts), targets)

    def output(self, model: Any, rows: Any, batch: Ragged, labels: Any, *seen: Any) -> HeadOutput:
        """labels: (batch,) of classes or numbers, (batch, classes) for several classes at once."""
        scores = model.watch("logits", self.logits(model, rows, batch.starts))
        return HeadOutput(scores, None if labels is None else loss_of(model.config, scores, labels), *seen)


class TokenHead(nn.Module):
    """A class for each token: tags(drop(row))."""

    task, pooled = "ForTokenClassification", False

    def __init__(self, c: Any, width: int, dropout: float) -> None:
        self.tags = nn.Linear(width, c.num_labels, bias=True)
        self.dropout = nn.Dropout(dropout, "head")

    def loss(self, model: Any, rows: Any, starts: Starts, targets: Any) -> Any:
        """Mean cross-entropy in nats of targets (rows,) that are not -100."""
        return ops.cross_entropy(self.tags(self.dropout(rows)), np.asarray(targets).reshape(-1))

    def output(self, model: Any, rows: Any, batch: Ragged, labels: Any, *seen: Any) -> HeadOutput:
        """labels: as input_ids, -100 where nothing is wanted."""
        scores = model.watch("logits", self.tags(self.dropout(rows)))
        loss = None if labels is None else ops.cross_entropy(scores, batch.rows_of(labels, "labels"))
        return HeadOutput(batch.back(scores), loss, *seen)


class ReplacedHead(nn.Module):
    """Whether each token was put in place of another: replaced(act(W h + b)), above 0 where it was; act as in files."""

    task, pooled = "ForPreTraining", False

    def __init__(self, width: int, act: str) -> None:
        self.hidden = nn.Linear(width, width, bias=True)
        self.replaced = nn.Linear(width, 1, bias=True)
        self.act = ACTIVATIONS[act]

    def __call__(self, rows: Any) -> Any:
        """Scores (rows,)."""
        return ops.reshape(self.replaced(ops.norm_linear(rows, None, *self.hidden.pair, act=self.act)), (-1,))

    def loss(self, model: Any, rows: Any, starts: Starts, targets: Any) -> Any:
        """Mean binary cross-entropy in nats of targets (rows,), 1 where a token was replaced."""
        return ops.binary_cross_entropy(self(rows), np.asarray(targets, np.float32).reshape(-1))

    def output(self, model: Any, rows: Any, batch: Ragged, labels: Any, *seen: Any) -> HeadOutput:
        """logits (batch, length); labels: as input_ids, 0 and 1; what padding hides does not count."""
        scores = model.watch("logits", self(rows))
        wanted = None if labels is None else batch.rows_of(labels, "labels").astype(np.float32)
        loss = None if wanted is None else ops.binary_cross_entropy(scores, wanted)
        whole = batch.back(ops.reshape(scores, (-1, 1)))
        flat = [each[:, 0] for each in whole] if isinstance(whole, list) else ops.reshape(whole, whole.shape[:2])
        return HeadOutput(flat, loss, *seen)


class NextSentenceHead(nn.Module):
    """Whether the second sentence follows the first: class 0 if it does. On the pooled row."""

    task, pooled = "ForNextSentencePrediction", True

    def __init__(self, width: int, dropout: float = 0.0, classes: int = 2) -> None:
        self.next = nn.Linear(width, classes, bias=True)
        self.dropout = nn.Dropout(dropout, "head")

    def logits(self, model: Any, rows: Any, starts: Starts) -> Any:
        """(sequences, 2)."""
        return self.next(self.dropout(model.pooled(rows, starts)))

    def loss(self, model: Any, rows: Any, starts: Starts, targets: Any) -> Any:
        """Mean cross-entropy in nats of targets (sequences,)."""
        return ops.cross_entropy(self.logits(model, rows, starts), np.asarray(targets).reshape(-1))

    def output(self, model: Any, rows: Any, batch: Ragged, labels: Any, *seen: Any) -> HeadOutput:
        """labels: (batch,) of 0 and 1."""
        scores = self.logits(model, rows, batch.starts)
        return HeadOutput(scores, None if labels is None else ops.cross_entropy(scores, _flat(labels)), *seen)


class PreTrainingHead(nn.Module):
    """Masked words, and the next sentence (ALBERT: the order of two), both at once."""

    task, pooled = "ForPreTraining", True

    def __init__(self, predictions: MaskedHead, following: NextSentenceHead) -> None:
        self.predictions, self.following = predictions, following

    def loss(self, model: Any, rows: Any, starts: Starts, targets: Any, following: Any = None) -> Any:
        """The masked words' loss of targets (rows,), and of following (sequences,) where they are given."""
        words = self.predictions.loss(model, rows, starts, targets)
        return words if following is None else ops.add(words, self.following.loss(model, rows, starts, following))

    def output(
        self,
        model: Any,
        rows: Any,
        batch: Ragged,
        labels: Any,
        *seen: Any,
        next_sentence_label: Any = None,
        sentence_order_label: Any = None,
    ) -> PreTrainingOutput:
        """labels, and next_sentence_label (ALBERT: sentence_order_label): a loss where both are given."""
        words = model.watch("logits", self.predictions(rows))
        scores = self.following.logits(model, rows, batch.starts)
        following = next_sentence_label if sentence_order_label is None else sentence_order_label
        loss = None
        if labels is not None and following is not None:
            masked = ops.cross_entropy(words, batch.rows_of(labels, "labels"))
            loss = ops.add(masked, ops.cross_entropy(scores, _flat(following)))
        return PreTrainingOutput(batch.back(words), scores, loss, *seen)


def _flat(labels: Any) -> NDArray[Any]:
    return np.asarray(labels).reshape(-1)
