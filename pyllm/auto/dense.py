"""Dense layers over sentences' vectors, from sentence-transformers' folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import _core, ops
from pyllm.formats.folder import Folder
from pyllm.formats.sentences import Dense
from pyllm.formats.weights import check_weights

Array = NDArray[np.float32]
_NAMES = ("linear.weight", "linear.bias")


def load_dense(folder: str, about: Dense) -> Callable[[Array], Array]:
    """y = act(W x + b) of vectors (sentences, inputs): (sentences, outputs). Raises ModelFileError."""
    sizes = (about.outputs, about.inputs), (about.outputs,)
    shapes = dict(zip(_NAMES, sizes if about.bias else sizes[:1], strict=False))
    with Folder(os.path.join(folder, about.folder)) as source:
        check_weights(source.path, shapes, source.tensors)
        weight, bias = (_floats(source, each, shapes[each]) if each in shapes else None for each in _NAMES)
    return lambda x: np.asarray(ops.activate(ops.linear(x, weight, bias), about.activation))


def _floats(source: Any, name: str, shape: tuple[int, ...]) -> Array:
    info, width = source.tensors[name], shape[-1]
    rows = int(np.prod(shape)) // width
    held = _core.Weight(info.dtype, rows, width)
    held.fill(0, rows, source.read(info))
    return np.asarray(held.dequantise(0, rows)).reshape(shape)
