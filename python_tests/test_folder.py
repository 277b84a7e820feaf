"""Hugging Face folders, and one configuration whichever format a model comes in."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import tiny_models
from hostile import folder_cases, safetensors_cases

from pyllm.errors import ModelFileError, printable
from pyllm.formats import GGUF, Folder, open_model, read_config
from pyllm.formats.config import check_config

LLAMA_WANTED = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 317,
    "max_position_embeddings": 640,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "model_type": "llama",
}


def put(folder, **files):
    """Write files into a folder; values are JSON unless they are bytes."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_weights_are_kept_as_stored(tmp_path, dtype, shards):
    config = tiny_models.llama_config()
    weights = tiny_models.random_weights(config, seed=1)
    tiny_models.write_folder(tmp_path / "m", config, weights, dtype=dtype, shards=shards)
    with open_model(tmp_path / "m") as folder:
        assert isinstance(folder, Folder)
        assert {name: info.shape for name, info in folder.tensors.items()} == tiny_models.shapes(config)
        for name, value in weights.items():
            info = folder.tensors[name]
            assert info.dtype == dtype
            kept = folder.read(info)
            if dtype == "BF16":
                found = (kept.view("<u2").astype(np.uint32) << 16).view(np.float32)
                expected, tolerance = value, 2.0**-8
            else:
                found = kept.view("<f4" if dtype == "F32" else "<f2").astype(np.float32)
                expected, tolerance = value, 0.0 if dtype == "F32" else 2.0**-11
            np.testing.assert_allclose(found.reshape(value.shape), expected, rtol=tolerance, atol=tolerance / 100)
            buffer = np.empty(kept.nbytes, np.uint8)
            folder.read_into(info, 0, info.rows, buffer)
            assert np.array_equal(buffer, kept)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_both_formats_give_one_configuration_of_llama(tmp_path, tied, bias):
    config = tiny_models.llama_config(tie_word_embeddings=tied, attention_bias=bias)
    weights = tiny_models.random_weights(config, seed=1)
    tiny_models.write_folder(tmp_path / "m", config, weights)
    tiny_models.write_gguf(tmp_path / "m.gguf", config, weights)
    with open_model(tmp_path / "m") as folder, open_model(tmp_path / "m.gguf") as file:
        from_folder, from_gguf = read_config(folder), read_config(file)
    assert isinstance(file, GGUF)
    ids = ("bos_token_id", "eos_token_id")
    assert (from_folder.pop("rope_interleaved"), from_gguf.pop("rope_interleaved")) == (False, True)
    assert [from_folder.pop(name) for name in ids] == [0, 1]
    assert all(isinstance(from_gguf.pop(name), int) for name in ids)
    assert from_folder == LLAMA_WANTED | {"tie_word_embeddings": tied, "attention_bias": bias}
    assert from_gguf.pop("rms_norm_eps") == np.float32(from_folder.pop("rms_norm_eps"))
    assert from_gguf == from_folder


def test_both_formats_give_one_configuration_of_gpt2(tmp_path):
    config = tiny_models.gpt2_config()
    weights = tiny_models.random_weights(config, seed=1)
    tiny_models.write_folder(tmp_path / "m", config, weights)
    tiny_models.write_gguf(tmp_path / "m.gguf", config, weights)
    with open_model(tmp_path / "m") as folder, open_model(tmp_path / "m.gguf") as file:
        from_folder, from_gguf = read_config(folder), read_config(file)
    assert (from_folder["n_inner"], from_folder["activation_function"]) == (256, "gelu_new")
    for each in (from_folder, from_gguf):
        for name in ("bos_token_id", "eos_token_id", "layer_norm_epsilon"):
            assert name in each
            each.pop(name)
    assert from_gguf == from_folder


def test_a_head_size_of_its_own(tmp_path):
    config = tiny_models.llama_config(head_dim=24, num_attention_heads=5, num_key_value_heads=1)
    weights = tiny_models.random_weights(config, seed=1)
    tiny_models.write_gguf(tmp_path / "m.gguf", config, weights)
    with open_model(tmp_path / "m.gguf") as file:
        assert read_config(file)["head_dim"] == 24
    assert check_config(config, "config.json")["head_dim"] == 24


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_rotary_scaling_of_both_formats(tmp_path, kind):
    scaling = tiny_models.ROPE_SCALINGS[kind]
    config = tiny_models.llama_config(rope_scaling=scaling)
    weights = tiny_models.random_weights(config, seed=1)
    tiny_models.write_gguf(tmp_path / "m.gguf", config, weights)
    with open_model(tmp_path / "m.gguf") as file:
        from_gguf = read_config(file)["rope_scaling"]
    from_folder = check_config(config, "config.json")["rope_scaling"]
    assert from_folder == from_folder | {"type": kind} | {k: v for k, v in scaling.items() if k != "rope_type"}
    if kind == "llama3":
        assert from_gguf["type"] == "frequencies" and len(from_gguf["factors"]) == 8
        assert from_gguf["factors"][0] == 1.0 and math.isclose(from_gguf["factors"][-1], 8.0, rel_tol=1e-6)
    else:
        assert from_gguf == from_folder


def test_transformers_5_spells_rotary_settings_in_one_object():
    parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500000.0}
    config = {k: v for k, v in folder_cases.LLAMA.items() if k != "rope_theta"} | {"rope_parameters": parameters}
    found = check_config(config, "config.json")
    assert (found["rope_theta"], found["rope_scaling"]) == (500000.0, {"type": "linear", "factor": 2.0})
    plain = check_config(config | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "config.json")
    assert (plain["rope_theta"], plain["rope_scaling"]) == (1e6, None)


def test_a_folder_cannot_claim_rows_in_another_order():
    assert check_config(folder_cases.LLAMA | {"rope_interleaved": True}, "config.json")["rope_interleaved"] is False


def test_files_beside_the_weights(tmp_path):
    folder = put(
        tmp_path / "m",
        **folder_cases.folder(),
        **{
            "tokenizer.json": {"ü": 1},
            "tokenizer_config.json": {"chat_template": "T", "eos_token": "</s>"},
            "generation_config.json": {"temperature": 0.5},
        },
    )
    with Folder(folder) as opened:
        assert json.loads(opened.tokenizer_json) == {"ü": 1}
        assert opened.tokenizer_config["eos_token"] == "</s>" and opened.chat_template == "T"
        assert opened.generation_config == {"temperature": 0.5}
    with Folder(put(tmp_path / "bare", **folder_cases.folder())) as bare:
        assert (bare.tokenizer_json, bare.tokenizer_config, bare.generation_config) == (None, {}, {})
        assert bare.chat_template is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"chat_template.jinja": b"J", "tokenizer_config.json": {"chat_template": "T"}}, "J"),
        ({"chat_template.json": {"chat_template": "C"}, "tokenizer_config.json": {"chat_template": "T"}}, "C"),
        ({"tokenizer_config.json": {"chat_template": None}}, None),
        ({"tokenizer_config.json": {"chat_template": []}}, None),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [{"name": "tool_use", "template": "U"}, {"name": "default", "template": "D"}]
                }
            },
            "D",
        ),
        ({"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "R"}]}}, "R"),
    ],
)
def test_where_the_chat_template_comes_from(tmp_path, files, expected):
    with Folder(put(tmp_path / "m", **folder_cases.folder(), **files)) as folder:
        assert folder.chat_template == expected


def test_the_hubs_cache_links_into_its_blobs_and_nowhere_else(tmp_path):
    blobs = tmp_path / "models--org--name" / "blobs"
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "1").write_text(json.dumps(folder_cases.LLAMA))
    (blobs / "2").write_bytes(safetensors_cases.tiny())
    (snapshot / "config.json").symlink_to("../../blobs/1")
    (snapshot / "model.safetensors").symlink_to("../../blobs/2")
    with Folder(snapshot) as folder:
        assert set(folder.tensors) == {"a", "b", "empty", "one"}
    (tmp_path / "secret").write_text(json.dumps(folder_cases.LLAMA))
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../../secret")
    with Folder(snapshot) as folder, pytest.raises(ModelFileError, match="leads out of the folder"):
        read_config(folder)


def test_links_within_the_folder_are_followed(tmp_path):
    folder = put(tmp_path / "m", **folder_cases.folder())
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    with Folder(folder) as opened:
        assert list(opened.tensors) == ["w"]
    (tmp_path / "link").symlink_to("m")
    with Folder(tmp_path / "link") as opened:
        assert list(opened.tensors) == ["w"]


def test_a_folder_with_a_tokenizer_alone(tmp_path):
    with open_model(put(tmp_path / "m", **{"tokenizer.json": {"a": 1}})) as folder:
        assert json.loads(folder.tokenizer_json) == {"a": 1}
        with pytest.raises(ModelFileError, match=r"config\.json: cannot be opened: No such file"):
            read_config(folder)
        with pytest.raises(ModelFileError, match="no weights"):
            assert folder.tensors


def test_a_file_is_no_folder(tmp_path):
    with pytest.raises(ModelFileError, match="is not a folder"):
        Folder(__file__)


def test_texts_of_errors_are_safe_to_print():
    assert printable("a\x1b[31m\n\u202e\ud800\U0010ffff") == "a\\x1b[31m\\n\\u202e\\ud800\\U0010ffff"
    assert printable(b"\xff\0ok") == "\\xff\\x00ok"
    assert printable("x" * 500) == "x" * 200 + "..."
    error = ModelFileError("dir/m.gguf", "tensor 'a'", 0x1A40, "needs 5 bytes", "4")
    assert str(error) == "m.gguf: tensor 'a' at 0x1a40: needs 5 bytes; 4"
    assert (error.file, error.offset, error.found, error.allowed) == ("dir/m.gguf", 0x1A40, "needs 5 bytes", "4")
    again = copy.copy(error)
    assert str(again) == str(error) and again.offset == error.offset
