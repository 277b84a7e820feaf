"""config.json as Hugging Face writes it, from normalised fields."""

from __future__ import annotations

import math
from typing import Any

ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
    "rnn": "RecurrentLM",
    "ulmfit": "AWDLSTM",
    "seq2seq": "Seq2Seq",
    "transformer": "Transformer",
    "bert": "Bert",
    "roberta": "Roberta",
    "mpnet": "MPNet",
    "electra": "Electra",
    "distilbert": "DistilBert",
    "albert": "Albert",
    "vit": "ViT",
    "bart": "BartForConditionalGeneration",
    "mbart": "MBartForConditionalGeneration",
    "marian": "MarianMTModel",
    "pegasus": "PegasusForConditionalGeneration",
    "m2m_100": "M2M100ForConditionalGeneration",
    "t5": "T5ForConditionalGeneration",
    "mt5": "MT5ForConditionalGeneration",
    "umt5": "UMT5ForConditionalGeneration",
}
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def folder_config(kind: str, values: dict[str, Any], dtype: str, task: str = "") -> dict[str, Any]:
    """What config.json holds. values: a family's Config as a dict; dtype: F32, F16 or BF16; task: how the name of the
    class ends, for families that have several.

    Raises ValueError for divisors of frequencies that follow no rule which config.json can name, and for a scaling of
    the layers with windows.
    """
    fields = dict(values)
    scaling = fields.get("rope_scaling")
    if scaling is not None:
        fields["rope_scaling"] = _scaling(scaling, fields)
    if fields.pop("rope_local_scaling", None) is not None:
        raise ValueError("rope_local_scaling: config.json has no name for it that every transformers reads")
    return {"architectures": [ARCHITECTURES[kind] + task], "model_type": kind, **fields, "torch_dtype": DTYPES[dtype]}


def _scaling(scaling: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """The rotary scaling under Hugging Face's names; a GGUF file's divisors become the rule that made them."""
    if scaling["type"] == "frequencies":
        scaling = llama3_rule(scaling["factors"], fields["head_dim"], fields["rope_theta"])
    rest = {name: value for name, value in scaling.items() if name not in ("type", "context") and value is not None}
    return {"rope_type": scaling["type"], **rest}


def llama3_rule(divisors: list[float], dim: int, theta: float) -> dict[str, Any]:
    """Llama 3's rule whose divisors these are: its published numbers, or others that give the same divisors.

    1 / divisor = keep + (1 - keep) / factor, where keep is linear in the frequency between 0 and 1; its line fixes the
    rule but for the unit of the context. Raises ValueError when the divisors do not fit.
    """
    frequencies = [theta ** (-2 * i / dim) for i in range(dim // 2)]
    factor = float(round(max(divisors), 4))
    candidates: list[dict[str, Any]] = [{"type": "llama3", "factor": factor, **_LLAMA_3}]
    if factor > 1:
        keep = [min(1.0, max(0.0, (1 / d - 1 / factor) / (1 - 1 / factor))) for d in divisors]
        slope, offset = _line(frequencies, keep)
        unit = 8192 / (2 * math.pi)
        low, width = -offset / slope * unit, unit / slope
        fitted = {"low_freq_factor": low, "high_freq_factor": low + width, "original_max_position_embeddings": 8192}
        candidates.append({"type": "llama3", "factor": factor, **fitted})
    for rule in candidates:
        if all(abs(_divisor(f, rule) - d) <= 1e-5 * d for f, d in zip(frequencies, divisors, strict=True)):
            return rule
    raise ValueError("rope_freqs.weight: divisors that follow no rule which config.json can name; Llama 3's")


def _line(x: list[float], y: list[float]) -> tuple[float, float]:
    """(slope, offset) of the line under y = clamp(slope * x + offset, 0, 1), x falling; any such line."""
    between = [i for i, value in enumerate(y) if 1e-5 < value < 1 - 1e-5]
    if len(between) > 1:
        i, j = between[0], between[-1]
    else:  # from the last that is kept, or the only one between, to the first that is fully stretched
        j = next((i for i, value in enumerate(y) if value <= 1e-5), len(y) - 1)
        i = max(j - 1, 0)
        if between and j > 1:  # steep enough for both neighbours
            slope = max((1 - y[i]) / (x[i - 1] - x[i]), y[i] / (x[i] - x[j]))
            return slope, y[i] - slope * x[i]
    slope = (y[i] - y[j]) / (x[i] - x[j]) if y[i] > y[j] else 1.0
    return slope, y[i] - slope * x[i]


def _divisor(frequency: float, rule: dict[str, Any]) -> float:
    """By what the rule divides a frequency."""
    turns = rule["original_max_position_embeddings"] * frequency / (2 * math.pi)
    low, high = rule["low_freq_factor"], rule["high_freq_factor"]
    keep = min(1.0, max(0.0, (turns - low) / (high - low)))
    return 1 / (keep + (1 - keep) / rule["factor"])
