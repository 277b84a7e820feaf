"""Sentences as vectors by an encoder, with the names of sentence-transformers; the nearest of many by their cosines.

Reimers, Gurevych 2019, arXiv:1908.10084.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import ops
from pyllm.auto import AutoTokenizer
from pyllm.auto.dense import load_dense, save_sentences
from pyllm.auto.encoders import AutoModel
from pyllm.errors import check_device
from pyllm.evaluate.embedding import unit
from pyllm.formats import download
from pyllm.formats.progress import Progress
from pyllm.formats.sentences import MODES, SentenceConfig, read_sentence_config

Vectors = NDArray[np.float32]
POOLINGS = tuple(MODES.values())
PRECISIONS: dict[str, type[np.generic]] = {
    **{"float32": np.float32, "int8": np.int8, "uint8": np.uint8, "binary": np.int8, "ubinary": np.uint8}
}
_AT_ONCE = 1 << 22  # cosines that exist at once


class SentenceEncoder:
    """The encoder of a folder, pooled as sentence-transformers' files in it say; without them by the mean.

    pooling: another one, of POOLINGS. prompts, default_prompt_name: others than the folder's. truncate_dim: the first
    numbers of vectors alone. options: as AutoModel.from_pretrained takes them. Raises ModelFileError, ValueError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        pooling: str | None = None,
        device: Any = "cpu",
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        truncate_dim: int | None = None,
        **options: Any,
    ) -> None:
        check_device("SentenceEncoder", "cpu" if device is None else device)
        if pooling is not None and pooling not in POOLINGS:
            raise ValueError(f"encode: pooling {pooling!r}, allowed are {', '.join(POOLINGS)}")
        place = download.resolve(path)
        self.config: SentenceConfig = read_sentence_config(place)
        if pooling is not None:
            self.config = self.config._replace(modes=(pooling,))
        known = dict(self.config.prompts if prompts is None else prompts)
        name = self.config.prompt if default_prompt_name is None and prompts is None else default_prompt_name
        if name is not None and name not in known:
            raise ValueError(f"encode: default_prompt_name {name!r}, there are: {', '.join(known) or 'none'}")
        self.config = self.config._replace(prompts=known, prompt=name)
        self.truncate_dim = truncate_dim
        encoder = os.path.join(place, self.config.encoder) if self.config.encoder else place
        self.model = AutoModel.from_pretrained(encoder, **options)
        self.tokenizer = AutoTokenizer.from_pretrained(encoder)
        self.dense = [load_dense(place, each) for each in self.config.dense]
        width = self.model.width * len(self.config.modes)
        for each in self.config.dense:
            if each.inputs != width:
                kind = type(each).__name__
                raise ValueError(f"encode: a {kind} layer of {each.inputs:,} inputs over vectors of {width:,} numbers")
            width = each.outputs
        longest = [self.model.context_length, self.config.longest, self.tokenizer.model_max_length]
        self.max_seq_length = min(each for each in longest if each is not None)

    @property
    def prompts(self) -> dict[str, str]:
        """What may stand before a text, by name."""
        return self.config.prompts

    @property
    def default_prompt_name(self) -> str | None:
        """Which of the prompts stands before texts where nothing else is said."""
        return self.config.prompt

    @property
    def device(self) -> str:
        """Where the numbers are."""
        return "cpu"

    def to(self, device: Any) -> SentenceEncoder:
        """Itself. Raises ValueError for another device than the processor."""
        check_device("SentenceEncoder", device)
        return self

    def eval(self) -> SentenceEncoder:
        """Itself: it only runs."""
        return self

    def save_pretrained(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Write a folder that sentence-transformers opens, too. options: as the encoder's. Raises ModelFileError."""
        self.model.save_pretrained(path, **options)
        self.tokenizer.save_pretrained(path)
        save_sentences(path, self.config._replace(longest=self.max_seq_length), self.model.width, self.dense)

    save = save_pretrained

    def tokenize(self, texts: Sequence[str]) -> Any:
        """What the encoder reads: input_ids, attention_mask, ... (texts, length), padded, cut at max_seq_length."""
        rows = [self._text(i, each) for i, each in enumerate(texts)]
        settings = {"padding": True, "truncation": True, "max_length": self.max_seq_length}
        return self.tokenizer(rows, **settings, return_tensors="np")

    def get_sentence_embedding_dimension(self) -> int:
        """Numbers of a vector."""
        return self._width if self.truncate_dim is None else min(self.truncate_dim, self._width)

    @property
    def _width(self) -> int:
        dense = self.config.dense
        return dense[-1].outputs if dense else self.model.width * len(self.config.modes)

    def encode(
        self,
        sentences: str | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: None = None,
        chunk_size: int | None = None,
    ) -> Any:
        """Vectors (sentences, width) float32, of one sentence (width,); a list of them without convert_to_numpy.

        Texts of like length are computed together, batch_size of them at most, and no padding: a vector's bits do not
        depend on its company. Longer ones than max_seq_length are cut. output_value "token_embeddings": a list of
        (tokens, width). convert_to_tensor: of torch. prompt, prompt_name: what stands before every text.
        normalize_embeddings: to length 1, which some folders ask for anyway. truncate_dim: the first numbers of each
        vector alone. precision: see quantised(). pool: of processes, refused; chunk_size is of a pool. Raises
        ValueError.
        """
        if pool is not None:
            raise ValueError(f"encode: pool is {type(pool).__name__}, allowed is None: threads share the work")
        if device is not None:
            check_device("encode", device)
        if output_value not in ("sentence_embedding", "token_embeddings"):
            raise ValueError(f"encode: output_value {output_value!r}, allowed are sentence_embedding, token_embeddings")
        if precision not in PRECISIONS:
            raise ValueError(f"encode: precision {precision!r}, allowed are {', '.join(PRECISIONS)}")
        if batch_size < 1:
            raise ValueError(f"encode: batch_size {batch_size}, allowed is 1 or more")
        single = isinstance(sentences, str)
        texts = [sentences] if isinstance(sentences, str) else _texts(sentences)
        rows = self._tokens([self._prompt(prompt, prompt_name) + self._text(i, each) for i, each in enumerate(texts)])
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        found: list[Any] = [None] * len(rows)
        with _bar(len(rows), bool(show_progress_bar)) as bar:
            for first in range(0, len(order), batch_size):
                group = order[first : first + batch_size]
                for i, vector in zip(group, self._vectors([rows[i] for i in group], output_value), strict=True):
                    found[i] = vector
                if bar is not None:
                    bar.show(first + len(group))
        if output_value == "token_embeddings":
            return found[0] if single else found
        dim = self.truncate_dim if truncate_dim is None else truncate_dim
        vectors = quantised(self._finished(found, dim, normalize_embeddings), precision)
        if convert_to_tensor:
            import torch

            return torch.from_numpy(vectors)[0] if single else torch.from_numpy(vectors)
        if single:
            return vectors[0]
        return vectors if convert_to_numpy else list(vectors)

    def _finished(self, found: list[Vectors], dim: int | None, normalize: bool) -> Vectors:
        vectors = np.stack(found) if found else np.empty((0, self._width), np.float32)
        if self.config.normalize:
            vectors = unit(vectors)
        return unit(vectors[:, :dim]) if normalize else vectors[:, :dim]

    def encode_query(self, sentences: str | Sequence[str], **settings: Any) -> Any:
        """As encode, behind the folder's prompt "query" where it has one and the settings name none."""
        return self.encode(sentences, **self._for(("query",), settings))

    def encode_document(self, sentences: str | Sequence[str], **settings: Any) -> Any:
        """As encode, behind the folder's prompt "document", else "passage", else "corpus"."""
        return self.encode(sentences, **self._for(("document", "passage", "corpus"), settings))

    def _for(self, names: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
        """Settings that name a prompt: the first of those that the folder has."""
        name = next((each for each in names if each in self.config.prompts), None)
        named = settings.get("prompt") is not None or settings.get("prompt_name") is not None
        return settings if named or name is None else settings | {"prompt_name": name}

    def _text(self, number: int, text: Any) -> str:
        if not isinstance(text, str):
            raise ValueError(f"encode: sentences[{number}] is {type(text).__name__}, allowed are texts")
        return text.lower() if self.config.lower else text

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        if prompt is not None:
            return prompt
        name = self.config.prompt if name is None else name
        if name is not None and name not in self.config.prompts:
            known = ", ".join(self.config.prompts) or "none"
            raise ValueError(f"encode: prompt_name {name!r}, the folder has: {known}")
        return "" if name is None else self.config.prompts[name]

    def _tokens(self, texts: list[str]) -> list[Any]:
        if not texts:
            return []
        rows = self.tokenizer(texts, truncation=True, max_length=self.max_seq_length, return_attention_mask=False)
        return [np.asarray(row, np.int32) for row in rows["input_ids"]]

    def _vectors(self, rows: list[Any], output_value: str | None) -> list[Vectors]:
        """Of each of some sequences its vector, or its rows."""
        starts = np.cumsum([0, *map(len, rows)]).astype(np.int32)
        hidden = np.concatenate([np.asarray(each) for each in self.model(rows).last_hidden_state])
        if output_value == "token_embeddings":
            return [hidden[first:end] for first, end in pairwise(starts)]
        vectors = np.concatenate([pooled(hidden, starts, mode) for mode in self.config.modes], axis=1)
        for layer in self.dense:
            vectors = layer(vectors)
        return list(vectors)

    def similarity(self, one: Any, other: Any) -> Vectors:
        """Cosines (n, m) of vectors (n, width) and (m, width); the same name as sentence-transformers'."""
        return cosines(one, other)

    def similarity_pairwise(self, one: Any, other: Any) -> Vectors:
        """Cosines (n,) of vectors (n, width) and as many others. Raises ValueError."""
        a, b = (np.atleast_2d(np.asarray(each, np.float32)) for each in (one, other))
        if a.shape != b.shape:
            raise ValueError(f"similarity_pairwise: {a.shape} and {b.shape}, allowed are as many of one width")
        return (unit(a).astype(np.float64) * unit(b)).sum(axis=1).astype(np.float32)

    def search(self, queries: Any, corpus: Any, top_k: int = 10) -> list[list[dict[str, Any]]]:
        """Of each query the top_k nearest of the corpus, by their cosines: [{"corpus_id": 3, "score": 0.71}, ...].

        Both are texts, or vectors that encode() gave. Raises ValueError.
        """
        one, other = (each if isinstance(each, np.ndarray) else self.encode(_list(each)) for each in (queries, corpus))
        return search(one, other, top_k)


def _texts(given: Any) -> list[Any]:
    """As a list. Raises ValueError for what holds no texts."""
    if not isinstance(given, Iterable):
        raise ValueError(f"encode: sentences is {type(given).__name__}, allowed are a text or several")
    return list(given)


def _list(texts: Any) -> list[str]:
    return [texts] if isinstance(texts, str) else _texts(texts)


def pooled(rows: Vectors, starts: NDArray[np.int32], mode: str) -> Vectors:
    """A vector of each sequence (sequences, width) from rows (rows, width); mode: of POOLINGS."""
    if mode == "cls":
        return rows[starts[:-1]]
    if mode == "lasttoken":
        return rows[starts[1:] - 1]
    if mode == "max":
        return np.asarray(ops.max_rows(rows, starts))
    if mode == "weightedmean":  # by the place, from 1 on: Muennighoff 2022, arXiv:2202.08904
        places = [np.arange(1, n + 1, dtype=np.float32) * np.float32(2 / (n + 1)) for n in np.diff(starts).tolist()]
        rows = rows * np.concatenate(places)[:, None]
    mean = np.asarray(ops.mean_rows(rows, starts))
    return mean if mode in ("mean", "weightedmean") else mean * np.sqrt(np.diff(starts)).astype(np.float32)[:, None]


def quantised(vectors: Vectors, precision: str) -> NDArray[Any]:
    """Vectors (n, width) in fewer bits, as sentence-transformers' quantize_embeddings gives them.

    "int8", "uint8": each number's step is a 255th of its range over these vectors; "binary" (int8), "ubinary" (uint8):
    (n, width / 8), a bit for each number above 0.
    """
    if precision == "float32":
        return vectors
    levels: NDArray[Any] = vectors
    if precision.endswith("binary"):
        levels = np.packbits(vectors > 0, axis=-1)
    elif len(vectors):
        least = vectors.min(axis=0)
        steps = (vectors.max(axis=0) - least) / np.float32(255)
        levels = np.clip(np.floor((vectors - least) / np.where(steps == 0, np.float32(1), steps)), 0, 255)
    shift = 128 if PRECISIONS[precision] is np.int8 else 0
    return (levels.astype(np.int16) - shift).astype(PRECISIONS[precision])


def cosines(one: Any, other: Any) -> Vectors:
    """x . y / |x| |y| of all pairs: (n, m) float32 of (n, width) and (m, width), or of single vectors (width,)."""
    a, b = (np.atleast_2d(np.asarray(each, np.float32)) for each in (one, other))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"similarity: {a.shape} and {b.shape}, allowed are (n, width) and (m, width)")
    return (unit(a).astype(np.float64) @ unit(b).astype(np.float64).T).astype(np.float32)


def search(queries: Any, corpus: Any, top_k: int = 10) -> list[list[dict[str, Any]]]:
    """As sentence-transformers' semantic_search, of vectors; equal scores in the order of the corpus."""
    if top_k < 1:
        raise ValueError(f"search: top_k {top_k}, allowed is 1 or more")
    one, other = np.atleast_2d(np.asarray(queries, np.float32)), np.atleast_2d(np.asarray(corpus, np.float32))
    found: list[list[dict[str, Any]]] = []
    step = max(1, _AT_ONCE // max(len(other), 1))
    for first in range(0, len(one), step):
        scores = cosines(one[first : first + step], other)
        for row in scores:
            best = np.argsort(-row, kind="stable")[:top_k]
            found.append([{"corpus_id": int(i), "score": float(row[i])} for i in best])
    return found


class _bar:
    """A progress bar, or None."""

    def __init__(self, total: int, wanted: bool) -> None:
        self.bar = Progress("encode", total, ("encoding", "encoded"), "sentences") if wanted and total else None

    def __enter__(self) -> Progress | None:
        return None if self.bar is None else self.bar.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self.bar is not None:
            self.bar.__exit__(*error)
