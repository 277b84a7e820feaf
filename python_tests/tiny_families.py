"""Small configurations of every family but GPT-2, the shapes of their weights, and their GGUF metadata.

    config = tiny_families.config("gemma2", sliding_window=20)

All but GPT-NeoX's names follow LLaMA's; what a family adds stands in one table each.
"""

from __future__ import annotations

from typing import Any

import gguf

Config = dict[str, Any]

BASE: Config = {
    "vocab_size": 317,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 640,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_GEMMA_2 = {
    "num_hidden_layers": 4,
    "head_dim": 24,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 33,
    "query_pre_attn_scalar": 24,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
    "attention_bias": False,
}
OWN: dict[str, Config] = {
    "llama": {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"},
    "mistral": {"sliding_window": 33, "hidden_act": "silu"},
    "qwen2": {"use_sliding_window": False, "hidden_act": "silu"},
    "qwen3": {"head_dim": 24, "attention_bias": False, "hidden_act": "silu"},
    "gemma": {"head_dim": 24, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True},
    "gemma2": _GEMMA_2,
    "gemma3_text": _GEMMA_2
    | {
        "num_hidden_layers": 6,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "sliding_window_pattern": 6,
    },
    "gpt_neox": {
        "rope_theta": 1e4,
        "layer_norm_eps": 1e-5,
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000,
        "use_parallel_residual": True,
        "attention_bias": True,
        "hidden_act": "gelu",
    },
}
CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
}
ARCHITECTURES = {"mistral": "llama", "gemma3_text": "gemma3", "gpt_neox": "gptneox"}
SANDWICH = ("gemma2", "gemma3_text")
HEAD_NORMS = ("qwen3", "gemma3_text")


def config(family: str, **changes: Any) -> Config:
    """A config.json of a small model; keyword arguments replace or add fields."""
    return {"architectures": [CLASSES[family]], "model_type": family, **BASE, **OWN[family], **changes}


def head_dim(config: Config) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every weight's name and shape, as Hugging Face stores them."""
    return _neox_shapes(config) if config["model_type"] == "gpt_neox" else _decoder_shapes(config)


def _decoder_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    family, d, inner = config["model_type"], config["hidden_size"], config["intermediate_size"]
    q, kv = (config[f"num_{kind}_heads"] * head_dim(config) for kind in ("attention", "key_value"))
    matrices = {"q_proj": (q, d), "k_proj": (kv, d), "v_proj": (kv, d), "o_proj": (d, q)}
    biased = ("q_proj", "k_proj", "v_proj") if family == "qwen2" else matrices if config.get("attention_bias") else ()
    norms = ["input_layernorm", "post_attention_layernorm"]
    norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if family in SANDWICH else []
    out: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], d)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        out |= {f"{layer}.{name}.weight": (d,) for name in norms}
        for name, shape in matrices.items():
            out[f"{layer}.self_attn.{name}.weight"] = shape
            if name in biased:
                out[f"{layer}.self_attn.{name}.bias"] = shape[:1]
        if family in HEAD_NORMS:
            out |= {f"{layer}.self_attn.{name}_norm.weight": (head_dim(config),) for name in "qk"}
        for name, shape in {"gate_proj": (inner, d), "up_proj": (inner, d), "down_proj": (d, inner)}.items():
            out[f"{layer}.mlp.{name}.weight"] = shape
            if config.get("mlp_bias"):
                out[f"{layer}.mlp.{name}.bias"] = shape[:1]
    out["model.norm.weight"] = (d,)
    if not config["tie_word_embeddings"]:
        out["lm_head.weight"] = (config["vocab_size"], d)
    return out


def _neox_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    d, inner = config["hidden_size"], config["intermediate_size"]
    attention = {"attention.query_key_value": (3 * d, d), "attention.dense": (d, d)}
    rest = {"mlp.dense_h_to_4h": (inner, d), "mlp.dense_4h_to_h": (d, inner)}
    out: dict[str, tuple[int, ...]] = {"gpt_neox.embed_in.weight": (config["vocab_size"], d)}
    for i in range(config["num_hidden_layers"]):
        layer = f"gpt_neox.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            out[f"{layer}.{norm}.weight"] = out[f"{layer}.{norm}.bias"] = (d,)
        for name, shape in (attention | rest).items():
            out[f"{layer}.{name}.weight"] = shape
            if name in rest or config["attention_bias"]:
                out[f"{layer}.{name}.bias"] = shape[:1]
    out["gpt_neox.final_layer_norm.weight"] = out["gpt_neox.final_layer_norm.bias"] = (d,)
    if not config["tie_word_embeddings"]:
        out["embed_out.weight"] = (config["vocab_size"], d)
    return out


def write_fields(writer: gguf.GGUFWriter, config: Config) -> None:
    """The metadata that llama.cpp's converter writes for a family."""
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    if config["model_type"] == "gpt_neox":
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        writer.add_rope_dimension_count(int(config["rotary_pct"] * head_dim(config)))
        writer.add_parallel_residual(config["use_parallel_residual"])
        return
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    if config["model_type"] in ("llama", "mistral"):
        writer.add_rope_dimension_count(head_dim(config))
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if config.get("attn_logit_softcapping"):
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    _write_scaling(writer, config["rope_scaling"] or {})


def _write_scaling(writer: gguf.GGUFWriter, scaling: dict[str, Any]) -> None:
    if scaling.get("rope_type") in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType[scaling["rope_type"].upper()])
        writer.add_rope_scaling_factor(scaling["factor"])
    if scaling.get("rope_type") == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
