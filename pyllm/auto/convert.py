"""Models from one kind of file to another, matrix by matrix: neither is ever whole in memory."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from pyllm import text
from pyllm.auto.adapter_config import base_of
from pyllm.auto.saving import save_folder, save_gguf
from pyllm.auto.weights import open_weights
from pyllm.errors import ModelFileError
from pyllm.formats import GGUF, download, open_model
from pyllm.formats.folder_config import DTYPES
from pyllm.formats.gguf_quantize import quantize
from pyllm.formats.gguf_writer import FILE_TYPES
from pyllm.formats.writing import Report


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dtype: str = "auto",
    *,
    overwrite: bool = False,
    allow_requantize: bool = False,
    max_shard_size: int | str = "5GB",
    report: Report = lambda done, total: None,
) -> None:
    """Write the model `source` (name, GGUF file or folder), with its tokenizer, as `target`: a GGUF file when its name
    ends so, else a Hugging Face folder.

    dtype: F32, F16 or BF16, for GGUF also Q8_0, Q4_0 and Q4_1; "auto" is the float type that the source is stored in.
    Raises ValueError, ModelFileError, TokenizerError; ImportError for a folder's tokenizer without `tokenizers`.
    """
    path = os.fspath(target)
    to_file = path.endswith(".gguf")
    kind = "auto" if dtype == "auto" else dtype.upper()
    allowed = ("auto", *(FILE_TYPES if to_file else DTYPES))
    if kind not in allowed:
        raise ValueError(f"convert: type is {dtype!r}, allowed here are {', '.join(allowed)}")
    if not to_file and not overwrite and os.path.isdir(path) and os.listdir(path):
        raise ModelFileError(path, "", None, "exists already and is not empty", "another name, or overwrite")
    place = download.resolve(source)
    if base_of(place) is not None:
        return _convert_merged(place, path, kind, overwrite, max_shard_size, report)
    with open_model(place) as opened:
        if to_file and isinstance(opened, GGUF):
            kind = _main_type(opened) if kind == "auto" else kind
            quantize(opened.path, path, kind, allow_requantize=allow_requantize, overwrite=overwrite, report=report)
            return
        model = saved_encoder(opened, place, to_file) or opened_model(opened)
        tokenizer = text.from_gguf(opened) if isinstance(opened, GGUF) else text.from_folder(opened)
        if to_file:
            vocabulary = text.gguf_fields(tokenizer, model.config.vocab_size)
            save_gguf(model, path, vocabulary, kind, overwrite, report)
        else:
            wanted = "auto" if kind == "auto" else DTYPES[kind]
            save_folder(model, path, wanted, max_shard_size, tokenizer.files(), report)


def _convert_merged(
    place: str, path: str, kind: str, overwrite: bool, max_shard_size: int | str, report: Report
) -> None:
    """An adapter: the model that it changes, merged with it; in memory."""
    from pyllm.auto import AutoModelForCausalLM, AutoTokenizer, is_of_pairs
    from pyllm.auto.classifiers import head_of
    from pyllm.auto.encoders import AUTO
    from pyllm.auto.pairs import AutoModelForSeq2SeqLM

    head = head_of(place)
    pairs = not head and is_of_pairs(place)
    if path.endswith(".gguf") and (head or pairs):
        kind = "an encoder's adapter" if head else "an encoder-decoder's adapter"
        raise ModelFileError(place, "", None, kind, "a folder as target: there is no GGUF of it here")
    opener: Any = AUTO[head] if head else AutoModelForSeq2SeqLM if pairs else AutoModelForCausalLM
    model, tokenizer = opener.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    model.merge_and_unload()
    if path.endswith(".gguf"):
        save_gguf(model, path, text.gguf_fields(tokenizer, model.config.vocab_size), kind, overwrite, report)
    else:
        save_folder(model, path, "auto" if kind == "auto" else DTYPES[kind], max_shard_size, tokenizer.files(), report)


def saved_encoder(source: Any, place: str, to_file: bool) -> Any:
    """The encoder of a folder with the head that it was saved with; None for other families."""
    from pyllm.auto.encoders import AUTO
    from pyllm.auto.new import ENCODERS

    kind = None if isinstance(source, GGUF) else source.config["model_type"]
    if kind not in ENCODERS:
        return None
    if to_file:
        raise ModelFileError(place, "config 'model_type'", None, kind, "a folder as target: encoders have no GGUF here")
    named = source.raw_config.get("architectures")
    name = str(named[0]) if isinstance(named, list) and named else ""
    return next(each for task, each in AUTO.items() if name.endswith(task) or task == "Model").from_pretrained(place)


def opened_model(source: Any) -> Any:
    """The model of an open file, its matrices still in there."""
    from pyllm.auto import config_of

    config, values = config_of(source)
    family = import_module(f"pyllm.models.{values['model_type']}")
    model = family.Model(config)
    model.generation_config = getattr(source, "generation_config", None) or None
    open_weights(model, family, source, values)
    return model


def _main_type(file: GGUF) -> str:
    """F16 or BF16 where the matrices are; else F32."""
    kinds = {info.dtype for info in file.tensors.values() if len(info.shape) > 1}
    return kinds.pop() if kinds in ({"F16"}, {"BF16"}) else "F32"
