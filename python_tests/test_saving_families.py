"""Every family through every file: random models of transformers, converted there and back, give equal logits."""

import numpy as np
import pytest
import tiny_tokenizers
import torch
import transformers
from test_parity import relative, tokens
from test_saving import load

import pyllm

SIZES = {
    "vocab_size": 317, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 640, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip
GEMMA = {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16}
NEOX = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
MODELS = {
    "mistral": ("Mistral", SIZES | {"sliding_window": 16}),
    "mistral-everywhere": ("Mistral", SIZES | {"sliding_window": None}),
    "qwen2": ("Qwen2", SIZES),
    "qwen3": ("Qwen3", SIZES | {"head_dim": 24}),
    "gemma": ("Gemma", SIZES | {"head_dim": 16}),
    "gemma2": ("Gemma2", SIZES | GEMMA),
    "gemma3": ("Gemma3", SIZES | GEMMA | {"num_hidden_layers": 7}),
    "gpt-neox": ("GPTNeoX", NEOX | {"rotary_pct": 0.25}),
    "gpt-neox-in-turn": ("GPTNeoX", NEOX | {"rotary_pct": 1.0, "use_parallel_residual": False}),
}


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor(ids)[None]).logits[0].numpy().astype(np.float64)


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(tmp_path, name):
    kind, sizes = MODELS[name]
    config = getattr(transformers, f"{kind}TextConfig" if kind == "Gemma3" else f"{kind}Config")(**sizes)
    family = getattr(transformers, f"{kind}ForCausalLM")
    torch.manual_seed(0)
    model = family(config).eval().float()
    with torch.no_grad():
        for each in model.parameters():
            each.normal_(0, 0.2 if each.ndim == 1 else 1.5 / each.shape[-1] ** 0.5)
    ids = tokens(60)
    expected = logits_of(model, ids)
    model.save_pretrained(tmp_path / "m")
    tiny_tokenizers.write_json(tmp_path / "m", 317)
    pyllm.convert(tmp_path / "m", tmp_path / "out")
    pyllm.convert(tmp_path / "m", tmp_path / "m.gguf")
    pyllm.convert(tmp_path / "m.gguf", tmp_path / "back")
    for path in ("out", "back"):
        assert relative(logits_of(family.from_pretrained(tmp_path / path, dtype=torch.float32), ids), expected) <= 1e-5
    for path in ("m", "out", "m.gguf", "back"):
        assert relative(np.asarray(load(tmp_path / path)(ids[None]).logits)[0], expected) <= 1e-4
