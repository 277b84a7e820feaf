"""Encoders and their heads, from folders and configurations, under Hugging Face's names."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pyllm import _core
from pyllm.auto import AutoTokenizer, config_of, known_arguments, opened
from pyllm.auto.adapter_config import base_of, head_options
from pyllm.auto.adapters import load_adapter
from pyllm.auto.new import ENCODERS, IMAGES
from pyllm.auto.saving import family_of
from pyllm.auto.state import Held, arrays_of
from pyllm.auto.weights import FOLDER, load_weights, placed, rearranged
from pyllm.errors import ModelFileError, printable
from pyllm.formats import TensorInfo, download
from pyllm.formats.weights import check_weights, differences
from pyllm.models.encoder import Encoder
from pyllm.models.naming import module_of, same_module
from pyllm.nn.module import Parameter
from pyllm.tensor import Tensor

log = logging.getLogger("pyllm.auto")
_SCORES = {"ForSequenceClassification": "head.score", "ForTokenClassification": "head.tags"}  # whose rows are classes
_SCORES |= {"ForImageClassification": "head.score"}
_OLD = (re.compile(r"\.gamma$"), ".weight"), (re.compile(r"\.beta$"), ".bias")  # as the first BERT's files say


class AutoModel:
    """Encoders without a head: tokens to rows. The classes below add one; `task` is how transformers' name ends."""

    task = "Model"
    families: ClassVar[tuple[str, ...]] = ENCODERS

    @classmethod
    def from_config(cls, config: Any, seed: int = 0, *, num_labels: int | None = None) -> Any:
        """A model with random weights, ready to learn; the configuration as pyllm.auto.new.new_config makes it.

        num_labels: of a classifier. Raises ValueError for families without this head.
        """
        config = _labelled(config, num_labels)
        return _built(import_module(type(config).__module__), config, cls.task).initialise(seed)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        dtype: Any = "auto",
        torch_dtype: Any = None,
        threads: int | None = None,
        num_labels: int | None = None,
        id2label: Mapping[int, str] | None = None,
        problem_type: str | None = None,
        ignore_mismatched_sizes: bool = False,
        seed: int = 0,
        **others: Any,
    ) -> Any:
        """Load a folder, ready to run; of a PEFT folder the model that it names, with its adapter and head.

        dtype: "auto" keeps weights as stored, the names of weights.DTYPES convert.

        A head, and a pooler, that the folder does not hold get random values of the seed: their names are logged, and
        stay in model.missing_keys; model.unexpected_keys are those of other heads, of which nothing is made. num_labels
        or id2label: of a head that is to be learned; with ignore_mismatched_sizes one of another size is random too.

        Raises ModelFileError for bad files and for families that are no encoders, ValueError, TypeError.
        """
        known_arguments(others)
        if threads is not None:
            _core.set_threads(threads)
        place = download.resolve(path)
        base = base_of(place)
        with opened(path) as source:
            config, values = config_of(source)
            if values["model_type"] not in cls.families:
                allowed = f"one of {', '.join(cls.families)}; AutoModelForCausalLM takes those that continue texts"
                raise ModelFileError(os.fspath(path), "config 'model_type'", None, values["model_type"], allowed)
            family = import_module(f"pyllm.models.{values['model_type']}")
            if base is not None:
                config = _labelled(config, **cls._adapted(place, family))
            config = _labelled(config, num_labels, id2label, problem_type)
            model = _built(family, config, cls.task)
            model.open_tokenizer = partial(AutoTokenizer.from_pretrained, path)
            dtype = dtype if torch_dtype is None else torch_dtype
            _load(model, family, source, values, dtype, seed, ignore_mismatched_sizes or base is not None)
        model.name_or_path = os.fspath(path if base is None else base)
        if base is not None:
            load_adapter(model, place)
            model.eval()
        _tell_missing(model)
        _core.keep_freed()  # what lies between layers: fresh pages would take a tenth of the time
        return model


    @classmethod
    def _adapted(cls, folder: str, family: Any) -> dict[str, Any]:
        """The classes of an adapter's head."""
        part = _SCORES.get(cls.task)
        return {} if part is None else head_options(folder, f"{family.NAMES[part][FOLDER]}.weight")


class AutoModelForMaskedLM(AutoModel):
    """Encoders that fill in masked tokens."""

    task = "ForMaskedLM"


class AutoModelForTokenClassification(AutoModel):
    """Encoders that tell a class of each token."""

    task = "ForTokenClassification"


class AutoModelForNextSentencePrediction(AutoModel):
    """Encoders that tell whether a sentence follows another."""

    task = "ForNextSentencePrediction"


class AutoModelForPreTraining(AutoModel):
    """Encoders that fill in masked tokens and tell whether a sentence follows another."""

    task = "ForPreTraining"


class EncoderForSequenceClassification(AutoModel):
    """Encoders that tell a class of each text; see classifiers.AutoModelForSequenceClassification."""

    task = "ForSequenceClassification"


class AutoModelForImageClassification(AutoModel):
    """Encoders that tell a class of each image, (images, channels, height, width) float32."""

    task = "ForImageClassification"
    families = IMAGES


_CLASSES = (
    AutoModelForMaskedLM,
    EncoderForSequenceClassification,
    AutoModelForTokenClassification,
    AutoModelForNextSentencePrediction,
    AutoModelForPreTraining,
    AutoModel,
)
AUTO: dict[str, type[AutoModel]] = {each.task: each for each in _CLASSES}  # by how transformers' name of a class ends


def _built(family: Any, config: Any, task: str) -> Any:
    """The model of a family with the head of a task. Raises ValueError where the family has none."""
    if task != "Model" and task not in family.Model.heads:
        has = ", ".join(family.Model.heads)
        raise ValueError(f"{family.Model.__name__}: it has no head {task}, allowed are {has}")
    return family.Model(config, task)


def _labelled(
    config: Any,
    num_labels: int | None = None,
    id2label: Mapping[int, str] | None = None,
    problem_type: str | None = None,
) -> Any:
    """The configuration with other classes, or for another problem. Raises ValueError."""
    count, names = num_labels, id2label
    if names is None and count is not None and count != config.num_labels:
        names = {i: f"LABEL_{i}" for i in range(count)}
    if names is not None:
        if not names or sorted(names) != list(range(len(names))) or (count or len(names)) != len(names):
            raise ValueError(f"labels: num_labels {count}, id2label {dict(names)}, allowed are names of 0, 1, ...")
        config = replace(config, id2label=dict(names), label2id={name: i for i, name in names.items()})
    return config if problem_type is None else replace(config, problem_type=problem_type)


class Renamed:
    """An open folder whose tensors are called as the model calls them: first files said gamma and beta, and a bias
    that always equals another may stand under the other's name."""

    def __init__(self, source: Any, model: Encoder) -> None:
        self._source = source
        self.tensors: dict[str, TensorInfo] = {}
        for name, info in source.tensors.items():
            for old, new in _OLD:
                name = old.sub(new, name)
            self.tensors[name] = info
        for name, other in model.tied.items():
            own, same = (other, name) if model.config.tie_word_embeddings else (name, other)
            if not other.startswith(model.prefix) and own not in self.tensors and same in self.tensors:
                self.tensors[own] = self.tensors.pop(same)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def _load(
    model: Encoder, family: Any, source: Any, values: dict[str, Any], dtype: Any, seed: int, mismatched: bool
) -> None:
    """All weights; what head and pooler lack is random."""
    renamed = Renamed(source, model)
    optional = [each for path, each in model.named_parameters() if path.startswith(("head.", "pooler."))]
    free = {each for each in optional if all(each is not other for other in _trunk(model))}
    found, expected, ignored = placed(model, family, renamed.tensors, values, FOLDER)
    if mismatched:
        for parameter, place, _ in found:
            info = renamed.tensors.get(place.name)
            if parameter in free and info is not None and info.shape != expected[place.name]:
                del renamed.tensors[place.name]
    spare = [*model.tied, *model.tied.values()] if _fills(model) else []
    known = {*expected, *ignored, *spare}
    model.unexpected_keys = tuple(name for name in renamed.tensors if name not in known)
    parts = tuple({_part(place.name, model.prefix) for parameter, place, _ in found if parameter not in free})
    odd = {name: renamed.tensors[name] for name in model.unexpected_keys if name.startswith(parts)}
    check_weights(source.path, {}, odd)
    model.missing_keys = tuple(load_weights(model, family, renamed, values, dtype, free))
    if model.missing_keys:
        model.initialise(seed, [path for path, each in model.own_parameters().items() if each.value is None])
        model.eval()


def _part(name: str, prefix: str) -> str:
    """What the names of all tensors of the same part of the trunk begin with, as bert.encoder. and embeddings. do."""
    begin = prefix if name.startswith(prefix) else ""
    return begin + name.removeprefix(begin).partition(".")[0] + "."


def _tell_missing(model: Encoder) -> None:
    """Say what is random: nothing of that which an adapter has in its place."""
    if model.active_adapter is not None:
        saved = {module_of(model, path) for path in model.adapters[model.active_adapter].whole}
        model.missing_keys = tuple(
            key for key in model.missing_keys if not any(same_module(each, key.rpartition(".")[0]) for each in saved)
        )
    if model.missing_keys:
        names = ", ".join(printable(name) for name in model.missing_keys)
        where = printable(str(model.name_or_path))
        log.warning("%s: not in the files, and random until they have learned: %s", where, names)


def _trunk(model: Encoder) -> list[Parameter]:
    """The parameters that every file of the family must hold."""
    return [each for path, each in model.named_parameters() if not path.startswith(("head.", "pooler."))]


def state_of(model: Encoder) -> dict[str, NDArray[np.float32]]:
    """Name -> float32 array, copied; tied ones are there under both names, one array."""
    found = arrays_of(model)
    for name, other in _tied_names(model):
        found[name] = found[other]
    return found


def load_state(model: Encoder, state: Mapping[str, Any]) -> None:
    """Have the model learn on from a state_dict of transformers, whose names may have or lack the family's prefix.

    Raises ValueError that names every tensor that is missing, unexpected or of another shape, and for one that differs
    from what it is tied to; TypeError for what holds no numbers.
    """
    family = family_of(model)[1]
    arrays = {name: Tensor(value).data for name, value in state.items()}
    renamed = Renamed(Held(arrays), model)
    found, expected, ignored = placed(model, family, renamed.tensors, {}, FOLDER)
    tied = [(name, other) for name, other in _tied_names(model) if name in arrays and other in arrays]
    unused = [] if model.config.tie_word_embeddings else model.tied.values()  # a bias that nothing is added to
    wrong = differences(expected, renamed.tensors, [*ignored, *(name for name, _ in tied), *unused])
    wrong += [
        f"'{printable(name)}' differs from '{printable(other)}', to which the configuration ties it"
        for name, other in tied
        if not np.array_equal(arrays[name], arrays[other], equal_nan=True)
    ]
    if wrong:
        raise ValueError(f"load_state_dict: {'; '.join(wrong)}")
    for parameter, place, rotated in found:
        raw = rearranged(renamed.tensors[place.name], renamed, place, (1, *parameter.shape)[-2], rotated)
        parameter.take(raw.view(np.float32).reshape(parameter.shape))


def _fills(model: Encoder) -> bool:
    """Whether the head fills in words, by the table of embeddings or one of its own."""
    return hasattr(model.head, "decoder") or hasattr(model.head, "predictions")


def _tied_names(model: Encoder) -> list[tuple[str, str]]:
    """(name, the one that it equals) of tensors that transformers' state_dict has twice."""
    return list(model.tied.items()) if _fills(model) and model.config.tie_word_embeddings else []
