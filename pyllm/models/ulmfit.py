"""AWD-LSTM, ULMFiT's language model. Merity et al. 2017, arXiv:1708.02182; Howard, Ruder 2018, arXiv:1801.06146."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pyllm import nn, ops
from pyllm.models.rnn import RecurrentLM
from pyllm.models.settings import Settings

# Parameter path -> fastai's name, which is PyTorch's within its AWD_LSTM; GGUF has no architecture for it.
_LAYER = "0.rnns.{}.module."
NAMES = {
    "embedding": ("0.encoder", ""),
    "rnns.{}.weight_ih_l0": (f"{_LAYER}weight_ih_l0", ""),
    "rnns.{}.weight_hh_l0": ("0.rnns.{}.weight_hh_l0_raw", ""),
    "rnns.{}.bias_ih_l0": (f"{_LAYER}bias_ih_l0", ""),
    "rnns.{}.bias_hh_l0": (f"{_LAYER}bias_hh_l0", ""),
    "head": ("1.decoder", ""),
}
ROTATED = ()
IGNORED = (r"0\.encoder_dp\.emb\.weight", r"0\.rnns\.\d+\.module\.weight_hh_l0", r"1\.decoder\.weight")  # copies


@dataclass(frozen=True)
class Config(Settings):
    """Dropout in fastai's names: output_p before the head, hidden_p between layers, input_p of embeddings, embed_p of
    whole words, weight_p of hidden-to-hidden weights; alpha and beta weigh AR and TAR. The last layer is as wide as the
    embedding where they are tied.
    """

    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_hidden_layers: int
    max_position_embeddings: int
    output_p: float = 0.1
    hidden_p: float = 0.15
    input_p: float = 0.25
    embed_p: float = 0.02
    weight_p: float = 0.2
    alpha: float = 2.0
    beta: float = 1.0
    cell: ClassVar[str] = "lstm"
    head_bias: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: Any = None
    eos_token_id: Any = None

    @property
    def context_length(self) -> int:
        """Positions that a state may have; nothing in the weights depends on it."""
        return self.max_position_embeddings

    @property
    def widths(self) -> list[int]:
        """Of the embedding and of each layer."""
        last = self.embedding_size if self.tie_word_embeddings else self.hidden_size
        return [self.embedding_size, *[self.hidden_size] * (self.num_hidden_layers - 1), last]

    def dropping(self, drop_mult: float) -> Config:
        """All five dropouts times drop_mult, fastai's name. Raises ValueError for what leaves [0, 1)."""
        names = ("output_p", "hidden_p", "input_p", "embed_p", "weight_p")
        found = {name: getattr(self, name) * drop_mult for name in names}
        for name, p in found.items():
            if not 0 <= p < 1:
                raise ValueError(f"awd-lstm: {name} {p:g} with drop_mult {drop_mult:g}, allowed are 0 to below 1")
        return replace(self, **found)


class AWDLSTM(RecurrentLM):
    """Tokens to logits: embedding, LSTM layers with dropped weights, head; every mask is one for all steps.

    loss = cross-entropy + alpha mean(m h)^2 + beta mean (h_t - h_(t-1))^2, h of the last layer, m its dropout: the last
    two (AR, TAR: activation and temporal activation regularisation) while it learns alone, within ops.noise.
    """

    def __init__(self, c: Config) -> None:
        self.config = c
        self.embedding = nn.Embedding(c.vocab_size, c.embedding_size)
        sizes = zip(c.widths, c.widths[1:], strict=False)
        self.rnns = [nn.WeightDrop("lstm", *pair, weight_p=c.weight_p) for pair in sizes]
        self.head = nn.Linear(c.widths[-1], c.vocab_size, c.head_bias)
        if c.tie_word_embeddings:
            self.head.weight = self.embedding.weight
        for i, layer in enumerate(self.rnns):
            layer.stream = zlib.crc32(b"rnns") + i

    def trunk(self, tokens: Any) -> tuple[Any, NDArray[np.int64]]:
        """(rows (rows, width) of all sequences step after step, whose tokens they are): what the head is given."""
        _, rows, _, places = self._both(tokens)
        return rows, places

    def _both(self, tokens: Any) -> tuple[Any, Any, ops.Steps, NDArray[np.int64]]:
        """(the last layer's rows, the same with dropout, their steps, their places)."""
        ids, steps, places = nn.in_steps(tokens)
        rows = self.read(ids, steps)[0]
        return rows, self._locked(rows, steps, self.config.output_p, "output"), steps, places

    def read(self, ids: Any, steps: ops.Steps, state: Any = None) -> tuple[Any, Any]:
        """As RecurrentLM's; without the head's dropout, as a classifier has its own."""
        c, x = self.config, self.embedding(ids)
        words = ops.mask(c.embed_p, zlib.crc32(b"words"))
        x = x if words is None else ops.shared_dropout(x, ids, (c.vocab_size, 1), words.draw)
        x = self._locked(x, steps, c.input_p, "input")
        ends: tuple[list[Any], list[Any]] = ([], [])
        for i, layer in enumerate(self.rnns):
            x = x if i == 0 else self._locked(x, steps, c.hidden_p, f"hidden{i}")
            first = ([None], [None]) if state is None else ([state[0][i]], [state[1][i]])
            layer.weight_p = c.weight_p  # drop_mult may have changed it since
            x, h, cell = layer.layers(x, steps, *first)
            ends[0].extend(h)
            ends[1].extend(cell or [])
        return x, ends

    def _locked(self, x: Any, steps: ops.Steps, p: float, name: str) -> Any:
        """One mask for every sequence, the same at each of its steps."""
        mask = ops.mask(p, zlib.crc32(name.encode()))
        if mask is None:
            return x
        return ops.shared_dropout(x, steps.places[1], (steps.sequences, x.shape[1]), mask.draw)

    def loss(self, tokens: Any, targets: Any) -> Any:
        """Mean cross-entropy in nats of targets (..., length), plus AR and TAR while it learns; -100 is left out."""
        if self._paused:
            self.train()
        raw, dropped, steps, places = self._both(tokens)
        wanted = np.asarray(targets).reshape(-1)
        if len(wanted) != len(places):
            raise ValueError(f"loss: targets {np.shape(targets)} and tokens {np.shape(tokens)} differ")
        weight, bias = self.head.pair
        found = ops.linear_cross_entropy(dropped, weight, wanted[places], bias)
        if ops.noise_now() is None:
            return found
        later, before, _ = steps.befores(False)
        found = ops.add(found, ops.multiply(ops.mean(ops.multiply(dropped, dropped)), self.config.alpha))
        if len(places) == steps.sequences:
            return found
        slow = ops.mse(ops.take_rows(raw, later), ops.take_rows(raw, before))
        return ops.add(found, ops.multiply(slow, self.config.beta))


Model = AWDLSTM
