"""What sentence-transformers' files in a folder say: its modules, how rows are pooled, how long texts are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from pyllm.errors import ModelFileError, printable
from pyllm.formats.folder import inside
from pyllm.formats.json_file import load_json

_LIMIT = 1 << 20
ACTIVATIONS = {"Identity": "none", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu", "Sigmoid": "sigmoid"}
_ACTIVATION_OF = {name: f"activation.{kind}" for kind, name in ACTIVATIONS.items()} | {"none": "linear.Identity"}
MODES = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean", "mean_sqrt_len_tokens": "mean_sqrt_len"}
MODES |= {"weightedmean_tokens": "weightedmean", "lasttoken": "lasttoken"}
_NAMES = {"cls": "cls", "max": "max", "mean": "mean", "mean_sqrt_len_tokens": "mean_sqrt_len"}  # in later versions
_NAMES |= {"weightedmean": "weightedmean", "lasttoken": "lasttoken"}
_MOST = 1 << 24


class Dense(NamedTuple):
    """act(W x + b) of a pooled vector: the folder in this one that W and b lie in, their sizes, the activation."""

    folder: str
    inputs: int
    outputs: int
    bias: bool
    activation: str


class LayerNorm(NamedTuple):
    """A vector of so many numbers, normalised: the folder in this one that weight and bias lie in."""

    folder: str
    inputs: int

    @property
    def outputs(self) -> int:
        """As many."""
        return self.inputs


class SentenceConfig(NamedTuple):
    """modes: how rows become a vector, their results side by side in this order; dense: layers over it, one after the
    other; normalize: to length 1.

    encoder: the folder in this one that the encoder lies in, "" for this one. longest: tokens of a text at most, None
    where the folder does not say; lower: whether texts are made lower case; prompts: what may stand before a text, by
    name; prompt: which of them does.
    """

    encoder: str = ""
    modes: tuple[str, ...] = ("mean",)
    normalize: bool = False
    longest: int | None = None
    lower: bool = False
    prompts: dict[str, str] = {}  # noqa: RUF012
    prompt: str | None = None
    dense: tuple[Dense | LayerNorm, ...] = ()


def read_sentence_config(folder: str) -> SentenceConfig:
    """Of a folder; of one without modules.json, as every encoder's, the mean. Raises ModelFileError."""
    encoder, modes, dense, normalize = _modules(folder)
    about = _object(folder, os.path.join(encoder, "sentence_bert_config.json"))
    longest = about.get("max_seq_length")
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, int) or not 1 <= longest < _MOST):
        _refuse(folder, "sentence_bert_config.json", "max_seq_length", longest, f"1 to {_MOST:,}")
    more = _object(folder, "config_sentence_transformers.json")
    prompts, prompt = more.get("prompts") or {}, more.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        _refuse(folder, "config_sentence_transformers.json", "prompts", prompts, "texts by name")
    if prompt is not None and prompt not in prompts:
        _refuse(folder, "config_sentence_transformers.json", "default_prompt_name", prompt, "one of the prompts")
    lower = about.get("do_lower_case") is True
    return SentenceConfig(encoder, modes, normalize, longest, lower, prompts, prompt, dense)


def sentence_files(config: SentenceConfig, width: int) -> dict[str, bytes]:
    """name -> text of the files that read_sentence_config reads, of an encoder of this width in the folder itself."""
    values: dict[str, Any] = {}
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules += [(each.folder, type(each).__name__) for each in config.dense]
    modules += [(f"{len(modules)}_Normalize", "Normalize")] * config.normalize
    values["modules.json"] = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    flags = {f"pooling_mode_{name}": mode in config.modes for name, mode in MODES.items()}
    names = {mode: name for name, mode in _NAMES.items()}
    in_order = [mode for mode in MODES.values() if mode in config.modes] == list(config.modes)
    told = flags if in_order else {"pooling_mode": [names[mode] for mode in config.modes]}
    values["1_Pooling/config.json"] = {"word_embedding_dimension": width} | told
    for each in config.dense:
        about: dict[str, Any] = {"dimension": each.inputs}
        if isinstance(each, Dense):
            act = f"torch.nn.modules.{_ACTIVATION_OF[each.activation]}"
            about = {"in_features": each.inputs, "out_features": each.outputs, "bias": each.bias}
            about["activation_function"] = act
        values[f"{each.folder}/config.json"] = about
    values["sentence_bert_config.json"] = {"max_seq_length": config.longest, "do_lower_case": config.lower}
    prompts = {"prompts": config.prompts, "default_prompt_name": config.prompt}
    values["config_sentence_transformers.json"] = prompts | {"similarity_fn_name": "cosine"}
    if config.normalize:
        values[f"{modules[-1][0]}/config.json"] = {}
    return {name: (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode() for name, value in values.items()}


def _modules(folder: str) -> tuple[str, tuple[str, ...], tuple[Dense | LayerNorm, ...], bool]:
    """(where the encoder lies, how its rows are pooled, layers over that, whether vectors are normalised), as
    modules.json says."""
    path = os.path.join(folder, "modules.json")
    if not os.path.lexists(path):
        return "", ("mean",), (), False
    modules = load_json(path, _LIMIT)
    if not isinstance(modules, list) or not all(isinstance(each, dict) for each in modules):
        _refuse(folder, "modules.json", "", modules, "a list of modules")
    kinds = [str(each.get("type")).rpartition(".")[2] for each in modules]
    normalize = kinds[-1:] == ["Normalize"]
    layers = kinds[2 : len(kinds) - normalize]
    if kinds[:2] != ["Transformer", "Pooling"] or any(each not in (*_LAYERS, "Dropout") for each in layers):
        allowed = "Transformer, Pooling, perhaps Dense and perhaps LayerNorm or Dropout, perhaps Normalize at the end"
        _refuse(folder, "modules.json", "type", ", ".join(kinds), allowed)
    encoder, pooling, *rest = (_place(folder, each.get("path")) for each in modules[: 2 + len(layers)])
    dense = [_LAYERS[kind](folder, each) for kind, each in zip(layers, rest, strict=True) if kind in _LAYERS]
    return encoder, _modes(folder, os.path.join(pooling, "config.json")), tuple(dense), normalize


def _dense(folder: str, place: str) -> Dense:
    """What a Dense module says of itself."""
    name = os.path.join(place, "config.json")
    values = _object(folder, name)
    inputs, outputs = (_size(folder, name, values, each) for each in ("in_features", "out_features"))
    act = str(values.get("activation_function", "Tanh")).rpartition(".")[2]
    if act not in ACTIVATIONS:
        _refuse(folder, name, "activation_function", act, ", ".join(ACTIVATIONS))
    return Dense(place, inputs, outputs, values.get("bias") is not False, ACTIVATIONS[act])


def _layer_norm(folder: str, place: str) -> LayerNorm:
    """What a LayerNorm module says of itself."""
    name = os.path.join(place, "config.json")
    return LayerNorm(place, _size(folder, name, _object(folder, name), "dimension"))


def _size(folder: str, name: str, values: dict[str, Any], field: str) -> int:
    size = values.get(field)
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size < _MOST:
        _refuse(folder, name, field, size, f"1 to {_MOST:,}")
    return int(size)  # type: ignore[arg-type]


# Dropout does nothing where nobody learns.
_LAYERS: dict[str, Callable[[str, str], Dense | LayerNorm]] = {"Dense": _dense, "LayerNorm": _layer_norm}


def _place(folder: str, place: Any) -> str:
    """The name of a folder in this one, "" for this one."""
    if not isinstance(place, str) or not place.isprintable() or place in ("..", ".") or set(place) & set("/\\:"):
        _refuse(folder, "modules.json", "path", place, "the name of a folder in this one")
    return str(place)


def _modes(folder: str, name: str) -> tuple[str, ...]:
    """How a Pooling module pools: a flag for each way, or in later versions pooling_mode, a name or a list of names."""
    values, known = _object(folder, name), _NAMES
    given = values.get("pooling_mode")
    if given is None:
        known, flag = MODES, "pooling_mode_"
        on = [key.removeprefix(flag) for key, value in values.items() if key.startswith(flag) and value]
        given = [mode for mode in MODES if mode in on] + [mode for mode in on if mode not in MODES]
    asked = [str(each) for each in (given if isinstance(given, list) else [given])]
    odd = [each for each in asked if each not in known]
    if odd or not asked or values.get("include_prompt") is False:
        found = ", ".join(odd) or ("include_prompt false" if asked else "none")
        _refuse(folder, name, "pooling_mode", found, f"some of {', '.join(known)}")
    return tuple(known[each] for each in asked)


def _object(folder: str, name: str) -> dict[str, Any]:
    """An optional file; {} without one. A link must not lead out of the folder."""
    path = os.path.join(folder, name)
    if not inside(os.path.realpath(path), os.path.realpath(folder)):
        _refuse(folder, name, "", "leads out of the folder", "a file in it")
    value = load_json(path, _LIMIT) if os.path.lexists(path) else {}
    if not isinstance(value, dict):
        _refuse(folder, name, "", value, "an object")
    return value


def _refuse(folder: str, name: str, field: str, found: Any, allowed: str) -> Any:
    where = f"'{field}'" if field else ""
    shown = found if isinstance(found, str) else repr(found)
    raise ModelFileError(os.path.join(folder, name), where, None, printable(shown, 100), allowed)
