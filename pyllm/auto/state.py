"""A language model's numbers under the names of its family in PyTorch: what `state_dict` gives and takes there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm.auto.saving import family_of, tensors_of
from pyllm.auto.weights import FOLDER, copies, placed, places, rearranged
from pyllm.errors import printable
from pyllm.formats import TensorInfo
from pyllm.formats.weights import differences
from pyllm.tensor import Tensor

IN_MEMORY = "lm_head.weight"  # of transformers from version 5 on; GPT-NeoX's files go on to call it embed_out


class Held:
    """Arrays in memory, as what reads weights sees an open file."""

    def __init__(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        self.arrays = arrays
        self.tensors = {name: TensorInfo(name, a.shape, "F32", 0, a.nbytes) for name, a in arrays.items()}

    def read(self, info: TensorInfo, first: int, rows: int) -> NDArray[np.uint8]:
        """Bytes of rows first..first+rows, not copied."""
        whole = self.arrays[info.name].reshape(info.rows, -1)
        return np.ascontiguousarray(whole[first : first + rows]).reshape(-1).view(np.uint8)


def arrays_of(model: Any) -> dict[str, NDArray[np.float32]]:
    """Each tensor of the model's folder by its name there: float32, copied."""
    found = {}
    for each in tensors_of(model, family_of(model)[1], FOLDER, lambda name, shape: "F32", "state_dict"):
        pieces = [np.ascontiguousarray(piece).reshape(-1).view(np.uint8) for piece in each.pieces()]
        found[each.name] = np.concatenate(pieces).view(np.float32).reshape(each.shape)
    return found


def state_of(model: Any) -> dict[str, NDArray[np.float32]]:
    """Name -> float32 array, copied: the names that transformers writes, and has in its model's state_dict() but for
    GPT-NeoX's head (see IN_MEMORY).

    A head that is the embedding is there under both names, one array. Raises ValueError for an adapter in use.
    """
    _, family = family_of(model)
    found = arrays_of(model)
    if model.config.tie_word_embeddings:
        table = next(place.name for _, place, each in places(model, family, FOLDER) if each is model.head.weight)
        found[_name(family)] = found[table]
    return found | {name: found[real] for name, real in copies(family, found)}


def load_state(model: Any, state: Mapping[str, Any]) -> None:
    """Have the model learn on from a state_dict of transformers: arrays or tensors of any kind, each copied.

    Names may lack the prefix of the model without its head. Constants that some versions save are passed over, and so
    is a second name of the embedding. Raises ValueError that names every tensor that is missing, unexpected or of
    another shape, and for a head that differs from the embedding it is tied to; TypeError for what holds no numbers.
    """
    _, family = family_of(model)
    held = Held({_in_file(name, state, family): Tensor(value).data for name, value in state.items()})
    config = {name: getattr(model.config, name, 0) for name in ("head_dim", "tie_word_embeddings")}
    config["rotary_dim"] = getattr(model.config, "rotary_dim", config["head_dim"])
    found, expected, ignored = placed(model, family, held.tensors, config, FOLDER)
    table = next((place.name for each, place, _ in found if each is model.head.weight), "")
    ties = [(_name(family), table)] if model.config.tie_word_embeddings else []
    wrong = differences(expected, held.tensors, ignored) + _untied([*ties, *copies(family, expected)], held)
    if wrong:
        raise ValueError(f"load_state_dict: {'; '.join(wrong)}")
    for parameter, place, rotated in found:
        n = (1, *parameter.shape)[-2]
        raw = rearranged(held.tensors[place.name], held, place, n, rotated)
        parameter.take(raw.view(np.float32).reshape(parameter.shape) + np.float32(place.offset))


def _name(family: Any) -> str:
    """What a family calls the matrix of its head."""
    return f"{family.NAMES['head'][FOLDER]}.weight".lstrip("^+")


def _in_file(name: str, state: Mapping[str, Any], family: Any) -> str:
    """A name of a state as files have it."""
    head = _name(family)
    return head if name == IN_MEMORY and head not in state else name


def _untied(ties: list[tuple[str, str]], held: Held) -> list[str]:
    """A phrase for each name that is given, and not with the numbers of the tensor to which it is tied."""
    wrong = []
    for name, real in dict(ties).items():
        a, b = held.arrays.get(name), held.arrays.get(real)
        if a is not None and b is not None and not np.array_equal(a, b, equal_nan=True):
            wrong.append(f"'{printable(name)}' differs from '{printable(real)}', to which the configuration ties it")
    return wrong
