"""Encoder-decoders from folders and configurations, under Hugging Face's name."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

from pyllm import _core
from pyllm.auto import AutoTokenizer, config_of, known_arguments, opened
from pyllm.auto.adapter_config import base_of
from pyllm.auto.adapters import load_adapter
from pyllm.auto.new import PAIRS, new_model
from pyllm.auto.weights import load_weights
from pyllm.errors import ModelFileError, printable
from pyllm.formats import download
from pyllm.models.encoder_decoder import EncoderDecoder


class AutoModelForSeq2SeqLM:
    """Models that say a target for a source, by path, or new ones from a configuration."""

    @staticmethod
    def from_config(config: Any, seed: int = 0) -> EncoderDecoder:
        """A model with random weights, ready to learn; the configuration as pyllm.auto.new.new_config makes it."""
        model: EncoderDecoder = new_model(config, seed)
        return model

    @staticmethod
    def from_pretrained(
        path: str | os.PathLike[str],
        *,
        dtype: Any = "auto",
        torch_dtype: Any = None,
        threads: int | None = None,
        **others: Any,
    ) -> EncoderDecoder:
        """Load a folder, ready to run; of a PEFT folder the model that it names, with its adapter. dtype: "auto" keeps
        weights as stored, others convert: "float32", "bfloat16", "int8", and what else
        pyllm.auto.weights.load_weights takes.

        Raises ModelFileError for bad files and for families that have no encoder, ValueError for unknown types,
        TypeError for unknown arguments.
        """
        known_arguments(others)
        if threads is not None:
            _core.set_threads(threads)
        with opened(path) as source:
            config, values = config_of(source)
            if values["model_type"] not in PAIRS:
                kind = printable(values["model_type"])
                raise ModelFileError(os.fspath(path), "config 'model_type'", None, kind, f"one of {', '.join(PAIRS)}")
            family = import_module(f"pyllm.models.{values['model_type']}")
            if hasattr(family, "settled"):
                values = family.settled(values, source.tensors)
                config = replace(config, tie_word_embeddings=values["tie_word_embeddings"])
            model: EncoderDecoder = family.Model(config)
            model.open_tokenizer = partial(AutoTokenizer.from_pretrained, path)
            model.generation_config = getattr(source, "generation_config", None) or None
            load_weights(model, family, source, values, dtype if torch_dtype is None else torch_dtype)
        place = download.resolve(path)
        base = base_of(place)
        model.name_or_path = os.fspath(path if base is None else base)
        if base is not None:
            load_adapter(model, place)
            model.eval()
        _core.keep_freed()  # as in encoders.py
        return model
