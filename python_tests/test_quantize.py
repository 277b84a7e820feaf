"""Storage types byte for byte as PyPI's `gguf` writes them, and GGUF files rewritten in them."""

import json

import gguf
import numpy as np
import pytest
import tiny_models

import pyllm
from pyllm.auto import new_config, new_model
from pyllm.cli import main
from pyllm.errors import ModelFileError
from pyllm.formats import GGUF
from pyllm.formats.encode import WRITABLE, decode, encode
from pyllm.formats.gguf_quantize import quantize, stored_type

BLOCKS = ("Q8_0", "Q4_0", "Q4_1")


def numbers(kind, rows=96, k=160):
    rng = np.random.default_rng(len(kind))
    x = rng.standard_normal((rows, k))
    if kind == "ties":  # both ends of a block are as far from zero, and halves fall between two steps
        x = rng.integers(-4, 5, (rows, k)) * 0.5
    if kind == "scales":
        x *= rng.choice([0.0, 1e-6, 1e-3, 1.0, 1e3], (rows, k))
    if kind == "zeros":
        x[:, :64] = 0
    return x.astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "ties", "scales", "zeros"])
@pytest.mark.parametrize("dtype", WRITABLE)
def test_bytes_equal_those_of_gguf(dtype, kind):
    for x in (numbers(kind), -numbers(kind)):
        theirs = gguf.quantize(x, gguf.GGMLQuantizationType[dtype]).view(np.uint8).reshape(len(x), -1)
        assert np.array_equal(encode(dtype, x), theirs)
        back = gguf.dequantize(theirs, gguf.GGMLQuantizationType[dtype]).reshape(x.shape)
        assert np.array_equal(decode(dtype, encode(dtype, x), *x.shape), back)


@pytest.mark.parametrize("dtype", BLOCKS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 3e38])
def test_a_block_holds_finite_numbers_only(dtype, wrong):
    x = numbers("normal")
    x[7, 33] = wrong
    with pytest.raises(ValueError, match="encode: "):
        encode(dtype, x)


def test_what_encode_refuses():
    with pytest.raises(ValueError, match=r"encode: 70000 as float16; at most 65,504"):
        encode("F16", np.float32([[1, 70000]]))
    with pytest.raises(ValueError, match="rows of 33 numbers; a multiple of 32, the block of Q4_0"):
        encode("Q4_0", np.zeros((2, 33), np.float32))
    with pytest.raises(ValueError, match="type Q6_K; pyllm writes F32, F16, BF16, Q8_0, Q4_0, Q4_1"):
        encode("Q6_K", np.zeros((1, 256), np.float32))
    assert np.isinf(encode("F16", np.float32([[np.inf, -np.inf]])).view(np.float16)).all()
    tiny = np.full((1, 32), 1e-40, np.float32)  # 1 / scale overflows: zeros, not garbage
    assert all((decode(dtype, encode(dtype, tiny), 1, 32) == 0).all() for dtype in BLOCKS)


def test_which_tensor_is_stored_as_what():
    matrix = (64, 64)
    assert stored_type("blk.0.attn_norm.weight", (64,), "Q4_0", "output.weight") == "F32"
    assert stored_type("position_embd.weight", matrix, "Q4_0", "output.weight") == "F32"
    assert stored_type("output.weight", matrix, "Q4_1", "output.weight") == "Q8_0"
    assert stored_type("token_embd.weight", matrix, "Q4_1", "token_embd.weight") == "Q8_0"
    assert stored_type("token_embd.weight", matrix, "Q4_1", "output.weight") == "Q4_1"
    assert stored_type("output.weight", matrix, "F16", "output.weight") == "F16"
    assert stored_type("blk.0.ffn_down.weight", (64, 97), "Q8_0", "output.weight") == "F16"


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request, tmp_path_factory):
    config = getattr(tiny_models, f"{request.param}_config")()
    weights = tiny_models.random_weights(config, seed=3)
    return tiny_models.write_gguf(tmp_path_factory.mktemp("models") / "m.gguf", config, weights, "F32")


def fields(path):
    return {key: value.contents() for key, value in gguf.GGUFReader(path).fields.items() if not key.startswith("GGUF.")}


@pytest.mark.parametrize("dtype", WRITABLE)
def test_a_file_in_another_type(model, tmp_path, dtype):
    out = tmp_path / "out.gguf"
    sizes = []
    changes = quantize(model, out, dtype, check=True, report=lambda done, total: sizes.append((done, total)))
    before, after = (
        {t.name: np.ascontiguousarray(t.data) for t in gguf.GGUFReader(p).tensors} for p in (model, out)
    )
    assert [each.name for each in changes] == list(before) == list(after)
    head = "output.weight" if "output.weight" in before else "token_embd.weight"
    for change in changes:
        assert change.new == stored_type(change.name, before[change.name].shape, dtype, head)
        kind = gguf.GGMLQuantizationType[change.new]
        theirs = gguf.quantize(before[change.name], kind)
        assert np.array_equal(after[change.name].view(np.uint8), theirs.view(np.uint8))
        lost = gguf.dequantize(theirs, kind).reshape(before[change.name].shape) - before[change.name]
        expected = np.linalg.norm(lost) / np.linalg.norm(before[change.name])
        assert change.error == pytest.approx(expected, rel=1e-3, abs=1e-9)
    number = int(gguf.LlamaFileType[("ALL_" if dtype == "F32" else "MOSTLY_") + dtype])
    assert fields(out) == fields(model) | {"general.file_type": number, "general.quantization_version": 2}
    assert sizes[-1] == (out.stat().st_size, out.stat().st_size)
    ids = np.arange(40)[None]
    assert np.isfinite(pyllm.AutoModelForCausalLM.from_pretrained(out)(ids).logits).all()


def test_one_slice_at_a_time_gives_the_same_bytes(model, tmp_path, monkeypatch):
    quantize(model, tmp_path / "whole.gguf", "Q4_1")
    monkeypatch.setattr("pyllm.formats.gguf_quantize.AT_ONCE", 1000)
    quantize(model, tmp_path / "sliced.gguf", "Q4_1")
    assert (tmp_path / "whole.gguf").read_bytes() == (tmp_path / "sliced.gguf").read_bytes()


def test_every_kind_of_metadata_is_copied(tmp_path):
    source = tmp_path / "in.gguf"
    writer = gguf.GGUFWriter(source, "other")  # an architecture that pyllm does not run
    for kind in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"):
        getattr(writer, f"add_{kind}")(f"x.{kind}", 7)
    writer.add_bool("x.bool", True)
    writer.add_string("x.text", "grün")
    writer.add_array("x.texts", ["a", "", "é"])
    writer.add_array("x.numbers", [1, -2, 3])
    writer.add_tensor("w.weight", numbers("normal", 3, 64))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    quantize(source, tmp_path / "out.gguf", "Q8_0")
    theirs, ours = (gguf.GGUFReader(p).fields for p in (source, tmp_path / "out.gguf"))
    for key in theirs:
        if key.startswith(("x.", "general.a")):
            assert ours[key].types == theirs[key].types and ours[key].contents() == theirs[key].contents()


def test_block_types_become_others_only_when_asked(model, tmp_path):
    small, out = tmp_path / "small.gguf", tmp_path / "out.gguf"
    quantize(model, small, "Q8_0")
    with pytest.raises(ModelFileError, match="Q8_0 to Q4_0 would lose twice"):
        quantize(small, out, "Q4_0")
    assert not out.exists()
    quantize(small, out, "Q4_0", allow_requantize=True)
    quantize(out, tmp_path / "float.gguf", "F16")  # to a float type nothing more is lost than its rounding
    with GGUF(tmp_path / "float.gguf") as file:
        assert {each.dtype for each in file.tensors.values()} == {"F16", "F32"}


def test_numbers_that_a_type_cannot_hold_name_the_tensor(tmp_path):
    config = tiny_models.llama_config()
    weights = tiny_models.random_weights(config)
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = 1e6
    path = tiny_models.write_gguf(tmp_path / "m.gguf", config, weights, "F32")
    with pytest.raises(ModelFileError, match=r"m.gguf: tensor 'blk.1.ffn_up.weight': encode: 1e\+06 as float16"):
        quantize(path, tmp_path / "out.gguf", "F16")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.gguf"]
    with pytest.raises(ValueError, match="quantize: type is 'Q6_K', allowed are F32"):
        quantize(path, tmp_path / "out.gguf", "Q6_K")


def test_the_verb(model, tmp_path, capsys):
    out = tmp_path / "q.gguf"
    assert main.main(["quantize", str(model), str(out), "q8_0", "--check", "--json"]) == 0
    printed, told = capsys.readouterr()
    data = json.loads(printed)
    assert data["bytes"] == out.stat().st_size and {"F32 Q8_0", "F32 F32"} <= {
        f"{each['old']} {each['new']}" for each in data["tensors"]
    }
    assert "writing q.gguf" in told and "q.gguf: written in" in told
    assert main.main(["quantize", str(model), str(out), "Q4_0"]) == 1
    assert "q.gguf: exists already; another name, or overwrite" in capsys.readouterr().err
    assert main.main(["quantize", str(model), str(out), "Q4_0", "--overwrite", "--check"]) == 0
    assert "F32 -> Q4_0" in capsys.readouterr().out
    assert main.main(["quantize", str(model), str(out), "--overwrite", "--check", "Q8_0"]) == 0  # flags anywhere
    assert "F32 -> Q8_0" in capsys.readouterr().out
    folder = tiny_models.write_folder(tmp_path / "m", tiny_models.llama_config(), {})
    assert main.main(["quantize", str(folder), str(out), "Q4_0"]) == 2
    assert "`pyllm convert` makes a GGUF file of it" in capsys.readouterr().err
    sizes = {"embedding_size": 4, "hidden_size": 4, "num_hidden_layers": 1, "vocab_size": 9}
    new_model(new_config("lstm", **sizes)).save_pretrained(tmp_path / "lstm")
    assert main.main(["quantize", str(tmp_path / "lstm"), str(out), "Q4_0"]) == 2
    told = capsys.readouterr().err
    assert "a folder of rnn, for which GGUF has no architecture" in told and "convert" not in told
