"""Text classifiers as folders: a language model's folder, and beside it classifier.json and head.safetensors."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from pyllm.auto.adapter_config import base_of, head_options, read_adapter
from pyllm.auto.adapters import SCORE, Score, load_adapter, read_score, save_adapter
from pyllm.auto.new import ENCODERS, IMAGES, PAIRS, READ_AS
from pyllm.auto.saving import family_of
from pyllm.errors import ModelFileError, printable
from pyllm.formats import download
from pyllm.formats.encode import decode
from pyllm.formats.encoders import PROBLEMS, labels
from pyllm.formats.fields import Field, Raw, check_field
from pyllm.formats.folder import Folder
from pyllm.formats.folder_config import ARCHITECTURES
from pyllm.formats.json_file import load_json
from pyllm.formats.safetensors import SafeTensors
from pyllm.formats.safetensors_writer import write_safetensors
from pyllm.formats.types import READABLE
from pyllm.formats.writing import Staging, make_folder, tensor_of
from pyllm.models.classifier import ClassifierConfig, TextClassifier
from pyllm.models.encoder import TASKS

FORMAT, VERSION = "pyllm text classifier", 1
CONFIG, WEIGHTS = "classifier.json", "head.safetensors"
_LONGEST = 1 << 24
ENDING = "ForSequenceClassification"
_KINDS = {"classes": list, "pooling": str, "hidden": int, "dropout": float, "bptt": int, "max_len": int, "framed": bool}


def is_classifier(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a text classifier: save_classifier's, an encoder or decoder with a head, an adapter."""
    if os.path.isfile(os.path.join(os.fspath(path), CONFIG)) or is_decoders(path):
        return True
    return head_of(path) == ENDING


def is_decoders(path: str | os.PathLike[str]) -> bool:
    """Whether a PEFT folder lets a decoder tell classes of texts, or transformers' folder has one that does. Raises
    ModelFileError."""
    base = base_of(path)
    if base is None:
        kind, ending = _named(os.fspath(path))
        return ending == ENDING and kind not in (*ENCODERS, *PAIRS, *IMAGES)
    if read_adapter(os.fspath(path)).lora.task_type != "SEQ_CLS":
        return False
    return not head_of(base)


def head_of(path: str | os.PathLike[str]) -> str:
    """How transformers' name of the encoder in a folder ends, "" where there is none: "Model", "ForMaskedLM", ...; of
    an adapter what its task asks for, else what the encoder that it changes has."""
    folder = os.fspath(path)
    base = base_of(folder)
    if base is not None:
        asked = {kind: head for head, kind in TASKS.items()}.get(read_adapter(folder).lora.task_type or "")
        return (asked or head_of(base)) if head_of(base) else ""
    kind, ending = _named(folder)
    return ending or "Model" if kind in ENCODERS else ""


def _named(folder: str) -> tuple[str, str]:
    """(the family, how transformers' name of the class ends: "ForMaskedLM") by config.json; "" where there is none."""
    name = os.path.join(folder, "config.json")
    values = load_json(name, _LONGEST) if os.path.isfile(name) else None
    kind, named = (values.get(key) for key in ("model_type", "architectures")) if isinstance(values, dict) else ("", "")
    first = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    found = re.search("For[A-Z][A-Za-z]*$", first)
    return READ_AS.get(kind, kind) if isinstance(kind, str) else "", found[0] if found else ""


def save_classifier(model: TextClassifier, path: str | os.PathLike[str]) -> None:
    """Write the folder; the trunk's files open as a language model's do. Of what came from transformers'
    ...ForSequenceClassification its folder, with an adapter PEFT's. Raises ModelFileError."""
    folder = make_folder(path)
    if model.trunk.adapters:
        score = Score(model.head.score.weight.array(), model.config.id2label, model.config.problem_type)
        save_adapter(model.trunk, folder, score=score)
        return
    c = model.config
    if c.framed and (c.hidden, c.pooling) == (0, "last") and model.trunk.config.tie_word_embeddings:
        kind = re.sub("(LMHeadModel|ForCausalLM)$", ENDING, ARCHITECTURES[family_of(model.trunk)[0]])
        named = {"id2label": c.id2label, "label2id": {name: i for i, name in enumerate(c.classes)}}
        told = {"architectures": [kind], **named, "problem_type": c.problem_type}
        told |= {} if model.pad_token_id is None else {"pad_token_id": model.pad_token_id}
        tensors = [tensor_of(SCORE, model.head.score.weight.array())]
        model.trunk.save_pretrained(folder, dtype="float32", head=(told, tensors))
        return
    arrays = {name: parameter.array() for name, parameter in model.head.own_parameters().items()}
    tensors = [tensor_of(name, array) for name, array in arrays.items()]
    about = {"format": FORMAT, "version": VERSION, **asdict(model.config)}
    model.trunk.save_pretrained(folder, dtype="float32")
    with Staging(folder, sum(each.nbytes for each in tensors)) as staging:
        with staging.create(WEIGHTS) as file:
            write_safetensors(file, tensors)
        with staging.create(CONFIG) as file:
            file.write((json.dumps(about, ensure_ascii=False, indent=1) + "\n").encode())


class AutoModelForSequenceClassification:
    """Text classifiers by path: an encoder with its head, or what save_classifier has written."""

    @staticmethod
    def from_config(config: Any, seed: int = 0, **options: Any) -> Any:
        """An encoder with a head, random, ready to learn; see encoders.AutoModel.from_config."""
        from pyllm.auto.encoders import EncoderForSequenceClassification

        return EncoderForSequenceClassification.from_config(config, seed, **options)

    @staticmethod
    def from_pretrained(path: str | os.PathLike[str], **options: Any) -> Any:
        """The encoder with its head of Hugging Face's folder, with the options of encoders.AutoModel; or a
        TextClassifier, of a folder that save_classifier has written and of transformers' decoders, with the options of
        the language model's from_pretrained; ready to run. Raises ModelFileError.
        """
        from pyllm.auto import AutoModelForCausalLM, opened
        from pyllm.auto.encoders import EncoderForSequenceClassification

        place = download.resolve(path)
        if is_decoders(place):
            return _scored(place, options) if base_of(place) is None else _adapted(place, options)
        if not os.path.isfile(os.path.join(place, CONFIG)):
            with opened(path) as source:
                kind = source.config["model_type"] if hasattr(source, "config") else ""
            if kind in ENCODERS:
                return EncoderForSequenceClassification.from_pretrained(path, **options)
            allowed = f"{', '.join(ENCODERS)}; a decoder's ...{ENDING}; what `pyllm finetune --task classify` writes"
            found = f"'{kind}' without a head of classes" if kind else "no head of classes"
            raise ModelFileError(os.fspath(path), "", None, found, allowed)
        config = _config(os.path.join(place, CONFIG))
        model = TextClassifier(AutoModelForCausalLM.from_pretrained(place, **options), config)
        name = os.path.join(place, WEIGHTS)
        wanted = {name: parameter.shape for name, parameter in model.head.own_parameters().items()}
        with SafeTensors(name) as file:
            for each in (*wanted, *file.tensors):
                info = file.tensors.get(each)
                found = "missing" if info is None else f"{info.dtype} {list(info.shape)}"
                if info is None or each not in wanted or (info.dtype, info.shape) != ("F32", wanted[each]):
                    allowed = f"F32 {list(wanted[each])}" if each in wanted else "no such tensor"
                    raise ModelFileError(name, f"tensor '{printable(each)}'", None, found, allowed)
            state = {each: file.read(file.tensors[each]).view("<f4").reshape(wanted[each]) for each in wanted}
        if not all(np.isfinite(array).all() for array in state.values()):
            raise ModelFileError(name, "", None, "holds nan or infinity", "finite numbers")
        model.head.load_state_dict(state)
        return model.eval()  # type: ignore[no-any-return]


def _adapted(folder: str, options: dict[str, Any]) -> TextClassifier:
    """The decoder that a PEFT folder changes, with the adapter and the head beside it. Raises ModelFileError."""
    from pyllm.auto import AutoModelForCausalLM

    base = str(base_of(folder))
    trunk: Any = AutoModelForCausalLM.from_pretrained(base, head=not is_decoders(base), **options)
    load_adapter(trunk, folder, beside=[SCORE])
    weight = read_score(folder, trunk.width)
    about = head_options(folder, SCORE)
    names = about.get("id2label") or {i: f"LABEL_{i}" for i in range(len(weight))}
    return _classifier(folder, trunk, weight, names, about.get("problem_type"))


def _scored(folder: str, options: dict[str, Any]) -> TextClassifier:
    """A decoder of transformers with a head of classes, which reads texts as its tokenizer has them. Raises
    ModelFileError."""
    from pyllm.auto import AutoModelForCausalLM

    trunk: Any = AutoModelForCausalLM.from_pretrained(folder, head=False, **options)
    with Folder(folder) as source:
        raw = Raw(os.path.join(folder, "config.json"), source.raw_config, lambda field: f"'{field}'")
        problem = check_field(raw, Field("problem_type", "choice", default=None, choices=PROBLEMS))
        info = source.tensors.get(SCORE)
        if info is None or len(info.shape) != 2 or info.shape[1] != trunk.width or info.dtype not in READABLE:
            found = "missing" if info is None else f"{info.dtype} {list(info.shape)}"
            raise ModelFileError(folder, f"tensor '{SCORE}'", None, found, f"numbers (classes, {trunk.width})")
        weight = decode(info.dtype, source.read(info), *info.shape)
        model = _classifier(folder, trunk, weight, labels(raw)["id2label"], problem)
        model.pad_token_id = check_field(raw, Field("pad_token_id", "ids", default=None))
        return model


def _classifier(folder: str, trunk: Any, weight: Any, names: Mapping[int, str], problem: str | None) -> TextClassifier:
    """A trunk with the head that transformers has of decoders, of texts as their tokenizer frames them. Raises
    ModelFileError."""
    try:
        classes = tuple(names[i] for i in range(len(weight)))
        longest = max(ClassifierConfig.max_len, trunk.context_length)  # transformers reads texts whole
        config = ClassifierConfig(classes, "last", 0, 0.0, max_len=longest, framed=True, problem_type=problem)
    except (KeyError, ValueError) as error:
        found = f"{len(weight)} classes, {len(names)} names"
        raise ModelFileError(folder, "classes", None, found, "as many names, two or more to choose from") from error
    if not np.isfinite(weight).all():
        raise ModelFileError(folder, f"tensor '{SCORE}'", None, "holds nan or infinity", "finite numbers")
    model = TextClassifier(trunk, config)
    model.head.score.weight.take(weight)
    return model.eval()  # type: ignore[no-any-return]


class Headless:
    """An open folder of a decoder that tells classes, as that of a decoder alone: what it would continue texts with is
    no part of it, so that the embedding stands there."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.tensors = {name: info for name, info in source.tensors.items() if name != SCORE}
        self.config = source.config | {"tie_word_embeddings": True}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def _config(path: str) -> ClassifierConfig:
    """What classifier.json says. Raises ModelFileError."""
    if not os.path.exists(path):
        raise ModelFileError(path, "", None, "no such file", "the folder of a text classifier")
    values = load_json(path, _LONGEST)
    if isinstance(values, dict):
        values = {"framed": False, "problem_type": ClassifierConfig.problem_type} | values  # older ones do not say
    if not isinstance(values, dict) or values.get("format") != FORMAT or values.get("version") != VERSION:
        raise ModelFileError(path, "format", None, "not of a text classifier", f"'{FORMAT}', version {VERSION}")
    for name, kind in _KINDS.items():
        value = values.get(name)
        right = isinstance(value, int | float if kind is float else kind)
        right = right and isinstance(value, bool) is (kind is bool)
        if not right or (isinstance(value, list) and not all(isinstance(each, str) for each in value)):
            raise ModelFileError(path, name, None, printable(repr(value), 100), f"{kind.__name__}")
    given = {field.name: values[field.name] for field in fields(ClassifierConfig)}
    try:
        return ClassifierConfig(**(given | {"classes": tuple(given["classes"])}))
    except ValueError as error:
        raise ModelFileError(path, "", None, printable(error, 300), "a configuration in its ranges") from error
