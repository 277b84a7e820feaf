"""A head on the trunk of any language model that tells the class of a text. Howard, Ruder 2018, arXiv:1801.06146."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import nn, ops
from pyllm.autograd import no_grad
from pyllm.models.heads import Head, loss_of
from pyllm.models.reading import Starts, read
from pyllm.tensor import Array

POOLINGS = ("last", "max", "mean", "concat")
PROBLEMS = (None, "single_label_classification", "multi_label_classification", "regression")
LONGEST_HIDDEN, MOST_CLASSES = 1 << 16, 1000
_LEAST = 0.1  # of the mean deviation: what varies less is not made to vary as much
_TOGETHER = 32  # texts that share a draw of dropped weights while the scale is measured
TOKENS_AT_ONCE = 1 << 14  # of texts that are classified together: answers do not depend on it


@dataclass(frozen=True)
class ClassifierConfig:
    """classes: their names. pooling: which rows of a text the head is given: the last, the greatest, the mean, or all
    three side by side ("concat"). hidden: width of the head's hidden layer; 0: the head is one matrix, as Hugging
    Face's ...ForSequenceClassification has it. dropout: of the head. bptt, max_len: see reading.read. framed:
    texts have around them what the tokenizer puts there, and not one token before them. problem_type: transformers';
    None: one class is a number (regression), of several a text has one.

    Raises ValueError for no class, one alone to choose from, a class twice, and numbers out of range.
    """

    classes: tuple[str, ...]
    pooling: str = "concat"
    hidden: int = 50
    dropout: float = 0.1
    bptt: int = 72
    max_len: int = 1440
    framed: bool = False
    problem_type: str | None = "single_label_classification"

    def __post_init__(self) -> None:
        least = 2 if self.problem_type == "single_label_classification" else 1
        names = f"{least} to {MOST_CLASSES} names"
        rules = {
            "classes": (least <= len(set(self.classes)) == self.num_labels <= MOST_CLASSES, names),
            "problem_type": (self.problem_type in PROBLEMS, ", ".join(map(str, PROBLEMS))),
            "pooling": (self.pooling in POOLINGS, ", ".join(POOLINGS)),
            "hidden": (0 <= self.hidden <= LONGEST_HIDDEN, f"0 to {LONGEST_HIDDEN:,}"),
            "dropout": (0 <= self.dropout < 1, "0 up to, but not with, 1"),
            "bptt": (1 <= self.bptt <= self.max_len, "1 to max_len"),
        }
        for name, (right, allowed) in rules.items():
            if not right:
                raise ValueError(f"classifier: {name} is {getattr(self, name)!r}, allowed are {allowed}")

    @property
    def num_labels(self) -> int:
        """Classes."""
        return len(self.classes)

    @property
    def id2label(self) -> dict[int, str]:
        """Names of classes by their numbers."""
        return dict(enumerate(self.classes))


class TextClassifier(nn.Module):
    """Tokens of texts to logits of classes: a language model without its head, pooling, a head. Built beside `trunk`,
    which learns with it; the head's first values come from `seed`.
    """

    pad_token_id: Any = None  # of the folder that it came from: transformers' batches need it

    def __init__(self, trunk: Any, config: ClassifierConfig, seed: int = 0) -> None:
        self.trunk, self.config = trunk, config
        width = trunk.width * (3 if config.pooling == "concat" else 1)
        self.head = Head(width, config.hidden, len(config.classes), config.dropout).initialise(seed)

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """All but what the language model's head alone has."""
        mine = super().own_parameters()
        return {name: parameter for name, parameter in mine.items() if not name.startswith("trunk.head.")}

    def learned(self) -> dict[str, nn.Parameter]:
        """The head's, and those of the trunk that learn: all, or an adapter's."""
        trunk = {f"trunk.{name}": each for name, each in self.trunk.learned().items() if not name.startswith("head.")}
        return trunk | {f"head.{name}": each for name, each in self.head.own_parameters().items()}

    def train(self, mode: bool = True) -> Any:
        """Ready to learn."""
        if not mode:
            return self.eval()
        self.trunk.train()
        self.head.train()
        return self

    def eval(self) -> Any:
        """Ready to run."""
        self.trunk.eval()
        self.head.eval()
        return self

    def save_pretrained(self, save_directory: Any) -> None:
        """Write the folder that AutoModelForSequenceClassification opens. Raises ModelFileError."""
        from pyllm.auto.classifiers import save_classifier  # upwards: Hugging Face has this name on the model

        save_classifier(self, save_directory)

    def gradient_checkpointing_enable(self) -> None:
        """As the trunk's."""
        self.trunk.gradient_checkpointing_enable()

    def standardise(self, texts: list[NDArray[np.int32]], seed: int = 0) -> None:
        """Begin the head's scale with mean and deviation of the pooled rows of these texts, some of those that it will
        learn, with what dropout makes of them; ready to learn from then on.
        """
        self.train()  # dropped are weights that learn, not panels
        if self.head.scale is None:
            return
        parts = []
        for first in range(0, len(texts), _TOGETHER):
            with ops.noise(seed, first):
                parts.append(self._each(texts[first : first + _TOGETHER], self.pooled))
        pooled = np.concatenate(parts).astype(np.float64)
        deviation = pooled.std(axis=0)
        weight = 1 / np.maximum(deviation, _LEAST * (deviation.mean() or 1.0))
        self.head.scale.weight.take(weight.astype(np.float32))
        self.head.scale.bias.take((-pooled.mean(axis=0) * weight).astype(np.float32))

    def forward(self, ids: Any, starts: Starts) -> Any:
        """Logits (texts, classes) of the texts ids[starts[i]:starts[i + 1]]."""
        return self.head(self.pooled(ids, starts))

    def pooled(self, ids: Any, starts: Starts) -> Any:
        """What the head is given, (texts, width)."""
        flat = np.ascontiguousarray(ids).reshape(-1)
        rows, starts, before = read(self.trunk, flat, starts, self.config.bptt, self.config.max_len)
        parts = {
            "last": lambda: ops.last_rows(rows, starts),
            "max": lambda: ops.max_rows(rows, starts, None if before is None else before.greatest),
            "mean": lambda: ops.mean_rows(rows, starts, *(() if before is None else (before.total, before.counts))),
        }
        if self.config.pooling != "concat":
            return parts[self.config.pooling]()
        return ops.concatenate([part() for part in parts.values()], axis=-1)

    def loss(self, ids: Any, targets: Any) -> Any:
        """What the configuration's problem_type says, of targets (texts,), numbers or numbers of classes, or (texts,
        classes). Texts: ops.documents, or rows of ids."""
        return loss_of(self.config, self.forward(ids, ops.starts_of(np.shape(ids))), targets)

    def logits(self, texts: list[NDArray[np.int32]]) -> Array:
        """(texts, classes) float32 of token ids; the same bits whatever texts come together."""
        return self._each(texts, self.forward)

    def _each(self, texts: list[NDArray[np.int32]], function: Callable[[Any, Starts], Any]) -> Array:
        """A row of what a function of (ids, starts) gives for each text, some at a time, those of like length."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found, first = [np.empty((0, len(self.config.classes)), np.float32)], 0
        with no_grad():
            while first < len(order):
                end = first + 1
                while end < len(order) and (end + 1 - first) * len(texts[order[end]]) <= TOKENS_AT_ONCE:
                    end += 1
                group = order[first:end]
                starts = np.cumsum([0, *(len(texts[i]) for i in group)]).astype(np.int32)
                found.append(np.asarray(function(np.concatenate([texts[i] for i in group]), starts)))
                first = end
        return np.concatenate(found[1:] or found)[np.argsort(order, kind="stable")]

    def __repr__(self) -> str:
        return f"TextClassifier({type(self.trunk).__name__}, {self.num_parameters():,} parameters, {self.config})"
