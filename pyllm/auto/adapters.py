"""PEFT folders: adapters to and from adapter_config.json and adapter_model.safetensors.

A tensor is called `base_model.model.PATH.lora_A.weight` (r, inputs) or `lora_B` (outputs, r), PATH being Hugging Face's
of the matrix. Rows of B are in Hugging Face's order: queries and keys in halves where they are rotated. Where Hugging
Face keeps several of our matrices as one, the A of all stand one below the other, each with its own columns of B; the
rank of that matrix stands in rank_pattern, its alpha in alpha_pattern. What learns whole (modules_to_save) is there as
Hugging Face's own tensor, behind `base_model.model.`. Beside PEFT's two files labels.json names the classes of a head.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm.auto.adapter_config import CONFIG, LABELS, PREFIX, WEIGHTS, labels_text, read_adapter
from pyllm.auto.saving import tensors_of
from pyllm.auto.state import Held
from pyllm.auto.weights import FOLDER, Place, Turned, is_rotated, placed, places, rearranged
from pyllm.errors import ModelFileError, printable
from pyllm.formats.encode import decode
from pyllm.formats.safetensors import SafeTensors
from pyllm.formats.safetensors_writer import write_safetensors
from pyllm.formats.types import READABLE
from pyllm.formats.weights import check_weights
from pyllm.formats.writing import NewTensor, Staging, make_folder
from pyllm.models.adapters import HEADS, Attached
from pyllm.nn import Parameter
from pyllm.nn.adapter import Adapter, LoraConfig

CLASSES = {"head.score.weight", "head.tags.weight"}  # matrices whose rows are classes with names
SCORE = "score.weight"  # the matrix of classes of transformers' decoders
_CLASSES: dict[str, Any] = {"task_type": "SEQ_CLS", "modules_to_save": HEADS["SEQ_CLS"]}
Array = NDArray[np.float32]


class Score(NamedTuple):
    """The classes of a decoder's texts: (classes, width) float32, and what the classes are called."""

    weight: Array
    id2label: dict[int, str]
    problem_type: str | None


class Row(NamedTuple):
    """One of our matrices within a tensor of Hugging Face: its path here, its place there, the order of its rows."""

    path: str
    place: Place
    rotated: Turned
    shape: tuple[int, ...]


def save_adapter(
    model: Any,
    path: str | os.PathLike[str],
    name: str | None = None,
    base: str | None = None,
    score: Score | None = None,
) -> None:
    """Write an adapter, the one in use unless named, as a PEFT folder; base: the model's name there; score: of a
    decoder that tells classes, which transformers keeps beside it.

    Raises ValueError where there is none of that name, ModelFileError for what the disk refuses.
    """
    name = model.active_adapter if name is None else name
    if name not in model.adapters:
        raise ValueError(f"save_adapter: {name!r} is not known; known are {', '.join(model.adapters) or 'none'}")
    attached: Attached = model.adapters[name]
    tensors: dict[str, Array] = {}
    ranks: dict[str, int] = {}
    modules = _modules(model)
    for module, rows in modules.items():
        present = [row for row in rows if row.path in attached.parts]
        if present:
            a, b = _joined(present, rows, attached.parts)
            tensors |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}
            ranks[module] = len(a)
    tensors |= {} if score is None else {f"{PREFIX}{SCORE}": score.weight}
    about = attached.config if score is None else replace(attached.config, **_CLASSES)
    config = _described(about, base or _base_name(model), ranks, modules)
    entries = [NewTensor(key, array.shape, "F32", partial(_once, array)) for key, array in tensors.items()]
    with _using(model, name), Staging(make_folder(path), sum(each.nbytes for each in entries)) as staging:
        with staging.create(WEIGHTS) as file:
            write_safetensors(file, [*entries, *_whole(model, attached)])
        with staging.create(CONFIG) as file:
            file.write((json.dumps(config, indent=2) + "\n").encode())
        if score is not None or CLASSES & set(attached.whole):
            with staging.create(LABELS) as file:
                file.write(labels_text(model.config if score is None else score))


def _described(c: LoraConfig, base: str | None, ranks: dict[str, int], modules: dict[str, list[Row]]) -> dict[str, Any]:
    """adapter_config.json."""
    others = {module: rank for module, rank in ranks.items() if rank != c.r}
    return {
        "peft_type": "LORA",
        "task_type": c.task_type,
        "base_model_name_or_path": base,
        "r": c.r,
        "lora_alpha": c.lora_alpha,
        "lora_dropout": c.lora_dropout,
        "target_modules": _shortest(ranks, modules),
        "rank_pattern": others,
        "alpha_pattern": {module: _alpha(c, rank) for module, rank in others.items()},
        "bias": c.bias,
        "use_rslora": c.use_rslora,
        "use_dora": False,
        "fan_in_fan_out": any(rows[0].place.transposed for rows in modules.values()),
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None if c.modules_to_save is None else list(c.modules_to_save),
    }


def _shortest(adapted: Collection[str], every: Collection[str]) -> list[str]:
    """The adapted modules by the last parts of their paths, as few as tell them from the others: PEFT adapts all whose
    paths end so."""
    found: dict[str, None] = {}
    for module in adapted:
        parts = module.split(".")
        ends = (".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1))
        alone = (end for end in ends if all(each in adapted for each in every if f".{each}".endswith(f".{end}")))
        found[next(alone, module)] = None
    return list(found)


@contextmanager
def _using(model: Any, name: str) -> Iterator[None]:
    """Within it this adapter is in use."""
    before = model.active_adapter
    if name != before:
        model.set_adapter(name)
    try:
        yield
    finally:
        if name != before:
            model.set_adapter(before)


def _whole(model: Any, attached: Attached) -> list[NewTensor]:
    """What learns whole, the adapter being in use, by PEFT's names."""
    family = import_module(type(model).__module__)
    mine = {place.name for path, place, _ in places(model, family, FOLDER) if path in attached.whole}
    entries = tensors_of(model, family, FOLDER, lambda name, shape: "F32", WEIGHTS)
    return [each._replace(name=PREFIX + each.name) for each in entries if each.name in mine]


def read_score(path: str | os.PathLike[str], width: int) -> Array:
    """The matrix of classes (classes, width) beside a decoder's adapter. Raises ModelFileError."""
    name = os.path.join(path, WEIGHTS)
    with SafeTensors(name) as file:
        found = _tensor(file, PREFIX + SCORE, name)
    if found.shape[1] != width or not np.isfinite(found).all():
        what = f"shape {found.shape}" if found.shape[1] != width else "nan or infinity"
        raise ModelFileError(name, f"tensor '{PREFIX}{SCORE}'", None, what, f"(classes, {width}), finite")
    return found


def _once(array: Array) -> Iterator[Array]:
    yield array


def load_adapter(
    model: Any, path: str | os.PathLike[str], name: str = "default", beside: Collection[str] = ()
) -> None:
    """Take the adapter of a PEFT folder and use it; beside: tensors there that are not the model's.

    Raises ModelFileError that names a tensor which is missing, unknown or of another shape, and fields that mean
    something else than W + scale B A.
    """
    folder = os.fspath(path)
    config = read_adapter(folder)
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
        whole = _loaded_whole(model, file, folder, config.lora)
        left -= {PREFIX + each for each in (*whole.names, *beside)}
    if left or not parts:
        found = f"{printable(min(left))}: the model has no such matrix" if left else "no adapters"
        raise ModelFileError(file_name, "", None, found, f"{PREFIX}PATH.lora_A.weight and lora_B of its own linears")
    model.attach(name, Attached(config.lora, parts, whole.parameters))


class Whole(NamedTuple):
    """What a PEFT folder holds of modules that have learned whole: by our paths, and Hugging Face's names."""

    parameters: dict[str, Parameter]
    names: set[str]


def _loaded_whole(model: Any, file: SafeTensors, folder: str, c: LoraConfig) -> Whole:
    """The modules of modules_to_save. Raises ModelFileError."""
    config = os.path.join(folder, CONFIG)
    try:
        wanted = model.saved(c.modules_to_save or ())
    except ValueError as error:
        found, _, allowed = str(error).removeprefix("modules_to_save: ").partition("; ")
        raise ModelFileError(config, "'modules_to_save'", None, printable(found), printable(allowed, 400)) from error
    family = import_module(type(model).__module__)
    names = {place.name for path, place, _ in places(model, family, FOLDER) if path in wanted}
    infos = {name: file.tensors[PREFIX + name] for name in names if PREFIX + name in file.tensors}
    missing = min(names - set(infos), default=None)
    if missing is not None:
        raise ModelFileError(config, "'modules_to_save'", None, f"{WEIGHTS} has no {PREFIX}{missing}", "all of them")
    dim = getattr(model.config, "head_dim", 0)
    facts = {"head_dim": dim, "rotary_dim": getattr(model.config, "rotary_dim", dim)}
    rows, expected, _ = placed(model, family, infos, facts, FOLDER)
    check_weights(file.path, {name: expected[name] for name in names}, infos, ())
    arrays = {name: decode(each.dtype, file.read(each), 1, prod(each.shape)) for name, each in infos.items()}
    source = Held({name: array.reshape(infos[name].shape) for name, array in arrays.items()})
    parameters, paths = {}, {id(each): path for path, each in wanted.items()}
    for parameter, place, rotated in rows:
        if id(parameter) in paths:
            raw = rearranged(source.tensors[place.name], source, place, (1, *parameter.shape)[-2], rotated)
            each = Parameter(*parameter.shape, packed=parameter.packed)
            each.learn(raw.view(np.float32).reshape(parameter.shape) + np.float32(place.offset))
            parameters[paths[id(parameter)]] = each
    return Whole(parameters, names)


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
    if info.dtype not in READABLE:
        raise ModelFileError(path, f"tensor '{printable(key)}'", None, info.dtype, "numbers that are computed with")
    return decode(info.dtype, file.read(info), *info.shape)
