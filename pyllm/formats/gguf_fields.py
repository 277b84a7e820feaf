"""A model's configuration as GGUF metadata: the tables of gguf_config.py read from right to left."""

from __future__ import annotations

import math
from typing import Any

from pyllm.formats.gguf_config import ARCHITECTURES, KEYS, SCALING_KEYS, score_scale

_DEFAULTS = {"beta_fast": 32.0, "beta_slow": 1.0}  # of YaRN in llama.cpp: written only where a model differs


def gguf_fields(family: str, values: dict[str, Any]) -> dict[str, Any]:
    """Key -> value for the normalised fields of a configuration. Raises ValueError for what GGUF cannot say.

    The scalings llama3 and frequencies are no metadata but the tensor rope_freqs.weight, which the caller writes, as it
    writes longrope's divisors; "dynamic" changes nothing within the trained context and is left out.
    """
    _check_layers(family, values)
    known, architecture = dict(values), ARCHITECTURES[family]
    scaling = known.pop("rope_scaling", None)
    if "head_dim" in known:
        known["value_dim"] = known["rope_dim"] = known["head_dim"]
    if "rotary_pct" in known:
        known["rope_dim"] = int(known["hidden_size"] // known["num_attention_heads"] * known["rotary_pct"])
    names = {name: f"{architecture}.{key}" for name, key in KEYS[family].items()}
    names["vocab_size"] = f"{architecture}.vocab_size"
    fields = {"general.architecture": architecture}
    fields |= {key: known[name] for name, key in names.items() if known.get(name) is not None}
    if scaling is not None and scaling["type"] in ("linear", "yarn", "longrope"):
        fields |= _scaling_fields(architecture, scaling)
    return fields


def _check_layers(family: str, values: dict[str, Any]) -> None:
    """What follows from a family's name alone in GGUF must be as it says."""
    if family not in ARCHITECTURES:
        raise ValueError(f"GGUF has no architecture for {family}; save_pretrained writes a folder")
    every = {"qwen2": 0, "qwen3": 0, "gemma2": 2, "gemma3_text": 6}.get(family)  # how often a layer sees all
    types = values.get("layer_types") or ()
    windows = [each == "sliding_attention" for each in types]
    if every is not None and windows != [bool((i + 1) % every) if every else windows[0] for i in range(len(types))]:
        raise ValueError(f"layer_types: {', '.join(types)}; a GGUF file of {family} cannot say so")
    if family == "gemma2" and None in (values["attn_logit_softcapping"], values["final_logit_softcapping"]):
        raise ValueError("softcapping: none; a GGUF file of gemma2 always has both")
    if family == "gpt_neox" and values["hidden_act"] != "gelu":
        raise ValueError(f"hidden_act: {values['hidden_act']}; a GGUF file of gpt_neox means gelu")
    scale = values.get("query_pre_attn_scalar")
    if scale is not None and scale != score_scale(family, values):
        raise ValueError(f"query_pre_attn_scalar: {scale}; a GGUF file of {family} means {score_scale(family, values)}")
    if values.get("rope_local_scaling") is not None:
        raise ValueError("rope_local_scaling: GGUF has none for layers with a window")


def _scaling_fields(architecture: str, scaling: dict[str, Any]) -> dict[str, Any]:
    """The rotary scaling; attn_factor multiplies YaRN's 0.1 ln(factor) + 1, attention_factor replaces it."""
    if scaling["type"] == "longrope" and architecture != "llama":
        raise ValueError(f"rope_scaling: longrope; a GGUF file of {architecture} cannot say so")
    if not scaling.get("truncate", True):
        raise ValueError("rope_scaling.truncate is false; GGUF can say true only")
    found = {name: scaling[name] for name in SCALING_KEYS if scaling.get(name) is not None}
    found = {name: value for name, value in found.items() if _DEFAULTS.get(name) != value}
    if scaling["type"] == "longrope":
        found.pop("factor", None)  # llama.cpp would divide all frequencies by it; attn_factor holds what it made
    if "attention_factor" in found and scaling["type"] == "yarn":
        found["attention_factor"] /= 0.1 * math.log(scaling["factor"]) + 1
        if abs(found["attention_factor"] - 1) < 1e-9:
            del found["attention_factor"]
    fields: dict[str, Any] = {f"{architecture}.rope.scaling.type": scaling["type"]}
    return fields | {f"{architecture}.{SCALING_KEYS[name]}": found[name] for name in found}
