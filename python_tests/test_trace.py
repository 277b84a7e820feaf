"""A trace: every named intermediate of a call against float64 by hand, for every family, and their gradients."""

import threading

import numpy as np
import pytest
import reference_models
import tiny_families
import tiny_models

import pyllm
from pyllm import ops
from pyllm.models.mlp import MLP

VARIANTS = {
    "gpt2": tiny_models.gpt2_config(),
    "llama": tiny_models.llama_config(),
    "mistral": tiny_families.config("mistral", sliding_window=5),
    "qwen2": tiny_families.config("qwen2"),
    "qwen3": tiny_families.config("qwen3"),
    "gemma": tiny_families.config("gemma"),
    "gemma2": tiny_families.config("gemma2", sliding_window=5),
    "gemma3": tiny_families.config("gemma3_text", sliding_window=5),
    "gpt_neox": tiny_families.config("gpt_neox"),
}
LENGTH = 23


def ids_of(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 317, shape)


def loaded(config, path):
    """(model that runs, its weights)."""
    weights = tiny_models.random_weights(config, seed=4)
    return pyllm.AutoModelForCausalLM.from_pretrained(tiny_models.write_folder(path, config, weights)), weights


def by_hand(t, attention, path):
    """softmax over the keys that are seen of scale q k^T, in float64, from the traced queries and keys."""
    q, k = (t[f"{path}.{name}"].astype(np.float64) for name in ("queries", "keys"))
    scores = attention.scale * q @ np.repeat(k, attention.heads // attention.groups, axis=-3).swapaxes(-1, -2)
    if attention.softcap:
        scores = attention.softcap * np.tanh(scores / attention.softcap)
    back = np.subtract.outer(np.arange(q.shape[-2]), np.arange(q.shape[-2]))
    seen = (back >= 0) & ((back < attention.window) | (attention.window == 0))
    grown = np.where(seen, np.exp(scores - scores.max(axis=-1, keepdims=True)), 0)
    return grown / grown.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_are_the_softmax_and_logits_the_models(name, tmp_path):
    config = VARIANTS[name]
    model, weights = loaded(config, tmp_path / "m")
    ids = ids_of(LENGTH)
    with pyllm.trace(model) as t:
        logits = model.forward(ids)
    exact = getattr(reference_models, config["model_type"])(weights, config, ids)
    assert np.abs(t["logits"] - exact).max() <= 1e-4 * np.abs(exact).max()
    assert logits is t["logits"]
    heads, windows = config.get("num_attention_heads", config.get("n_head")), set()
    for i, layer in enumerate(model.layers):
        path = f"layers.{i}.attention"
        found = t[f"{path}.weights"]
        assert found.shape == (heads, LENGTH, LENGTH) and found.dtype == np.float32
        assert np.abs(found - by_hand(t, layer.attention, path)).max() <= 1e-5
        assert np.abs(found.sum(axis=-1, dtype=np.float64) - 1).max() <= 1e-6
        values = np.repeat(t[f"{path}.values"], heads // layer.attention.groups, axis=0).astype(np.float64)
        mixed = (found.astype(np.float64) @ values).swapaxes(0, 1).reshape(LENGTH, -1)
        assert np.abs(t[f"{path}.inner"] - mixed).max() <= 1e-5 * np.abs(mixed).max()
        assert t[f"layers.{i}.feed_forward.inner"].shape[0] == LENGTH
        assert np.array_equal(t[f"layers.{i}"], t[f"layers.{i}.feed_forward"])
        windows.add(layer.attention.window)
    assert (5 in windows) == ("sliding_window" in config)
    assert t.names()[0] == "embedding" and t.names()[-1] == "logits"


def test_queries_keys_and_inputs_are_the_formulas(tmp_path):
    config = VARIANTS["gpt2"]
    model, weights = loaded(config, tmp_path / "m")
    ids = ids_of(LENGTH)
    with pyllm.trace(model) as t:
        model.forward(ids)
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][:LENGTH]
    assert np.abs(t["embedding"] - x).max() <= 1e-6 * np.abs(x).max()
    centred = x - x.mean(axis=1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    normal = normal * w["transformer.h.0.ln_1.weight"] + w["transformer.h.0.ln_1.bias"]
    assert np.abs(t["layers.0.attention.normalised"] - normal).max() <= 1e-5 * np.abs(normal).max()
    mixed = normal @ w["transformer.h.0.attn.c_attn.weight"] + w["transformer.h.0.attn.c_attn.bias"]
    for part, name in zip(np.split(mixed, 3, axis=1), ("queries", "keys", "values"), strict=True):
        expected = part.reshape(LENGTH, 4, -1).swapaxes(0, 1)
        assert np.abs(t[f"layers.0.attention.{name}"] - expected).max() <= 1e-5 * np.abs(expected).max()
    o = w["transformer.h.0.attn.c_proj.weight"], w["transformer.h.0.attn.c_proj.bias"]
    after = x + t["layers.0.attention.inner"].astype(np.float64) @ o[0] + o[1]
    assert np.abs(t["layers.0.attention"] - after).max() <= 1e-5 * np.abs(after).max()


def gradients(model, ids, targets, traced):
    """(loss, gradients by name, trace or None)."""
    model.train().zero_grad()
    if not traced:
        loss, t = model.loss(ids, targets), None
    else:
        with pyllm.trace(model) as t:
            loss = model.loss(ids, targets)
    loss.backward()
    return loss.item(), {name: p.value.grad.copy() for name, p in model.own_parameters().items()}, t


@pytest.mark.parametrize("name", VARIANTS)
def test_a_traced_model_learns_the_same(name, tmp_path):
    model, _ = loaded(VARIANTS[name], tmp_path / "m")
    ids, targets = ids_of(3, LENGTH), ids_of(3, LENGTH, seed=1)
    loss, plain, _ = gradients(model, ids, targets, False)
    traced_loss, traced, t = gradients(model, ids, targets, True)
    assert abs(traced_loss - loss) <= 1e-5 * loss
    largest = max(np.abs(g).max() for g in plain.values())
    for key, gradient in plain.items():  # a key's bias moves all scores of a query alike: its exact gradient is zero
        assert np.abs(traced[key] - gradient).max() <= 2e-5 * max(np.abs(gradient).max(), 1e-2 * largest), key
    assert t["layers.0.attention.weights"].shape[0] == 3
    logits = t["logits"].astype(np.float64).reshape(-1, 317)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(p)), targets.reshape(-1)] -= 1
    assert np.abs(t.grad("logits").reshape(p.shape) - p / len(p)).max() <= (1e-6 if not model.softcap else 1e-5)
    for each in t.names():
        assert t.grad(each).shape == t[each].shape and np.isfinite(t.grad(each)).all()


def test_the_gradient_of_weights_is_how_the_loss_changes(tmp_path):
    model, _ = loaded(VARIANTS["llama"], tmp_path / "m")
    _, _, t = gradients(model, ids_of(LENGTH), ids_of(LENGTH, seed=1), True)
    last = model.layers[-1].attention
    path = f"layers.{len(model.layers) - 1}.attention"
    o = model.learned_arrays()[f"{path}.o.weight"].astype(np.float64)
    dy = (t.grad(path).astype(np.float64) @ o).reshape(LENGTH, last.heads, -1).swapaxes(0, 1)
    values = np.repeat(t[f"{path}.values"].astype(np.float64), last.heads // last.groups, axis=0)
    expected = dy @ values.swapaxes(1, 2)
    found = t.grad(f"{path}.weights")
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_documents_do_not_see_each_other(tmp_path):
    model, _ = loaded(VARIANTS["llama"], tmp_path / "m")
    ids = ids_of(10)
    with pyllm.trace(model) as t, ops.documents([0, 4, 10]):
        packed = model.forward(ids)
    found = t["layers.1.attention.weights"]
    assert found.shape == (4, 10, 10) and not found[:, 4:, :4].any() and np.abs(found.sum(-1) - 1).max() <= 1e-6
    for first, last in ((0, 4), (4, 10)):
        alone = model.forward(ids[first:last])
        assert np.abs(packed[first:last] - alone).max() <= 1e-4 * np.abs(alone).max()


def test_a_later_call_replaces_an_earlier_one(tmp_path):
    model, _ = loaded(VARIANTS["gpt2"], tmp_path / "m")
    model.train()
    with pyllm.trace(model) as t:
        first = model.loss(ids_of(5), ids_of(5, seed=1))
        model.loss(ids_of(7), ids_of(7, seed=1))
    first.backward()
    assert t["logits"].shape == (7, 317) and t.grad("logits") is None


def test_no_trace_leaves_nothing(tmp_path):
    model, _ = loaded(VARIANTS["gpt2"], tmp_path / "m")
    other, _ = loaded(VARIANTS["llama"], tmp_path / "o")
    with pyllm.trace(model) as t:
        other.forward(ids_of(5))
        thread = threading.Thread(target=model.forward, args=(ids_of(5),))
        thread.start()
        thread.join()
        model(ids_of(5))  # recorded, not eager
        assert t.names() == [] and model.watch is not ops.unwatched and other.watch is ops.unwatched
        with pytest.raises(KeyError, match=r"nothing yet; call model\.forward"):
            t["logits"]
        with pyllm.trace(other) as inner:
            model.forward(ids_of(5))
            other.forward(ids_of(6))
    assert t["logits"].shape == (5, 317) and inner["logits"].shape == (6, 317)
    assert model.watch is ops.unwatched and "logits" in t and "other" not in t
    with pytest.raises(KeyError, match=r"'layers\.9' is not among what was computed: embedding, "):
        t.grad("layers.9")
    assert repr(t) == f"Trace({len(t.names())} values of GPT2)"


def test_an_mlp_is_traced():
    model = MLP(5, 4, 2)
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    with pyllm.trace(model) as t:
        y = model(x)
        y.mean().backward()
    assert t.names() == ["layers.0", "layers.0.activated", "layers.1"]
    assert np.array_equal(t["layers.0.activated"], np.maximum(t["layers.0"], 0))
    assert np.array_equal(t["layers.1"], y.data) and np.allclose(t.grad("layers.1"), 1 / 6)
