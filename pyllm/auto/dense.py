"""Layers over sentences' vectors, from sentence-transformers' folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import _core, ops
from pyllm.formats.folder import Folder
from pyllm.formats.safetensors_writer import write_safetensors
from pyllm.formats.sentences import Dense, LayerNorm, SentenceConfig, sentence_files
from pyllm.formats.weights import check_weights
from pyllm.formats.writing import Staging, make_folder, tensor_of

Array = NDArray[np.float32]
_NAMES = ("linear.weight", "linear.bias")


class Layer(NamedTuple):
    """y = act(W x + b), or the norm, of vectors (sentences, inputs): (sentences, outputs). arrays: by their names."""

    about: Dense | LayerNorm
    arrays: dict[str, Array]

    def __call__(self, x: Array) -> Array:
        """The layer's vectors."""
        weight, *rest = self.arrays.values()
        if isinstance(self.about, LayerNorm):
            return np.asarray(ops.layer_norm(x, weight, rest[0], 1e-5))
        return np.asarray(ops.activate(ops.linear(x, weight, rest[0] if rest else None), self.about.activation))


def load_dense(folder: str, about: Dense | LayerNorm) -> Layer:
    """The layer of a folder. Raises ModelFileError."""
    if isinstance(about, LayerNorm):
        return Layer(about, _read(folder, about, dict.fromkeys(("norm.weight", "norm.bias"), (about.inputs,))))
    sizes = (about.outputs, about.inputs), (about.outputs,)
    return Layer(about, _read(folder, about, dict(zip(_NAMES, sizes if about.bias else sizes[:1], strict=False))))


def _read(folder: str, about: Dense | LayerNorm, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    with Folder(os.path.join(folder, about.folder)) as source:
        check_weights(source.path, shapes, source.tensors)
        return {name: _floats(source, name, shape) for name, shape in shapes.items()}


def _floats(source: Any, name: str, shape: tuple[int, ...]) -> Array:
    info, width = source.tensors[name], shape[-1]
    rows = int(np.prod(shape)) // width
    held = _core.Weight(info.dtype, rows, width)
    held.fill(0, rows, source.read(info))
    return np.asarray(held.dequantise(0, rows)).reshape(shape)


def save_sentences(path: str | os.PathLike[str], config: SentenceConfig, width: int, layers: Sequence[Layer]) -> None:
    """Write what a sentence-transformers' folder has beside the encoder, of rows of `width`, and its tokenizer. Raises
    ModelFileError."""
    named = [each.about._replace(folder=f"{i}_{type(each.about).__name__}") for i, each in enumerate(layers, 2)]
    files = sentence_files(config._replace(dense=tuple(named)), width)
    places = {about.folder: each.arrays for about, each in zip(named, layers, strict=True)}
    for folder in dict.fromkeys(os.path.dirname(name) for name in files):
        texts = {name: text for name, text in files.items() if os.path.dirname(name) == folder}
        tensors = [tensor_of(name, array) for name, array in places.get(folder, {}).items()]
        nbytes = sum(map(len, texts.values())) + sum(each.nbytes for each in tensors)
        with Staging(make_folder(os.path.join(path, folder)), nbytes) as staging:
            for name, text in texts.items():
                with staging.create(os.path.basename(name)) as file:
                    file.write(text)
            if tensors:
                with staging.create("model.safetensors") as file:
                    write_safetensors(file, tensors)
