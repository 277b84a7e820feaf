"""Whole models against float64 twins: every config variant, folders and GGUF, all at once and step by step."""
import itertools

import cases
import gguf_reference
import numpy as np
import pytest
import reference_models
import tiny_models
from kernel_checks import same_bits
from tiny_families import config as tiny

import pyllm

VARIANTS = {
    "grouped": tiny_models.llama_config(),
    "multi-head": tiny_models.llama_config(num_key_value_heads=4),
    "one-group": tiny_models.llama_config(num_key_value_heads=1),
    "tied": tiny_models.llama_config(tie_word_embeddings=True),
    "biases": tiny_models.llama_config(attention_bias=True, mlp_bias=True),
    "attention-bias": tiny_models.llama_config(attention_bias=True),
    "head-dim": tiny_models.llama_config(head_dim=24),
    "odd-sizes": tiny_models.llama_config(hidden_size=78, intermediate_size=97, num_attention_heads=3,
                                          num_key_value_heads=3),
    **{f"rope-{kind}": tiny_models.llama_config(rope_scaling=rule) for kind, rule in tiny_models.ROPE_SCALINGS.items()},
    "gpt2": tiny_models.gpt2_config(),
    "gpt2-inner": tiny_models.gpt2_config(activation_function="gelu_pytorch_tanh", n_inner=100),
    "gpt2-untied": tiny_models.gpt2_config(tie_word_embeddings=False),
    "mistral": tiny("mistral"),
    "mistral-one-group": tiny("mistral", sliding_window=1, num_key_value_heads=1, head_dim=20),
    "mistral-no-window": tiny("mistral", sliding_window=None, num_key_value_heads=4),
    "qwen2": tiny("qwen2"),
    "qwen2-tied": tiny("qwen2", tie_word_embeddings=True, hidden_size=80, num_key_value_heads=4),
    "qwen2-yarn": tiny("qwen2", rope_theta=1e6, rope_scaling=tiny_models.ROPE_SCALINGS["yarn"]),
    "qwen2-windows": tiny("qwen2", num_hidden_layers=3, use_sliding_window=True, sliding_window=17,
                          max_window_layers=1),
    "qwen3": tiny("qwen3"),
    "qwen3-biases": tiny("qwen3", head_dim=20, attention_bias=True, tie_word_embeddings=True),
    "gemma": tiny("gemma"),
    "gemma-one-group": tiny("gemma", head_dim=16, num_key_value_heads=1, hidden_size=78),
    "gemma2": tiny("gemma2"),
    "gemma2-tight": tiny("gemma2", attn_logit_softcapping=1.0, final_logit_softcapping=2.0, sliding_window=300),
    "gemma2-uncapped": tiny("gemma2", attn_logit_softcapping=None, final_logit_softcapping=None, num_hidden_layers=2,
                            query_pre_attn_scalar=7, layer_types=["full_attention", "sliding_attention"]),
    "gemma3": tiny("gemma3_text"),
    "gemma3-linear": tiny("gemma3_text", head_dim=20, query_pre_attn_scalar=20, sliding_window=5,
                          num_key_value_heads=1, rope_scaling={"rope_type": "linear", "factor": 8.0}),
    "gpt-neox": tiny("gpt_neox"),
    "gpt-neox-sequential": tiny("gpt_neox", use_parallel_residual=False, hidden_size=80, hidden_act="gelu_new",
                                rotary_pct=0.5),
    "gpt-neox-turned-whole": tiny("gpt_neox", rotary_pct=1.0, attention_bias=False, tie_word_embeddings=True),
}
# What their GGUF files cannot say: windows in some layers only, another pattern; llama.cpp knows one GELU here.
NO_GGUF = ("qwen2-windows", "gemma2-uncapped", "gpt-neox-sequential")

FAMILIES = ("mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gpt-neox")
PRECISIONS = ("default", "high")


def relative(actual, expected):
    """max |difference| / max |reference| of the worst row."""
    assert actual.shape == expected.shape and np.isfinite(actual).all()
    return float((np.abs(actual - expected).max(axis=-1) / np.abs(expected).max(axis=-1)).max())


def tokens(length, seed=0):
    return np.random.default_rng(seed).integers(0, 317, length)


def logits_of(path, ids, **options):
    model = pyllm.AutoModelForCausalLM.from_pretrained(str(path), **options)
    return np.asarray(model(np.asarray(ids)[None]).logits)[0]


def twin(config, weights, ids):
    return getattr(reference_models, config["model_type"])(weights, config, ids)


@pytest.mark.parametrize("name", VARIANTS)
def test_float32_folder_is_within_1e4_of_float64(tmp_path, name):
    config, ids = VARIANTS[name], tokens(300)
    weights = tiny_models.random_weights(config, seed=1)
    path = tiny_models.write_folder(tmp_path / "m", config, weights, shards=1 + len(name) % 3)
    for options in ({}, {"precision": "high"}):
        assert relative(logits_of(path, ids, **options), twin(config, weights, ids)) <= cases.LOGITS_RELATIVE


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in NO_GGUF])
def test_gguf_of_the_same_weights_is_the_folder(tmp_path, name):
    config, ids = VARIANTS[name], tokens(70)
    weights = tiny_models.random_weights(config, seed=2)
    folder = logits_of(tiny_models.write_folder(tmp_path / "m", config, weights), ids)
    file = logits_of(tiny_models.write_gguf(tmp_path / "m.gguf", config, weights), ids)
    if name == "rope-llama3":  # the file holds that rule as float32 divisors
        assert relative(file, folder.astype(np.float64)) <= 1e-5
    else:
        assert same_bits(file, folder)


def near(actual, exact, imitated):
    """The engine's error is the one that its storage types alone cause in float64, and in the same direction."""
    actual_error, allowed = np.linalg.norm(actual - exact), np.linalg.norm(imitated - exact)
    floor = 1e-5 * np.linalg.norm(exact)
    assert actual_error <= 1.3 * allowed + floor
    assert np.linalg.norm(actual - imitated) <= 1.1 * allowed + floor


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("name", ["grouped", "gpt2", "mistral", "qwen3", "gemma2-tight", "gemma3", "gpt-neox"])
def test_half_precision_folders_lose_what_their_types_lose(tmp_path, name, dtype):
    config, ids = VARIANTS[name], tokens(70)
    weights = tiny_models.random_weights(config, seed=3)
    path = tiny_models.write_folder(tmp_path / "m", config, weights, dtype)
    held, forward = tiny_models.stored(weights, dtype), getattr(reference_models, config["model_type"])
    exact = forward(held, config, ids)
    for precision in ("default", "high"):
        imitated = forward(held, config, ids, rounding=reference_models.rounding_of(dtype, precision))
        near(logits_of(path, ids, precision=precision), exact, imitated)


@pytest.mark.parametrize("dtype", cases.QUANTISED)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_block_type_loses_what_its_activations_lose(tmp_path, family, dtype):
    """Against the float64 forward of the dequantised weights; a wrong kernel is far outside."""
    wide = {"hidden_size": 256, "intermediate_size": 512} if family == "llama" else {"n_embd": 256}
    config, ids = getattr(tiny_models, f"{family}_config")(**wide), tokens(40)
    path = tiny_models.write_gguf(tmp_path / "m.gguf", config, tiny_models.random_weights(config), dtype)
    weights, found = gguf_reference.read(path)
    forward = getattr(reference_models, family)
    exact = forward(weights, found, ids)
    for precision in ("default", "high"):
        imitated = forward(weights, found, ids, rounding=reference_models.rounding_of(dtype, precision))
        near(logits_of(path, ids, precision=precision), exact, imitated)


STEPS = [
    *itertools.product(("grouped", "biases", "head-dim", "rope-yarn", "gpt2"), ("F32", "BF16", "Q4_1"), PRECISIONS),
    *((name, dtype, "default") for name, dtype in zip(FAMILIES, itertools.cycle(("BF16", "Q4_1", "F32")))),
]


@pytest.mark.parametrize(("name", "dtype", "precision"), STEPS)
def test_whole_sequence_is_step_by_step(tmp_path, name, dtype, precision):
    """Bit for bit, with the prompt cut in any way, and after truncating and forking."""
    config, ids = VARIANTS[name], tokens(150, seed=4).tolist()
    if dtype == "Q4_1" and "head_dim" in config:
        config = config | {"head_dim": 32}
    weights = tiny_models.random_weights(config, seed=5)
    path = tiny_models.write_gguf(tmp_path / "m.gguf", config, weights, dtype)
    model = pyllm.AutoModelForCausalLM.from_pretrained(str(path), precision=precision)
    whole = np.asarray(model(np.array([ids])).logits)[0]
    for cut in (1, 7, 64, 149):
        state = model.new_state()
        rows = [model.step([(state, ids[i : i + cut])], logits="all") for i in range(0, len(ids), cut)]
        assert state.length == len(ids)
        assert same_bits(np.concatenate(rows), whole), f"chunks of {cut}"
    state.truncate(70)
    branch = state.fork()
    assert same_bits(model.step([(branch, ids[70:90])], logits="all"), whole[70:90])
    assert same_bits(model.step([(state, ids[70:])], logits="last"), whole[-1:])
    assert same_bits(model.step([(branch, ids[90:])], logits="last"), whole[-1:])


def test_rope_parameters_of_both_spellings(tmp_path):
    """rope_theta with rope_scaling, and the newer rope_parameters, are one model."""
    rule = tiny_models.ROPE_SCALINGS["llama3"]
    config = tiny_models.llama_config(rope_scaling=rule, rope_theta=5e5)
    weights, ids = tiny_models.random_weights(config), tokens(60)
    old = logits_of(tiny_models.write_folder(tmp_path / "old", config, weights), ids)
    newer = {name: value for name, value in config.items() if not name.startswith("rope_")}
    newer["rope_parameters"] = rule | {"rope_theta": 5e5}
    new = logits_of(tiny_models.write_folder(tmp_path / "new", newer, weights), ids)
    assert same_bits(old, new)
    assert relative(old, twin(config, weights, ids)) <= cases.LOGITS_RELATIVE


NEWER = {
    "gemma3-linear": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
    "gpt-neox": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
    "qwen2-yarn": tiny_models.ROPE_SCALINGS["yarn"] | {"rope_theta": 1e6},
}


@pytest.mark.parametrize("name", NEWER)
def test_the_spelling_of_transformers_5_is_the_same_model(tmp_path, name):
    config, ids = VARIANTS[name], tokens(60)
    weights = tiny_models.random_weights(config)
    gone = ("rope_theta", "rope_scaling", "rope_local_base_freq", "rotary_pct", "rotary_emb_base")
    newer = {key: value for key, value in config.items() if key not in gone}
    if "sliding_window_pattern" in newer:
        newer["_sliding_window_pattern"] = newer.pop("sliding_window_pattern")
    newer["rope_parameters"] = NEWER[name]
    old, new = (
        tiny_models.write_folder(tmp_path / str(i), each, weights) for i, each in enumerate((config, newer))
    )
    assert same_bits(logits_of(old, ids), logits_of(new, ids))


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model."])
def test_the_text_of_a_model_that_reads_images(tmp_path, prefix):
    config, ids = VARIANTS["gemma3"], tokens(60)
    weights = tiny_models.random_weights(config)
    alone = logits_of(tiny_models.write_folder(tmp_path / "text", config, weights), ids)
    both = {prefix + name.removeprefix("model."): value for name, value in weights.items()}
    both["model.vision_tower.embeddings.weight"] = np.ones((4, 4), np.float32)
    inner = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    outer = {"model_type": "gemma3", "text_config": inner, "vision_config": {}, "vocab_size": config["vocab_size"]}
    assert same_bits(logits_of(tiny_models.write_folder(tmp_path / "both", outer, both), ids), alone)


def test_a_batch_of_equal_lengths_is_its_rows(tmp_path):
    config = tiny_models.llama_config()
    path = tiny_models.write_folder(tmp_path / "m", config, tiny_models.random_weights(config))
    model = pyllm.AutoModelForCausalLM.from_pretrained(str(path))
    ids = np.stack([tokens(33, seed) for seed in range(5)])
    together = np.asarray(model(ids).logits)
    for row, one in zip(together, ids, strict=True):
        assert same_bits(row, np.asarray(model(one[None]).logits)[0])


def test_padding_on_the_left_changes_nothing(tmp_path):
    config = tiny_models.llama_config()
    path = tiny_models.write_folder(tmp_path / "m", config, tiny_models.random_weights(config))
    model = pyllm.AutoModelForCausalLM.from_pretrained(str(path))
    long, short = tokens(20, 1), tokens(13, 2)
    mask = np.ones((2, 20), int)
    mask[1, :7] = 0
    both = np.asarray(model(np.stack([long, np.r_[np.zeros(7, int), short]]), attention_mask=mask).logits)
    assert same_bits(both[0], np.asarray(model(long[None]).logits)[0])
    assert same_bits(both[1, 7:], np.asarray(model(short[None]).logits)[0])


def test_context_is_a_limit(tmp_path):
    config = tiny_models.llama_config(max_position_embeddings=40)
    path = tiny_models.write_folder(tmp_path / "m", config, tiny_models.random_weights(config))
    model = pyllm.AutoModelForCausalLM.from_pretrained(str(path))
    state = model.new_state()
    model.step([(state, tokens(40).tolist())])
    with pytest.raises(pyllm.errors.ContextError, match="40"):
        model.step([(state, [1])])
    assert state.length == 40
