"""Models to files: Hugging Face folders and GGUF, from parameters in memory or still in another file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm.auto.weights import FOLDER, GGUF_FILE, Place, Turned, is_rotated, places, storage_type
from pyllm.formats.encode import decode, encode
from pyllm.formats.folder_config import DTYPES, folder_config
from pyllm.formats.gguf_config import IN_PAIRS
from pyllm.formats.gguf_fields import gguf_fields
from pyllm.formats.gguf_quantize import AT_ONCE, PLAIN, QUANTIZATION_VERSION, encoded, head_of, stored_type
from pyllm.formats.gguf_writer import FILE_TYPES, write_gguf
from pyllm.formats.safetensors_writer import size_limit, write_weights
from pyllm.formats.writing import NewTensor, Report, Staging, make_folder
from pyllm.nn.position import rotary_frequencies
from pyllm.tensor import Tensor

_DTYPES = {name: kind for kind, name in DTYPES.items()}


class Part(NamedTuple):
    """A parameter and its place in the new file; rotated: how its rows are brought from pairs into halves."""

    place: Place
    parameter: Any
    rotated: Turned


def save_folder(
    model: Any,
    path: str | os.PathLike[str],
    dtype: Any = "auto",
    max_shard_size: int | str = "5GB",
    files: Mapping[str, bytes] | None = None,
    report: Report = lambda done, total: None,
    head: tuple[Mapping[str, Any], list[NewTensor]] | None = None,
) -> None:
    """Write a Hugging Face folder: config.json, generation_config.json, safetensors, and `files` (the tokenizer's).

    dtype "auto": the float type that the matrices are stored in where it holds every number, else float32; so
    block-quantised weights come as float32. Files of these names are replaced, all of them together and only when all
    are complete. head: of another task than the model's, what config.json says of it, and its tensors. Memory: one
    slice of a matrix, or one matrix where the new file orders rows otherwise.
    Raises ModelFileError for whatever the disk refuses and for numbers that float16 cannot hold; ValueError.
    """
    limit = size_limit(max_shard_size)
    kind = storage_type(dtype, _DTYPES) or exact_type(model)
    name, family = family_of(model)
    folder = os.fspath(path)
    tensors = tensors_of(model, family, FOLDER, lambda each, shape: kind, folder)
    config = folder_config(name, asdict(model.config), kind, getattr(model, "task", ""))
    if head is not None:
        config, tensors = {**config, **head[0]}, tensors + head[1]
    texts = {"config.json": _json(config)}
    if hasattr(model, "generate"):
        named = {key: value for key, value in config.items() if key.endswith("_token_id") and value is not None}
        texts["generation_config.json"] = _json(model.generation_config or named)
    texts |= files or {}
    make_folder(folder)
    needed = sum(map(len, texts.values())) + sum(each.nbytes for each in tensors)
    with Staging(folder, needed, report) as staging:
        for file_name, text in texts.items():
            with staging.create(file_name) as file:
                file.write(text)
        write_weights(staging, tensors, limit)


def save_gguf(
    model: Any,
    path: str | os.PathLike[str],
    vocabulary: Mapping[str, Any],
    dtype: str = "auto",
    overwrite: bool = False,
    report: Report = lambda done, total: None,
) -> None:
    """Write a GGUF file with matrices of the given type; vocabulary: the fields `tokenizer.*`. See formats.quantize.

    Raises ModelFileError for whatever the disk refuses and for numbers that a type cannot hold; ValueError.
    """
    name, family = family_of(model)
    wanted = exact_type(model) if dtype == "auto" else dtype
    if wanted not in FILE_TYPES:
        raise ValueError(f"save_gguf: type is {wanted!r}, allowed are auto, {', '.join(FILE_TYPES)}")
    path = os.fspath(path)
    head = head_of({place.name for _, place, _ in places(model, family, GGUF_FILE)})
    tensors = tensors_of(model, family, GGUF_FILE, lambda each, shape: stored_type(each, shape, wanted, head), path)
    tensors += _frequencies(model.config)
    values = asdict(model.config)
    scaling = values.get("rope_scaling")
    if scaling is not None and scaling["type"] in ("yarn", "longrope"):  # GGUF has the magnitude, not its origin
        scaling["attention_factor"] = rotary_frequencies(values["head_dim"], values["rope_theta"], scaling)[1]
    fields = {
        **gguf_fields(name, values),
        "general.type": "model",
        "general.name": os.path.basename(path).removesuffix(".gguf"),
        "general.file_type": FILE_TYPES[wanted],
        "general.quantization_version": QUANTIZATION_VERSION,
        **vocabulary,
    }
    write_gguf(path, fields, tensors, overwrite, report)


def exact_type(model: Any) -> str:
    """The float type that all matrices are stored in, if it holds the vectors too, as a folder has them; else F32."""
    found = places(model, family_of(model)[1], FOLDER, getattr(model.config, "head_dim", 0))
    kinds = {"F32" if isinstance(each.value, Tensor) else each.value.dtype for _, _, each in found if each.packed}
    kind = kinds.pop() if len(kinds) == 1 else "F32"
    if kind not in PLAIN or kind == "F32":
        return "F32"
    for vector, offset in ((each.value.reshape(1, -1), place.offset) for _, place, each in found if not each.packed):
        try:
            kept = decode(kind, encode(kind, vector - np.float32(offset)), *vector.shape) + np.float32(offset)
            same = np.array_equal(kept, vector, equal_nan=True)
        except ValueError:
            same = False
        if not same:
            return "F32"
    return kind


def family_of(model: Any) -> tuple[str, Any]:
    """(name, module) of the model's family. Raises ValueError where an adapter would be lost."""
    if getattr(model, "active_adapter", None) is not None:
        raise ValueError(f"save: the adapter {model.active_adapter!r} is not in the weights; merge_and_unload() first")
    module = import_module(type(model).__module__)
    return module.__name__.rpartition(".")[2], module


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def tensors_of(model: Any, family: Any, column: int, kind: Any, path: str) -> list[NewTensor]:
    """Every tensor of the new file, in the order of the parameters; parts of one tensor come together."""
    halves = column == FOLDER or family_of(model)[0] not in IN_PAIRS
    grouped: dict[str, list[Part]] = {}
    dim = getattr(model.config, "head_dim", 0)
    turned = Turned(dim, getattr(model.config, "rotary_dim", dim))
    for name, place, parameter in places(model, family, column, dim):
        rotated = turned if halves and is_rotated(name, family) else Turned()
        grouped.setdefault(place.name, []).append(Part(place, parameter, rotated))
    for parts in grouped.values():
        parts.sort(key=lambda each: each.place.part)
    return [_tensor(name, parts, kind, path) for name, parts in grouped.items()]


def _tensor(name: str, parts: list[Part], kind: Any, path: str) -> NewTensor:
    shape = parts[0].place.stored_shape(parts[0].parameter.shape)
    dtype = kind(name, shape)

    def pieces() -> Iterator[NDArray[np.uint8]]:
        if parts[0].place.transposed:
            whole = np.concatenate([rows for part in parts for rows in _rows(part)])
            yield encoded(path, name, dtype, np.ascontiguousarray(whole.T))
        elif parts[0].place.within:
            yield encoded(path, name, dtype, _mixed(parts))
        else:
            for part in parts:
                for rows in _rows(part):
                    yield encoded(path, name, dtype, rows)

    return NewTensor(name, shape, dtype, pieces)


def _rows(part: Part) -> Iterator[NDArray[np.float32]]:
    """A parameter's numbers slice by slice, (rows, k) float32; a vector is one row of the file."""
    value = part.parameter.value
    value = value.data if isinstance(value, Tensor) else value
    if len(part.parameter.shape) == 1:
        yield _as_stored(value, part).reshape(1, -1)
        return
    k = part.parameter.shape[-1]
    n = part.parameter.size // k
    value = value.reshape(n, k) if isinstance(value, np.ndarray) else value
    step = max(1, AT_ONCE // k)
    step = max(step // part.rotated.dim, 1) * part.rotated.dim if part.rotated else step
    for row in range(0, n, step):
        rows = min(step, n - row)
        numbers = value[row : row + rows] if isinstance(value, np.ndarray) else value.dequantise(row, rows)
        yield _as_stored(numbers, part)


def _as_stored(rows: NDArray[np.float32], part: Part) -> NDArray[np.float32]:
    """Rows in the order of the file, less what reading adds."""
    rows = np.ascontiguousarray(part.rotated.halves(rows)) if part.rotated else rows
    return rows - np.float32(part.place.offset) if part.place.offset else rows


def _mixed(parts: list[Part]) -> NDArray[np.float32]:
    """Parts whose outputs take turns head by head, as rows of the file; vectors are one row."""
    each = [np.concatenate(list(_rows(part))) for part in parts]
    vector = len(parts[0].parameter.shape) == 1
    heads = [rows.reshape(-1, parts[0].place.within, 1 if vector else rows.shape[1]) for rows in each]
    return np.stack(heads, axis=1).reshape((1, -1) if vector else (-1, each[0].shape[1]))


def _frequencies(config: Any) -> list[NewTensor]:
    """By what each rotary frequency is divided, where GGUF has no other word for the scaling."""
    scaling = getattr(config, "rope_scaling", None)
    if scaling is None or scaling["type"] not in ("llama3", "frequencies", "longrope"):
        return []
    if scaling["type"] == "longrope":
        return [_vector(f"rope_factors_{each}.weight", scaling[f"{each}_factor"]) for each in ("long", "short")]
    plain, scaled = (rotary_frequencies(config.head_dim, config.rope_theta, each)[0] for each in (None, scaling))
    return [_vector("rope_freqs.weight", np.array(plain) / np.array(scaled))]


def _vector(name: str, numbers: Any) -> NewTensor:
    held = np.asarray(numbers, np.float32)
    return NewTensor(name, held.shape, "F32", lambda: iter([held]))
