"""Calling an encoder-decoder as transformers' models are called: padded batches in and out, rows between."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import nn
from pyllm.autograd import no_grad
from pyllm.tensor import Array, Tensor

IGNORED = -100


class PairOutput(NamedTuple):
    """logits (batch, target, vocabulary), zeros where there is padding; loss: a tensor while the model learns, else a
    float, None without labels. encoder_last_hidden_state (batch, source, width). Attentions: of every layer (batch,
    heads, queries, keys), None where they were not asked for.
    """

    logits: Array
    loss: Any = None
    encoder_last_hidden_state: Array | None = None
    encoder_attentions: tuple[Array, ...] | None = None
    decoder_attentions: tuple[Array, ...] | None = None
    cross_attentions: tuple[Array, ...] | None = None


class Batch(NamedTuple):
    """Rows of a padded batch: ids (rows,), starts (sequences + 1,), at: the places of the rows in (batch, length)."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int32]
    at: NDArray[np.bool_]

    def padded(self, rows: Any) -> Array:
        """(rows, width) to (batch, length, width), zeros elsewhere."""
        array = rows.data if isinstance(rows, Tensor) else rows
        out = np.zeros((*self.at.shape, array.shape[-1]), np.float32)
        out[self.at] = array
        return out


def batch_of(ids: Any, mask: Any, what: str, vocabulary: int, most: int) -> Batch:
    """A batch (batch, length), or lists of ids; masked places are left out, which stand at either end.

    Raises ValueError for shapes, masks and empty rows, IndexError for unknown ids.
    """
    if isinstance(ids, list | tuple) and ids and np.ndim(ids[0]) == 1:
        rows = [np.asarray(row) for row in ids]
        at = np.arange(max(map(len, rows)))[None] < np.array([len(row) for row in rows])[:, None]
        flat = np.concatenate([row for row in rows if row.size] or rows)
        array: Any = np.zeros(at.shape, flat.dtype)
        array[at] = flat
    else:
        array = np.asarray(ids)
        array = array[None] if array.ndim == 1 else array
        at = np.ones(array.shape, bool)
    if array.ndim != 2 or array.dtype.kind not in "iu" or not len(array):
        raise ValueError(f"model: {what} {array.shape} of {array.dtype}, allowed is (batch, length) of integers")
    if mask is not None:
        found = np.asarray(mask)
        found = found[None] if found.ndim == 1 else found
        if found.shape != at.shape:
            raise ValueError(f"model: mask {found.shape} for {what} {at.shape}, allowed is the same shape")
        at = at & (found != 0)
    counts = at.sum(axis=1)
    for number, row in enumerate(at):
        seen = np.flatnonzero(row)
        if not seen.size:
            raise ValueError(f"model: {what} {number} has no tokens, or none that its mask leaves")
        if seen[-1] - seen[0] + 1 != seen.size:
            raise ValueError(f"model: mask of {what} {number} has a hole; padding stands at the ends")
        if seen.size > most:
            raise ValueError(f"model: {what} {number} has {seen.size:,} tokens, the model's context has {most:,}")
    flat = array[at]
    if flat.min() < 0 or flat.max() >= vocabulary:
        raise IndexError(f"model: {what} reach from {flat.min()} to {flat.max()}, allowed are 0 to {vocabulary - 1}")
    return Batch(flat.astype(np.int32), np.cumsum([0, *counts]).astype(np.int32), at)


def shifted(model: Any, labels: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(what the decoder is given for labels (batch, length), which places of it are no padding).

    The start token, then all labels but the last; -100 within a row becomes the padding token, -100 at its end is
    padding. Raises ValueError for shapes, and for a hole where there is no padding token.
    """
    wanted = np.asarray(labels)
    if wanted.ndim != 2 or wanted.dtype.kind not in "iu" or not wanted.size:
        raise ValueError(f"model: labels {wanted.shape} of {wanted.dtype}, allowed is (batch, length) of integers")
    there = np.flip(np.cumsum(np.flip(wanted != IGNORED, 1), 1), 1) > 0  # up to the last label
    holes = (wanted == IGNORED) & there
    pad = getattr(model.config, "pad_token_id", None)
    if pad is None and holes.any():
        raise ValueError("model: labels of -100 between others need pad_token_id in the configuration")
    for number, row in enumerate(there):
        if not row.any():
            raise ValueError(f"model: labels {number} are all -100")
    plain = np.where(wanted == IGNORED, 0 if pad is None else pad, wanted)
    first = [model.start_of(row[mask].tolist()) for row, mask in zip(plain, there, strict=True)]
    return np.concatenate([np.array(first)[:, None], plain[:, :-1]], axis=1), there


def called(
    model: Any, input_ids: Any, attention_mask: Any, decoder_input_ids: Any, decoder_mask: Any, labels: Any,
    attentions: bool,
) -> PairOutput:  # fmt: skip
    """What EncoderDecoder.__call__ says."""
    if decoder_input_ids is None:
        if labels is None:
            raise ValueError("model: decoder_input_ids and labels are missing, allowed is one of them")
        decoder_input_ids, there = shifted(model, labels)
        decoder_mask = there if decoder_mask is None else decoder_mask
    most = model.context_length
    sources = batch_of(input_ids, attention_mask, "input_ids", model.config.vocab_size, most)
    targets = batch_of(decoder_input_ids, decoder_mask, "decoder_input_ids", model.target_vocabulary, most)
    if len(sources.at) != len(targets.at):
        raise ValueError(f"model: {len(sources.at)} sources and {len(targets.at)} targets")
    wanted = None if labels is None else _wanted(labels, targets)
    if attentions:
        with nn.trace(model) as found:
            memory, rows = _rows(model, sources, targets)
    else:
        memory, rows = _rows(model, sources, targets)
    with no_grad():
        logits = model.logits(rows.data if isinstance(rows, Tensor) else rows)
    loss = None if wanted is None else model.row_loss(rows, wanted)
    out = PairOutput(
        targets.padded(logits),
        loss if loss is None or isinstance(loss, Tensor) else float(loss),
        sources.padded(memory.rows),
    )
    if not attentions:
        return out
    return out._replace(
        encoder_attentions=_split(found, "encoder", "attention", sources, sources),
        decoder_attentions=_split(found, "decoder", "attention", targets, targets),
        cross_attentions=_split(found, "", "cross", targets, sources),
    )


def _rows(model: Any, sources: Batch, targets: Batch) -> tuple[Any, Any]:
    memory = model.encode(sources.ids, sources.starts)
    return memory, model.decode(targets.ids, targets.starts, memory)


def _wanted(labels: Any, targets: Batch) -> NDArray[np.int64]:
    """Labels as rows."""
    given = np.asarray(labels)
    if given.shape != targets.at.shape:
        raise ValueError(f"model: labels {given.shape} for decoder_input_ids {targets.at.shape}")
    return given[targets.at].astype(np.int64)


def _split(found: nn.Trace, side: str, kind: str, queries: Batch, keys: Batch) -> tuple[Array, ...]:
    """Of every layer's weights (heads, rows, keys) what each sequence has, (batch, heads, length, length)."""
    names = [name for name in found.names() if name.startswith(side) and name.endswith(f"{kind}.weights")]
    return tuple(_blocks(found[name], queries, keys) for name in names)


def _blocks(weights: Array, queries: Batch, keys: Batch) -> Array:
    whole = weights if weights.ndim == 3 else weights[None]
    out = np.zeros((len(queries.at), len(whole), queries.at.shape[1], keys.at.shape[1]), np.float32)
    for i, (q, k) in enumerate(zip(queries.at, keys.at, strict=True)):
        rows = slice(queries.starts[i], queries.starts[i + 1])
        columns = slice(keys.starts[i], keys.starts[i + 1])
        out[i][:, np.flatnonzero(q)[:, None], np.flatnonzero(k)[None]] = whole[:, rows, columns]
    return out
