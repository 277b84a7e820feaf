"""Fill a model's parameters from a file, slice by slice, each packed as it arrives."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import _core
from pyllm.auto.parallel import each
from pyllm.errors import ModelFileError, printable
from pyllm.formats import TensorInfo, check_weights
from pyllm.formats.encode import decode, encode
from pyllm.formats.memory import check_fits
from pyllm.formats.types import TYPES
from pyllm.models.naming import name_in_files
from pyllm.nn.module import Buffer, Module, Parameter

SLICE = 1 << 20  # bytes that a thread reads at a time: they are still in its cache when they are packed
THREADS = 4  # more readers bring nothing
FOLDER, GGUF_FILE = 0, 1  # which of the names in NAMES
# Which tied models may have again.
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight", "generator.weight", "head.weight", "decoder.weight")
# What weights may be turned into while they load.
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "int8": "INT8"}
DTYPES |= {name.lower(): name for name in ("Q8_0", "Q4_0", "Q4_1", "F32", "F16", "BF16")}


_buffer = threading.local()
_NONE = np.empty(0, np.uint8)


class Place(NamedTuple):
    """Where a parameter lies: the tensor's name, and which part of how many of its outputs.

    within: of each so many outputs, a head's, and not of them all. offset: what is added to the stored numbers.
    """

    name: str
    transposed: bool
    part: int
    parts: int
    within: int = 0
    offset: float = 0.0

    def rows_of(self, rows: NDArray[Any]) -> NDArray[Any]:
        """This part of all outputs (outputs, ...)."""
        heads = rows.reshape(-1, self.parts, self.within or len(rows) // self.parts, *rows.shape[1:])
        return heads[:, self.part].reshape(-1, *rows.shape[1:])

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the whole tensor in the file, from the parameter's."""
        whole = (shape[0] * self.parts, *shape[1:])
        return whole[::-1] if self.transposed else whole


class Turned(NamedTuple):
    """Rows of each head of `dim` of which the first `turned` are rotated and must be brought into pairs; 0: none."""

    dim: int = 0
    turned: int = 0

    def __bool__(self) -> bool:
        return self.turned > 0

    def pairs(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Halves (i, i + turned/2) of each head's rows become neighbours (2i, 2i + 1)."""
        return self._ordered(rows, 2, -1)

    def halves(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The inverse of pairs."""
        return self._ordered(rows, -1, 2)

    def _ordered(self, rows: NDArray[Any], *shape: int) -> NDArray[Any]:
        order = np.arange(self.dim)
        order[: self.turned] = order[: self.turned].reshape(shape).T.reshape(-1)
        return rows.reshape(-1, self.dim, *rows.shape[1:])[:, order].reshape(rows.shape)


class StoredRows:
    """A matrix that stays in its file: what writing needs of a packed `_core.Weight`, read when asked for."""

    def __init__(self, place: Place, source: Any, shape: tuple[int, ...], rotated: Turned) -> None:
        self.place, self.source, self.shape, self.rotated = place, source, shape, rotated
        self.dtype = source.tensors[place.name].dtype
        self._whole: NDArray[np.uint8] | None = None  # of a matrix whose rows lie elsewhere in the file, until its end

    def dequantise(self, row: int, rows: int) -> NDArray[np.float32]:
        """(rows, k) float32 from `row`, in the order that a packed weight has."""
        info = self.source.tensors[self.place.name]
        n, k = self.shape
        if not (self.place.transposed or self.place.within or self.rotated):
            return decode(self.dtype, self.source.read(info, self.place.part * n + row, rows), rows, k)
        whole = rearranged(info, self.source, self.place, n, self.rotated) if self._whole is None else self._whole
        self._whole = None if row + rows == n else whole
        return decode(self.dtype, whole.reshape(n, -1)[row : row + rows], rows, k)


def load_weights(
    model: Module,
    family: Any,
    source: Any,
    config: dict[str, Any],
    dtype: Any = "auto",
    optional: Collection[Parameter] | None = None,
) -> list[str]:
    """Every parameter of the model from the open file; gives the names of those `optional` ones that are not there.

    With some optional the file may hold more than the model asks for. Raises ModelFileError for missing or misshaped
    tensors.
    """
    wanted = storage_type(dtype, DTYPES)
    found, missing = _found(model, family, source, config, optional)
    check_fits(source.path, _bytes_needed(_infos(found, source), wanted))
    for parameter in model.own_parameters().values():
        parameter.value = np.zeros(parameter.shape, np.float32) if isinstance(parameter, Buffer) else None
    each(lambda one: _fill(one[0], one[1], one[2], source, wanted), found, min(THREADS, _core.threads()))
    return missing


def bytes_loaded(model: Module, family: Any, source: Any, config: dict[str, Any]) -> tuple[int, bool]:
    """(what weights take, kept as they are stored, whether all matrices are float32). Raises as load_weights does."""
    found, _ = _found(model, family, source, config)
    kinds = {source.tensors[place.name].dtype for parameter, place, _ in found if parameter.packed}
    return _bytes_needed(_infos(found, source), None), kinds == {"F32"}


def store_as(model: Module, dtype: Any) -> None:
    """Convert the matrices of a model that is ready to run; dtype as load_weights takes it. What learned is let go."""
    wanted = storage_type(dtype, DTYPES)
    for parameter in model.own_parameters().values():
        parameter.freeze()
        if parameter.packed and wanted not in (None, parameter.value.dtype):
            parameter.value = converted(parameter.value, str(wanted))


def _infos(found: list[tuple[Parameter, Place, Turned]], source: Any) -> list[TensorInfo]:
    """The tensors of a file that a model reads, each once."""
    return [source.tensors[name] for name in {each[1].name for each in found}]


def open_weights(model: Module, family: Any, source: Any, config: dict[str, Any]) -> None:
    """The same, but matrices stay in the file as StoredRows: enough to write the model, at no cost of memory."""
    for parameter, place, rotated in _found(model, family, source, config)[0]:
        if parameter.packed:
            parameter.value = StoredRows(place, source, parameter.shape, rotated)
        else:
            _fill(parameter, place, rotated, source, None)


def _found(
    model: Module, family: Any, source: Any, config: dict[str, Any], optional: Collection[Parameter] | None = None
) -> tuple[list[tuple[Parameter, Place, Turned]], list[str]]:
    """(parameter, its place in the file, how its rows must be brought into pairs), all checked; optional ones that are
    not there, by name."""
    column = GGUF_FILE if hasattr(source, "metadata") else FOLDER
    found, expected, ignored = placed(model, family, source.tensors, config, column)
    missing = [place.name for each, place, _ in found if each in (optional or ()) and place.name not in source.tensors]
    found = [each for each in found if each[1].name not in missing]
    expected = {name: shape for name, shape in expected.items() if name not in missing}
    check_weights(source.path, expected, source.tensors, ignored if optional is None else source.tensors)
    for name, real in copies(family, expected):
        one, other = source.tensors.get(name), source.tensors[real]
        same = one is None or (one.shape, one.dtype) == (other.shape, other.dtype)
        if not same or (one is not None and not np.array_equal(source.read(one), source.read(other))):
            raise ModelFileError(source.path, "weights", None, f"'{name}' differs from '{real}'", "the same numbers")
    return found, missing


def placed(
    model: Module, family: Any, tensors: Mapping[str, Any], config: Mapping[str, Any], column: int
) -> tuple[list[tuple[Parameter, Place, Turned]], dict[str, tuple[int, ...]], list[str]]:
    """(parameter, its place, how its rows are brought into pairs) by the names that these tensors have; the shape
    that each name must have; names that may be there or not."""
    found = places(model, family, column, config.get("head_dim", 0))
    old, new = _renaming(found[0][1].name, tensors, getattr(model, "prefix", ""))
    found = [(path, place._replace(name=_renamed(place.name, old, new)), each) for path, place, each in found]
    others = {real: name for name, real in stand_ins(family, {each[1].name for each in found}) if name in tensors}
    alone = {real: name for real, name in others.items() if real not in tensors}  # a file may have either
    found = [(path, place._replace(name=alone.get(place.name, place.name)), each) for path, place, each in found]
    found = [each for each in found if each[1].name in tensors or not isinstance(each[2], Buffer)]
    expected = {place.name: place.stored_shape(parameter.shape) for _, place, parameter in found}
    ignored = [name for name in tensors if any(re.fullmatch(each, name) for each in family.IGNORED)]
    ignored += [name for name, _ in stand_ins(family, expected)]
    if config.get("tie_word_embeddings"):
        ignored += [name for name in _HEADS if name not in expected]
    dim = 0 if config.get("rope_interleaved") else config.get("head_dim", 0)
    turned = Turned(dim, config.get("rotary_dim", dim) if dim else 0)
    rows = [(each, place, turned if is_rotated(path, family) else Turned()) for path, place, each in found]
    return rows, expected, ignored


def stand_ins(family: Any, expected: Collection[str]) -> list[tuple[str, str]]:
    """(another name, the expected tensor that files may have under it instead), as these files begin names."""
    found = getattr(family, "COPIES", ())
    plain = [tuple(name.removeprefix("model.") for name in pair) for pair in found]
    pairs = dict.fromkeys((*found, *plain))
    return [(name, real) for name, real in pairs if real in expected and name not in expected]


def copies(family: Any, expected: Collection[str]) -> list[tuple[str, str]]:
    """Those of them that always equal the tensor: one that may stand for several is of none, where they are there."""
    found = stand_ins(family, expected)
    times = Counter(name for name, _ in found)
    return [(name, real) for name, real in found if times[name] == 1]


def _renaming(first: str, tensors: Any, prefix: str) -> tuple[str, str]:
    """(old, new) beginning of names: models are saved without the head around them, or within one that reads images,
    or, where they have none, within one that has."""
    base = first.split(".", 1)[0] + "."
    ways = ((base, base), (base, ""), (base, "model.language_model."), ("", "language_model."), ("", prefix))
    fits = (way for way in ways if _renamed(first, *way) in tensors)
    return next(fits, (base, base))


def _renamed(name: str, old: str, new: str) -> str:
    return new + name.removeprefix(old) if name.startswith(old) else name


def storage_type(dtype: Any, known: dict[str, str]) -> str | None:
    """None for "auto", else a storage type; accepts "float32", numpy's and torch's dtypes."""
    name = "auto" if dtype is None else getattr(dtype, "__name__", str(dtype)).replace("torch.", "")
    if name != "auto" and name not in known:
        raise ValueError(f"dtype is {name!r}, allowed are auto, {', '.join(known)}")
    return known.get(name)


def is_rotated(path: str, family: Any) -> bool:
    """Are this parameter's rows ordered in halves by Hugging Face, and in pairs here?"""
    return any(each in path for each in family.ROTATED)


def places(model: Module, family: Any, column: int, head_dim: int = 0) -> list[tuple[str, Place, Parameter]]:
    """(path, place, parameter) of each parameter in FOLDER or GGUF_FILE; a head that is the embedding is there once.

    head_dim: for families whose files mix the parts of each head.
    """
    found: dict[int, tuple[str, Place, Parameter]] = {}
    for path, parameter in model.named_parameters():
        place = _parse(name_in_files(model, path, family, column), parameter, head_dim)
        found.setdefault(id(parameter), (path, place, parameter))
    return list(found.values())


def _parse(name: str, parameter: Parameter, head_dim: int) -> Place:
    """`^name#part/parts@kind`, as models.naming gives it: ^ transposed, + less one, %part/parts of each head."""
    name, _, kind = name.partition("@")
    within = head_dim if "%" in name else 0
    name, _, part = name.replace("%", "#").partition("#")
    first, parts = (int(each) for each in part.split("/")) if part else (0, 1)
    transposed = name.startswith("^") and len(parameter.shape) == 2
    offset = 1.0 if name.startswith("+") else 0.0
    return Place(name.lstrip("^+") + (f".{kind}" if kind else ""), transposed, first, parts, within, offset)


def _bytes_needed(infos: list[TensorInfo], wanted: str | None) -> int:
    """About what the packed weights take, and a slice."""
    if wanted is None:
        return THREADS * SLICE + sum(info.nbytes + info.nbytes // 32 for info in infos)
    size = 1.0 if wanted == "INT8" else TYPES[wanted].nbytes / TYPES[wanted].block
    return THREADS * SLICE + sum(int(size * int(np.prod(info.shape))) for info in infos)


def _fill(parameter: Parameter, place: Place, rotated: Turned, source: Any, wanted: str | None) -> None:
    info = source.tensors[place.name]
    k = parameter.shape[-1]
    n = parameter.size // k
    if place.transposed or place.within or rotated or len(parameter.shape) == 1:
        weight = _core.Weight(info.dtype, n, k)
        weight.fill(0, n, rearranged(info, source, place, n, rotated))
    else:
        weight = _packed(info, source, place.part * n, n, k)
    if not parameter.packed:
        parameter.value = weight.dequantise(0, n).reshape(parameter.shape) + np.float32(place.offset)
    elif wanted is not None and wanted != info.dtype:
        try:
            parameter.value = converted(weight, wanted)
        except ValueError as error:
            where = f"tensor '{printable(place.name)}'"
            raise ModelFileError(source.path, where, None, f"dtype {wanted}: {error}", "another dtype") from error
    else:
        parameter.value = weight


def _packed(info: TensorInfo, source: Any, first: int, n: int, k: int) -> _core.Weight:
    """Rows first..first+n, read in slices of whole panels."""
    weight = _core.Weight(info.dtype, n, k)
    row_bytes = info.nbytes // info.rows
    step = max(16, SLICE // row_bytes // 16 * 16)
    size = min(step, n) * row_bytes
    if size > getattr(_buffer, "bytes", _NONE).size:  # fresh memory for every tensor would cost more than the reading
        _buffer.bytes = np.empty(size, np.uint8)
    buffer = _buffer.bytes
    for row in range(0, n, step):
        rows = min(step, n - row)
        view = buffer[: rows * row_bytes]
        source.read_into(info, first + row, rows, view)
        weight.fill(row, rows, view)
    return weight


def rearranged(info: TensorInfo, source: Any, place: Place, n: int, rotated: Turned) -> NDArray[np.uint8]:
    """Bytes of n rows in the order that panels want them."""
    raw = source.read(info, 0, info.rows)
    if len(info.shape) == 1:  # a vector is one row; its numbers are the outputs
        numbers = raw.reshape(info.shape[0], -1) if info.shape[0] and raw.size % info.shape[0] == 0 else raw[None]
        rows = place.rows_of(numbers)
    elif place.transposed:
        inputs, outputs = info.shape
        numbers = raw.view(np.uint32 if info.dtype == "F32" else np.uint16).reshape(inputs, outputs)
        rows = np.ascontiguousarray(numbers[:, place.part * n : (place.part + 1) * n].T)
    else:
        rows = place.rows_of(raw.reshape(info.rows, -1))
    if rotated:
        rows = rotated.pairs(rows)
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8)


def converted(weight: _core.Weight, kind: str) -> _core.Weight:
    """The same numbers in another storage type, as near as it has them. Raises ValueError where rows are no whole
    blocks of it, and for numbers that it cannot hold."""
    n, k = weight.shape
    out = _core.Weight(kind, n, k)
    step = max(16, SLICE // (4 * k) // 16 * 16)
    for row in range(0, n, step):
        numbers = weight.dequantise(row, min(step, n - row))
        if kind == "INT8":
            out.fill_floats(numbers, row=row)
        else:
            out.fill(row, len(numbers), encode(kind, numbers).reshape(-1))
    return out
