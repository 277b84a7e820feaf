"""What a model's configuration says: the same checked fields from GGUF and Hugging Face's config.json.

`read_config(source)` gives plain normalised fields under Hugging Face's names, and is all that models get to see.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from pyllm.errors import ModelFileError, printable
from pyllm.formats.families import FAMILIES
from pyllm.formats.fields import Raw

log = logging.getLogger("pyllm.formats")


def check_config(values: Any, file: str | os.PathLike[str]) -> dict[str, Any]:
    """The normalised fields of a parsed config.json. Keys that name code are logged and ignored."""
    raw = Raw(os.fspath(file), values, lambda name: f"config '{printable(name)}'")
    if not isinstance(values, dict):
        raise ModelFileError(raw.file, "config", None, f"a {type(values).__name__}", "a JSON object")
    for key in values:
        if key in ("auto_map", "trust_remote_code", "custom_pipelines") or key.startswith("_attn_implementation"):
            name = printable(os.path.basename(raw.file))
            log.warning("%s: '%s' is ignored: models cannot choose code to run", name, printable(key))
    if values.get("model_type") == "gemma3" and isinstance(values.get("text_config"), dict):
        tied = {"tie_word_embeddings": values["tie_word_embeddings"]} if "tie_word_embeddings" in values else {}
        values = tied | values["text_config"] | {"model_type": "gemma3_text"}  # what reads images is left out
        raw = raw._replace(values=values)
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

    model_type and the fields that families.py lists for it; all but gpt2 have num_key_value_heads, head_dim and
    rope_scaling. rope_interleaved: the rows of q and k are ordered for rotating neighbours (GGUF), not halves (Hugging
    Face).
    """
    if hasattr(source, "metadata"):
        from pyllm.formats.gguf_config import gguf_values

        raw, kind = gguf_values(source)
        return FAMILIES[kind](raw)
    return dict(source.config)
