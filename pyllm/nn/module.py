"""What every part is: a holder of parameters, found by walking its attributes."""

from __future__ import annotations

import copyreg
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from html import escape
from math import prod
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import _core
from pyllm.errors import check_device
from pyllm.nn.tracing import watcher
from pyllm.ops import Watch
from pyllm.tensor import Array, Tensor


class Parameter:
    """A place for a weight: its shape, and its value.

    value: None before it is loaded or initialised; a packed `_core.Weight` or a float32 vector to run; a Tensor to
    learn. spread: how wide initial values are, None for the module's own rule.
    """

    def __init__(self, *shape: int, packed: bool = False, spread: float | None = None) -> None:
        self.shape = shape
        self.packed = packed
        self.spread = spread
        self.value: Any = None
        self._learned: Tensor | None = None  # while packed to run
        self._still = False  # it stays as it is where others learn

    @property
    def size(self) -> int:
        """How many numbers."""
        return prod(self.shape)

    @property
    def requires_grad(self) -> bool:
        """Whether it learns where its module does; may be set, ready to run too."""
        held = self.value if self._learned is None else self._learned
        return held.requires_grad if isinstance(held, Tensor) else not self._still

    @requires_grad.setter
    def requires_grad(self, learns: bool) -> None:
        self._still = not learns
        for held in (self.value, self._learned):
            if isinstance(held, Tensor):
                held.requires_grad = bool(learns)
                held.zero_grad()

    def array(self) -> Array:
        """The value as float32, read back from panels where it is packed. Raises ValueError without a value."""
        if self.value is None:
            raise ValueError("parameter: it has no value yet; load or initialise the model first")
        if isinstance(self.value, _core.Weight):
            return self.value.dequantise(0, self.shape[0])
        return self.value.data if isinstance(self.value, Tensor) else np.asarray(self.value, np.float32)

    def learn(self, array: Array | None = None) -> None:
        """Let the value be a tensor: of this array, or of what it is."""
        if array is not None:
            self.value, self._learned = Tensor(array, requires_grad=not self._still), None
        elif self._learned is not None:
            self.value, self._learned = self._learned, None
        elif not isinstance(self.value, Tensor):
            self.value = Tensor(self.array(), requires_grad=not self._still)

    def take(self, array: Array) -> None:
        """Let the value be a tensor of these numbers, copied. One that learned before is kept: optimizers hold it."""
        held = self._learned if self._learned is not None else self.value
        if isinstance(held, Tensor):
            held.data[...] = array
            self.value, self._learned = held, None
        else:
            self.learn(array.copy())

    def run(self) -> None:
        """Let the value be packed, or a plain vector; the tensor stays for learning to go on."""
        if not isinstance(self.value, Tensor):
            return
        self._learned, array = self.value, self.value.data
        self.value = array.copy()
        if self.packed:
            self.value = _core.Weight("F32", *self.shape)
            self.value.fill_floats(array)

    def freeze(self) -> None:
        """Let the value be what it is to run, for good; what learned is let go."""
        self.run()
        self._learned = None

    def __repr__(self) -> str:
        return f"Parameter{self.shape}"


def packed(dtype: str, numbers: Array) -> _core.Weight:
    """A weight of these numbers (n, k), stored as "F32", "F16" or "BF16"."""
    weight = _core.Weight(dtype, *numbers.shape)
    if dtype == "F16":
        weight.fill(0, len(numbers), numbers.astype(np.float16).view(np.uint8).reshape(-1))
    else:
        weight.fill_floats(numbers)
    return weight


def _reduced(weight: _core.Weight) -> Any:
    """What copy and pickle take of a weight: its numbers. Raises TypeError for blocks, which do not come out again."""
    if weight.dtype not in ("F32", "F16", "BF16"):
        found = f"a weight stored as {weight.dtype}, allowed are F32, F16 and BF16"
        raise TypeError(f"copy: {found}; from_pretrained loads another such model")
    return packed, (weight.dtype, weight.dequantise(0, weight.shape[0]))


copyreg.pickle(_core.Weight, _reduced)


class Buffer(Parameter):
    """Numbers that a file may have and that no training changes; zeros where nobody says otherwise."""

    def learn(self, array: Array | None = None) -> None:
        """Nothing to learn: zeros where there is no value yet."""
        if self.value is None:
            self.value = np.zeros(self.shape, np.float32)

    def take(self, array: Array) -> None:
        """Let the value be these numbers, copied."""
        self.value = array.copy()

    def array(self) -> Array:
        """The value as float32."""
        self.learn()
        return super().array()


def check_state(state: Any) -> None:
    """Raise ValueError for what is no mapping of names to arrays: above all a file, which may be pickled."""
    if isinstance(state, Mapping):
        return
    name = f"{str(state)!r}" if isinstance(state, (str, PathLike)) else f"{type(state).__name__}"
    raise ValueError(
        f"load_state_dict: {name} is no mapping of names to arrays; pickled files (.pt, .pth, .bin) can run code and "
        "are never read: write safetensors, and give what safetensors.torch.load_file reads"
    )


class StateKeys(NamedTuple):
    """Names that a state lacked, and names that the module has not; PyTorch's names for both."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """A part of a model. The name of a parameter is the path to it."""

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """What `forward` of a module of one's own gives."""
        return self.forward(*inputs, **options)  # type: ignore[attr-defined]

    @property
    def watch(self) -> Watch:
        """What a part hands its intermediate values to, by name ("": its result): a trace keeps them, else nobody."""
        return watcher(self)

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """(path, parameter) of this part and all parts within, in order of definition."""
        for name, part in vars(self).items():
            for key, each in enumerate(part) if isinstance(part, list) else [(None, part)]:
                path = f"{prefix}{name}" if key is None else f"{prefix}{name}.{key}"
                if isinstance(each, Parameter):
                    yield path, each
                elif isinstance(each, Module):
                    yield from each.named_parameters(path + ".")

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(path, part) of all parts within, at any depth."""
        for name, part in vars(self).items():
            for key, each in enumerate(part) if isinstance(part, list) else [(None, part)]:
                if isinstance(each, Module):
                    path = f"{prefix}{name}" if key is None else f"{prefix}{name}.{key}"
                    yield path, each
                    yield from each.named_modules(path + ".")

    def own_parameters(self) -> dict[str, Parameter]:
        """Every parameter once, under the first of its paths: tied ones have several."""
        found: dict[int, tuple[str, Parameter]] = {}
        for path, parameter in self.named_parameters():
            found.setdefault(id(parameter), (path, parameter))
        return dict(found.values())

    def learned(self) -> dict[str, Parameter]:
        """The parameters that training changes: all but buffers, unless the module says otherwise."""
        return {name: each for name, each in self.own_parameters().items() if not isinstance(each, Buffer)}

    def num_parameters(self, only_trainable: bool = False) -> int:
        """How many numbers, each counted once; buffers are none."""
        found = self.learned() if only_trainable else self.own_parameters() | self.learned()
        counted = [each for each in found.values() if not isinstance(each, Buffer)]
        return sum(each.size for each in counted if each.requires_grad or not only_trainable)

    def training_flops(self) -> float:
        """Operations of a training step for one row: 4 for each number (forward, and the gradient of its input), and
        2 for the gradient of each that learns."""
        return 4.0 * self.num_parameters() + 2.0 * self.num_parameters(only_trainable=True)

    def parameters(self) -> list[Tensor]:
        """The tensors that learn, each once. Empty before train()."""
        found = [parameter.value for parameter in self.learned().values()]
        return [value for value in found if isinstance(value, Tensor) and value.requires_grad]

    def initialise(self, seed: int = 0, only: Collection[str] | None = None) -> Any:
        """Random first values, from the seed and the parameter's name alone; gives the module, ready to learn.

        only: the names of those that get some, None: all. Matrices are normal with `spread` (0.02 unless the part says
        otherwise), vectors called bias 0, others 1.
        """
        for name, parameter in self.own_parameters().items():
            if only is not None and name not in only:
                continue
            key = [seed & (2**64 - 1), zlib.crc32(name.encode())]
            random = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))
            parameter.learn(self.first_values(name, parameter, random))
        return self

    def first_values(self, name: str, parameter: Parameter, random: np.random.Generator) -> Array:
        """Initial values of one parameter; a model with a rule of its own overrides this."""
        if len(parameter.shape) > 1 or parameter.spread is not None:
            spread = 0.02 if parameter.spread is None else parameter.spread
            return random.standard_normal(parameter.shape, np.float32) * np.float32(spread)
        return np.full(parameter.shape, 0 if name.endswith("bias") else 1, np.float32)

    def train(self, mode: bool = True) -> Any:
        """Ready to learn: parameters that learn are float32 tensors. Gives the module. mode False: as eval()."""
        if not mode:
            return self.eval()
        for parameter in self.learned().values():
            parameter.learn()
        return self

    def eval(self) -> Any:
        """Ready to run: matrices are packed. Gives the module; train() goes on from the same numbers."""
        for parameter in self.learned().values():
            parameter.run()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Whether the parameters within learn when the model is ready to; gives the module. PyTorch's name."""
        for parameter in self.learned().values():
            parameter.requires_grad = requires_grad
        return self

    def to(self, *given: Any, **options: Any) -> Any:
        """The module: it is on the processor. Raises ValueError for another device, and for a type of numbers."""
        check_device(type(self).__name__, *given, **options)
        return self

    @property
    def device(self) -> str:
        """Where the numbers are."""
        return "cpu"

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for tensor in self.parameters():
            tensor.zero_grad()

    def learned_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Path -> float32 array of every parameter that learns, each once."""
        return {name: parameter.array() for name, parameter in self.learned().items()}

    def state_dict(self) -> dict[str, NDArray[np.float32]]:
        """Name -> float32 array of every parameter that learns: the path, which for parts is PyTorch's name too."""
        return self.learned_arrays()

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> Any:
        """Take the values of all parameters, arrays or tensors of any kind, by the names of state_dict() or others that
        the family has; gives the module, ready to learn. strict False: what is missing stays as it is, what is not
        known is passed over, and both are given back by name, as PyTorch does: (missing_keys, unexpected_keys).

        Raises ValueError that names what is missing, what is not known, and what has another shape; for a file, too:
        pickled ones are never read.
        """
        check_state(state)
        if strict:
            return self.take_state(state)
        mine = self.state_dict()
        same = {id(mine[name]): array for name, array in state.items() if name in mine}  # under all names of a tied one
        self.take_state({name: state.get(name, same.get(id(array), array)) for name, array in mine.items()})
        return StateKeys([name for name in mine if name not in state], [name for name in state if name not in mine])

    def take_state(self, state: Mapping[str, Any]) -> Any:
        """What load_state_dict does with all of a state; families with names of their own override this."""
        mine = self.learned()
        wrong = [f"missing {name}" for name in mine if name not in state]
        wrong += [f"unknown {name}" for name in state if name not in mine]
        arrays = {name: Tensor(state[name]).data for name in mine if name in state}
        wrong += [
            f"{name} has shape {array.shape}, allowed is {mine[name].shape}"
            for name, array in arrays.items()
            if array.shape != mine[name].shape
        ]
        if wrong:
            raise ValueError(f"load_state_dict: {'; '.join(wrong)}")
        for name, parameter in mine.items():
            parameter.take(arrays[name])
        return self

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {parameter.shape}" for name, parameter in list(self.own_parameters().items())[:4])
        more = ", ..." if len(self.own_parameters()) > 4 else ""
        return f"{type(self).__name__}({self.num_parameters():,} parameters: {shapes}{more})"

    def _repr_html_(self) -> str:
        """In a notebook: parts, shapes and counts; layers of one kind share a row."""
        rows: dict[tuple[str, tuple[int, ...]], int] = {}
        for name, parameter in self.own_parameters().items():
            key = re.sub(r"\.\d+(?=\.)", ".*", name), parameter.shape
            rows[key] = rows.get(key, 0) + 1
        lines = ["<tr><th>parameter</th><th>shape</th><th>times</th><th>numbers</th></tr>"]
        for (name, shape), times in rows.items():
            cells = (name, " x ".join(f"{n:,}" for n in shape), f"{times:,}", f"{times * prod(shape):,}")
            lines.append(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
        head = f"<div>{escape(type(self).__name__)}: {self.num_parameters():,} parameters</div>"
        return f"{head}<table>{''.join(lines)}</table>"
