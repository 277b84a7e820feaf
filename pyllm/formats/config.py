"""What a model's configuration may say: one table of fields, types and ranges for GGUF and Hugging Face alike.

`read_config(source)` gives plain normalised fields under Hugging Face's names, and is all that models get to see.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from pyllm.errors import ModelFileError, printable

log = logging.getLogger("pyllm.formats")

REQUIRED = object()


class Field(NamedTuple):
    """One field: `kind` int, float, bool, ids or choice; low and high are its range, or `choices` its values."""

    name: str
    kind: str
    low: float = 0
    high: float = 0
    default: Any = REQUIRED
    choices: tuple[str, ...] = ()


class Raw(NamedTuple):
    """Unchecked values under Hugging Face's names, and how an error names a field and the place where it stands."""

    file: str
    values: dict[str, Any]
    label: Callable[[str], str]
    offset: Callable[[str], int | None] = lambda name: None

    def refuse(self, name: str, found: object, allowed: object) -> NoReturn:
        """Raise ModelFileError for one field."""
        raise ModelFileError(self.file, self.label(name), self.offset(name), found, allowed)


_SIZES = (1, 1 << 20)
_IDS = (
    Field("bos_token_id", "ids", default=None),
    Field("eos_token_id", "ids", default=None),
)

LLAMA = (
    Field("hidden_size", "int", *_SIZES),
    Field("intermediate_size", "int", 1, 1 << 22),
    Field("num_hidden_layers", "int", 1, 1000),
    Field("num_attention_heads", "int", 1, 4096),
    Field("num_key_value_heads", "int", 1, 4096, None),
    Field("head_dim", "int", 2, 4096, None),
    Field("vocab_size", "int", 1, 1 << 24),
    Field("max_position_embeddings", "int", 1, 1 << 27),
    Field("rms_norm_eps", "float", 1e-12, 1e-1, 1e-6),
    Field("rope_theta", "float", 1.0, 1e12, 10_000.0),
    Field("partial_rotary_factor", "float", 1.0, 1.0, 1.0),
    Field("tie_word_embeddings", "bool", default=False),
    Field("attention_bias", "bool", default=False),
    Field("mlp_bias", "bool", default=False),
    Field("hidden_act", "choice", default="silu", choices=("silu",)),
    *_IDS,
)

GPT2 = (
    Field("n_embd", "int", *_SIZES),
    Field("n_layer", "int", 1, 1000),
    Field("n_head", "int", 1, 4096),
    Field("n_positions", "int", 1, 1 << 24),
    Field("n_inner", "int", 1, 1 << 22, None),
    Field("vocab_size", "int", 1, 1 << 24),
    Field("activation_function", "choice", default="gelu_new", choices=("gelu_new", "gelu_pytorch_tanh")),
    Field("layer_norm_epsilon", "float", 1e-12, 1e-1, 1e-5),
    Field("tie_word_embeddings", "bool", default=True),
    *_IDS,
)

# Settings that change the arithmetic of GPT-2: refused unless they are off.
_GPT2_FIXED = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}

_FACTOR = Field("factor", "float", 1.0, 1e4)
_ORIGINAL = Field("original_max_position_embeddings", "int", 1, 1 << 27, None)
SCALINGS = {
    "linear": (_FACTOR,),
    "dynamic": (_FACTOR, _ORIGINAL),
    "llama3": (
        _FACTOR,
        Field("low_freq_factor", "float", 1e-3, 1e4),
        Field("high_freq_factor", "float", 1e-3, 1e4),
        Field("original_max_position_embeddings", "int", 1, 1 << 27),
    ),
    "yarn": (
        _FACTOR,
        _ORIGINAL,
        Field("attention_factor", "float", 1e-3, 1e3, None),
        Field("beta_fast", "float", 1e-3, 1e4, 32.0),
        Field("beta_slow", "float", 1e-3, 1e4, 1.0),
        Field("mscale", "float", 0.0, 1e3, None),
        Field("mscale_all_dim", "float", 0.0, 1e3, None),
        Field("truncate", "bool", default=True),
    ),
}


def check_field(raw: Raw, field: Field) -> Any:
    """The value of one field, in its type and range. Raises ModelFileError naming the field and the value."""
    value = raw.values.get(field.name)
    if value is None:
        if field.default is REQUIRED:
            raw.refuse(field.name, "missing", _range(field))
        return field.default
    shown = printable(repr(value), 100)
    if field.kind == "bool":
        if not isinstance(value, bool):
            raw.refuse(field.name, shown, "true or false")
        return value
    if field.kind == "choice":
        if not isinstance(value, str) or value not in field.choices:
            raw.refuse(field.name, shown, f"known are: {', '.join(field.choices)}")
        return value
    if field.kind == "ids":
        return _check_ids(raw, field.name, value)
    if isinstance(value, bool) or not isinstance(value, int if field.kind == "int" else (int, float)):
        raw.refuse(field.name, shown, _range(field))
    if not field.low <= value <= field.high:
        raw.refuse(field.name, shown, _range(field))
    return float(value) if field.kind == "float" else int(value)


def _range(field: Field) -> str:
    """What a field may hold, in words."""
    if field.kind == "int":
        return f"a whole number from {field.low:,} to {field.high:,}"
    if field.kind == "float":
        return f"a number from {field.low:g} to {field.high:g}"
    return field.kind


def _check_ids(raw: Raw, name: str, value: Any) -> int | list[int]:
    """A token id or a list of them."""
    ids = value if isinstance(value, list) else [value]
    if len(ids) > 1000 or not all(isinstance(each, int) and not isinstance(each, bool) for each in ids):
        raw.refuse(name, printable(repr(value), 100), "a token id or a list of token ids")
    return list(ids) if isinstance(value, list) else value


def check_fields(raw: Raw, fields: tuple[Field, ...]) -> dict[str, Any]:
    """All of the fields; ids must lie within the vocabulary."""
    found = {field.name: check_field(raw, field) for field in fields}
    for name in ("bos_token_id", "eos_token_id"):
        ids = found.get(name)
        for each in ids if isinstance(ids, list) else [ids]:
            if each is not None and not 0 <= each < found["vocab_size"]:
                raw.refuse(name, each, f"0 to {found['vocab_size'] - 1:,}, the vocabulary")
    return found


def check_llama(raw: Raw) -> dict[str, Any]:
    """Normalised fields of the LLaMA family. Raises ModelFileError."""
    config = check_fields(raw, LLAMA)
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    if config["num_key_value_heads"] is None:
        config["num_key_value_heads"] = heads
    groups = config["num_key_value_heads"]
    if groups > heads or heads % groups:
        raw.refuse("num_key_value_heads", f"{groups:,}", f"a divisor of the {heads:,} attention heads")
    if config["head_dim"] is None:
        if hidden % heads:
            raw.refuse("hidden_size", f"{hidden:,}", f"a multiple of the {heads:,} attention heads")
        config["head_dim"] = hidden // heads
    if config["head_dim"] % 2 or config["head_dim"] < 2:
        raw.refuse("head_dim", config["head_dim"], "an even number, because rotation takes pairs")
    for name in ("value_dim", "rope_dim"):
        found = raw.values.get(name, config["head_dim"])
        if isinstance(found, bool) or (found is not None and found != config["head_dim"]):
            raw.refuse(name, printable(repr(found), 100), f"{config['head_dim']}, the size of a head")
    del config["partial_rotary_factor"]
    config["rope_scaling"] = check_scaling(raw, config)
    config["rope_interleaved"] = bool(raw.values.get("rope_interleaved", False))
    config["model_type"] = "llama"
    return config


def check_scaling(raw: Raw, config: dict[str, Any]) -> dict[str, Any] | None:
    """None, or {"type": linear | dynamic | llama3 | yarn | frequencies, and the fields of that type}."""
    value = raw.values.get("rope_scaling")
    if value is None:
        return None
    if not isinstance(value, dict):
        raw.refuse("rope_scaling", printable(repr(value), 100), "an object or null")
    kind = value.get("rope_type", value.get("type"))
    if kind == "default":
        return None
    if kind == "frequencies":
        return _check_frequencies(raw, value, config["head_dim"] // 2)
    if not isinstance(kind, str) or kind not in SCALINGS:
        raw.refuse("rope_scaling", f"type {printable(repr(kind), 100)}", f"known are: default, {', '.join(SCALINGS)}")
    inner = Raw(
        raw.file,
        value,
        lambda name: raw.label(f"rope_scaling.{name}"),
        lambda name: raw.offset(f"rope_scaling.{name}"),
    )
    found = {"type": kind} | {field.name: check_field(inner, field) for field in SCALINGS[kind]}
    if "original_max_position_embeddings" in found and found["original_max_position_embeddings"] is None:
        found["original_max_position_embeddings"] = config["max_position_embeddings"]
    if kind == "llama3" and found["high_freq_factor"] <= found["low_freq_factor"]:
        inner.refuse("high_freq_factor", found["high_freq_factor"], f"above low_freq_factor {found['low_freq_factor']}")
    return found


def _check_frequencies(raw: Raw, value: dict[str, Any], count: int) -> dict[str, Any]:
    """Factors by which each of the `count` rotation frequencies is divided, as GGUF stores Llama 3's scaling."""
    factors = value.get("factors")
    if not isinstance(factors, list) or not all(isinstance(each, float) for each in factors):
        raw.refuse("rope_scaling", "no list of frequency factors", "one number per pair of a head")
    if len(factors) != count:
        raw.refuse("rope_scaling", f"{len(factors):,} frequency factors", f"{count:,}, half of head_dim")
    if not all(math.isfinite(each) and 1e-3 <= each <= 1e6 for each in factors):
        raw.refuse("rope_scaling", "a frequency factor that is not finite or out of range", "0.001 to 1,000,000")
    return {"type": "frequencies", "factors": list(factors)}


def check_gpt2(raw: Raw) -> dict[str, Any]:
    """Normalised fields of GPT-2. Raises ModelFileError."""
    config = check_fields(raw, GPT2)
    for name, needed in _GPT2_FIXED.items():
        if raw.values.get(name, needed) is not needed:
            raw.refuse(name, printable(repr(raw.values[name]), 100), needed)
    if config["n_embd"] % config["n_head"]:
        raw.refuse("n_embd", f"{config['n_embd']:,}", f"a multiple of the {config['n_head']:,} attention heads")
    if config["n_inner"] is None:
        config["n_inner"] = 4 * config["n_embd"]
    config["model_type"] = "gpt2"
    return config


FAMILIES: dict[str, Callable[[Raw], dict[str, Any]]] = {"gpt2": check_gpt2, "llama": check_llama}


def check_config(values: Any, file: str | os.PathLike[str]) -> dict[str, Any]:
    """The normalised fields of a parsed config.json. Keys that name code are logged and ignored."""
    raw = Raw(os.fspath(file), values, lambda name: f"config '{printable(name)}'")
    if not isinstance(values, dict):
        raise ModelFileError(raw.file, "config", None, f"a {type(values).__name__}", "a JSON object")
    for key in values:
        if key in ("auto_map", "trust_remote_code", "custom_pipelines") or key.startswith("_attn_implementation"):
            name = printable(os.path.basename(raw.file))
            log.warning("%s: '%s' is ignored: models cannot choose code to run", name, printable(key))
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raw.refuse("model_type", printable(repr(kind), 100), f"known are: {', '.join(FAMILIES)}")
    if values.get("quantization_config") is not None:
        raw.refuse("quantization_config", "quantised weights in safetensors", "fp32, fp16 or bf16; or a GGUF file")
    return FAMILIES[kind](Raw(raw.file, _unfold_rope(raw), raw.label))


def _unfold_rope(raw: Raw) -> dict[str, Any]:
    """transformers 5 writes `rope_parameters`, with theta inside; older files have rope_theta and rope_scaling."""
    values = dict(raw.values)
    parameters = values.pop("rope_parameters", None)
    values.pop("rope_interleaved", None)
    if parameters is None:
        return values
    if not isinstance(parameters, dict):
        raw.refuse("rope_parameters", printable(repr(parameters), 100), "an object")
    for name in ("rope_theta", "partial_rotary_factor"):
        if parameters.get(name) is not None:
            values[name] = parameters[name]
    values["rope_scaling"] = parameters
    return values


def read_config(source: Any) -> dict[str, Any]:
    """The normalised configuration of an open GGUF file or Hugging Face folder. Raises ModelFileError.

    llama: hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim vocab_size
    max_position_embeddings rms_norm_eps rope_theta rope_scaling rope_interleaved tie_word_embeddings attention_bias
    mlp_bias hidden_act bos_token_id eos_token_id model_type. gpt2: n_embd n_layer n_head n_positions n_inner
    vocab_size activation_function layer_norm_epsilon tie_word_embeddings bos_token_id eos_token_id model_type.
    rope_interleaved: the rows of q and k are ordered for rotating neighbours (GGUF), not halves (Hugging Face).
    """
    if hasattr(source, "metadata"):
        from pyllm.formats.gguf_config import gguf_values

        raw, kind = gguf_values(source)
        return FAMILIES[kind](raw)
    return dict(source.config)
