"""Encoders from folders and configurations, under Hugging Face's names."""

from __future__ import annotations

import os
from functools import partial
from importlib import import_module
from typing import Any

from pyllm import _core
from pyllm.auto import AutoTokenizer, config_of, opened
from pyllm.auto.new import ENCODERS
from pyllm.auto.weights import load_weights
from pyllm.errors import ModelFileError, printable
from pyllm.models.encoder import Encoder


class AutoModel:
    """Encoders without a head: tokens to rows."""

    task = "Model"

    @classmethod
    def from_config(cls, config: Any, seed: int = 0) -> Encoder:
        """A model with random weights, ready to learn; the configuration as pyllm.auto.new.new_config makes it."""
        model: Encoder = import_module(type(config).__module__).Model(config, cls.task)
        model.initialise(seed)
        return model

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, dtype: Any = "auto", threads: int | None = None
    ) -> Encoder:
        """Load a folder, ready to run. dtype: "auto" keeps weights as stored, "float32" and "bfloat16" convert.

        Raises ModelFileError for bad files and for families that are no encoders, ValueError for unknown types.
        """
        if threads is not None:
            _core.set_threads(threads)
        with opened(path) as source:
            config, values = config_of(source)
            if values["model_type"] not in ENCODERS:
                kind = printable(values["model_type"])
                raise ModelFileError(
                    os.fspath(path), "config 'model_type'", None, kind, f"one of {', '.join(ENCODERS)}"
                )
            family = import_module(f"pyllm.models.{values['model_type']}")
            model: Encoder = family.Model(config, cls.task)
            model.open_tokenizer = partial(AutoTokenizer.from_pretrained, path)
            load_weights(model, family, source, values, dtype)
        model.name_or_path = os.fspath(path)
        return model
