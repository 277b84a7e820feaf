"""A head on the trunk of any language model that tells the class of a text. Howard, Ruder 2018, arXiv:1801.06146."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import nn, ops
from pyllm.autograd import no_grad
from pyllm.models.reading import Rows, Starts, read
from pyllm.tensor import Array

POOLINGS = ("last", "max", "mean", "concat")
LONGEST_HIDDEN, MOST_CLASSES = 1 << 16, 1000
TOKENS_AT_ONCE = 1 << 14  # of texts that are classified together: answers do not depend on it


@dataclass(frozen=True)
class ClassifierConfig:
    """classes: their names. pooling: which rows of a text the head is given: the last, the greatest, the mean, or all
    three side by side ("concat"). hidden: width of the head's hidden layer; 0: the head is one matrix, as Hugging
    Face's ...ForSequenceClassification has it. dropout: of the head. bptt, max_len: see reading.read.

    Raises ValueError for fewer than two classes, a class twice, and numbers out of range.
    """

    classes: tuple[str, ...]
    pooling: str = "concat"
    hidden: int = 50
    dropout: float = 0.1
    bptt: int = 72
    max_len: int = 1440

    def __post_init__(self) -> None:
        rules = {
            "classes": (2 <= len(set(self.classes)) == len(self.classes) <= MOST_CLASSES, f"2 to {MOST_CLASSES} names"),
            "pooling": (self.pooling in POOLINGS, ", ".join(POOLINGS)),
            "hidden": (0 <= self.hidden <= LONGEST_HIDDEN, f"0 to {LONGEST_HIDDEN:,}"),
            "dropout": (0 <= self.dropout < 1, "0 up to, but not with, 1"),
            "bptt": (1 <= self.bptt <= self.max_len, "1 to max_len"),
        }
        for name, (right, allowed) in rules.items():
            if not right:
                raise ValueError(f"classifier: {name} is {getattr(self, name)!r}, allowed are {allowed}")


class Head(nn.Module):
    """y = W2 drop(relu(W1 drop(norm(x)) + b1)) + b2; without a hidden layer y = W x.

    LayerNorm stands where the paper has batch norm: a text's answer and gradient do not depend on its company.
    """

    def __init__(self, width: int, hidden: int, classes: int, dropout: float) -> None:
        self.norm = nn.LayerNorm(width, 1e-5) if hidden else None
        self.inner = nn.Linear(width, hidden, bias=True) if hidden else None
        self.score = nn.Linear(hidden or width, classes, bias=hidden > 0)
        self.dropout = dropout

    def __call__(self, x: Any) -> Any:
        """(texts, width) to (texts, classes)."""
        if self.norm is None or self.inner is None:
            return self.score(x)
        x = ops.relu(self.inner(self._dropped(self.norm(x), b"pooled")))
        return self.score(self._dropped(x, b"inner"))

    def _dropped(self, x: Any, name: bytes) -> Any:
        mask = ops.mask(self.dropout, zlib.crc32(name))
        return x if mask is None else ops.dropout(x, *mask.draw)

    def first_values(self, name: str, parameter: nn.Parameter, random: np.random.Generator) -> Array:
        """Matrices normal with a variance of 2 / inputs (He et al. 2015, arXiv:1502.01852), biases 0."""
        if len(parameter.shape) > 1:
            spread = np.float32((2 / parameter.shape[1]) ** 0.5)
            return random.standard_normal(parameter.shape, np.float32) * spread
        return super().first_values(name, parameter, random)


class TextClassifier(nn.Module):
    """Tokens of texts to logits of classes: a language model without its head, pooling, a head. Built beside `trunk`,
    which learns with it; the head's first values come from `seed`.
    """

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

    def train(self) -> Any:
        """Ready to learn."""
        self.trunk.train()
        self.head.train()
        return self

    def eval(self) -> Any:
        """Ready to run."""
        self.trunk.eval()
        self.head.eval()
        return self

    def gradient_checkpointing_enable(self) -> None:
        """As the trunk's."""
        self.trunk.gradient_checkpointing_enable()

    def forward(self, ids: Any, starts: Starts) -> Any:
        """Logits (texts, classes) of the texts ids[starts[i]:starts[i + 1]]."""
        flat = np.ascontiguousarray(ids).reshape(-1)
        found = read(self.trunk, flat, starts, self.config.bptt, self.config.max_len)
        return self.head(self._pooled(found))

    def _pooled(self, found: Rows) -> Any:
        rows, starts, before = found
        parts = {
            "last": lambda: ops.last_rows(rows, starts),
            "max": lambda: ops.max_rows(rows, starts, None if before is None else before.greatest),
            "mean": lambda: ops.mean_rows(rows, starts, *(() if before is None else (before.total, before.counts))),
        }
        if self.config.pooling != "concat":
            return parts[self.config.pooling]()
        return ops.concatenate([part() for part in parts.values()], axis=-1)

    def loss(self, ids: Any, targets: Any) -> Any:
        """Mean cross-entropy in nats of targets (texts,), numbers of classes. Texts: ops.documents, or rows of ids."""
        return ops.cross_entropy(self.forward(ids, ops.starts_of(np.shape(ids))), targets)

    def logits(self, texts: list[NDArray[np.int32]]) -> Array:
        """(texts, classes) float32 of token ids; the same bits whatever texts come together."""
        out = np.empty((len(texts), len(self.config.classes)), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        first = 0
        with no_grad():
            while first < len(order):
                end = first + 1
                while end < len(order) and (end + 1 - first) * len(texts[order[end]]) <= TOKENS_AT_ONCE:
                    end += 1
                group = order[first:end]
                starts = np.cumsum([0, *(len(texts[i]) for i in group)]).astype(np.int32)
                out[group] = np.asarray(self.forward(np.concatenate([texts[i] for i in group]), starts))
                first = end
        return out

    def __repr__(self) -> str:
        return f"TextClassifier({type(self.trunk).__name__}, {self.num_parameters():,} parameters, {self.config})"
