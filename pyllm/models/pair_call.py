"""Calling an encoder-decoder as transformers' models are called: batches in and out, rows between."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import nn
from pyllm.autograd import no_grad
from pyllm.models.outputs import named
from pyllm.models.ragged import Ragged, check_length, check_range, ragged
from pyllm.tensor import Array, Tensor

IGNORED = -100


@named
class PairOutput(NamedTuple):
    """logits (batch, target, vocabulary), zeros where there is padding; loss: a tensor while the model learns, else a
    float, None without labels. encoder_last_hidden_state (batch, source, width). Attentions: of every layer (batch,
    heads, queries, keys), None where they were not asked for. Hidden states: of the embeddings and every layer (batch,
    length, width), the last with the norm behind it. Lists of sequences give lists of arrays without a batch.
    """

    logits: Any
    loss: Any = None
    encoder_last_hidden_state: Any = None
    encoder_attentions: tuple[Any, ...] | None = None
    decoder_attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    encoder_hidden_states: tuple[Any, ...] | None = None
    decoder_hidden_states: tuple[Any, ...] | None = None


def called(
    model: Any, input_ids: Any, attention_mask: Any, decoder_input_ids: Any, decoder_mask: Any, labels: Any,
    attentions: bool, hidden_states: bool = False,
) -> PairOutput:  # fmt: skip
    """What EncoderDecoder.__call__ says."""
    if decoder_input_ids is None:
        if labels is None:
            raise ValueError("model: decoder_input_ids and labels are missing, allowed is one of them")
        decoder_input_ids, there = shifted(model, labels)
        decoder_mask = there if decoder_mask is None else decoder_mask
    sources = batch_of(input_ids, attention_mask, "input_ids", model.config.vocab_size, model.context_length)
    limits = model.target_vocabulary, model.context_length
    targets = batch_of(decoder_input_ids, decoder_mask, "decoder_input_ids", *limits)
    if len(sources.starts) != len(targets.starts):
        raise ValueError(f"model: {len(sources.starts) - 1} sources and {len(targets.starts) - 1} targets")
    wanted = None if labels is None else _wanted(labels, targets)
    if hidden_states and not isinstance(getattr(model, "encoder", None), nn.Stack):
        raise ValueError(f"output_hidden_states: {type(model).__name__}, allowed are encoder-decoders of attention")
    if attentions or hidden_states:
        with nn.trace(model) as found:
            memory, rows = _rows(model, sources, targets)
    else:
        memory, rows = _rows(model, sources, targets)
    with no_grad():
        logits = model.logits(rows.data if isinstance(rows, Tensor) else rows)
    loss = None if wanted is None else model.row_loss(rows, wanted)
    hidden = memory.rows.data if isinstance(memory.rows, Tensor) else memory.rows
    number = loss if loss is None or isinstance(loss, Tensor) else float(loss)
    out = PairOutput(targets.back(logits), number, sources.back(hidden))
    if hidden_states:
        of_sources, of_targets = (_hidden(found, model, *each) for each in (("encoder", sources), ("decoder", targets)))
        out = out._replace(encoder_hidden_states=of_sources, decoder_hidden_states=of_targets)
    if not attentions:
        return out
    return out._replace(
        encoder_attentions=_split(found, "encoder", "attention", sources, sources),
        decoder_attentions=_split(found, "decoder", "attention", targets, targets),
        cross_attentions=_split(found, "", "cross", targets, sources),
    )


def batch_of(ids: Any, mask: Any, what: str, vocabulary: int, most: int) -> Ragged:
    """Sequences as rows, masked places left out, which stand at either end.

    Raises ValueError for shapes, masks and empty rows, IndexError for unknown ids, ContextError for what is too long.
    """
    if mask is not None and isinstance(ids, list | tuple) and len({np.shape(row) for row in ids}) == 1:
        ids = np.asarray(ids)
    batch = ragged(ids, mask, what=what)
    if batch.kept is not None and batch.shape is not None:
        places = np.diff(batch.kept % batch.shape[1])
        inner = np.delete(places, batch.starts[1:-1] - 1)
        if (inner != 1).any():
            raise ValueError(f"model: the mask of {what} has a hole, allowed is padding at the ends of rows")
    check_range(batch, batch.ids, vocabulary, what)
    check_length(batch, most)
    return batch


def shifted(model: Any, labels: Any) -> tuple[Any, Any]:
    """(what the decoder is given for labels (batch, length) or lists of them, which places of it are no padding).

    The start token, then all labels but the last; -100 within a row becomes the padding token, -100 at its end is
    padding. Raises ValueError for shapes, and for a hole where there is no padding token.
    """
    if isinstance(labels, list | tuple) and len({np.shape(row) for row in labels}) > 1:
        rows = [_shifted(model, np.asarray(row)[None]) for row in labels]
        short = [number for number, (_, there) in enumerate(rows) if not there.all()]
        if short:
            raise ValueError(f"model: labels {short[0]} end with -100, allowed in lists are labels alone")
        return [ids[0].tolist() for ids, _ in rows], None
    return _shifted(model, np.asarray(labels))


def _shifted(model: Any, wanted: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    if wanted.ndim != 2 or wanted.dtype.kind not in "iu" or not wanted.size:
        raise ValueError(f"model: labels {wanted.shape} of {wanted.dtype}, allowed is (batch, length) of integers")
    there = np.flip(np.cumsum(np.flip(wanted != IGNORED, 1), 1), 1) > 0  # up to the last label
    holes = (wanted == IGNORED) & there
    pad = getattr(model.config, "pad_token_id", None)
    if pad is None and holes.any():
        raise ValueError("model: labels of -100 between others need pad_token_id in the configuration")
    if not there.any(axis=1).all():
        raise ValueError(f"model: labels {int(np.argmin(there.any(axis=1)))} are all -100")
    plain = np.where(wanted == IGNORED, 0 if pad is None else pad, wanted)
    first = [model.start_of(row[mask].tolist()) for row, mask in zip(plain, there, strict=True)]
    return np.concatenate([np.array(first)[:, None], plain[:, :-1]], axis=1), there


def _rows(model: Any, sources: Ragged, targets: Ragged) -> tuple[Any, Any]:
    memory = model.encode(sources.ids, sources.starts)
    return memory, model.decode(targets.ids, targets.starts, memory)


def _wanted(labels: Any, targets: Ragged) -> NDArray[np.int64]:
    """Labels as rows."""
    return np.asarray(targets.rows_of(labels, "labels"), np.int64)


def _hidden(found: nn.Trace, model: Any, side: str, batch: Ragged) -> tuple[Any, ...]:
    """What enters a side's layers, leaves each but the last, and leaves them all."""
    between = [f"layers.{i}" for i in range(len(getattr(model, side).layers) - 1)]
    return tuple(batch.back(found[f"{side}.{name}"]) for name in ("entered", *between, "left"))


def _split(found: nn.Trace, side: str, kind: str, queries: Ragged, keys: Ragged) -> tuple[Any, ...]:
    """Of every layer's weights (heads, rows, keys) what each sequence has, (batch, heads, length, length)."""
    names = [name for name in found.names() if name.startswith(side) and name.endswith(f"{kind}.weights")]
    return tuple(_blocks(found[name], queries, keys) for name in names)


def _blocks(weights: Array, queries: Ragged, keys: Ragged) -> Any:
    whole = weights if weights.ndim == 3 else weights[None]
    spans = [np.stack([each.starts[:-1], each.starts[1:]], axis=1) for each in (queries, keys)]
    blocks = [whole[:, a:b, c:d] for (a, b), (c, d) in zip(*spans, strict=True)]
    if queries.shape is None or keys.shape is None:
        return blocks
    out = np.zeros((len(blocks), len(whole), queries.shape[1], keys.shape[1]), np.float32)
    for i, block in enumerate(blocks):
        out[i][:, _columns(queries, i)[:, None], _columns(keys, i)[None]] = block
    return out


def _columns(batch: Ragged, number: int) -> NDArray[np.int64]:
    """Where the tokens of a sequence stand in its row of the rectangle that was given."""
    assert batch.kept is not None and batch.shape is not None
    return batch.kept[batch.starts[number] : batch.starts[number + 1]] % batch.shape[1]
