"""PEFT folders: adapters to and from adapter_config.json and adapter_model.safetensors.

A tensor is called `base_model.model.PATH.lora_A.weight` (r, inputs) or `lora_B` (outputs, r), PATH being Hugging Face's
of the matrix. Rows of B are in Hugging Face's order: queries and keys in halves where they are rotated. Where Hugging
Face keeps several of our matrices as one, the A of all stand one below the other, each with its own columns of B; the
rank of that matrix stands in rank_pattern, its alpha in alpha_pattern.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

import numpy as np

from pyllm.auto.weights import FOLDER, Place, Turned, is_rotated, places
from pyllm.errors import ModelFileError, printable
from pyllm.formats import download
from pyllm.formats.encode import decode
from pyllm.formats.folder import CONFIG_LIMIT
from pyllm.formats.json_file import load_json
from pyllm.formats.safetensors import SafeTensors
from pyllm.formats.safetensors_writer import write_safetensors
from pyllm.formats.writing import NewTensor, Staging, make_folder
from pyllm.models.adapters import Attached
from pyllm.nn.adapter import Adapter, LoraConfig
from pyllm.tensor import Array

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# What PEFT can do and is refused here, because the answers would be others: field -> values that mean it is not used.
_UNUSED: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, []),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
    "use_bdlora": (None, False),
    "use_qalora": (None, False),
    "kasa_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "arrow_config": (None,),
    "alora_invocation_tokens": (None, []),
}
_CHANGED = ("pissa", "olora", "corda", "loftq", "lora_ga")  # ways to begin that change the model's weights too


class Row(NamedTuple):
    """One of our matrices within a tensor of Hugging Face: its path here, its place there, the order of its rows."""

    path: str
    place: Place
    rotated: Turned
    shape: tuple[int, ...]


def save_adapter(model: Any, path: str | os.PathLike[str], name: str | None = None, base: str | None = None) -> None:
    """Write an adapter, the one in use unless named, as a PEFT folder; base: the model's name there.

    Raises ValueError where there is none of that name, ModelFileError for what the disk refuses.
    """
    name = model.active_adapter if name is None else name
    if name not in model.adapters:
        raise ValueError(f"save_adapter: {name!r} is not known; known are {', '.join(model.adapters) or 'none'}")
    attached: Attached = model.adapters[name]
    c = attached.config
    tensors: dict[str, Array] = {}
    ranks: dict[str, int] = {}
    for module, rows in _modules(model).items():
        present = [row for row in rows if row.path in attached.parts]
        if present:
            a, b = _joined(present, rows, attached.parts)
            tensors |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}
            ranks[module] = len(a)
    others = {module: rank for module, rank in ranks.items() if rank != c.r}
    config = {
        "peft_type": "LORA",
        "task_type": c.task_type,
        "base_model_name_or_path": base or _base_name(model),
        "r": c.r,
        "lora_alpha": c.lora_alpha,
        "lora_dropout": c.lora_dropout,
        "target_modules": list(dict.fromkeys(module.rpartition(".")[2] for module in ranks)),
        "rank_pattern": others,
        "alpha_pattern": {module: _alpha(c, rank) for module, rank in others.items()},
        "bias": c.bias,
        "use_rslora": c.use_rslora,
        "use_dora": False,
        "fan_in_fan_out": any(rows[0].place.transposed for rows in _modules(model).values()),
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
    }
    entries = [NewTensor(key, array.shape, "F32", partial(_once, array)) for key, array in tensors.items()]
    with Staging(make_folder(path), sum(each.nbytes for each in entries)) as staging:
        with staging.create(WEIGHTS) as file:
            write_safetensors(file, entries)
        with staging.create(CONFIG) as file:
            file.write((json.dumps(config, indent=2) + "\n").encode())


def _once(array: Array) -> Iterator[Array]:
    yield array


def load_adapter(model: Any, path: str | os.PathLike[str], name: str = "default") -> None:
    """Take the adapter of a PEFT folder and use it.

    Raises ModelFileError that names a tensor which is missing, unknown or of another shape, and fields that mean
    something else than W + scale B A.
    """
    folder = os.fspath(path)
    config = _config(folder)
    file_name = os.path.join(folder, WEIGHTS)
    parts: dict[str, Adapter] = {}
    with SafeTensors(file_name) as file:
        left = set(file.tensors)
        for module, rows in _modules(model).items():
            keys = [f"{PREFIX}{module}.lora_{each}.weight" for each in "AB"]
            if not left & set(keys):
                continue
            a, b = (_tensor(file, key, file_name) for key in keys)
            left -= set(keys)
            _check_shapes(file_name, keys, a, b, rows)
            scale = config.scaling(module, len(a))
            parts |= {row.path: part for row, part in _split(rows, a, b, scale, config.lora)}
    if left or not parts:
        found = f"{printable(min(left))}: the model has no such matrix" if left else "no adapters"
        raise ModelFileError(file_name, "", None, found, f"{PREFIX}PATH.lora_A.weight and lora_B of its own linears")
    model.attach(name, Attached(config.lora, parts))


def base_of(path: str | os.PathLike[str]) -> str | None:
    """Where the model lies that a PEFT folder changes; None where the path is no such folder. Raises ModelFileError."""
    folder = os.fspath(path)
    if not os.path.exists(os.path.join(folder, CONFIG)) or os.path.exists(os.path.join(folder, "config.json")):
        return None
    name = _config(folder).lora.base_model_name_or_path
    file, field = os.path.join(folder, CONFIG), "'base_model_name_or_path'"
    allowed = "the name, file or folder of the model that it was trained on"
    if not name:
        raise ModelFileError(file, field, None, "names no model", allowed)
    beside = os.path.join(folder, name)
    try:
        base = beside if not os.path.exists(name) and os.path.exists(beside) else download.resolve(name)
    except ModelFileError as error:
        raise ModelFileError(file, field, None, f"{printable(name)}: {error.found}", allowed) from error
    if os.path.exists(os.path.join(base, CONFIG)) and not os.path.exists(os.path.join(base, "config.json")):
        raise ModelFileError(file, field, None, f"{printable(name)} is an adapter itself", allowed)
    return base


def _base_name(model: Any) -> str | None:
    name = model.name_or_path
    return os.path.abspath(name) if name is not None and os.path.exists(name) else name


def _alpha(c: LoraConfig, rank: int) -> float:
    """What gives a matrix of this rank the same scale."""
    return c.scaling * (rank**0.5 if c.use_rslora else rank)


def _modules(model: Any) -> dict[str, list[Row]]:
    """Hugging Face's path of every matrix that can be adapted -> which of ours it holds, in order."""
    family = import_module(type(model).__module__)
    dim = getattr(model.config, "head_dim", 0)
    turned = Turned(dim, getattr(model.config, "rotary_dim", dim))
    linears = model.linears()
    found: dict[str, list[Row]] = {}
    for path, place, parameter in places(model, family, FOLDER, dim):
        owner = path.removesuffix(".weight")
        if owner in linears and path != owner:
            rotated = turned if is_rotated(path, family) else Turned()
            found.setdefault(place.name.removesuffix(".weight"), []).append(Row(owner, place, rotated, parameter.shape))
    return found


def _joined(present: list[Row], rows: list[Row], parts: Mapping[str, Adapter]) -> tuple[Array, Array]:
    """A and B of a whole tensor of Hugging Face."""
    arrays = [(row, parts[row.path].a.array(), parts[row.path].b.array()) for row in present]
    a = np.concatenate([each for _, each, _ in arrays])
    outputs, parts_of_all = rows[0].shape[0], rows[0].place.parts
    b = np.zeros((outputs * parts_of_all, len(a)), np.float32)
    column = 0
    for row, _, mine in arrays:
        mine = row.rotated.halves(mine) if row.rotated else mine
        within = row.place.within or outputs
        view = b.reshape(-1, parts_of_all, within, len(a))
        view[:, row.place.part, :, column : column + mine.shape[1]] = mine.reshape(-1, within, mine.shape[1])
        column += mine.shape[1]
    return a, b


def _split(rows: list[Row], a: Array, b: Array, scale: float, c: LoraConfig) -> Iterator[tuple[Row, Adapter]]:
    """The adapters of our matrices within a tensor of Hugging Face; of several each has the columns that it uses."""
    for row in rows:
        mine = row.place.rows_of(b)
        mine = row.rotated.pairs(mine) if row.rotated else mine
        used = mine.any(axis=0) if len(rows) > 1 and mine.any() else np.ones(len(a), bool)
        outputs, inputs = row.shape
        part = Adapter(inputs, outputs, int(used.sum()), scale, c.lora_dropout, Adapter.stream_of(row.path))
        part.a.learn(np.ascontiguousarray(a[used]))
        part.b.learn(np.ascontiguousarray(mine[:, used]))
        yield row, part


def _check_shapes(file: str, keys: list[str], a: Array, b: Array, rows: list[Row]) -> None:
    outputs, inputs = rows[0].shape[0] * rows[0].place.parts, rows[0].shape[1]
    wanted = ((len(a), inputs), (outputs, len(a)))
    for key, array, shape, text in zip(keys, (a, b), wanted, (f"(r, {inputs})", f"({outputs}, r)"), strict=True):
        if array.shape != shape:
            raise ModelFileError(file, f"tensor '{printable(key)}'", None, f"shape {array.shape}", text)


def _tensor(file: SafeTensors, key: str, path: str) -> Array:
    info = file.tensors.get(key)
    if info is None:
        raise ModelFileError(path, f"tensor '{printable(key)}'", None, "is missing", "both lora_A and lora_B")
    if len(info.shape) != 2 or 0 in info.shape:
        raise ModelFileError(path, f"tensor '{printable(key)}'", None, f"shape {info.shape}", "two dimensions")
    return decode(info.dtype, file.read(info), *info.shape)


class _Config(NamedTuple):
    """adapter_config.json, checked."""

    lora: LoraConfig
    alphas: dict[str, float]

    def scaling(self, module: str, rank: int) -> float:
        """What B A of a module is multiplied with."""
        alpha = next((a for key, a in self.alphas.items() if f".{module}".endswith(f".{key}")), self.lora.lora_alpha)
        return float(alpha / (rank**0.5 if self.lora.use_rslora else rank))


def _config(folder: str) -> _Config:
    file = os.path.join(folder, CONFIG)
    values = load_json(file, CONFIG_LIMIT)

    def refuse(field: str, allowed: str) -> NoReturn:
        raise ModelFileError(file, f"'{field}'", None, printable(json.dumps(values.get(field)), 80), allowed)

    if not isinstance(values, dict):
        raise ModelFileError(file, "", None, f"a {type(values).__name__}", "a JSON object")
    if values.get("peft_type") != "LORA":
        refuse("peft_type", '"LORA"')
    for field, unused in _UNUSED.items():
        if values.get(field) not in unused:
            refuse(field, "what leaves W + scale B A alone: " + " or ".join(json.dumps(each) for each in unused))
    start = values.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_CHANGED):
        refuse("init_lora_weights", "a way to begin that leaves the model's weights alone")
    alphas = values.get("alpha_pattern") or {}
    if not isinstance(alphas, dict) or not all(_positive(each) for each in alphas.values()):
        refuse("alpha_pattern", "names of matrices with numbers above 0")
    for field in ("r", "lora_alpha"):
        if not _positive(values.get(field, 8)):
            refuse(field, "a number above 0")
    base, rank = values.get("base_model_name_or_path"), values.get("r", 8)
    if not isinstance(base, str | None) or not isinstance(rank, int):
        refuse("r" if isinstance(base, str | None) else "base_model_name_or_path", "a whole number; text")
    dropout, scaled = values.get("lora_dropout", 0.0), values.get("use_rslora") is True
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        refuse("lora_dropout", "from 0 to below 1")
    targets = values.get("target_modules")
    targets = targets if isinstance(targets, str) or targets is None else tuple(map(str, targets))
    lora = LoraConfig(rank, values.get("lora_alpha", 8), dropout, targets, use_rslora=scaled,
                      base_model_name_or_path=base)  # fmt: skip
    return _Config(lora, alphas)


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
