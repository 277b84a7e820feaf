"""Adapters of a whole model: small changes of its matrices that learn while the model stays as it is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any, ClassVar, NamedTuple

import numpy as np

from pyllm import _core, nn
from pyllm.models.naming import module_of, same_module
from pyllm.nn.adapter import Adapter, LoraConfig

MERGED = {"float32": "F32", "bfloat16": "BF16"}
ALL = "all-linear"
HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score")}  # which PEFT adds to modules_to_save


class Attached(NamedTuple):
    """An adapter of a model: its configuration, what belongs to each Linear, and what learns whole, by path."""

    config: LoraConfig
    parts: Mapping[str, Adapter]
    whole: Mapping[str, nn.Parameter] = {}


class Adaptable(nn.Module):
    """A model that may have adapters, of which one at most is in use, and alone learns."""

    outputs: ClassVar[tuple[str, ...]] = ("head",)  # paths of the matrices that give answers, which no adapter changes
    missing_keys: tuple[str, ...] = ()  # names of what its file did not have, and is random
    _adapters: Mapping[str, Attached] = {}
    _own: Mapping[str, nn.Parameter] = {}  # the model's, of those that the adapter in use has in their place
    active_adapter: str | None = None

    @property
    def task_type(self) -> str | None:
        """PEFT's word for what the model is for; None where it has none."""
        return "CAUSAL_LM"

    def forget_program(self) -> None:
        """What was recorded of the weights before is not true any more."""

    @property
    def adapters(self) -> Mapping[str, Attached]:
        """All adapters by name."""
        return self._adapters

    def add_adapter(self, config: LoraConfig, name: str = "default", seed: int = 0) -> Any:
        """Freeze the model as it is stored, and let a new adapter learn; gives the model.

        Nothing changes at first: B is zero, A is uniform within +-1 / sqrt(inputs), from seed and path alone.
        Raises ValueError for a name that is taken, another task than the model's, and for targets and modules that the
        model has not (with those it has).
        """
        config = self._settled(config)
        whole = {}
        for path, own in self.saved(config.modules_to_save or ()).items():
            whole[path] = nn.Parameter(*own.shape, packed=own.packed)
            whole[path].learn(self._own.get(path, own).array().copy())
        parts = {}
        for path, linear in self.targets(config.target_modules).items():
            if f"{path}.weight" in whole:
                continue
            outputs, inputs = linear.weight.shape
            stream = Adapter.stream_of(path)
            part = Adapter(inputs, outputs, config.r, config.scaling, config.lora_dropout, stream)
            key = np.array([seed & (2**64 - 1), stream], np.uint64)
            part.initialise(np.random.Generator(np.random.Philox(key=key)))
            parts[path] = part
        if not parts:
            raise ValueError(f"add_adapter: {type(self).__name__} has no matrix to be changed; one at least is needed")
        self.attach(name, Attached(config, parts, whole))
        return self

    def attach(self, name: str, attached: Attached) -> None:
        """Take an adapter whose parts fit, and use it."""
        if name in self._adapters:
            raise ValueError(f"add_adapter: {name!r} is there already; there are {', '.join(self._adapters)}")
        self.set_adapter(None)
        for parameter in self.own_parameters().values():
            parameter.freeze()
        self._adapters = {**self._adapters, name: attached}
        self.set_adapter(name)

    def set_adapter(self, name: str | None) -> None:
        """Use the adapter of this name, or none: the model as it was. Raises ValueError for an unknown name."""
        if name is not None and name not in self._adapters:
            known = ", ".join(self._adapters) or "none"
            raise ValueError(f"set_adapter: {name!r} is not known; known are {known}")
        parts, whole = ({}, {}) if name is None else self._adapters[name][1:]
        for path, linear in self.linears().items():
            linear.adapter = parts.get(path)
        self._exchange(self._own)
        self._own = self._exchange(whole)
        self.active_adapter = name
        self.forget_program()

    def _exchange(self, others: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Have these parameters at their paths; gives those that were there."""
        modules, before = dict(self.named_modules()), {}
        for path, parameter in others.items():
            owner, _, name = path.rpartition(".")
            part = modules[owner] if owner else self
            before[path] = getattr(part, name)
            setattr(part, name, parameter)
        return before

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        """Write a Hugging Face folder; dtype= and max_shard_size= as pyllm.auto.saving.save_folder says.

        With an adapter in use: its PEFT folder; merge_and_unload() first for the whole model.
        """
        from pyllm.auto.adapters import save_adapter  # upwards: Hugging Face has these names on the model
        from pyllm.auto.saving import save_folder

        if self.active_adapter is not None:
            save_adapter(self, save_directory, **options)
        else:
            save_folder(self, save_directory, **options)

    def load_adapter(self, path: Any, name: str = "default") -> Any:
        """Take the adapter of a PEFT folder and use it; gives the model. See pyllm.auto.adapters.load_adapter."""
        from pyllm.auto.adapters import load_adapter  # upwards, as above: PEFT has this name on the model

        load_adapter(self, path, name)
        return self

    def merge_and_unload(self, dtype: str = "float32") -> Any:
        """W + scale B A in place of W where the adapter in use has changed it, what has learned whole, and no adapters:
        a plain model.

        dtype: of those matrices, float32 or bfloat16; the others stay as they are stored. One is in memory twice at a
        time. Raises ValueError where no adapter is in use.
        """
        if dtype not in MERGED or self.active_adapter is None:
            found = f"adapter {self.active_adapter!r}, dtype {dtype!r}"
            raise ValueError(f"merge_and_unload: {found}; an adapter in use, {' or '.join(MERGED)}")
        for linear in self.linears().values():
            if linear.adapter is not None:
                linear.weight.value = _merged(linear.weight, linear.adapter, MERGED[dtype])
        for parameter in self._own:
            _freeze(self._adapters[self.active_adapter].whole[parameter], MERGED[dtype])
        self._own = {}
        self.set_adapter(None)
        self._adapters = {}
        return self

    def learned(self) -> dict[str, nn.Parameter]:
        """The adapter's numbers in use where there are adapters, else all parameters."""
        if not self._adapters:
            return super().learned()
        found: dict[str, nn.Parameter] = {}
        if self.active_adapter is not None:
            attached = self._adapters[self.active_adapter]
            for path, part in attached.parts.items():
                found |= {f"{path}.lora_A": part.a, f"{path}.lora_B": part.b}
            found |= attached.whole
        return found

    def table_flops(self, tables: Iterable[nn.Parameter]) -> float:
        """What training_flops of every module counts for these tables, of which rows are looked up."""
        learned = {id(each) for each in self.learned().values()}
        return sum(6.0 * each.size if id(each) in learned else 4.0 * each.size for each in tables)

    def linears(self) -> dict[str, nn.Linear]:
        """Every matrix with an input of its own by path, but not those of `outputs`."""
        found = {path: part for path, part in self.named_modules() if isinstance(part, nn.Linear)}
        return {path: part for path, part in found.items() if path not in self.outputs}

    def targets(self, wanted: Any) -> dict[str, nn.Linear]:
        """The linears that target_modules names. Raises ValueError that lists the names of this model."""
        every = self.linears()
        if wanted is None or wanted == ALL:
            return every
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        called = {path: (f".{path}", f".{module_of(self, f'{path}.weight')}") for path in every}
        found = {each: [path for path in every if any(name.endswith(f".{each}") for name in called[path])]
                 for each in names}  # fmt: skip
        if not names or not all(found.values()):
            unknown = ", ".join(repr(each) for each in names if not found[each]) or "nothing"
            known = dict.fromkeys(pair[side].rpartition(".")[2] for side in (0, 1) for pair in called.values())
            raise ValueError(f"target_modules: {unknown} is not known; known are {', '.join(known)}")
        return {path: every[path] for path in every if any(path in paths for paths in found.values())}

    def saved(self, names: Iterable[str]) -> dict[str, nn.Parameter]:
        """The parameters of modules that modules_to_save names: of which Hugging Face's path, or that of a module
        around them, ends so, which is PEFT's rule. Raises ValueError that lists the names of this model, and for
        numbers that several modules share."""
        mine = {path: each for path, each in self.named_parameters() if not isinstance(each, nn.Buffer)}
        modules = {path: module_of(self, path) for path in mine}
        times = Counter(map(id, mine.values()))
        saved: dict[str, nn.Parameter] = {}
        for name in names:
            here = {path: mine[path] for path, module in modules.items() if name and _ends(module, name)}
            if not here and name not in HEADS["SEQ_CLS"]:
                known = dict.fromkeys(part for each in modules.values() for part in each.split("."))
                listed = ", ".join(each for each in known if not each.isdigit())
                raise ValueError(f"modules_to_save: {name!r} is not known; known are {listed}")
            if any(times[id(each)] > 1 for each in here.values()):
                found = f"{name!r} has its numbers from another module"
                raise ValueError(f"modules_to_save: {found}; allowed are modules with numbers of their own")
            saved |= here
        return saved

    def _settled(self, config: LoraConfig) -> LoraConfig:
        """The configuration with this model's task, and all modules that learn whole: those that it names, PEFT's for
        the task, and what is random because no file had it. Raises ValueError."""
        if config.task_type not in (None, self.task_type):
            found = f"task_type {config.task_type!r} for {type(self).__name__}"
            raise ValueError(f"add_adapter: {found}, allowed is {self.task_type!r}, the model's own")
        names = [*(config.modules_to_save or ()), *HEADS.get(self.task_type or "", ())]
        missing = [key.rpartition(".")[0] for key in self.missing_keys]
        modules = dict.fromkeys(module_of(self, path) for path, _ in self.named_parameters())
        random = [each for each in modules if any(same_module(each, other) for other in missing)]
        names += [each for each in random if not any(_ends(each, name) for name in names)]
        return replace(config, task_type=self.task_type, modules_to_save=tuple(dict.fromkeys(names)) or None)


def _ends(module: str, name: str) -> bool:
    """Whether the path of a module, or of one around it, ends so."""
    return any(path.endswith(name) for path in accumulate(module.split("."), "{}.{}".format))


def _freeze(parameter: nn.Parameter, dtype: str) -> None:
    """Let a parameter that has learned be what it is to run, matrices of a type."""
    if parameter.packed:
        weight = _core.Weight(dtype, *parameter.shape)
        weight.fill_floats(np.ascontiguousarray(parameter.array()))
        parameter.value = weight
    parameter.freeze()


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
