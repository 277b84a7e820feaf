"""What language models that predict the next token have in common: states, steps, scores of whole sequences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import _core, nn, ops
from pyllm.errors import ContextError
from pyllm.models.adapters import Adaptable
from pyllm.models.attentions import batched, hidden_states
from pyllm.models.outputs import check_return_dict, named
from pyllm.ops.arrays import int32

Logits = NDArray[np.float32]
Hidden = NDArray[np.float32]
Rows = str | Sequence[int]
CACHE_TYPES = ("F32", "BF16", "Q8_0")
_recording = Lock()  # the first call may come from several threads


@named
class CausalOutput(NamedTuple):
    """logits (batch, length, vocabulary) float32; loss a float where labels were given; attentions, where asked for,
    of every layer (batch, heads, length, length); hidden_states of the embeddings and layers (batch, length, width)."""

    logits: Logits
    loss: float | None = None
    attentions: tuple[NDArray[np.float32], ...] | None = None
    hidden_states: tuple[NDArray[np.float32], ...] | None = None


class CausalLM(Adaptable, ABC):
    """A family defines `forward(tokens)` and `cache` (layers, key heads, head width); the rest is here.

    `config` is the family's dataclass; precision "default" or "high" (two int8 terms, float32 attention and cache).
    """

    config: Any
    precision = "default"
    generation_config: dict[str, Any] | None = None  # what the model's folder says; generate() starts from it
    open_tokenizer: Callable[[], Any] | None = None  # of the file that the model came from
    name_or_path: str | None = None  # of that file
    is_gradient_checkpointing = False
    batch_rows = 512  # rows of one replay at most; answers do not depend on it
    _cache_type: str | None = None
    _context_length: int | None = None
    _paused = False  # it was learning when it was asked to run; the next loss goes on
    _program: _core.Program | None = None
    _pool: _core.Pool | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take: a program and its pages are of this object alone, and made again."""
        return {**vars(self), "_program": None, "_pool": None, "idle_cache": None}

    @property
    @abstractmethod
    def cache(self) -> tuple[int, int, int]:
        """(layers, key/value heads, head width)."""

    @abstractmethod
    def forward(self, tokens: Any) -> Any:
        """Token ids of one sequence to logits; called with symbols to record, with ids to compute unfused."""

    @property
    def context_length(self) -> int:
        """Positions that a state may have; may be set to others, as far as longest_context, before the first step."""
        return self._context_length or int(self.config.context_length)

    @context_length.setter
    def context_length(self, positions: int) -> None:
        most = self.longest_context
        if not 1 <= positions <= most:
            raise ValueError(f"context_length: {positions:,} is asked for, allowed is 1 to {most:,}, the model's own")
        if self._program is not None:
            raise ValueError(f"context_length: {positions:,} comes after the first step")
        self._context_length = positions

    @property
    def longest_context(self) -> int:
        """What context_length may be set to at most."""
        return int(self.config.context_length)

    @property
    def cache_type(self) -> str:
        """Type of cached keys and values, one of CACHE_TYPES; may be set before the first step.

        Unset it is float32 where the weights are, or precision is high; else bfloat16.
        """
        if self._cache_type is not None:
            return self._cache_type
        exact = all(each.value.dtype == "F32" for _, each in self.named_parameters() if each.packed)
        return "F32" if exact or self.precision == "high" else "BF16"

    @cache_type.setter
    def cache_type(self, name: str) -> None:
        if name.upper() not in CACHE_TYPES:
            raise ValueError(f"cache_type: {name!r}, allowed are {', '.join(CACHE_TYPES)}")
        if self._program is not None:
            raise ValueError(f"cache_type: {name!r} comes after the first step, which took {self.cache_type}")
        self._cache_type = name.upper()

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the file that the model came from, read at first use. Raises ValueError without a file."""
        if self.open_tokenizer is None:
            raise ValueError("tokenizer: this model was not loaded from a file; give tokenizer=, or token ids")
        return self.open_tokenizer()

    @abstractmethod
    def loss(self, tokens: Any, targets: Any) -> Any:
        """Mean cross-entropy of targets (..., length) after tokens (..., length): a tensor, whose backward learns."""

    def gradient_checkpointing_enable(self) -> None:
        """From now on learning keeps the inputs of layers alone, and runs each layer again on the way back.

        The same bits with less memory, for the time of another pass forward. Hugging Face's name.
        """
        self.is_gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep what the way back needs, as at first."""
        self.is_gradient_checkpointing = False

    def train(self, mode: bool = True) -> Any:
        """Ready to learn; what was recorded of the old weights is forgotten."""
        if not mode:
            return self.eval()
        self.forget_program()
        self._paused = False
        return super().train()

    def eval(self) -> Any:
        """Ready to run, with the weights of now."""
        self.forget_program()
        self._paused = False
        return super().eval()

    def forget_program(self) -> None:
        """Record again when the model runs next."""
        self._program = self._pool = None

    def program(self) -> _core.Program:
        """The recorded forward; recorded at the first call."""
        with _recording:
            return self._program or self._record()

    def _record(self) -> _core.Program:
        self._paused = self._paused or bool(self.parameters())
        super().eval()  # a model that is learning runs with the weights of now
        cache, high = (*self.cache, self.cache_type), self.precision == "high"
        recorder = ops.Recorder(cache, self.context_length, high)
        self.forward(recorder.tokens)
        self._program = recorder.finish()
        return self._program

    def new_pool(self, limit_bytes: int = 0) -> _core.Pool:
        """Pages for states: as many as fit into limit_bytes, taken at once; 0 takes them as they are asked for.

        Raises MemoryError when the system does not have them.
        """
        return _core.Pool(self.program(), limit_bytes)

    def new_state(self, pool: _core.Pool | None = None) -> nn.State:
        """An empty state, in the pages of a pool; None is the model's own, which has no limit."""
        if pool is None:
            pool = self._pool = self._pool or self.new_pool()
        return nn.State(_core.Sequence(pool))

    def step(self, batch: Sequence[tuple[nn.State, Any]], logits: Rows = "last") -> Logits:
        """Append token ids to each state; gives float32 logits of each one's last token, or of all tokens.

        batch: [(state, ids), ...], prompts and single tokens alike. Rows of the answer are in that order. logits:
        "last", "all", or per state how many of its last tokens. An interrupt or error leaves every state as it was.
        Raises ContextError when a state would pass the context, ValueError for unknown ids.
        """
        return self._step(batch, logits, False)

    def hidden(self, batch: Sequence[tuple[nn.State, Any]], rows: Rows = "last") -> Hidden:
        """As `step`, but of each row what the head would be given: the last layer's output after the final norm.

        float32 (rows, width): Hugging Face's hidden_states[-1]. `logits_of` makes the logits of them.
        """
        return self._step(batch, rows, True)

    def logits_of(self, hidden: Hidden) -> Logits:
        """Logits (rows, vocabulary) of hidden rows (rows, width), with the bits that `step` gives."""
        return self.program().head(np.ascontiguousarray(hidden, np.float32))

    def _step(self, batch: Sequence[tuple[nn.State, Any]], rows: Rows, hidden: bool) -> NDArray[np.float32]:
        work = [(state, np.ascontiguousarray(ids, np.int32).reshape(-1)) for state, ids in batch]
        wanted = _wanted(rows, [len(ids) for _, ids in work])
        before = [state.length for state, _ in work]
        for length, (_, ids) in zip(before, work, strict=True):
            if length + len(ids) > self.context_length:
                raise ContextError(
                    f"step: {length + len(ids):,} positions are wanted, the model's context has "
                    f"{self.context_length:,}; start a new state or truncate this one"
                )
        try:
            return self._run(work, wanted, hidden)
        except BaseException:
            for (state, _), length in zip(work, before, strict=True):
                state.truncate(min(length, state.length))
            raise

    def _run(
        self, work: list[tuple[nn.State, NDArray[np.int32]]], wanted: Sequence[int], hidden: bool
    ) -> NDArray[np.float32]:
        """Replays of at most batch_rows rows; the pieces of a prompt follow one another."""
        program = self.program()
        pieces: list[list[Any]] = [[]]
        most = room = min(program.max_rows, self.batch_rows)
        for (state, ids), want in zip(work, wanted, strict=True):
            if len(ids) == 0:
                raise ValueError("step: a sequence has no tokens")
            start = 0
            while start < len(ids):
                if room == 0:
                    pieces.append([])
                    room = most
                end = min(len(ids), start + room)
                here = max(0, end - max(start, len(ids) - want))
                pieces[-1].append((state.sequence, ids[start:end], here))
                room, start = room - (end - start), end
        found = [program.run(piece, hidden) for piece in pieces]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        labels: Any = None,
        output_attentions: bool = False,
        return_dict: bool | None = None,
        output_hidden_states: bool = False,
    ) -> CausalOutput:
        """Scores of whole sequences. input_ids (batch, length); masked places get zero logits and are not seen.

        labels (batch, length): loss is the mean cross-entropy in nats of labels[:, 1:], -100 left out.
        output_attentions: also the weights of every head, computed by their definition beside the scores.
        output_hidden_states: the embeddings, every layer's rows, the last one's after the norm, computed so too.
        """
        check_return_dict(return_dict)
        ids = np.asarray(input_ids)
        if ids.ndim == 1:
            ids = ids[None]
        if ids.ndim != 2 or ids.dtype.kind not in "iu" or 0 in ids.shape:
            raise ValueError(f"model: input_ids {ids.shape} of {ids.dtype}, allowed is (batch, length) of integers")
        seen = np.ones(ids.shape, bool) if attention_mask is None else np.asarray(attention_mask) != 0
        if seen.shape != ids.shape or not seen.any(axis=1).all():
            raise ValueError(f"model: attention_mask {seen.shape} for input_ids {ids.shape}, each row with a 1")
        out = np.zeros((*ids.shape, self.config.vocab_size), np.float32)
        for row, mask, target in zip(ids, seen, out, strict=True):
            target[mask] = self.whole(int32(row[mask], "model", "input_ids"))
        loss = None if labels is None else _cross_entropy(out, np.asarray(labels))
        attentions = batched(self, ids, seen) if output_attentions else None
        return CausalOutput(out, loss, attentions, hidden_states(self, ids, seen) if output_hidden_states else None)

    def whole(self, ids: Any) -> Logits:
        """Logits (length, vocabulary) of one sequence."""
        state = self.new_state()
        found = self.step([(state, ids)], "all")
        state.free()
        return found

    def generate(self, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        """Continue prompts; see pyllm.generate.generate."""
        from pyllm.generate import generate  # an import upwards: Hugging Face has this name on the model

        return generate(self, input_ids, *args, **kwargs)

    def score(self, texts: Any, *args: Any, **kwargs: Any) -> Any:
        """Log-probabilities of the tokens of texts; see pyllm.evaluate.scoring.score."""
        from pyllm.evaluate.scoring import score

        return score(self, texts, *args, **kwargs)

    def embed(self, texts: Any, *args: Any, **kwargs: Any) -> Any:
        """Texts as vectors; see pyllm.evaluate.embedding.embed."""
        from pyllm.evaluate.embedding import embed

        return embed(self, texts, *args, **kwargs)

    def state_dict(self) -> dict[str, NDArray[np.float32]]:
        """Name -> float32 array, copied, by the names of transformers' model of this family; pyllm.auto.state.

        With adapters: of the one in use, by path.
        """
        from pyllm.auto.state import state_of

        return super().state_dict() if self.adapters else state_of(self)

    def take_state(self, state: Mapping[str, Any]) -> Any:
        """Take all numbers from the state_dict() of transformers' model of this family and configuration, or from this
        model's own; gives the model, ready to learn. Optimizers that hold its tensors go on with them.

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


def _wanted(rows: Rows, lengths: Sequence[int]) -> Sequence[int]:
    """How many of its last rows each state of a step gives."""
    if rows in ("last", "all"):
        return [1] * len(lengths) if rows == "last" else lengths
    wanted = [] if isinstance(rows, str) else list(rows)
    if len(wanted) != len(lengths) or not all(0 <= want <= n for want, n in zip(wanted, lengths, strict=True)):
        raise ValueError(f"step: rows are {rows!r} for {lengths} tokens; 'last', 'all', or a number for each state")
    return wanted


def _cross_entropy(logits: Logits, labels: NDArray[Any]) -> float:
    """-mean log softmax(logits[:, i])[labels[:, i + 1]] in float64, over labels other than -100."""
    if labels.shape != logits.shape[:2]:
        raise ValueError(f"model: labels {labels.shape} for input_ids {logits.shape[:2]}")
    total, count = 0.0, 0
    for row, targets in zip(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), strict=True):
        if targets == -100:
            continue
        x = row.astype(np.float64)
        total += np.log(np.exp(x - x.max()).sum()) + x.max() - x[targets]
        count += 1
    return total / count if count else float("nan")
