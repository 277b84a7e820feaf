"""What encoder-decoders have in common: the loss of pairs, states that decode, weights in and out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import nn, ops
from pyllm.autograd import no_grad
from pyllm.errors import ContextError
from pyllm.models.adapters import Adaptable
from pyllm.models.outputs import check_return_dict
from pyllm.models.pair_call import PairOutput, called
from pyllm.ops.arrays import int32

Starts = NDArray[np.int32]


class Memory(NamedTuple):
    """What an encoder gives: rows (rows, width) of sequences that begin at starts; its last states, if it has any."""

    rows: Any
    starts: Starts
    ends: tuple[Any, ...] = ()


class Decoding(ABC):
    """What is remembered while targets grow: one prefix ("beam") or several of each source, beams in order of sources.

    key_starts: where the sources' tokens begin in the memory. source: whose beam each is. length: tokens that all beams
    have so far.
    """

    def __init__(self, key_starts: Starts) -> None:
        self.key_starts = key_starts
        self.source = np.arange(len(key_starts) - 1)
        self.length = 0

    @abstractmethod
    def move(self, index: NDArray[np.int64]) -> None:
        """Let what beam i has of its own be what beam index[i] had."""

    def reorder(self, index: Any) -> None:
        """Let beam i go on from what was beam index[i]; sources without a beam are forgotten.

        Raises ValueError where beams would not be in the order of their sources.
        """
        index = np.asarray(index, np.int64)
        source = self.source[index]
        if (np.diff(source) < 0).any():
            raise ValueError(f"decoding: beams of sources {source}, allowed are sources that do not descend")
        self.source = source
        self.move(index)


class EncoderDecoder(Adaptable, ABC):
    """A family defines `encode`, `decode`, `begin` and `follow`, and has a `head`; the rest is here.

    A batch of pairs is sequences end to end, source and target in turn (pyllm.data.Pairs).
    """

    config: Any
    head: Any  # a Linear; an Embedding that serves as head has no bias
    generation_config: dict[str, Any] | None = None
    open_tokenizer: Callable[[], Any] | None = None
    name_or_path: str | None = None
    _paused = False  # it was learning when it was asked to run; the next loss goes on

    @abstractmethod
    def encode(self, ids: NDArray[np.int32], starts: Starts) -> Memory:
        """Source tokens (rows,) to a memory."""

    @abstractmethod
    def decode(self, ids: NDArray[np.int32], starts: Starts, memory: Memory) -> Any:
        """Target tokens (rows,), each seeing those before it and its memory, to what the head takes (rows, width)."""

    @abstractmethod
    def begin(self, memory: Memory, tokens: int = 0) -> Decoding:
        """A decoding with one empty beam for each source: what of the memory serves every step is made now.

        tokens: of all beams in all steps, as far as they are foreseen; more are no error.
        """

    @abstractmethod
    def follow(self, state: Decoding, ids: NDArray[np.int32]) -> Any:
        """One token more for each beam, (beams,); gives what the head takes (beams, width)."""

    @property
    def task_type(self) -> str | None:
        """PEFT's word for it."""
        return "SEQ_2_SEQ_LM"

    @property
    def context_length(self) -> int:
        """Tokens of a source or a target at most."""
        return int(self.config.max_position_embeddings)

    @property
    def start_id(self) -> int:
        """What stands before a target: decoder_start_token_id, else bos_token_id, else eos_token_id, else 0."""
        c = self.config
        found = next((i for i in (c.decoder_start_token_id, c.bos_token_id, c.eos_token_id) if i is not None), 0)
        return int(found[0] if isinstance(found, list) else found)

    def start_of(self, target: list[int]) -> int:
        """What stands before this target."""
        return self.start_id

    @property
    def target_vocabulary(self) -> int:
        """How many tokens a target may consist of."""
        return int(self.head.weight.shape[0])

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the folder that the model came from. Raises ValueError without one."""
        if self.open_tokenizer is None:
            raise ValueError("tokenizer: this model was not loaded from a folder; give token ids")
        return self.open_tokenizer()

    def loss(self, tokens: Any, targets: Any) -> Any:
        """Mean cross-entropy in nats of targets (rows,) after tokens (rows,), where those are not -100.

        Within ops.documents sequences are source, target, source, target, ...; within ops.noise with the
        configuration's label smoothing. Raises ValueError for an odd number of sequences.
        """
        if self._paused:
            self.train()
        ids = np.asarray(tokens).reshape(-1)
        sources, marks = split(ops.starts_of(ids.shape))
        memory = self.encode(ids[~marks], sources[0])
        rows = self.decode(ids[marks], sources[1], memory)
        return self.row_loss(rows, np.asarray(targets).reshape(-1)[marks])

    def row_loss(self, rows: Any, wanted: Any) -> Any:
        """Mean cross-entropy of wanted (rows,) from what the head takes (rows, width), where those are not -100."""
        smoothing = ops.smoothing_now() or (self.config.label_smoothing if ops.noise_now() is not None else 0.0)
        return ops.linear_cross_entropy(rows, self.head.weight.value, wanted, self._head_bias, smoothing)

    @property
    def _head_bias(self) -> Any:
        bias = getattr(self.head, "bias", None)
        return None if bias is None else bias.value

    def logits(self, rows: Any) -> Any:
        """What the head makes of rows (rows, width): (rows, vocabulary)."""
        return self.watch("logits", ops.linear(rows, self.head.weight.value, self._head_bias))

    def training_flops(self) -> float:
        """As every module's, but a row is of a source or of a target and passes one side; tables are only looked up."""
        kinds = nn.Embedding, nn.Positions, nn.RelativeBias
        tables = {id(part.weight): part.weight for _, part in self.named_modules() if isinstance(part, kinds)}
        looked_up = self.table_flops(each for each in tables.values() if each is not self.head.weight)
        return 0.5 * (super().training_flops() - looked_up)

    def forward(self, source_ids: Any, target_ids: Any) -> Any:
        """Logits (target, vocabulary) of one target, or (targets of all, ...) of lists of both, end to end."""
        (sources, starts), (targets, target_starts) = self._rows(source_ids, "source"), self._rows(target_ids, "target")
        if len(starts) != len(target_starts):
            raise ValueError(f"forward: {len(starts) - 1} sources and {len(target_starts) - 1} targets")
        return self.logits(self.decode(targets, target_starts, self.encode(sources, starts)))

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        decoder_input_ids: Any = None,
        labels: Any = None,
        decoder_attention_mask: Any = None,
        output_attentions: bool = False,
        return_dict: bool | None = None,
        output_hidden_states: bool = False,
    ) -> PairOutput:
        """Scores of whole targets, under transformers' names; lists of different lengths are taken too.

        input_ids (batch, source); decoder_input_ids (batch, target), or labels, which are shifted right behind the
        start token; loss is the mean cross-entropy in nats of labels, -100 left out. Masks mark padding at either end;
        padding, also that of labels, is not computed. Raises ValueError, IndexError.
        """
        check_return_dict(return_dict)
        asked = output_attentions, output_hidden_states
        given = input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, labels, *asked
        if labels is not None:
            if self._paused:
                self.train()
            return called(self, *given)
        self._pause()
        with no_grad():
            return called(self, *given)

    def start(self, sources: Any, tokens: int = 0) -> Decoding:
        """Run the encoder over sources: a list of token ids, or of such lists; gives the state of their targets.

        tokens: how many all beams of all of them will have together, where that is known.
        """
        self._pause()
        with no_grad():
            return self.begin(self.encode(*self._rows(sources, "source")), tokens)

    def step(self, state: Decoding, ids: Any) -> NDArray[np.float32]:
        """Append a token to each beam, ids (beams,); gives the logits (beams, vocabulary) of the next.

        Raises ContextError where the beams have as many as the model can count.
        """
        given = int32(ids, "step", "ids")
        if given.shape != (len(state.source),):
            raise ValueError(f"step: ids {given.shape} for {len(state.source)} beams, allowed is one for each")
        if state.length >= self.context_length:
            raise ContextError(f"step: targets have {state.length:,} tokens, the model's context is that long")
        with no_grad():
            logits: NDArray[np.float32] = self.logits(self.follow(state, given))
        state.length += 1
        return logits

    def cross_weights(self, source_ids: Any, target_ids: Any) -> NDArray[np.float32]:
        """(heads, target, source): which tokens of the source each step of the last layer looked at; rows sum to 1.

        Raises ValueError for a model without attention.
        """
        self._pause()
        with no_grad(), nn.trace(self) as found:
            self.forward(source_ids, target_ids)
        names = [name for name in found.names() if name.endswith("cross.weights")]
        if not names:
            raise ValueError("cross_weights: this model has no attention over its source")
        weights = found[names[-1]]
        return weights if weights.ndim == 3 else weights[None]

    def _rows(self, given: Any, what: str) -> tuple[NDArray[np.int32], Starts]:
        """Token ids of one sequence or several as rows, and where they begin. Raises ValueError, ContextError."""
        many = isinstance(given, list | tuple) and len(given) > 0 and np.ndim(given[0]) > 0
        many = many or (isinstance(given, np.ndarray) and given.ndim == 2)
        rows = [np.asarray(each) for each in (given if many else [given])]
        for number, row in enumerate(rows):
            if row.ndim != 1 or not row.size or row.dtype.kind not in "iu":
                found = "empty" if not row.size else f"{row.dtype} {row.shape}"
                raise ValueError(f"{what} {number}: {found}, allowed are token ids, one at least")
            if len(row) > self.context_length:
                found = f"{len(row):,} tokens, the model's context has {self.context_length:,}"
                raise ContextError(f"{what} {number}: {found}; shorten it, or take a model with a longer context")
        starts = np.cumsum([0, *map(len, rows)]).astype(np.int32)
        return int32(np.concatenate(rows), "model", what), starts

    def _pause(self) -> None:
        self._paused = self._paused or bool(self.parameters())
        super().eval()

    def train(self, mode: bool = True) -> Any:
        """Ready to learn."""
        if not mode:
            return self.eval()
        self._paused = False
        return super().train()

    def eval(self) -> Any:
        """Ready to run, with the weights of now."""
        self._paused = False
        return super().eval()

    def generate(self, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        """Targets of sources; see pyllm.generate.pairs.generate."""
        from pyllm.generate.pairs import generate  # an import upwards: Hugging Face has this name on the model

        return generate(self, input_ids, *args, **kwargs)

    def state_dict(self) -> dict[str, NDArray[np.float32]]:
        """Name -> float32 array, copied, by the names in the family's folders; pyllm.auto.state.

        With adapters: of the one in use, by path.
        """
        from pyllm.auto.state import state_of

        return super().state_dict() if self.adapters else state_of(self)

    def take_state(self, state: Mapping[str, Any]) -> Any:
        """Take all numbers of a state_dict(); gives the model, ready to learn.

        Raises ValueError that names every tensor that is missing, unexpected or of another shape, and for a file.
        """
        from pyllm.auto.state import load_state

        if self.adapters:
            super().take_state(state)
        else:
            load_state(self, state)
        return self.train()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_parameters():,} parameters, {self.config})"


def split(starts: Starts) -> tuple[tuple[Starts, Starts], NDArray[np.bool_]]:
    """((where sources begin, where targets begin), which rows are targets) of sequences source, target, source, ..."""
    lengths = np.diff(starts)
    if len(lengths) % 2:
        raise ValueError(f"pairs: {len(lengths)} sequences, allowed is an even number: source, target, source, ...")
    apart = tuple(np.cumsum([0, *lengths[i::2]]).astype(np.int32) for i in (0, 1))
    return (apart[0], apart[1]), np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
