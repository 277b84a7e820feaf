"""What encoders share: tokens to rows in which each has seen all of its sequence, a head or none, Hugging Face's call.

Devlin et al. 2018, arXiv:1810.04805.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import nn, ops
from pyllm.autograd import checkpoint
from pyllm.models.adapters import Adaptable
from pyllm.models.outputs import check_return_dict, named
from pyllm.models.ragged import Ragged, Starts, check_length, check_range, ragged
from pyllm.models.settings import Settings
from pyllm.ops.arrays import int32
from pyllm.tensor import Array, Tensor

# Parts of heads that give their answers.
OUTPUTS = ("decoder", "predictions.decoder", "score", "tags", "next", "following.next", "replaced")
TASKS = {"Model": "FEATURE_EXTRACTION", "ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}
TOGETHER = 512 * 384  # numbers between two layers, which then stay in the caches


@named
class EncoderOutput(NamedTuple):
    """last_hidden_state (batch, length, width), zeros for padding; pooler_output (batch, width).

    hidden_states: of the embeddings and of every layer; attentions: (batch, heads, length, length) of every layer.
    """

    last_hidden_state: Any
    pooler_output: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


def two_labels() -> dict[int, str]:
    """What transformers calls the classes of a configuration that says nothing of them."""
    return {0: "LABEL_0", 1: "LABEL_1"}


@dataclass(frozen=True)
class LabelledConfig(Settings):
    """What every family's configuration has for its heads. problem_type: None is told from num_labels and labels."""

    id2label: dict[int, str] = field(default_factory=two_labels)
    label2id: dict[str, int] = field(default_factory=lambda: {name: i for i, name in two_labels().items()})
    problem_type: str | None = None
    pad_token_id: Any = 0
    bos_token_id: Any = None
    eos_token_id: Any = None
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02

    @property
    def num_labels(self) -> int:
        """Classes of a classifier."""
        return len(self.id2label)


class Shown:
    """As nn.Own, each sequence over itself; keeps the weights of every layer: lists of (heads, length, length).

    They are computed by the definition beside the fused operation, for who asks to see them.
    """

    def __init__(self, starts: Starts, bias: Any = None) -> None:
        self.starts, self.bias = starts, bias
        self.layers: list[list[Array]] = []

    def __call__(self, part: nn.MultiHeadAttention, x: Any, mask: Any = None) -> Any:
        """What W_o takes, of rows (rows, width)."""
        q, k, v = ops.linears(x, [part.q.pair, part.k.pair, part.v.pair])
        self.layers.append([])
        for first, end in zip(self.starts[:-1], self.starts[1:], strict=True):
            of_heads = (_plain(each)[first:end].reshape(end - first, part.heads, -1) for each in (q, k))
            a, b = (each.transpose(1, 0, 2) for each in of_heads)
            one = np.array([0, end - first], np.int32)
            added = None if self.bias is None else ops.spread_bias(_plain(self.bias), one, False)
            every = np.ones((end - first, end - first), bool)
            self.layers[-1].append(ops.attention_weights(a, b, every, part.scale, bias=added))
        return part.over(q, k, v, self.starts, bias=self.bias, mask=mask)


class Encoder(Adaptable, ABC):
    """A family defines `embedded` and has `layers`; the rest is here. head: None, or what stands on the rows.

    Dropout acts within ops.noise on embeddings, on attention weights, on what sublayers give and in heads.
    """

    config: Any
    head: Any = None
    pooler: nn.Linear | None = None
    layers: Sequence[Any]  # in the order in which they run
    open_tokenizer: Callable[[], Any] | None = None
    name_or_path: str | None = None
    is_gradient_checkpointing = False
    unexpected_keys: tuple[str, ...] = ()  # names of what its file had and nobody asked for
    outputs: ClassVar[tuple[str, ...]] = tuple(f"head.{each}" for each in OUTPUTS)
    heads: ClassVar[dict[str, Any]] = {}  # how transformers' name ends -> what makes the head of (config, words)
    prefix = ""  # of all but the head's names in the files of models with a head
    tied: ClassVar[dict[str, str]] = {}  # name in files -> the name of what it always equals

    @abstractmethod
    def embedded(self, batch: Ragged) -> Any:
        """Tokens as rows (rows, width): what the first layer takes."""

    def bias(self, starts: Starts) -> Any:
        """What every layer adds to its scores, as ops.row_attention takes it; None: nothing."""
        return None

    @property
    def width(self) -> int:
        """Of the rows."""
        return int(self.config.hidden_size)

    @property
    def context_length(self) -> int:
        """Tokens of a sequence at most."""
        return int(self.config.max_position_embeddings)

    @property
    def task(self) -> str:
        """How transformers' name of this model ends."""
        return "Model" if self.head is None else str(self.head.task)

    @property
    def task_type(self) -> str | None:
        """PEFT's word for it; None of heads for which it has none."""
        return TASKS.get(self.task)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the folder that the model came from. Raises ValueError without one."""
        if self.open_tokenizer is None:
            raise ValueError("tokenizer: this model was not loaded from a folder; give token ids")
        return self.open_tokenizer()

    def rows(self, batch: Ragged, own: Any = None, seen: list[Any] | None = None) -> Any:
        """The last layer's rows (rows, width). own: how sequences see themselves; seen: takes every layer's rows.

        Raises ContextError for a sequence beyond the position table, IndexError for ids that are not in a table.
        """
        check_length(batch, self.context_length)
        check_range(batch, batch.ids, self.config.vocab_size, "input_ids")
        x = self.watch("embedding", self.embedded(batch))
        if own is None and seen is None and not isinstance(x, Tensor) and x.size > TOGETHER and not self._adapts():
            return self._in_groups(x, batch.starts)
        return self.through(x, nn.Own(batch.starts, bias=self.bias(batch.starts)) if own is None else own, seen)

    def through(self, x: Any, own: Any, seen: list[Any] | None = None) -> Any:
        """The last layer's rows, of what the first takes; own and seen as rows() takes them."""
        for layer in self.layers:
            if seen is not None:
                seen.append(x)
            x = checkpoint(layer, x, own) if self.is_gradient_checkpointing else layer(x, own)
        if seen is not None:
            seen.append(x)
        return x

    def _adapts(self) -> bool:
        """Whether an adapter learns, whose layers give tensors though the embedding gives none."""
        return self.active_adapter is not None and bool(self.parameters())

    def _in_groups(self, x: Array, starts: Starts) -> Array:
        """The last layer's rows, some sequences through all layers and then the next: the same bits."""
        first, most = 0, TOGETHER // x.shape[1]
        while first < len(starts) - 1:
            end = max(first + 1, int(np.searchsorted(starts, starts[first] + most, "right")) - 1)
            rows = slice(int(starts[first]), int(starts[end]))
            inside = starts[first : end + 1] - starts[first]
            y, own = x[rows], nn.Own(inside, bias=self.bias(inside))
            for layer in self.layers:
                y = layer(y, own)
            x[rows], first = y, end
        return x

    def pooled(self, rows: Any, starts: Starts) -> Any:
        """tanh(W x + b) of each sequence's first row: (sequences, width). Raises ValueError without a pooler."""
        if self.pooler is None:
            raise ValueError(f"{type(self).__name__}: this model has no pooler")
        return ops.tanh(self.pooler(ops.take_rows(rows, starts[:-1].astype(np.int64))))

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        labels: Any = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool | None = None,
        **more: Any,
    ) -> Any:
        """What the model makes of whole sequences, as a tuple with transformers' names.

        input_ids: (batch, length), of which rows that attention_mask hides are never computed and come back as zeros,
        or a list of sequences, whose rows come back as a list. Positions count the tokens that are seen. labels: gives
        a loss. Ready to run the answers are float32 arrays, ready to learn tensors with a way back. Raises ValueError,
        IndexError, ContextError.
        """
        check_return_dict(return_dict)
        batch = ragged(input_ids, attention_mask, token_type_ids, position_ids)
        own = Shown(batch.starts, self.bias(batch.starts)) if output_attentions else None
        seen: list[Any] | None = [] if output_hidden_states else None
        rows = self.rows(batch, own, seen)
        hidden = None if seen is None else tuple(batch.back(each) for each in seen)
        attentions = None if own is None else tuple(batch.squares(each) for each in own.layers)
        if self.head is not None:
            return self.head.output(self, rows, batch, labels, hidden, attentions, **more)
        if labels is not None:
            raise TypeError(f"{type(self).__name__}: labels without a head; AutoModelFor... has one")
        if more:
            raise TypeError(f"{type(self).__name__}: unknown arguments {', '.join(sorted(more))}")
        pooled = None if self.pooler is None else self.pooled(rows, batch.starts)
        return EncoderOutput(batch.back(rows), pooled, hidden, attentions)

    def loss(self, tokens: Any, targets: Any, types: Any = None, **more: Any) -> Any:
        """The head's loss: a tensor, whose backward learns. tokens, types (rows,); sequences: ops.documents.

        targets: of a masked language model and of a tagger (rows,) with -100 where nothing is wanted, of a classifier
        (sequences,). Raises ValueError without a head.
        """
        if self.head is None:
            raise ValueError(f"{type(self).__name__}: a loss without a head; AutoModelFor... has one")
        ids = np.asarray(tokens)
        kinds = None if types is None else int32(types, "loss", "types").reshape(-1)
        batch = Ragged(int32(ids, "loss", "tokens").reshape(-1), ops.starts_of(ids.shape), kinds)
        return self.head.loss(self, self.rows(batch), batch.starts, targets, **more)

    def training_flops(self) -> float:
        """As every module's, but tables of embeddings are only looked up, unless they are the head's too."""
        head = {id(each) for path, each in self.named_parameters() if path.startswith("head.")}
        tables = [part.weight for _, part in self.named_modules() if isinstance(part, nn.Embedding)]
        return super().training_flops() - self.table_flops(each for each in tables if id(each) not in head)

    def gradient_checkpointing_enable(self) -> None:
        """Learning keeps the inputs of layers alone, and runs each again on the way back: the same bits."""
        self.is_gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep what the way back needs, as at first."""
        self.is_gradient_checkpointing = False

    def first_values(self, name: str, parameter: nn.Parameter, random: np.random.Generator) -> Array:
        """Matrices normal with the configuration's initializer_range, biases 0, norms 1."""
        if len(parameter.shape) > 1:
            return random.standard_normal(parameter.shape, np.float32) * np.float32(self.config.initializer_range)
        return super().first_values(name, parameter, random)

    def name_of(self, name: str) -> str:
        """What a tensor of the family's files is called in the files of this model."""
        if self.head is None:
            return name.removeprefix(self.prefix)
        apart = () if self.config.tie_word_embeddings else self.tied.items()
        return next((own for own, other in apart if other == name and not name.startswith(self.prefix)), name)

    def state_dict(self) -> dict[str, NDArray[np.float32]]:
        """Name -> float32 array, copied, by the names of transformers' model of this family and head.

        With adapters: of the one in use, by path.
        """
        from pyllm.auto.encoders import state_of

        return super().state_dict() if self.adapters else state_of(self)

    def take_state(self, state: Mapping[str, Any]) -> Any:
        """Take all numbers of a state_dict(), of transformers' model or this; gives the model, ready to learn.

        Raises ValueError that names every tensor that is missing, unexpected or of another shape, and for a file.
        """
        from pyllm.auto.encoders import load_state

        if self.adapters:
            super().take_state(state)
        else:
            load_state(self, state)
        return self.train()

    def __repr__(self) -> str:
        head = "" if self.head is None else f"{type(self.head).__name__}, "
        return f"{type(self).__name__}({head}{self.num_parameters():,} parameters, {self.config})"


def _plain(x: Any) -> Array:
    found: Array = x.data if isinstance(x, Tensor) else x
    return found
