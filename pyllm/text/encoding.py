"""What calling a tokenizer returns, and the rectangles that models take: padding, truncation, arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyllm.errors import TokenizerError, check_device


class Pieces(NamedTuple):
    """Texts, or pairs of them, as a coder gives them: rows of ids, of kinds (0, of a second text 1), of (first, end)
    characters of each token (None where nobody knows them), and of whether it stands for none."""

    ids: list[list[int]]
    types: list[list[int]]
    offsets: list[list[tuple[int, int]]] | None
    special: list[list[int]]


class BatchEncoding(dict[str, Any]):
    """A dict whose entries are attributes too: `encoding.input_ids`, `encoding["attention_mask"]`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"BatchEncoding: no {name!r}; it has {', '.join(self)}") from None

    def to(self, *given: Any, **options: Any) -> BatchEncoding:
        """Itself: it is on the processor. Raises ValueError for another device."""
        check_device("BatchEncoding", *given, **options)
        return self


def truncate(rows: list[list[int]], truncation: bool | str | None, longest: int | None, side: str) -> list[list[int]]:
    """Rows cut to `longest` ids when truncation is asked for, from the right end or the left one."""
    if strategy_of(truncation, longest) is None or longest is None:
        return rows
    return [row[-longest:] if side == "left" else row[:longest] for row in rows]


def strategy_of(truncation: bool | str | None, longest: int | None) -> str | None:
    """Which text of a pair is cut, None where none is to be. Raises TokenizerError."""
    if truncation in (None, False, "do_not_truncate"):
        return None
    if truncation not in (True, "longest_first", "only_first", "only_second"):
        raise TokenizerError(f"truncation: {truncation!r}; True, False, 'longest_first', 'only_first', 'only_second'")
    if longest is None or longest < 1:
        raise TokenizerError(f"truncation: max_length is {longest}; at least 1")
    return "longest_first" if truncation is True else str(truncation)


def pad(
    rows: list[list[int]], padding: bool | str | None, longest: int | None, pad_id: int | None, side: str
) -> tuple[list[list[int]], list[list[int]]]:
    """(rows, attention masks) after padding: True or "longest" to the longest row, "max_length" to `longest`."""
    masks = [[1] * len(row) for row in rows]
    if padding in (None, False, "do_not_pad"):
        return rows, masks
    if padding not in (True, "longest", "max_length"):
        raise TokenizerError(f"padding: {padding!r}; True, False, 'longest', 'max_length'")
    if padding == "max_length" and longest is None:
        raise TokenizerError("padding: 'max_length' without max_length; a number")
    width = longest if padding == "max_length" and longest is not None else max(map(len, rows), default=0)
    if any(len(row) < width for row in rows) and pad_id is None:
        raise TokenizerError("padding: this tokenizer has no padding token; set pad_token_id, e.g. to eos_token_id")
    for i, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        missing = max(0, width - len(row))
        fill = [pad_id or 0] * missing
        rows[i] = fill + row if side == "left" else row + fill
        masks[i] = [0] * missing + mask if side == "left" else mask + [0] * missing
    return rows, masks


def filled(rows: list[list[Any]], widths: list[int], fill: Any, side: str) -> list[list[Any]]:
    """Rows made as wide as those that pad() gave."""
    more = [[fill] * (width - len(row)) for row, width in zip(rows, widths, strict=True)]
    return [each + row if side == "left" else row + each for row, each in zip(rows, more, strict=True)]


def as_tensor(rows: Any, return_tensors: str | None) -> Any:
    """The rows as nested lists (None), as an int64 numpy array ("np") or as a torch tensor ("pt")."""
    if return_tensors is None:
        return rows
    if return_tensors not in ("np", "pt"):
        raise TokenizerError(f"return_tensors: {return_tensors!r}; None, 'np', 'pt'")
    if rows and isinstance(rows[0], list) and len({len(row) for row in rows}) > 1:
        lengths = sorted({len(row) for row in rows})
        raise TokenizerError(f"return_tensors: rows of {lengths[0]} to {lengths[-1]} ids; equal lengths, padding=True")
    array = np.array(rows, dtype=np.int64)
    if return_tensors == "np":
        return array
    try:
        import torch
    except ImportError:
        raise ImportError("return_tensors='pt' needs torch: pip install torch, or use 'np'") from None
    return torch.from_numpy(array)
