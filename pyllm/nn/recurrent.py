"""Recurrent layers and cells under PyTorch's names: RNN, LSTM, GRU. Weights and gates lie as PyTorch's do."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import ops
from pyllm.nn.module import Module, Parameter
from pyllm.tensor import Array, Tensor

_SUFFIXES = ("", "_reverse")


class Order(NamedTuple):
    """How sequences (steps, batch) become rows: sorted by length, which row each comes from.

    sequences: their numbers, the longest first; places: of each row in the batch's own flattened order; None: the same.
    """

    steps: ops.Steps
    sequences: NDArray[np.int64] | None
    places: NDArray[np.int64] | None


def ordered(length: int, batch: int, lengths: Any, batch_first: bool) -> Order:
    """The order of a batch whose sequences have `lengths`, None: all have `length`. Raises ValueError."""
    if lengths is None:
        steps = ops.Steps(np.full(batch, length))
        return Order(steps, None, _rows(steps, None, length, batch) if batch_first else None)
    given = np.asarray(lengths.data if isinstance(lengths, Tensor) else lengths)
    if given.shape != (batch,) or (given.size and given.dtype.kind not in "iu"):
        raise ValueError(f"recurrent: lengths {given.shape} of {given.dtype}, allowed are ({batch},) whole numbers")
    if batch and (given.min() < 0 or given.max() > length):
        raise ValueError(f"recurrent: lengths from {given.min()} to {given.max()}, allowed are 0 to {length}")
    sequences = np.argsort(-given.astype(np.int64), kind="stable")
    steps = ops.Steps(given[sequences])
    return Order(steps, sequences, _rows(steps, sequences, length if batch_first else None, batch))


class InSteps(NamedTuple):
    """Tokens step after step; places: of each in the order that they came in. While recording the program orders them.
    """

    tokens: Any
    steps: Any
    places: Any


def in_steps(tokens: Any) -> InSteps:
    """Token ids of sequences in any shape (..., length), or as ops.documents says, or the symbol of a recording."""
    if isinstance(tokens, ops.Symbol):
        return InSteps(tokens, None, None)
    ids = np.asarray(tokens)
    steps, places = end_to_end(ops.starts_of(ids.shape))
    return InSteps(ids.reshape(-1)[places], steps, places)


def end_to_end(starts: NDArray[np.int32]) -> tuple[ops.Steps, NDArray[np.int64]]:
    """The steps of sequences that lie one behind the other, starts[i] to starts[i + 1]; from where each row comes."""
    lengths = np.diff(starts).astype(np.int64)
    sequences = np.argsort(-lengths, kind="stable")
    steps = ops.Steps(lengths[sequences])
    step, sequence = steps.places
    return steps, starts[sequences][sequence] + step


def _rows(steps: ops.Steps, sequences: NDArray[np.int64] | None, length: int | None, batch: int) -> NDArray[np.int64]:
    """Of every row its number in (batch, length), or with length None in (length, batch)."""
    step, sequence = steps.places
    sequence = sequence if sequences is None else sequences[sequence]
    return step * batch + sequence if length is None else sequence * length + step


class Recurrent(Module):
    """`num_layers` layers of a cell, each over the whole output of the one below; bidirectional: in both directions.

    Dropout between layers acts within ops.noise, by draws of `stream` and the ones after it: parts of one model take
    different streams. proj_size of LSTM: h is W_hr (o tanh(c)), so narrow; see ops.recurrent_steps, which computes it.
    Raises ValueError for sizes below 1, a dropout outside of [0, 1), a proj_size that is not below hidden_size.
    """

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
    ) -> None:
        if min(input_size, hidden_size, num_layers) < 1:
            raise ValueError(f"{cell}: sizes {input_size}, {hidden_size} in {num_layers} layers, allowed are 1 or more")
        if not 0 <= dropout < 1:
            raise ValueError(f"{cell}: dropout {dropout}, allowed are 0 up to, but not with, 1")
        if not 0 <= proj_size < (hidden_size if cell == "lstm" else 1):
            raise ValueError(f"{cell}: proj_size {proj_size}, allowed are 0, and of lstm sizes below hidden_size")
        self.cell, self.input_size, self.hidden_size, self.num_layers = cell, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional
        self.proj_size, self.output_size, self.stream = proj_size, proj_size or hidden_size, 0
        self.suffixes = _SUFFIXES if bidirectional else _SUFFIXES[:1]
        for layer in range(num_layers):
            inputs = input_size if layer == 0 else self.output_size * len(self.suffixes)
            for suffix in self.suffixes:
                _define(self, cell, inputs, hidden_size, bias, f"_l{layer}{suffix}", proj_size)

    def first_values(self, name: str, parameter: Parameter, random: np.random.Generator) -> Array:
        """Uniform within 1 / sqrt(hidden_size) of 0, as PyTorch's."""
        return uniform(self.hidden_size, parameter, random)

    def __call__(self, x: Any, hx: Any = None, lengths: Any = None) -> tuple[Any, Any]:
        """(output, state after the last step) of x (length, batch, input_size); batch_first: (batch, length, ...).

        hx: h (num_layers * directions, batch, hidden_size), LSTM (h, c), of which h is proj_size wide where there
        is one, as the output then is; None: zeros. lengths (batch,): how many
        steps each sequence has, in any order, 0 allowed: outputs beyond are zero, and a sequence without a step keeps
        its state. x (length, input_size) is one sequence; then batch is missing everywhere. Raises ValueError.
        """
        shape = np.shape(x.data if isinstance(x, Tensor) else x)
        if len(shape) not in (2, 3) or shape[-1] != self.input_size:
            raise ValueError(f"{self.cell}: x {shape}, allowed is (length, batch, {self.input_size})")
        if len(shape) == 2:
            return self._one(x, hx, lengths, shape[0])
        batch, length = shape[:2] if self.batch_first else shape[1::-1]
        order = ordered(length, batch, lengths, self.batch_first)
        rows = ops.reshape(x, (-1, self.input_size))
        rows = rows if order.places is None else ops.take_rows(rows, order.places)
        rows, h, c = self.layers(rows, order.steps, *self._states(hx, batch, order.sequences))
        if order.places is not None:
            rows = ops.put_rows(rows, order.places, length * batch)
        output = ops.reshape(rows, (*shape[:2], self.output_size * len(self.suffixes)))
        ends = [self._together(each, batch, order.sequences) for each in (h, c) if each is not None]
        return self.watch("", output), ends[0] if len(ends) == 1 else tuple(ends)

    def layers(
        self, rows: Any, steps: ops.Steps, h: list[Any] | None = None, c: list[Any] | None = None
    ) -> tuple[Any, list[Any], list[Any] | None]:
        """Rows step after step through all layers: (rows of the last, last h of each layer and direction, last c).

        h and c: the first ones, in the order of the parameters; None: zeros.
        """
        nothing = [None] * self.num_layers * len(self.suffixes)
        h, c = h or nothing, c or nothing
        last_h: list[Any] = []
        last_c: list[Any] = []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in self.suffixes:
                at = len(last_h)
                out, h_n, c_n = self.direction(f"_l{layer}{suffix}", rows, steps, h[at], c[at], suffix != "")
                outputs.append(out)
                last_h.append(h_n)
                last_c.append(c_n)
            rows = outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, axis=-1)
            dropped = ops.mask(self.dropout, self.stream + layer) if layer + 1 < self.num_layers else None
            rows = rows if dropped is None else ops.dropout(rows, *dropped.draw)
        return rows, last_h, last_c if self.cell == "lstm" else None

    def weights(self, suffix: str) -> ops.Weights:
        """Of the layer and direction that parameters of this ending belong to, as this batch reads them."""
        return parameters_of(self, suffix)

    def direction(self, name: str, rows: Any, steps: ops.Steps, h: Any, c: Any, reverse: bool) -> tuple[Any, Any, Any]:
        """One layer in one direction, whose parameters end in `name`: what other cells compute in their own way."""
        if self.proj_size:
            projection = getattr(self, f"weight_hr{name}").value
            return ops.recurrent_steps("lstm", rows, self.weights(name), steps, h, c, reverse, projection=projection)
        return ops.recurrent(self.cell, rows, self.weights(name), steps, h, c, reverse)

    def _states(self, state: Any, batch: int, sequences: NDArray[np.int64] | None) -> tuple[list[Any], list[Any]]:
        """The first h and c of each layer and direction, in the order of the rows."""
        many = self.num_layers * len(self.suffixes)
        nothing = [None] * many
        if state is None:
            return nothing, nothing
        pair = isinstance(state, tuple | list) and len(state) == 2
        if (self.cell == "lstm") != pair:
            raise ValueError(f"{self.cell}: state is {'not ' if self.cell == 'lstm' else ''}a pair, allowed is "
                             f"{'(h, c)' if self.cell == 'lstm' else 'h'}")  # fmt: skip
        found = []
        for each, size in zip(state if pair else (state,), self._sizes, strict=False):
            _check_state(self.cell, each, (many, batch, size))
            flat = ops.reshape(each, (many * batch, size))
            own = np.arange(batch) if sequences is None else sequences
            found.append([ops.take_rows(flat, i * batch + own) for i in range(many)])
        return found[0], found[1] if pair else nothing

    def _together(self, states: list[Any], batch: int, sequences: NDArray[np.int64] | None) -> Any:
        """States of layers and directions as one array, sequences in the order that they came in."""
        many = len(states)
        flat = states[0] if many == 1 else ops.concatenate(states)
        if sequences is not None:
            back = np.argsort(sequences)
            flat = ops.take_rows(flat, (np.arange(many)[:, None] * batch + back).reshape(-1))
        return ops.reshape(flat, (many, batch, flat.shape[1]))

    @property
    def _sizes(self) -> tuple[int, int]:
        """Widths of h and c."""
        return self.output_size, self.hidden_size

    def _one(self, x: Any, state: Any, lengths: Any, length: int) -> tuple[Any, Any]:
        """A sequence without a batch."""
        many = self.num_layers * len(self.suffixes)
        shape = (1, length, self.input_size) if self.batch_first else (length, 1, self.input_size)
        pair = isinstance(state, tuple | list)
        given = [] if state is None else list(state) if pair else [state]
        sized = list(zip(given, self._sizes, strict=False))
        for each, size in sized:
            _check_state(self.cell, each, (many, size))
        batched = [ops.reshape(each, (many, 1, size)) for each, size in sized]
        first = None if state is None else tuple(batched) if pair else batched[0]
        y, last = self(ops.reshape(x, shape), first, lengths)
        y = ops.reshape(y, (length, self.output_size * len(self.suffixes)))
        ends = [ops.reshape(each, (many, each.shape[2])) for each in (last if isinstance(last, tuple) else (last,))]
        return y, tuple(ends) if len(ends) == 2 else ends[0]


class WeightDrop(Recurrent):
    """Recurrent layers of which each batch reads hidden-to-hidden weights with some dropped: within ops.noise
    R becomes R m / (1 - p), m = 0 with probability p, the same at every step. Wan et al. 2013 (DropConnect),
    PMLR 28; Merity et al. 2017, arXiv:1708.02182.
    """

    def __init__(self, *args: Any, weight_p: float = 0.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.weight_p = weight_p

    def weights(self, suffix: str) -> ops.Weights:
        """With what this batch drops."""
        found = super().weights(suffix)
        mask = ops.mask(self.weight_p, zlib.crc32(suffix.encode(), self.stream))
        return found if mask is None else found._replace(hidden=ops.dropout(found.hidden, *mask.draw))


class RNN(Recurrent):
    """h_t = tanh(W x_t + b + R h_(t-1) + b'), or relu. Elman 1990, Cognitive Science 14."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(
            _nonlinear(nonlinearity), input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        )


class LSTM(Recurrent):
    """Long short-term memory, gates in the order i, f, g, o. Hochreiter, Schmidhuber 1997, Neural Computation 9."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, *args: Any, **options: Any) -> None:
        super().__init__("lstm", input_size, hidden_size, num_layers, *args, **options)


class GRU(Recurrent):
    """Gated recurrent units, gates in the order r, z, n. Cho et al. 2014, arXiv:1406.1078."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, *args: Any, **options: Any) -> None:
        super().__init__("gru", input_size, hidden_size, num_layers, *args, **options)


class Cell(Module):
    """One step of one layer."""

    def __init__(self, cell: str, input_size: int, hidden_size: int, bias: bool = True) -> None:
        if min(input_size, hidden_size) < 1:
            raise ValueError(f"{cell}: sizes {input_size}, {hidden_size}, allowed are 1 or more")
        self.cell, self.input_size, self.hidden_size, self.bias = cell, input_size, hidden_size, bias
        _define(self, cell, input_size, hidden_size, bias, "")

    def first_values(self, name: str, parameter: Parameter, random: np.random.Generator) -> Array:
        """Uniform within 1 / sqrt(hidden_size) of 0, as PyTorch's."""
        return uniform(self.hidden_size, parameter, random)

    def __call__(self, x: Any, hx: Any = None) -> Any:
        """The next h (batch, hidden_size), LSTM (h, c), of x (batch, input_size) and hx, the state before; None: zeros.

        Without a batch: x (input_size,), and so the state. Raises ValueError.
        """
        shape = np.shape(x.data if isinstance(x, Tensor) else x)
        if len(shape) not in (1, 2) or shape[-1] != self.input_size:
            raise ValueError(f"{self.cell}: x {shape}, allowed is (batch, {self.input_size})")
        lstm = self.cell == "lstm"
        if lstm and hx is not None and not (isinstance(hx, tuple | list) and len(hx) == 2):
            raise ValueError("lstm: state is not a pair, allowed is (h, c)")
        first = [None, None] if hx is None else list(hx) if lstm else [hx, None]
        wanted = (*shape[:-1], self.hidden_size)
        for each in first:
            if each is not None:
                _check_state(self.cell, each, wanted)
        rows, (h, c) = (
            ops.reshape(x, (-1, self.input_size)),
            (None if each is None else ops.reshape(each, (-1, self.hidden_size)) for each in first),
        )
        steps = ops.Steps(np.ones(rows.shape[0], np.int64))
        y, _, c = ops.recurrent(self.cell, rows, parameters_of(self, ""), steps, h, c)
        y = ops.reshape(y, wanted)
        return (y, ops.reshape(c, wanted)) if lstm else y


class RNNCell(Cell):
    """One step of RNN."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh") -> None:
        super().__init__(_nonlinear(nonlinearity), input_size, hidden_size, bias)


class LSTMCell(Cell):
    """One step of LSTM."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__("lstm", input_size, hidden_size, bias)


class GRUCell(Cell):
    """One step of GRU."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__("gru", input_size, hidden_size, bias)


def uniform(hidden_size: int, parameter: Parameter, random: np.random.Generator) -> Array:
    """Initial values of a recurrent layer's parameter: uniform within 1 / sqrt(hidden_size) of 0."""
    bound = hidden_size**-0.5
    return random.uniform(-bound, bound, parameter.shape).astype(np.float32)


def _check_state(cell: str, state: Any, wanted: tuple[int, ...]) -> None:
    shape = np.shape(state.data if isinstance(state, Tensor) else state)
    if shape != wanted:
        raise ValueError(f"{cell}: state {shape}, allowed is {wanted}")


def _nonlinear(name: str) -> str:
    if name not in ("tanh", "relu"):
        raise ValueError(f"rnn: nonlinearity {name!r}, allowed are 'tanh' and 'relu'")
    return name


def _define(part: Module, cell: str, inputs: int, units: int, bias: bool, suffix: str, proj_size: int = 0) -> None:
    """The parameters of a layer in a direction, in PyTorch's order."""
    outputs = ops.GATES[cell] * units
    setattr(part, f"weight_ih{suffix}", Parameter(outputs, inputs, packed=True))
    setattr(part, f"weight_hh{suffix}", Parameter(outputs, proj_size or units, packed=True))
    if bias:
        setattr(part, f"bias_ih{suffix}", Parameter(outputs))
        setattr(part, f"bias_hh{suffix}", Parameter(outputs))
    if proj_size:
        setattr(part, f"weight_hr{suffix}", Parameter(proj_size, units, packed=True))


def parameters_of(part: Any, suffix: str) -> ops.Weights:
    """Of a layer in a direction, or of a cell. Raises ValueError where they have no value yet."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if part.bias else ("weight_ih", "weight_hh")
    values = [getattr(part, name + suffix).value for name in names]
    if any(value is None for value in values):
        raise ValueError(f"{part.cell}: it has no weights yet, call initialise() or load_state_dict() first")
    return ops.Weights(*values)
