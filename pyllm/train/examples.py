"""Rows as transformers' tokenizers and datasets give them, {"input_ids", "labels"}, as samples of a trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm.data.packed import IGNORED, shuffled
from pyllm.errors import DataError, printable
from pyllm.models.causal import CausalLM
from pyllm.models.encoder import Encoder
from pyllm.models.encoder_decoder import EncoderDecoder
from pyllm.models.pair_call import shifted

LABELS = ("labels", "label", "label_ids")
SECOND = ("next_sentence_label", "sentence_order_label")
WORDS = ("ForMaskedLM", "ForTokenClassification", "ForPreTraining")  # heads with a label for each token
REFUSED = ("position_ids", "inputs_embeds", "decoder_attention_mask")
ROWS = "a list, or what has len() and [number], of dicts with input_ids or pixel_values"


class Row(NamedTuple):
    """A row's name in errors, what it holds as arrays, and which of its tokens are seen."""

    name: str
    values: dict[str, NDArray[Any]]
    ids: NDArray[Any]
    seen: NDArray[np.bool_]

    def refuse(self, field: str, found: str, allowed: str) -> None:
        """Raise DataError."""
        raise DataError("dataset", f"{self.name}: {field}", None, printable(found, 200), allowed)

    def label(self, names: tuple[str, ...] = LABELS) -> NDArray[Any]:
        """The label or labels under the first of these names. Raises DataError."""
        name = next((each for each in names if each in self.values), "")
        if not name:
            self.refuse(names[0], f"missing among {', '.join(self.values)}", " or ".join(names))
        found = self.values[name]
        if found.dtype.kind not in "biuf":
            self.refuse(name, f"{found.dtype} {found.shape}", "numbers")
        return found

    def of_tokens(self) -> NDArray[Any]:
        """A label of each token, none of those that are hidden. Raises DataError."""
        found = self.label()
        if found.shape != self.ids.shape or found.dtype.kind not in "iu":
            self.refuse("labels", f"{found.dtype} {found.shape}", f"integers, one for each of {len(self.ids)} tokens")
        return np.where(self.seen, found, IGNORED)


class Examples:
    """Samples of rows in an order by position, another in each epoch: what Trainer takes of batch(), for `model`.

    rows: ROWS. Decoders learn the label that follows each token, as transformers' do; what attention_mask hides is not
    computed, and its labels count nowhere. collator: makes padded arrays of a list of rows, as transformers' data
    collators do. Other columns are left out. Raises TypeError for other rows, DataError naming a row.
    """

    def __init__(self, rows: Any, model: Any, collator: Callable[[Any], Any] | None = None, seed: int = 0) -> None:
        if isinstance(rows, Mapping) or not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
            raise TypeError(f"Trainer: a dataset is {type(rows).__name__}, allowed is {ROWS}")
        if not len(rows):
            raise DataError("dataset", "", None, "no row", "one at least")
        self.rows, self.model, self.collator, self.seed = rows, model, collator, seed

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, position: int, size: int) -> tuple[Any, ...]:
        """Samples at positions position to position + size - 1: (ids, targets, starts, options of the model's loss)."""
        numbers = shuffled(position, size, len(self), self.seed).tolist()
        rows = self._read(numbers)
        if "pixel_values" in rows[0].values:
            pixels = np.stack([row.values["pixel_values"] for row in rows])
            return pixels, self._classes(rows), np.arange(size + 1, dtype=np.int32), {}
        posed = [pair for row in rows for pair in self._posed(row)]
        starts = np.cumsum([0, *(len(ids) for ids, _ in posed)]).astype(np.int32)
        ids = np.concatenate([ids for ids, _ in posed]).astype(np.int32)
        if posed[0][1] is None:
            return ids, self._classes(rows), starts, self._options(rows)
        return ids, np.concatenate([each for _, each in posed]).astype(np.int32), starts, self._options(rows)

    def _read(self, numbers: list[int]) -> list[Row]:
        rows = [self.rows[number] for number in numbers]
        if self.collator is not None:
            columns = dict(self.collator(rows))
            rows = [{name: column[i] for name, column in columns.items()} for i in range(len(rows))]
        return [_row(number, row) for number, row in zip(numbers, rows, strict=True)]

    def _posed(self, row: Row) -> list[tuple[NDArray[Any], Any]]:
        """(ids, target of each, None where one of all is wanted) of a row's sequences."""
        ids, nothing = row.ids[row.seen], np.full(int(row.seen.sum()), IGNORED)
        if isinstance(self.model, EncoderDecoder):
            labels = row.label()
            begun, there = shifted(self.model, labels[None])
            return [(ids, nothing), (row.values.get("decoder_input_ids", begun[0])[there[0]], labels[there[0]])]
        if isinstance(self.model, CausalLM):
            return [(ids, np.append(row.of_tokens()[1:], IGNORED)[row.seen])]
        if isinstance(self.model, Encoder) and self.model.task in WORDS:
            return [(ids, row.of_tokens()[row.seen])]
        return [(ids, None)]

    def _classes(self, rows: list[Row]) -> NDArray[Any]:
        """The label of each row, or a number for each of its classes."""
        found = [row.label((*LABELS, *SECOND)) for row in rows]
        for row, label in zip(rows, found, strict=True):
            if label.shape != found[0].shape:
                row.refuse("labels", f"{label.shape}", f"{found[0].shape}, as {rows[0].name} has: one for a whole row")
        labels = np.stack(found)
        return labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64)

    def _options(self, rows: list[Row]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if not isinstance(self.model, Encoder):
            return found
        if all("token_type_ids" in row.values for row in rows):
            types = [row.values["token_type_ids"].reshape(row.seen.shape)[row.seen] for row in rows]
            found["types"] = np.concatenate(types)
        if self.model.task == "ForPreTraining" and any(name in rows[0].values for name in SECOND):
            found["following"] = np.stack([row.label(SECOND) for row in rows]).reshape(-1)
        return found


def _row(number: int, given: Any) -> Row:
    """A row as arrays. Raises DataError."""
    name = f"row {number}"
    if not isinstance(given, Mapping):
        raise DataError("dataset", name, None, f"a {type(given).__name__}", "a dict")
    wanted = ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids", "pixel_values", *LABELS, *SECOND)
    values = {key: np.asarray(given[key]) for key in wanted if given.get(key) is not None}
    refused = next((key for key in REFUSED if given.get(key) is not None), "")
    ids = values.get("input_ids", np.zeros(0, np.int64))
    seen = values.get("attention_mask", np.ones(ids.shape)) != 0
    row = Row(name, values, ids, seen)
    if refused:
        row.refuse(refused, "given", "rows without: places count the tokens that are seen")
    if "pixel_values" in values:
        values["pixel_values"] = values["pixel_values"].astype(np.float32)
    elif ids.ndim != 1 or ids.dtype.kind not in "iu" or seen.shape != ids.shape or not seen.any():
        found = f"{ids.dtype} {ids.shape}, attention_mask {seen.shape}" if ids.size else f"none in {', '.join(given)}"
        row.refuse("input_ids", found, "(length,) integers, and a mask of as many, one seen at least")
    return row
