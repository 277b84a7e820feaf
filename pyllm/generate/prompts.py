"""What the caller calls input_ids, as plain prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .config import GenerationConfig
from .errors import ContextError, GenerationError

IDS = "a list of ids, a list of such lists, or an integer array (batch, length)"


def rows_of(input_ids: Any) -> list[np.ndarray]:
    """input_ids as one int64 array per prompt."""
    if isinstance(input_ids, Mapping | str | bytes):
        raise GenerationError("input_ids", type(input_ids).__name__, f"needs {IDS}")
    if isinstance(input_ids, list | tuple) and input_ids and all(isinstance(i, list | tuple) for i in input_ids):
        return [row_of(item) for item in input_ids]
    if isinstance(input_ids, list | tuple) and any(getattr(i, "ndim", 0) == 1 for i in input_ids):
        return [row_of(item) for item in input_ids]
    whole = np.asarray(input_ids)
    if whole.ndim == 2:
        return [row_of(row) for row in whole]
    return [row_of(whole)]


def row_of(values: Any) -> np.ndarray:
    """One prompt as int64 (length,)."""
    row = np.asarray(values)
    if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
        raise GenerationError("input_ids", f"{row.dtype} {row.shape}", f"needs {IDS}")
    return row.astype(np.int64)


def masks_of(attention_mask: Any, rows: list[np.ndarray], config: GenerationConfig) -> list[np.ndarray]:
    """One boolean array per prompt; without a mask, pad tokens at the ends are padding unless they also end answers."""
    if attention_mask is not None:
        masks = [row != 0 for row in rows_of(attention_mask)]
        found, needed = [m.size for m in masks], [r.size for r in rows]
        if found != needed:
            raise GenerationError("attention_mask", found, f"input_ids have the lengths {needed}")
        return masks
    pad = config.pad_token_id
    if pad is None or pad in config.end_ids:
        return [np.ones(row.size, dtype=bool) for row in rows]
    masks = []
    for row in rows:
        said = np.flatnonzero(row != pad)
        mask = np.zeros(row.size, dtype=bool)
        if said.size:
            mask[said[0] : said[-1] + 1] = True
        masks.append(mask if said.size else ~mask)
    return masks


def unpad(row: np.ndarray, mask: np.ndarray, number: int) -> np.ndarray:
    """The part of a row that the mask leaves; it must be one stretch."""
    said = np.flatnonzero(mask)
    if said.size and said[-1] - said[0] + 1 != said.size:
        hole = int(said[0] + np.flatnonzero(~mask[said[0] :])[0])
        raise GenerationError("attention_mask", f"row {number}: 0 at column {hole}", "padding stands only at the ends")
    return row[mask]


def prompts_of(input_ids: Any, attention_mask: Any, config: GenerationConfig) -> tuple[np.ndarray, list[list[int]]]:
    """(padded, prompts): int64 (batch, longest), shorter rows padded on the left; and each prompt without padding.

    An empty prompt becomes the beginning-of-text token where the configuration names one.
    """
    rows = rows_of(input_ids)
    if not rows:
        raise GenerationError("input_ids", input_ids, "needs at least one prompt")
    masks = masks_of(attention_mask, rows, config)
    prompts = [unpad(row, mask, i).tolist() for i, (row, mask) in enumerate(zip(rows, masks, strict=True))]
    for i, prompt in enumerate(prompts):
        if not prompt:
            if config.bos_token_id is None:
                raise GenerationError(f"input_ids[{i}]", [], "an empty prompt needs bos_token_id")
            prompt.append(config.bos_token_id)
            if not rows[i].size:
                rows[i] = np.array(prompt, dtype=np.int64)
    longest = max(row.size for row in rows)
    padded = np.full((len(rows), longest), padding(config), dtype=np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[longest - row.size :] = row
    return padded, prompts


def padding(config: GenerationConfig) -> int:
    """The id that fills up shorter sequences: pad_token_id, else the first end token, else 0."""
    if config.pad_token_id is not None:
        return config.pad_token_id
    return config.end_ids[0] if config.end_ids else 0


def check_ids(prompt: Iterable[int], vocabulary: int, number: int) -> None:
    """Refuse ids that the vocabulary does not have."""
    row = np.fromiter(prompt, dtype=np.int64)
    wrong = np.flatnonzero((row < 0) | (row >= vocabulary))
    if wrong.size:
        at = int(wrong[0])
        allowed = f"the vocabulary has ids 0 to {vocabulary - 1}"
        raise GenerationError(f"input_ids[{number}][{at}]", int(row[at]), allowed)


def check_length(length: int, context: int) -> None:
    """Refuse a prompt that leaves no position for an answer."""
    if length >= context:
        raise ContextError(
            f"generate: a prompt of {length:,} tokens, the context holds {context:,} with one token to come at least; "
            "shorten the prompt or take a model with a longer context"
        )
