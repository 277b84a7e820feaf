"""What another storage type costs: the error of a model's matrices, and of what it says of real text.

check("folder", "q8_0")["model"]
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm.auto import AutoModelForCausalLM, AutoTokenizer, is_encoder, is_of_pairs
from pyllm.auto.classifiers import head_of
from pyllm.auto.encoders import AUTO
from pyllm.auto.pairs import AutoModelForSeq2SeqLM
from pyllm.data.lexicon import surroundings
from pyllm.evaluate.embedding import unit
from pyllm.evaluate.sentences import pooled
from pyllm.formats import download
from pyllm.formats.sentences import read_sentence_config

PIECE, MOST = 128, 4096  # tokens of a text at most; of all texts together
NEW = 32  # tokens of a target
_NUMBERS = 1 << 20  # of a matrix, read back at a time
_ROWS = 64  # of logits in float64 at a time
# Jane Austen, Emma, 1815: how it begins.
SAMPLE = """
Emma Woodhouse, handsome, clever, and rich, with a comfortable home and happy disposition, seemed to unite some of the
best blessings of existence; and had lived nearly twenty-one years in the world with very little to distress or vex her.

She was the youngest of the two daughters of a most affectionate, indulgent father; and had, in consequence of her
sister's marriage, been mistress of his house from a very early period. Her mother had died too long ago for her to have
more than an indistinct remembrance of her caresses; and her place had been supplied by an excellent woman as governess,
who had fallen little short of a mother in affection.

Sixteen years had Miss Taylor been in Mr. Woodhouse's family, less as a governess than a friend, very fond of both
daughters, but particularly of Emma. Even before Miss Taylor had ceased to hold the nominal office of governess, the
mildness of her temper had hardly allowed her to impose any restraint; and the shadow of authority being now long passed
away, they had been living together as friend and friend very mutually attached, and Emma doing just what she liked;
highly esteeming Miss Taylor's judgment, but directed chiefly by her own.

The real evils, indeed, of Emma's situation were the power of having rather too much her own way, and a disposition to
think a little too well of herself; these were the disadvantages which threatened alloy to her many enjoyments. The
danger, however, was at present so unperceived, that they did not by any means rank as misfortunes with her.
"""


def check(path: str | os.PathLike[str], dtype: str, text: str = SAMPLE, threads: int | None = None) -> dict[str, Any]:
    """A model of any family in float32 and with its matrices of another type (names of auto.weights.DTYPES), compared.

    "weights": of each kind of matrix |new - old| / |old|, of all of them and of the worst. "model": what differs on at
    most MOST tokens of the text, in the arithmetic of each type: of encoders cosines of rows and of vectors, pooled as
    the folder says or by the mean, and the largest difference of logits where there is a head; of others, in nats, KL
    of float32's next token from the type's, and how often the likeliest is the same (an encoder-decoder says on what
    float32 says greedily). Raises ModelFileError, TokenizerError, ValueError.
    """
    place = download.resolve(path)
    pairs, encodes = is_of_pairs(place), is_encoder(place)
    auto: Any = AutoModelForSeq2SeqLM if pairs else AutoModelForCausalLM
    auto = AUTO.get(head_of(place), AUTO["Model"]) if encodes else auto
    tokenizer = AutoTokenizer.from_pretrained(place)
    exact, rough = (auto.from_pretrained(place, dtype=each, threads=threads) for each in ("float32", dtype))
    if getattr(exact, "adapters", None):
        raise ValueError(f"check: {os.fspath(path)} is an adapter; merge it first: pyllm convert MODEL FOLDER")
    rows = pieces(tokenizer, text, min(PIECE, exact.context_length), encodes, pairs)
    facts: dict[str, Any] = {"type": dtype, "texts": len(rows), "tokens": sum(map(len, rows))}
    facts["weights"] = weights(exact, rough)
    if encodes:
        facts["model"] = _encoders(exact, rough, rows, read_sentence_config(place).modes)
    else:
        facts["model"] = _next_tokens(_pairs(exact, rough, rows) if pairs else _decoders(exact, rough, rows))
    return facts


def pieces(tokenizer: Any, text: str, longest: int, encodes: bool, pairs: bool) -> list[NDArray[np.int32]]:
    """Token ids of the text's paragraphs, cut, with what stands around a text. Raises ValueError for an empty text."""
    before, after = map(list, surroundings(tokenizer) if encodes else (tokenizer.coder.before, tokenizer.coder.after))
    after = after if encodes or pairs else []
    found: list[NDArray[np.int32]] = []
    room, left = max(1, longest - len(before) - len(after)), MOST
    for paragraph in re.split(r"\n\s*\n", text):
        ids = list(tokenizer.encode(" ".join(paragraph.split()), add_special_tokens=False))[: max(left, 0)]
        left -= len(ids)
        cut = (ids[at : at + room] for at in range(0, len(ids), room))
        found += [np.array([*before, *part, *after], np.int32) for part in cut]
    if not found:
        raise ValueError("check: the text has no token, allowed is one or more")
    return found


def weights(exact: Any, rough: Any) -> list[dict[str, Any]]:
    """{"kind", "matrices", "error", "worst"} of each kind of matrix, a layer's number left out of its name."""
    kinds: dict[str, list[tuple[float, float]]] = {}
    others = rough.own_parameters()
    for path, parameter in exact.own_parameters().items():
        if parameter.packed:
            kinds.setdefault(re.sub(r"\.\d+(?=\.)", ".*", path), []).append(_lost(parameter.value, others[path].value))
    found = []
    for kind, each in kinds.items():
        lost, norm = map(sum, zip(*each, strict=True))
        worst = max(_share(*one) for one in each)
        found.append({"kind": kind, "matrices": len(each), "error": _share(lost, norm), "worst": worst})
    return found


def _lost(old: Any, new: Any) -> tuple[float, float]:
    """(|new - old|^2, |old|^2) of two packed matrices, some rows at a time."""
    lost = norm = 0.0
    n, k = old.shape
    step = max(1, _NUMBERS // k)
    for row in range(0, n, step):
        rows = min(step, n - row)
        x = old.dequantise(row, rows)
        lost += float(np.square(new.dequantise(row, rows) - x, dtype=np.float64).sum())
        norm += float(np.square(x, dtype=np.float64).sum())
    return lost, norm


def _share(lost: float, norm: float) -> float:
    return sqrt(lost / norm) if norm else 0.0


def _encoders(exact: Any, rough: Any, rows: list[Any], modes: tuple[str, ...]) -> dict[str, Any]:
    """Cosines of rows and vectors, differences of every kind of logits."""
    starts = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    both = [model(rows, output_hidden_states=True) for model in (exact, rough)]
    hidden = [np.concatenate([np.asarray(each) for each in found.hidden_states[-1]]) for found in both]
    vectors = [np.concatenate([pooled(each, starts, mode) for mode in modes], axis=1) for each in hidden]
    facts: dict[str, Any] = {}
    for name, (one, other) in (("vectors", vectors), ("rows", hidden)):
        cosines = (unit(one).astype(np.float64) * unit(other)).sum(axis=1)
        facts[name] = {"cosine": float(cosines.mean()), "least": float(cosines.min())}
    for name in (each for each in both[0]._fields if each.endswith("logits")):
        one, other = (np.concatenate([np.ravel(each) for each in getattr(found, name)]) for found in both)
        facts[name] = {"difference": float(np.abs(other - one).max()), "largest": float(np.abs(one).max())}
    return facts


Logits = Callable[[], tuple[Any, Any]]  # of both models, each (tokens, vocabulary)


def _decoders(exact: Any, rough: Any, rows: list[Any]) -> list[Logits]:
    """Of each text what gives the logits after each of its tokens."""

    def logits(row: Any) -> tuple[Any, Any]:
        one, other = (model(row[None]).logits[0] for model in (exact, rough))
        return one, other

    return [partial(logits, row) for row in rows]


def _pairs(exact: Any, rough: Any, rows: list[Any]) -> list[Logits]:
    """The same of the targets that float32 finds likeliest."""

    def logits(row: Any) -> tuple[Any, Any]:
        said = exact.generate(row[None], num_beams=1, do_sample=False, max_new_tokens=NEW)[0]
        target = said[: max(1, len(said) - 1)].astype(np.int32)
        one, other = (np.asarray(model.forward(row, target)) for model in (exact, rough))
        return one, other

    return [partial(logits, row) for row in rows]


def _blocks(texts: list[Logits]) -> Iterator[tuple[Any, Any]]:
    """Both models' logits in float64, some tokens at a time."""
    for text in texts:
        both = text()
        for first in range(0, len(both[0]), _ROWS):
            one, other = (np.asarray(each[first : first + _ROWS], np.float64) for each in both)
            yield one, other


def _next_tokens(texts: list[Logits]) -> dict[str, Any]:
    """Means over all tokens, and the furthest."""
    kl, same, difference, largest = list[float](), list[bool](), 0.0, 0.0
    for one, other in _blocks(texts):
        p, q = _log_softmax(one), _log_softmax(other)
        kl += (np.exp(p) * (p - q)).sum(axis=1).tolist()
        same += (one.argmax(axis=1) == other.argmax(axis=1)).tolist()
        difference, largest = max(difference, np.abs(other - one).max()), max(largest, np.abs(one).max())
    found = {"kl": float(np.mean(kl)), "most_kl": max(kl), "same_top": float(np.mean(same)), "judged": len(kl)}
    return found | {"logits": {"difference": float(difference), "largest": float(largest)}}


def _log_softmax(x: Any) -> Any:
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))
