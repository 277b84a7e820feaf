"""save_pretrained: what comes back from a saved folder, bit for bit, and what it looks like on the disk."""

import json

import numpy as np
import pytest
import reference_blocks as blocks
import tiny_models
from safetensors import safe_open
from test_parity import NO_GGUF, VARIANTS, tokens

import pyllm
from pyllm.errors import ModelFileError
from pyllm.formats.folder_config import llama3_rule
from pyllm.formats.safetensors_writer import size_limit
from pyllm.nn.position import rotary_frequencies

load = pyllm.AutoModelForCausalLM.from_pretrained


def stored(path):
    """{name: (dtype, shape, bytes)} of all weights of a folder.

    Gemma's norms are what they are used as, one plus what is stored: adding and taking off one rounds the rest.
    """
    found = {}
    with pyllm.formats.open_model(path) as folder:
        for name, info in folder.tensors.items():
            raw = folder.read(info)
            if folder.config["model_type"].startswith("gemma") and name.endswith("norm.weight"):
                raw = blocks.dequantise(info.dtype, raw[None]) + np.float32(1)
            found[name] = (info.dtype, info.shape, raw.tobytes())
    return found


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_folder_comes_back_bit_for_bit(tmp_path, name, dtype):
    config = VARIANTS[name]
    weights = tiny_models.random_weights(config, seed=4)
    path = tiny_models.write_folder(tmp_path / "m", config, weights, dtype, shards=1 + len(name) % 2)
    load(path).save_pretrained(tmp_path / "out")
    assert stored(tmp_path / "out") == stored(path)
    before, after = (pyllm.AutoConfig.from_pretrained(each) for each in (path, tmp_path / "out"))
    assert before == after


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in NO_GGUF])
def test_a_gguf_file_becomes_the_folder_it_came_from(tmp_path, name):
    config = VARIANTS[name]
    weights = tiny_models.random_weights(config, seed=5)
    load(tiny_models.write_gguf(tmp_path / "m.gguf", config, weights)).save_pretrained(tmp_path / "out")
    assert stored(tmp_path / "out") == stored(tiny_models.write_folder(tmp_path / "m", config, weights))
    ids = tokens(60)[None]
    ours, theirs = (load(each)(ids).logits for each in (tmp_path / "out", tmp_path / "m.gguf"))
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    known = ["LlamaForCausalLM"] if name == "mistral-no-window" else config["architectures"]  # GGUF calls it llama
    assert written["architectures"] == known and written["torch_dtype"] == "float32"
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 0, "eos_token_id": 1}


def test_dtypes(tmp_path):
    config = tiny_models.llama_config(tie_word_embeddings=True)
    weights = tiny_models.random_weights(config, seed=6)
    path = tiny_models.write_gguf(tmp_path / "m.gguf", config, weights, "Q4_1")
    model = load(path)

    def kinds(**options):
        model.save_pretrained(tmp_path / "out", **options)
        return {dtype for dtype, _, _ in stored(tmp_path / "out").values()}

    assert kinds() == {"F32"}  # only float32 holds what quantised blocks stand for
    assert "lm_head.weight" not in stored(tmp_path / "out")  # it is the embedding
    ids = tokens(40)[None]
    dense = load(path, dtype="float32")(ids).logits
    assert np.array_equal(load(tmp_path / "out")(ids).logits, dense)
    exact = stored(tmp_path / "out")
    assert kinds(dtype="bfloat16") == {"BF16"}
    for name, (_, _, raw) in stored(tmp_path / "out").items():
        rounded = blocks.round_bf16(np.frombuffer(exact[name][2], np.float32))
        assert np.array_equal(np.frombuffer(raw, np.uint16), (rounded.view(np.uint32) >> 16).astype(np.uint16))
    assert kinds(dtype=np.float16) == {"F16"}
    with pytest.raises(ValueError, match="dtype is 'int8', allowed are auto, float32, float16, bfloat16"):
        kinds(dtype="int8")
    half = tiny_models.write_gguf(tmp_path / "h.gguf", config, weights, "F16")
    load(half).save_pretrained(tmp_path / "half")  # its norms are float32 and do not fit
    assert {dtype for dtype, _, _ in stored(tmp_path / "half").values()} == {"F32"}


def test_shards(tmp_path):
    config = tiny_models.llama_config()
    path = tiny_models.write_folder(tmp_path / "m", config, tiny_models.random_weights(config))
    model, out = load(path), tmp_path / "out"
    model.save_pretrained(out, max_shard_size="100KB")
    names = sorted(each.name for each in out.glob("*.safetensors"))
    assert len(names) > 2 and names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(len(raw) for _, _, raw in stored(out).values())
    for name in names:
        with safe_open(out / name, "np") as file:
            assert file.metadata() == {"format": "pt"}
            found = [each for each, where in index["weight_map"].items() if where == name]
            assert sorted(file.keys()) == sorted(found)
            assert len(found) == 1 or sum(file.get_tensor(each).nbytes for each in found) <= 100_000
    assert stored(out) == stored(path)
    model.save_pretrained(out)  # what is left of the shards would be read instead
    assert sorted(each.name for each in out.iterdir()) == ["config.json", "generation_config.json", "model.safetensors"]
    model.save_pretrained(out, max_shard_size="60 KiB")
    assert not (out / "model.safetensors").exists() and stored(out) == stored(path)


def test_sizes_of_shards():
    assert [size_limit(each) for each in (7, "7", "5GB", "5 gb", "2KiB", "1B")] == [7, 7, 5 * 10**9, 5 * 10**9, 2048, 1]
    for wrong in ("", "GB", "-1", "0", "5XB", "1.5GB", "5I"):
        with pytest.raises(ValueError, match="max_shard_size"):
            size_limit(wrong)


def test_a_model_can_replace_the_folder_that_it_was_read_from(tmp_path):
    config = tiny_models.gpt2_config()
    path = tiny_models.write_folder(tmp_path / "m", config, tiny_models.random_weights(config), shards=2)
    before = stored(path)
    load(path).save_pretrained(path)
    assert stored(path) == before and not (path / "model.safetensors.index.json").exists()
    assert (path / "tokenizer.json").exists()


def test_places_that_cannot_be_written(tmp_path):
    config = tiny_models.llama_config()
    model = load(tiny_models.write_folder(tmp_path / "m", config, tiny_models.random_weights(config)))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ModelFileError, match="file: cannot be made a folder: File exists"):
        model.save_pretrained(tmp_path / "file")
    with pytest.raises(ModelFileError, match="cannot be made a folder: Not a directory"):
        model.save_pretrained(tmp_path / "file" / "below")
    model.save_pretrained(tmp_path / "new" / "deep")
    assert (tmp_path / "new" / "deep" / "model.safetensors").exists()


def test_slices_give_the_same_bytes(tmp_path, monkeypatch):
    config = tiny_models.llama_config(head_dim=24, attention_bias=True)
    weights = tiny_models.random_weights(config)
    model = load(tiny_models.write_gguf(tmp_path / "m.gguf", config, weights))
    monkeypatch.setattr("pyllm.auto.saving.AT_ONCE", 64 * 30)
    model.save_pretrained(tmp_path / "out")
    assert stored(tmp_path / "out") == stored(tiny_models.write_folder(tmp_path / "m", config, weights))


@pytest.mark.parametrize("dim, theta, factor, low, high, context", [
    (128, 5e5, 8.0, 1.0, 4.0, 8192), (64, 5e5, 32.0, 1.0, 4.0, 8192), (64, 1e6, 4.5, 2.0, 5.1, 4096),
    (16, 1e4, 8.0, 1.0, 4.0, 32), (16, 1e4, 8.0, 1.0, 1.1, 32),
])  # fmt: skip
def test_the_rule_behind_a_files_divisors(dim, theta, factor, low, high, context):
    rule = {"type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high}
    rule |= {"original_max_position_embeddings": context}
    plain = np.array(rotary_frequencies(dim, theta, None)[0])
    divisors = (plain / rotary_frequencies(dim, theta, rule)[0]).astype(np.float32).tolist()
    found = llama3_rule(divisors, dim, theta)
    np.testing.assert_allclose(plain / rotary_frequencies(dim, theta, found)[0], divisors, rtol=1e-5)
    if (low, high, context) == (1.0, 4.0, 8192):
        assert found == rule
    with pytest.raises(ValueError, match="divisors that follow no rule"):
        llama3_rule([*divisors[:-1], divisors[-1] * 1.1], dim, theta)
