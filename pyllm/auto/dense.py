"""Layers over sentences' vectors, from sentence-transformers' folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import _core, ops
from pyllm.formats.folder import Folder
from pyllm.formats.sentences import Dense, LayerNorm
from pyllm.formats.weights import check_weights

Array = NDArray[np.float32]
_NAMES = ("linear.weight", "linear.bias")


def load_dense(folder: str, about: Dense | LayerNorm) -> Callable[[Array], Array]:
    """y = act(W x + b), or the norm, of vectors (sentences, inputs): (sentences, outputs). Raises ModelFileError."""
    if isinstance(about, LayerNorm):
        weight, bias = _read(folder, about, dict.fromkeys(("norm.weight", "norm.bias"), (about.inputs,)))
        return lambda x: np.asarray(ops.layer_norm(x, weight, bias, 1e-5))
    sizes = (about.outputs, about.inputs), (about.outputs,)
    weight, *rest = _read(folder, about, dict(zip(_NAMES, sizes if about.bias else sizes[:1], strict=False)))
    found = rest[0] if rest else None
    return lambda x: np.asarray(ops.activate(ops.linear(x, weight, found), about.activation))


def _read(folder: str, about: Dense | LayerNorm, shapes: dict[str, tuple[int, ...]]) -> list[Array]:
    with Folder(os.path.join(folder, about.folder)) as source:
        check_weights(source.path, shapes, source.tensors)
        return [_floats(source, name, shape) for name, shape in shapes.items()]


def _floats(source: Any, name: str, shape: tuple[int, ...]) -> Array:
    info, width = source.tensors[name], shape[-1]
    rows = int(np.prod(shape)) // width
    held = _core.Weight(info.dtype, rows, width)
    held.fill(0, rows, source.read(info))
    return np.asarray(held.dequantise(0, rows)).reshape(shape)
