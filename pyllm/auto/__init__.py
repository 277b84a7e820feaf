"""Models and tokenizers from files: the only place where models and formats meet. Hugging Face's names."""

from __future__ import annotations

import os
from dataclasses import fields
from functools import partial
from importlib import import_module
from typing import Any

from pyllm import _core
from pyllm.auto.adapter_config import base_of
from pyllm.auto.adapters import load_adapter
from pyllm.auto.classifiers import AutoModelForSequenceClassification, Headless, is_decoders
from pyllm.auto.new import ENCODERS, IMAGES, PAIRS, new_config, new_model
from pyllm.auto.weights import load_weights
from pyllm.errors import ModelFileError
from pyllm.formats import download, open_model, read_config
from pyllm.formats.folder import TOKENIZERS
from pyllm.models.causal import CausalLM

__all__ = [
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoTokenizer",
    "new_config",
    "new_model",
]

PRECISIONS = ("default", "high")
IGNORED = {
    *("revision", "token", "cache_dir", "local_files_only", "trust_remote_code", "low_cpu_mem_usage", "device_map")
}


def known_arguments(others: dict[str, Any]) -> None:
    """Raise TypeError for arguments that mean nothing here; some of transformers' have nothing to do."""
    unknown = set(others) - IGNORED
    if unknown:
        raise TypeError(f"from_pretrained: unknown arguments {', '.join(sorted(unknown))}")


def opened(path: str | os.PathLike[str], gguf_file: str | None = None) -> Any:
    """The model file or folder behind a path or a name; of an adapter, the model that it changes."""
    place = download.resolve(path)
    place = base_of(place) or place
    return open_model(os.path.join(place, gguf_file) if gguf_file else place)


def config_of(source: Any, context_length: int | None = None) -> tuple[Any, dict[str, Any]]:
    """(the family's Config, all normalised fields)."""
    values = read_config(source)
    if context_length is not None:
        values |= _stretched(values, context_length)
    config = import_module(f"pyllm.models.{values['model_type']}").Config
    known = {field.name for field in fields(config)}
    return config(**{name: value for name, value in values.items() if name in known}), values


def _stretched(values: dict[str, Any], context_length: int) -> dict[str, Any]:
    """rope_scaling for so many positions, where it follows them."""
    scaling = values.get("rope_scaling") or {}
    if "context" not in scaling:
        return {}
    trained = values["max_position_embeddings"]
    most = trained if scaling["type"] == "longrope" else int(trained * scaling["factor"])
    if not 1 <= context_length <= most:
        raise ValueError(f"context_length: {context_length:,} is asked for, the model's scaling reaches {most:,}")
    return {"rope_scaling": scaling | {"context": context_length}}


def is_of_pairs(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds an encoder-decoder, or an adapter of one. Raises ModelFileError where it has none."""
    with opened(path) as source:
        return read_config(source)["model_type"] in PAIRS


def is_encoder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds an encoder, or an adapter of one. Raises ModelFileError where there is no model."""
    with opened(path) as source:
        return read_config(source)["model_type"] in ENCODERS


def refuse_pairs(path: str | os.PathLike[str], values: dict[str, Any]) -> None:
    """Raise ModelFileError for an encoder, or one with a decoder, where a model is wanted that continues texts."""
    if values["model_type"] in IMAGES:
        allowed = "a family that continues texts; AutoModelForImageClassification takes those that read images"
        raise ModelFileError(os.fspath(path), "config 'model_type'", None, values["model_type"], allowed)
    if values["model_type"] in ENCODERS:
        allowed = "a family that continues texts; AutoModel, AutoModelForMaskedLM and pipeline take encoders"
        raise ModelFileError(os.fspath(path), "config 'model_type'", None, values["model_type"], allowed)
    if values["model_type"] in PAIRS:
        allowed = "a family that continues texts; AutoModelForSeq2SeqLM and `pyllm translate` take encoder-decoders"
        raise ModelFileError(os.fspath(path), "config 'model_type'", None, values["model_type"], allowed)


class AutoConfig:
    """Configurations by path or name."""

    @staticmethod
    def from_pretrained(path: str | os.PathLike[str], *, gguf_file: str | None = None) -> Any:
        """The checked configuration of a model, a frozen dataclass. Raises ModelFileError."""
        with opened(path, gguf_file) as source:
            return config_of(source)[0]


class AutoTokenizer:
    """Tokenizers by path or name."""

    @staticmethod
    def from_pretrained(
        path: str | os.PathLike[str],
        *,
        gguf_file: str | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
    ) -> Any:
        """The tokenizer of a GGUF file, or of a Hugging Face folder by the first that it has of tokenizer.json,
        source.spm with target.spm and vocab.json (MarianMT), vocab.txt, merges.txt with vocab.json, spiece.model and
        sentencepiece.bpe.model. src_lang, tgt_lang: languages of texts and of what they become, where texts bear one.

        Raises ModelFileError, TokenizerError.
        """
        from pyllm import text

        place = download.resolve(path)
        own = any(os.path.exists(os.path.join(place, name)) for name in TOKENIZERS)
        if base_of(place) is not None and own:
            with open_model(place) as source:
                return text.from_folder(source, src_lang=src_lang, tgt_lang=tgt_lang)
        with opened(place, gguf_file) as source:
            if not hasattr(source, "metadata"):
                return text.from_folder(source, src_lang=src_lang, tgt_lang=tgt_lang)
            found = text.from_gguf(source)
        for code in (src_lang, tgt_lang):
            if code is not None:
                found.language_id(code)  # which says that it has none
        return found


class AutoModelForCausalLM:
    """Models that predict the next token, by path or name, or new ones from a configuration."""

    @staticmethod
    def from_config(config: Any, seed: int = 0) -> CausalLM:
        """A model with random weights, ready to learn; the configuration as pyllm.auto.new.new_config makes it."""
        return new_model(config, seed)

    @staticmethod
    def from_pretrained(
        path: str | os.PathLike[str],
        *,
        dtype: Any = "auto",
        torch_dtype: Any = None,
        precision: str = "default",
        cache_type: str | None = None,
        context_length: int | None = None,
        threads: int | None = None,
        gguf_file: str | None = None,
        head: bool = True,
        **others: Any,
    ) -> CausalLM:
        """Load a GGUF file, a Hugging Face folder, or a name such as "smollm2"; of a PEFT folder the model that it
        names, with its adapter.

        dtype: "auto" keeps each weight as it is stored, the names of weights.DTYPES ("float32", "bfloat16", "float16",
        "int8", "q8_0", "q4_0", "q4_1") turn matrices into that type. precision "high" takes
        activations in two int8 terms, attention and cache in float32. cache_type: of keys and values, "f32", "bf16" or
        "q8_0", which takes 56 % of bf16's memory and needs heads a multiple of 16 wide; None suits the weights.
        context_length: positions at most; rotary scalings "dynamic" and "longrope" are chosen by it, and without it for
        the context that the model was first trained for. head=False: of a folder whose head tells classes, all else.
        Raises ModelFileError for bad files and for models larger than memory, TypeError for unknown arguments,
        ValueError for unknown types.
        """
        known_arguments(others)
        if precision not in PRECISIONS:
            raise ValueError(f"from_pretrained: precision is {precision!r}, allowed are {', '.join(PRECISIONS)}")
        if threads is not None:
            _core.set_threads(threads)
        place = download.resolve(path)
        base = base_of(place)
        if head and is_decoders(place):
            allowed = "one that continues texts; AutoModelForSequenceClassification and `pyllm predict` take this"
            raise ModelFileError(os.fspath(path), "model", None, "it tells classes of texts", allowed)
        with opened(place if base is None else base, gguf_file) as source:
            source = source if head else Headless(source)
            config, values = config_of(source, context_length)
            refuse_pairs(path, values)
            family = import_module(f"pyllm.models.{values['model_type']}")
            model: CausalLM = family.Model(config)
            model.precision = precision
            if cache_type is not None:
                model.cache_type = cache_type
            if context_length is not None:
                model.context_length = context_length
            model.open_tokenizer = partial(AutoTokenizer.from_pretrained, path, gguf_file=gguf_file)
            model.generation_config = getattr(source, "generation_config", None) or None
            load_weights(model, family, source, values, dtype if torch_dtype is None else torch_dtype)
        model.name_or_path = os.fspath(path if base is None else base)
        if base is not None:
            load_adapter(model, place)
            model.eval()
        return model
