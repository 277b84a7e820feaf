"""Adapters of a whole model: small changes of its matrices that learn while the model stays as it is stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from pyllm import _core, nn
from pyllm.nn.adapter import Adapter, LoraConfig

MERGED = {"float32": "F32", "bfloat16": "BF16"}
ALL = "all-linear"


class Attached(NamedTuple):
    """An adapter of a model: its configuration, and what belongs to each Linear, by path."""

    config: LoraConfig
    parts: Mapping[str, Adapter]


class Adaptable(nn.Module):
    """A model that may have adapters, of which one at most is in use, and alone learns."""

    _adapters: Mapping[str, Attached] = {}
    active_adapter: str | None = None

    def forget_program(self) -> None:
        """What was recorded of the weights before is not true any more."""

    @property
    def adapters(self) -> Mapping[str, Attached]:
        """All adapters by name."""
        return self._adapters

    def add_adapter(self, config: LoraConfig, name: str = "default", seed: int = 0) -> Any:
        """Freeze the model as it is stored, and let a new adapter learn; gives the model.

        Nothing changes at first: B is zero, A is uniform within +-1 / sqrt(inputs), from seed and path alone.
        Raises ValueError for a name that is taken, and for targets that the model has not (with those it has).
        """
        parts = {}
        for path, linear in self.targets(config.target_modules).items():
            outputs, inputs = linear.weight.shape
            stream = Adapter.stream_of(path)
            part = Adapter(inputs, outputs, config.r, config.scaling, config.lora_dropout, stream)
            key = np.array([seed & (2**64 - 1), stream], np.uint64)
            part.initialise(np.random.Generator(np.random.Philox(key=key)))
            parts[path] = part
        self.attach(name, Attached(config, parts))
        return self

    def attach(self, name: str, attached: Attached) -> None:
        """Take an adapter whose parts fit, and use it."""
        if name in self._adapters:
            raise ValueError(f"add_adapter: {name!r} is there already; there are {', '.join(self._adapters)}")
        for parameter in self.own_parameters().values():
            parameter.freeze()
        self._adapters = {**self._adapters, name: attached}
        self.set_adapter(name)

    def set_adapter(self, name: str | None) -> None:
        """Use the adapter of this name, or none: the model as it was. Raises ValueError for an unknown name."""
        if name is not None and name not in self._adapters:
            known = ", ".join(self._adapters) or "none"
            raise ValueError(f"set_adapter: {name!r} is not known; known are {known}")
        parts = {} if name is None else self._adapters[name].parts
        for path, linear in self.linears().items():
            linear.adapter = parts.get(path)
        self.active_adapter = name
        self.forget_program()

    def load_adapter(self, path: Any, name: str = "default") -> Any:
        """Take the adapter of a PEFT folder and use it; gives the model. See pyllm.auto.adapters.load_adapter."""
        from pyllm.auto.adapters import load_adapter  # upwards, as save_pretrained is: PEFT has this name on the model

        load_adapter(self, path, name)
        return self

    def merge_and_unload(self, dtype: str = "float32") -> Any:
        """W + scale B A in place of W where the adapter in use has changed it, and no adapters: a plain model.

        dtype: of those matrices, float32 or bfloat16; the others stay as they are stored. One is in memory twice at a
        time. Raises ValueError where no adapter is in use.
        """
        if dtype not in MERGED or self.active_adapter is None:
            found = f"adapter {self.active_adapter!r}, dtype {dtype!r}"
            raise ValueError(f"merge_and_unload: {found}; an adapter in use, {' or '.join(MERGED)}")
        for linear in self.linears().values():
            if linear.adapter is not None:
                linear.weight.value = _merged(linear.weight, linear.adapter, MERGED[dtype])
        self.set_adapter(None)
        self._adapters = {}
        return self

    def learned(self) -> dict[str, nn.Parameter]:
        """The adapter's numbers in use where there are adapters, else all parameters."""
        if not self._adapters:
            return self.own_parameters()
        found: dict[str, nn.Parameter] = {}
        if self.active_adapter is not None:
            for path, part in self._adapters[self.active_adapter].parts.items():
                found |= {f"{path}.lora_A": part.a, f"{path}.lora_B": part.b}
        return found

    def linears(self) -> dict[str, nn.Linear]:
        """Every matrix with an input of its own by path, but not the head."""
        return {path: part for path, part in self.named_modules() if isinstance(part, nn.Linear) and path != "head"}

    def targets(self, wanted: Any) -> dict[str, nn.Linear]:
        """The linears that target_modules names. Raises ValueError that lists the names of this model."""
        every = self.linears()
        if wanted is None or wanted == ALL:
            return every
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        called = {path: self._names(path) for path in every}
        known = list(dict.fromkeys(each[0] for each in called.values()))
        theirs = list(dict.fromkeys(each[1] for each in called.values()))
        unknown = [each for each in names if each not in known + theirs]
        if unknown or not names:
            found = ", ".join(map(repr, unknown)) or "nothing"
            raise ValueError(f"target_modules: {found} is not known; known are {', '.join([*known, *theirs])}")
        return {path: every[path] for path, each in called.items() if set(each) & set(names)}

    def _names(self, path: str) -> tuple[str, str]:
        """(our, Hugging Face's) short name of a linear."""
        table = import_module(type(self).__module__).NAMES
        theirs = re.split("[#%]", table[re.sub(r"\.\d+\.", ".{}.", path)][0])[0]
        return path.rpartition(".")[2], theirs.rpartition(".")[2]


def _merged(weight: nn.Parameter, part: Adapter, dtype: str) -> _core.Weight:
    numbers = weight.array()
    change = part.b.array() @ part.a.array()
    change *= np.float32(part.scale)
    merged = _core.Weight(dtype, *weight.shape)
    merged.fill_floats(numbers + change)
    return merged


def add_adapter(model: Any, config: LoraConfig, name: str = "default", seed: int = 0) -> Any:
    """Freeze a model as it is stored, and let an adapter learn; see Adaptable.add_adapter."""
    return model.add_adapter(config, name, seed)
