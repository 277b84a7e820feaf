"""Batches as rows end to end: padding is taken out before anything is computed, and put back into answers as zeros."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import ops
from pyllm.errors import ContextError
from pyllm.ops.arrays import int32

Starts = NDArray[np.int32]
Ids = NDArray[np.int32]


def padding_of(config: Any, words: int | None = None) -> int | None:
    """The token whose row looking it up does not change, as in transformers; None where it also ends texts, as in a
    model of our own whose tokenizer has no token for padding, and where a table of so many words has none."""
    pad = config.pad_token_id
    known = isinstance(pad, int) and 0 <= pad < (words or config.vocab_size)
    return pad if known and pad != config.eos_token_id else None


class Ragged(NamedTuple):
    """Tokens of sequences end to end: ids, types and places (rows,); starts: where each begins, and how many rows.

    kept, shape: where each row stands in the flat rectangle (batch, length) that was given; None for lists.
    """

    ids: Ids
    starts: Starts
    types: Ids | None = None
    places: Ids | None = None
    kept: NDArray[np.int64] | None = None
    shape: tuple[int, int] | None = None

    def back(self, x: Any) -> Any:
        """Rows (rows, width) as (batch, length, width) with zeros for padding, or as a list of (length, width)."""
        if self.shape is not None and self.kept is not None:
            return ops.put_rows(x, self.kept, self.shape)
        return [x[first:end] for first, end in zip(self.starts[:-1], self.starts[1:], strict=True)]

    def squares(self, each: list[NDArray[np.float32]]) -> Any:
        """Attention (heads, length, length) of every sequence as (batch, heads, length, length), zeros for padding."""
        if self.shape is None or self.kept is None:
            return each
        out = np.zeros((self.shape[0], each[0].shape[0], self.shape[1], self.shape[1]), np.float32)
        for number, weights in enumerate(each):
            columns = self.kept[self.starts[number] : self.starts[number + 1]] % self.shape[1]
            out[number][:, columns[:, None], columns[None]] = weights
        return out

    def rows_of(self, given: Any, what: str) -> NDArray[Any]:
        """Something with an entry for each token that was given, for the rows alone. Raises ValueError."""
        if self.shape is not None and self.kept is not None:
            array = np.asarray(given)
            if array.shape != self.shape:
                raise ValueError(f"model: {what} {array.shape} for input_ids {self.shape}")
            return array.reshape(-1)[self.kept]
        rows = [np.asarray(row) for row in given]
        lengths = np.diff(self.starts).tolist()
        if [row.shape for row in rows] != [(n,) for n in lengths]:
            raise ValueError(f"model: {what} of lengths {[len(row) for row in rows]} for input_ids of {lengths}")
        return np.concatenate(rows)


def ragged(
    input_ids: Any,
    attention_mask: Any = None,
    token_type_ids: Any = None,
    position_ids: Any = None,
    what: str = "input_ids",
) -> Ragged:
    """The tokens to be computed: an array (batch, length) or (length,), or a list of sequences of any lengths.

    what: their name in errors. Raises ValueError for shapes that differ, rows without a token and numbers that are no
    integers.
    """
    if isinstance(input_ids, list | tuple) and len(input_ids) and np.ndim(input_ids[0]) == 1:
        if attention_mask is not None:
            raise ValueError(f"model: a mask beside a list of sequences, allowed is an array of {what}")
        rows = [_integers(row, f"{what}[{i}]") for i, row in enumerate(input_ids)]
        empty = next((i for i, row in enumerate(rows) if row.ndim != 1 or not row.size), None)
        if empty is not None:
            raise ValueError(f"model: {what}[{empty}] has shape {rows[empty].shape}, allowed is a token or more")
        starts = np.cumsum([0, *map(len, rows)]).astype(np.int32)
        found = Ragged(int32(np.concatenate(rows), "model", what), starts)
    else:
        found = _rectangle(_integers(input_ids, what), attention_mask, what)
    types, places = (
        None if each is None else int32(_integers(found.rows_of(_two(each), name), name), "model", name)
        for each, name in ((token_type_ids, "token_type_ids"), (position_ids, "position_ids"))
    )
    return found._replace(types=types, places=places)


def _rectangle(ids: NDArray[Any], attention_mask: Any, what: str) -> Ragged:
    ids = ids[None] if ids.ndim == 1 else ids
    if ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(f"model: {what} {ids.shape}, allowed is (batch, length), a token or more")
    seen = np.ones(ids.shape, bool) if attention_mask is None else np.asarray(_two(attention_mask)) != 0
    if seen.shape != ids.shape:
        raise ValueError(f"model: attention_mask {seen.shape} for {what} {ids.shape}")
    lengths = seen.sum(axis=1)
    if not lengths.all():
        raise ValueError(f"model: attention_mask hides all of row {int(np.argmin(lengths))}, allowed is a 1 in each")
    kept = np.flatnonzero(seen)
    starts = np.cumsum([0, *lengths]).astype(np.int32)
    rows = int32(ids.reshape(-1)[kept], "model", what)
    return Ragged(rows, starts, kept=kept, shape=(ids.shape[0], ids.shape[1]))


def _two(given: Any) -> Any:
    """What was given for one sequence as for a batch of it."""
    return np.asarray(given)[None] if isinstance(given, np.ndarray) and given.ndim == 1 else given


def _integers(given: Any, what: str) -> NDArray[Any]:
    array = np.asarray(given)
    if array.dtype.kind not in "iu" and array.size:
        raise ValueError(f"model: {what} hold {array.dtype}, allowed are integers")
    return array


def check_range(batch: Ragged, numbers: NDArray[Any], size: int, what: str) -> None:
    """Raise IndexError that names the first number that is not in 0..size-1."""
    wrong = np.flatnonzero((numbers < 0) | (numbers >= size))
    if len(wrong):
        row = int(np.searchsorted(batch.starts, wrong[0], side="right")) - 1
        place = int(wrong[0] - batch.starts[row])
        found = f"{what}: {int(numbers[wrong[0]])} at token {place} of sequence {row}"
        raise IndexError(f"model: {found}, allowed are 0 to {size - 1:,}")


def check_length(batch: Ragged, longest: int) -> None:
    """Raise ContextError for a sequence of more tokens than there are positions."""
    lengths = np.diff(batch.starts)
    if lengths.max() > longest:
        row = int(np.argmax(lengths))
        raise ContextError(
            f"model: sequence {row} has {int(lengths[row]):,} tokens, the model's positions are {longest:,}; "
            "shorten it (truncation=True), or take a model with a longer context"
        )
