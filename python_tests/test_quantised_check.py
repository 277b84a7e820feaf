"""`pyllm quantize --check MODEL TYPE`: errors of matrices and answers, beside ggml, transformers and torch."""

import json
import shutil

import gguf
import numpy as np
import pytest
import torch
import transformers
from test_cli_training import run, said
from test_pretraining import ENCODER

import pyllm
from pyllm.auto.encoders import AUTO
from pyllm.auto.new import new_config, new_model
from pyllm.evaluate import quantised

LLAMA = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA |= {"num_key_value_heads": 2, "max_position_embeddings": 64}
BART = {"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4}
BART |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "max_position_embeddings": 64}
T5 = {"d_model": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4, "d_ff": 96, "d_kv": 16}
START = {"decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 40}
BERT = ENCODER | {"max_position_embeddings": 40, "pad_token_id": 0}
FOLDERS = {
    "bert": ("bert", "Model", BERT),
    "distilbert": ("distilbert", "ForSequenceClassification", DISTILBERT),
    "albert": ("albert", "ForPreTraining", BERT | {"embedding_size": 32}),
    "roberta": ("roberta", "ForMaskedLM", BERT | {"max_position_embeddings": 42}),
    "llama": ("llama", None, LLAMA),
    "lstm": ("lstm", None, {"embedding_size": 64, "hidden_size": 64, "num_hidden_layers": 1}),
    "bart": ("bart", None, BART | START),
    "t5": ("t5", None, T5 | START),
}
ENCODERS, PAIRS = [name for name, (_, task, _) in FOLDERS.items() if task], ["bart", "t5"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of each family with random weights, wider than at first, and a tokenizer."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = pyllm.text.train([quantised.SAMPLE], vocab=320, special=["<mask>"])
    for name, (family, task, fields) in FOLDERS.items():
        config = new_config(family, vocab_size=tokenizer.vocab_size, **fields)
        model = new_model(config, 3) if task is None else AUTO[task].from_config(config, 3)
        for each in model.learned().values():
            if len(each.shape) > 1:
                each.value.data[...] *= 4.0
        model.eval().save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


def rows_of(folder, name, dtype="q8_0"):
    """(the texts as the check reads them, the folder's model with matrices of a type)."""
    tokenizer = pyllm.AutoTokenizer.from_pretrained(folder)
    auto = AUTO[FOLDERS[name][1]] if name in ENCODERS else pyllm.AutoModelForCausalLM
    auto = pyllm.AutoModelForSeq2SeqLM if name in PAIRS else auto
    model = auto.from_pretrained(folder, dtype=dtype)
    longest = min(quantised.PIECE, model.context_length)
    return quantised.pieces(tokenizer, quantised.SAMPLE, longest, name in ENCODERS, name in PAIRS), model


def differences(pairs):
    """What a check must say of next tokens, by torch, of pairs of logits (tokens, vocabulary)."""
    one, other = (torch.cat([torch.tensor(np.asarray(each[i], np.float64)) for each in pairs]) for i in (0, 1))
    kl = torch.nn.functional.kl_div(other.log_softmax(1), one.log_softmax(1), log_target=True, reduction="none").sum(1)
    same = (one.argmax(1) == other.argmax(1)).double().mean()
    return float(kl.mean()), float(kl.max()), float(same), float((one - other).abs().max())


@pytest.mark.parametrize("name", FOLDERS)
def test_errors_of_matrices_are_those_of_ggmls_rounding(place, name, capsys):
    assert run(place, "quantize", "--check", f"@{name}", "q8_0", "--json") == 0
    facts, _ = said(capsys)
    auto = pyllm.AutoModelForCausalLM if name == "lstm" else transformers.AutoModel
    state = auto.from_pretrained(place / name).state_dict()
    table = max((np.asarray(each) for each in state.values()), key=lambda each: each.shape[0] * (each.ndim == 2))
    kind = gguf.GGMLQuantizationType.Q8_0
    lost = gguf.dequantize(gguf.quantize(np.ascontiguousarray(table), kind), kind) - table
    wanted = np.linalg.norm(lost) / np.linalg.norm(table)
    errors = [each["error"] for each in facts["weights"] if each["matrices"] == 1]
    assert min(abs(each - wanted) for each in errors) < 1e-6 * wanted
    assert all(1e-3 < each["error"] <= each["worst"] < 0.02 for each in facts["weights"])
    layers = [each["kind"] for each in facts["weights"] if "layers.*." in each["kind"]]
    assert len(layers) == len(set(layers)) and facts["type"] == "q8_0" and facts["tokens"] > 500


@pytest.mark.parametrize("name", ENCODERS)
def test_cosines_of_an_encoder_are_those_to_transformers(place, name, capsys):
    assert run(place, "quantize", "--check", f"@{name}", "q8_0", "--json") == 0
    found = said(capsys)[0]["model"]
    rows, ours = rows_of(place / name, name)
    architecture = json.loads((place / name / "config.json").read_text())["architectures"][0]
    theirs = getattr(transformers, architecture).from_pretrained(place / name).eval()
    assert theirs.config.model_type == name
    apart, cosines, pooled = dict[str, float](), [], []
    for row in rows:
        with torch.no_grad():
            exact = theirs(torch.tensor(row[None].astype(np.int64)), output_hidden_states=True)
        rough = ours(row[None], output_hidden_states=True)
        one, other = exact.hidden_states[-1][0], torch.tensor(np.asarray(rough.hidden_states[-1][0]))
        cosines += torch.cosine_similarity(one, other, dim=1).tolist()
        pooled.append(float(torch.cosine_similarity(one.mean(0), other.mean(0), dim=0)))
        for key in (each for each in rough._fields if each.endswith("logits")):
            theirs_key = key if hasattr(exact, key) else "sop_logits"
            difference = np.abs(np.asarray(getattr(rough, key)) - getattr(exact, theirs_key).numpy()).max()
            apart[key] = max(apart.get(key, 0.0), float(difference))
    for key, wanted in (("rows", cosines), ("vectors", pooled)):
        assert abs(found[key]["cosine"] - np.mean(wanted)) < 1e-6 and abs(found[key]["least"] - min(wanted)) < 1e-6
        assert found[key]["least"] < 1 - 1e-6
    logits = {key for key in found if key.endswith("logits")}
    assert logits == set(apart) and bool(logits) == (FOLDERS[name][1] != "Model")
    for key in logits:
        assert abs(found[key]["difference"] - apart[key]) < 1e-4 * found[key]["largest"] < np.inf
        assert found[key]["difference"] > 1e-3 * found[key]["largest"]


@pytest.mark.parametrize("name", ["llama", *PAIRS])
def test_next_tokens_are_compared_with_transformers(place, name, capsys):
    assert run(place, "quantize", "--check", f"@{name}", "q4_0", "--json") == 0
    found = said(capsys)[0]["model"]
    rows, ours = rows_of(place / name, name, "q4_0")
    auto = transformers.AutoModelForSeq2SeqLM if name in PAIRS else transformers.AutoModelForCausalLM
    theirs = auto.from_pretrained(place / name).eval()
    pairs = []
    for row in rows:
        ids = torch.tensor(row[None].astype(np.int64))
        with torch.no_grad():
            if name in PAIRS:
                most = {"max_new_tokens": quantised.NEW, "num_beams": 1, "do_sample": False}
                target = theirs.generate(ids, **most)[:, :-1]
                exact = theirs(ids, decoder_input_ids=target).logits[0].numpy()
                pairs.append((exact, ours.forward(row, target[0].numpy())))
            else:
                pairs.append((theirs(ids).logits[0].numpy(), ours(row[None]).logits[0]))
    kl, most_kl, same, difference = differences(pairs)
    assert found["judged"] == sum(len(each) for each, _ in pairs)
    assert found["kl"] == pytest.approx(kl, rel=1e-3) and found["most_kl"] == pytest.approx(most_kl, rel=1e-2)
    assert found["same_top"] == pytest.approx(same) and found["same_top"] < 1
    assert found["logits"]["difference"] == pytest.approx(difference, rel=1e-3)


def test_types_are_told_apart(place, tmp_path, capsys):
    texts = ["--text", str(tmp_path / "text.txt")]
    (tmp_path / "text.txt").write_text("The fox.\nAnd so on.\n\nA town\n" + "\n" + "long " * 100)
    errors = {}
    for kind in ("int8", "q8_0", "Q4_0", "q4_1", "bfloat16", "BF16", "float16"):
        assert run(place, "quantize", "@llama", "--check", kind, "--json", *texts) == 0
        facts, _ = said(capsys)
        errors[kind] = [each["error"] for each in facts["weights"]]
        assert facts["texts"] >= 4
    assert errors["bfloat16"] == errors["BF16"] and max(errors["float16"]) < 5e-4 < min(errors["bfloat16"])
    assert max(errors["bfloat16"]) < min(errors["q8_0"]) and max(errors["q8_0"] + errors["int8"]) < min(errors["q4_1"])
    for each in errors["q4_1"]:
        assert each < max(errors["Q4_0"])
    assert run(place, "quantize", "--check", "@distilbert", "int8") == 0
    out = capsys.readouterr().out
    assert "layers.*.attention.q.weight" in out and "vectors: cosine 0." in out and "logits: differ by" in out
    assert run(place, "quantize", "--check", "@t5", "q4_0") == 0
    assert "next token: KL" in capsys.readouterr().out


def test_a_sentence_encoders_folder_says_how_rows_are_pooled(place, tmp_path):
    shutil.copytree(place / "bert", tmp_path / "s")
    kinds = [{"type": f"sentence_transformers.models.{each}", "path": path} for each, path in
             (("Transformer", ""), ("Pooling", "1_Pooling"))]  # fmt: skip
    (tmp_path / "s" / "modules.json").write_text(json.dumps(kinds))
    (tmp_path / "s" / "1_Pooling").mkdir()
    (tmp_path / "s" / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    found = quantised.check(tmp_path / "s", "q4_0")["model"]["vectors"]
    rows, _ = rows_of(tmp_path / "s", "bert")
    models = [AUTO["Model"].from_pretrained(tmp_path / "s", dtype=each) for each in ("float32", "q4_0")]
    one, other = (torch.tensor(np.array([np.asarray(model(row[None])[0][0, 0]) for row in rows])) for model in models)
    assert found["cosine"] == pytest.approx(float(torch.cosine_similarity(one, other).mean()), abs=1e-6)
    assert found != quantised.check(place / "bert", "q4_0")["model"]["vectors"]


def test_what_is_refused(place, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text(" \n")
    for words, code, error in (
        (["@llama", "q8_0"], 2, "IN OUT TYPE are wanted"),
        (["--check", "@llama", "q9_0"], 2, "'q9_0': one of F32"),
        (["--check", "@llama", "F32"], 2, "float32 is what is compared with"),
        (["--check", "@llama", "q8_0", "--overwrite"], 2, "IN OUT TYPE are wanted"),
        (["@llama", "@x.gguf", "int8"], 2, "INT8: only to check a model"),
        (["@llama", "@x.gguf", "q8_0", "--text", "a"], 2, "--text: only to check a model"),
        (["--check", "@llama", "q8_0", "--text", str(tmp_path / "empty.txt")], 1, "no token"),
        (["--check", "@llama", "q8_0", "--text", str(tmp_path / "none.txt")], 1, "none.txt"),
        (["--check", "@nothing", "q8_0"], 1, "nothing"),
    ):
        assert run(place, "quantize", *words) == code
        assert error in capsys.readouterr().err
    assert not (place / "x.gguf").exists()
    odd = new_model(new_config("gpt2", n_embd=36, n_layer=1, n_head=2, n_positions=32, vocab_size=320), 0)
    odd.eval().save_pretrained(tmp_path / "odd")
    pyllm.AutoTokenizer.from_pretrained(place / "llama").save_pretrained(tmp_path / "odd")
    with pytest.raises(ValueError, match="Q8_0 needs rows of a multiple of 32 inputs, found 36"):
        quantised.check(tmp_path / "odd", "q8_0")
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 96}
    new_model(new_config("vit", **sizes, image_size=32), 0).eval().save_pretrained(tmp_path / "odd")
    with pytest.raises(pyllm.ModelFileError, match="'model_type': vit; a family that continues texts"):
        quantised.check(tmp_path / "odd", "q8_0")
