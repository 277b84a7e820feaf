"""Compare the tensors that a model expects with those that a file has."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pyllm.errors import ModelFileError, printable
from pyllm.formats.types import READABLE, TensorInfo

MOST_NAMED = 10


def check_weights(
    file: str,
    expected: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, TensorInfo],
    ignored: Collection[str] = (),
) -> None:
    """Every expected name is there in its shape and a type that can be computed with, and nothing else is.

    Raises one ModelFileError that lists up to ten names; `ignored` names may be there or not.
    """
    wrong = differences(expected, tensors, ignored)
    if wrong:
        more = f"; and {len(wrong) - MOST_NAMED:,} more" if len(wrong) > MOST_NAMED else ""
        raise ModelFileError(file, "weights", None, "; ".join(wrong[:MOST_NAMED]) + more)


def differences(
    expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, TensorInfo], ignored: Collection[str] = ()
) -> list[str]:
    """What check_weights refuses, a phrase for each tensor."""
    wrong: list[str] = []
    for name, shape in expected.items():
        info = tensors.get(name)
        if info is None:
            wrong.append(f"'{printable(name)}' {list(shape)} is missing")
        elif info.shape != tuple(shape):
            wrong.append(f"'{printable(name)}' is {list(info.shape)}, expected {list(shape)}")
        elif info.dtype not in READABLE:
            wrong.append(f"'{printable(name)}' is stored as {info.dtype}, which pyllm does not compute with")
    wrong += [f"'{printable(name)}' is unexpected" for name in tensors if name not in expected and name not in ignored]
    return wrong
