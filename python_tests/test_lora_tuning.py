"""Adapters of encoders and encoder-decoders by the command: runs that are PEFT's folders, resumed, merged, refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from lora_torch import called
from safetensors.numpy import load_file, save_file
from test_cli_pairs import SMALL, copies
from test_cli_training import run, said
from test_encoder_tuning import place  # noqa: F401  a fixture
from test_pretraining import Stop, told
from tiny_training import end_of

import pyllm
from pyllm.auto.classifiers import head_of
from pyllm.auto.encoders import AutoModelForTokenClassification
from pyllm.auto.new import new_config
from pyllm.auto.pairs import AutoModelForSeq2SeqLM
from pyllm.data import read_texts
from pyllm.data.tagged import read_tagged
from pyllm.errors import CheckpointError, DoesNotFitError, ModelFileError
from pyllm.evaluate.texts import probabilities
from pyllm.models.fitting import refuse_unless_fits
from pyllm.models.planning import memory
from pyllm.train import LoraConfig, adapting
from pyllm.train.pairs import tune_pairs
from pyllm.train.tagging import finetune_tags
from pyllm.train.texts import TextSettings, finetune_texts

FAST = ["--epochs", "6", "--lr", "1e-2", "--batch", "8"]
TINY_T5 = "d_model=32,d_kv=8,d_ff=48,num_layers=1,num_decoder_layers=1,num_heads=4"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Tiny encoder-decoders that have learned a little, pairs, and a tokenizer."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "train.tsv").write_text(copies(600, 0))
    (folder / "test.tsv").write_text(copies(40, 1))
    assert run(folder, "tokenizer", "train", "@train.tsv", "--kind", "word", "--vocab", "40", "-o", "@tok") == 0
    for family, fields in (("t5", TINY_T5), ("transformer", SMALL)):
        words = ["--data", "@train.tsv", "--tokenizer", "@tok", "--out", f"@{family}", "--steps", "30", "--batch", "32"]
        assert run(folder, "pretrain", "--model", family, "--config", fields, "--lr", "1e-2", *words) == 0
    return folder


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_classes_are_learned_by_an_adapter(place, capsys):  # noqa: F811
    before = bytes_of(place / "bert")
    words = ["finetune", "@bert", "--task", "classify", "--data", "@texts.csv", "--out", "@c", "--lora", "8"]
    assert run(place, *words, *FAST) == 0
    out = capsys.readouterr().out
    assert "2 classes ('a', 'b')" in out and "of which" in out and not (place / "c" / "config.json").exists()
    assert sorted(path.name for path in (place / "c").iterdir() if path.is_dir()) == ["stage-1"]
    config = json.loads((place / "c" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(place / "bert") and config["task_type"] == "SEQ_CLS"
    assert config["modules_to_save"] == ["classifier", "score", "bert.pooler.dense"]  # the encoder had no pooler
    assert head_of(place / "c") == "ForSequenceClassification" and bytes_of(place / "bert") == before
    assert run(place, "eval", "@c", "--data", "@texts.csv", "--metric", "accuracy,f1", "--json") == 0
    assert said(capsys)[0]["accuracy"] > 0.95
    assert run(place, "predict", "@c", "the quick fox", "over the dog", "--json") == 0
    facts, _ = said(capsys)
    assert facts["predictions"] == ["a", "b"] and facts["classes"] == ["a", "b"]
    assert run(place, "info", "@c", "--json") == 0
    facts, _ = said(capsys)
    held = load_file(place / "c" / "adapter_model.safetensors").values()
    assert facts["file"] == str(place / "bert") and facts["architecture"] == "bert"
    sizes = {"parameters": sum(each.size for each in held), "bytes": sum(each.nbytes for each in held)}
    adapter = {"folder": str(place / "c"), "r": 8, "lora_alpha": 16, "task_type": "SEQ_CLS"}
    assert facts["adapter"] == adapter | sizes
    assert run(place, "info", "@c") == 0 and "rank 8, alpha 16" in capsys.readouterr().out
    model = pyllm.AutoModelForSequenceClassification.from_pretrained(place / "c")
    about = json.loads((place / "c" / "run.json").read_text())
    assert about["trained"] == model.num_parameters(only_trainable=True) < about["parameters"] / 4
    ids = np.arange(3, 15)[None]
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(place / "bert").eval()
    wanted = called(theirs, place / "c", input_ids=torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(model(ids).logits, wanted, rtol=1e-4, atol=1e-5)
    assert run(place, "convert", "@c", "-o", "@merged") == 0
    capsys.readouterr()
    assert run(place, "predict", "@merged", "the quick fox", "over the dog", "--json") == 0
    assert said(capsys)[0]["predictions"] == ["a", "b"]
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(place / "merged").eval()
    with torch.no_grad():
        np.testing.assert_allclose(merged(torch.tensor(ids)).logits.numpy(), wanted, rtol=1e-4, atol=1e-5)
    assert merged.config.id2label == {0: "a", 1: "b"}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_decoders_learn_classes_as_peft_has_it(place, tmp_path, family, capsys):  # noqa: F811
    tokenizer = pyllm.AutoTokenizer.from_pretrained(place / "bert")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes = sizes if family == "llama" else {"n_embd": 32, "n_layer": 2, "n_head": 2}
    model = pyllm.AutoModelForCausalLM.from_config(new_config(family, **sizes, vocab_size=tokenizer.vocab_size), 3)
    model.eval().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    data = read_texts(place / "texts.csv")
    settings = TextSettings(recipe="plain", lm_epochs=0.0)
    lora = LoraConfig(4, 8)
    a = told(tmp_path / "r", max_steps=100, learning_rate=1e-2, per_device_train_batch_size=8)
    learned = finetune_texts(str(tmp_path / "base"), data, a, settings, lora=lora)
    assert learned.result.loss < 0.5  # of two classes: 0.69
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=2)
    arrays = load_file(tmp_path / "r" / "adapter_model.safetensors")
    arrays = {name.removeprefix("base_model.model."): torch.tensor(array) for name, array in arrays.items()}
    state = theirs.state_dict() | {"score.weight": arrays["score.weight"]}
    for name in (each for each in arrays if "lora_A" in each):
        change = 2 * arrays[name.replace("lora_A", "lora_B")] @ arrays[name]
        state[name.replace("lora_A.", "")] += change.T if family == "gpt2" else change
    theirs.load_state_dict(state)
    mine = pyllm.AutoModelForSequenceClassification.from_pretrained(tmp_path / "r")
    assert mine.config.framed  # texts as the folder's tokenizer has them, of other authors' folders too
    ids = transformers.AutoTokenizer.from_pretrained(tmp_path / "r")("the lazy fox", return_tensors="pt").input_ids
    with torch.no_grad():
        exact = torch.softmax(theirs.eval()(ids).logits[0], -1).numpy()
    tokenizer = pyllm.AutoTokenizer.from_pretrained(tmp_path / "r")
    assert np.abs(probabilities(mine, tokenizer, ["the lazy fox"])[0] - exact).max() < 1e-5
    assert run(tmp_path, "predict", "@r", "the lazy fox", "--json") == 0
    assert said(capsys)[0]["classes"] == ["a", "b"]
    with pytest.raises(ModelFileError, match="tells classes"):
        pyllm.AutoModelForCausalLM.from_pretrained(tmp_path / "r")
    with pytest.raises(ValueError, match="pooling mean"):
        finetune_texts(str(tmp_path / "base"), data, a, replace(settings, pooling="mean"), lora=lora)


def test_tags_are_learned_by_an_adapter(place, capsys):  # noqa: F811
    words = ["finetune", "@bert", "--task", "tag", "--data", "@tags.conll", "--out", "@t", "--lora", "8"]
    assert run(place, *words, "--lora-targets", "query,value,dense", *FAST) == 0
    assert "precision" in capsys.readouterr().out and head_of(place / "t") == "ForTokenClassification"
    assert run(place, "eval", "@t", "--data", "@tags.conll", "--json") == 0
    assert said(capsys)[0]["f1"] > 0.95
    assert run(place, "predict", "@t", "the quick fox", "dog and") == 0
    assert capsys.readouterr().out == "the\tO\nquick\tO\nfox\tB-ANIMAL\n\ndog\tB-ANIMAL\nand\tO\n"
    model = AutoModelForTokenClassification.from_pretrained(place / "t")
    assert model.config.id2label == {0: "O", 1: "B-ANIMAL"} and set(model.adapters) == {"default"}
    model.merge_and_unload().save_pretrained(place / "plain")
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(place / "plain").eval()
    ids = np.arange(3, 15)[None]
    with torch.no_grad():
        np.testing.assert_allclose(model(ids).logits, theirs(torch.tensor(ids)).logits.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["t5", "transformer"])
def test_targets_are_learned_by_an_adapter(pairs, family, capsys):
    before = bytes_of(pairs / family)
    words = ["finetune", f"@{family}", "--data", "@train.tsv", "--out", f"@l{family}", "--lora", "8", "--batch", "32"]
    assert run(pairs, *words, "--steps", "80", "--lr", "1e-2", "--context", "16") == 0
    losses = [json.loads(line)["loss"] for line in (pairs / f"l{family}" / "log.jsonl").read_text().splitlines()]
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert bytes_of(pairs / family) == before
    config = json.loads((pairs / f"l{family}" / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_2_SEQ_LM" and config["base_model_name_or_path"] == str(pairs / family)
    capsys.readouterr()
    assert run(pairs, "eval", f"@l{family}", "--data", "@test.tsv", "--metric", "accuracy", "--json") == 0
    learned = json.loads(capsys.readouterr().out)["accuracy"]
    assert run(pairs, "eval", f"@{family}", "--data", "@test.tsv", "--metric", "accuracy", "--json") == 0
    assert learned > json.loads(capsys.readouterr().out)["accuracy"]
    assert run(pairs, "translate", f"@l{family}", "b a c") == 0
    text = capsys.readouterr().out
    assert run(pairs, "convert", f"@l{family}", "-o", f"@m{family}") == 0
    assert run(pairs, "translate", f"@m{family}", "b a c") == 0
    assert text == capsys.readouterr().out.splitlines(keepends=True)[-1] and text.strip()
    source, target = [[3, 4, 5]], [[0, 3, 4]]
    model = AutoModelForSeq2SeqLM.from_pretrained(pairs / f"l{family}")
    if family == "t5":
        theirs = transformers.T5ForConditionalGeneration.from_pretrained(pairs / family).eval()
        given = {"input_ids": torch.tensor(source), "decoder_input_ids": torch.tensor(target)}
        wanted = called(theirs, pairs / "lt5", **given).logits.numpy()
        found = model(source, decoder_input_ids=target).logits
        assert np.abs(np.asarray(found) - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("task", ["classify", "tag", "pairs"])
def test_a_stopped_run_ends_with_the_same_bytes(place, pairs, tmp_path, task):  # noqa: F811
    lora = LoraConfig(4, 8.0, 0.2)

    def learn(out, callbacks=()):
        a = told(out, max_steps=12 if task == "pairs" else 0, num_train_epochs=1.0, save_steps=3, eval_steps=0)
        if task == "classify":
            settings, texts = TextSettings("plain", lm_epochs=0), read_texts(place / "texts.csv")
            return finetune_texts(str(place / "bert"), texts, a, settings, callbacks, lora=lora).result
        if task == "tag":
            sentences = read_tagged(place / "tags.conll")
            return finetune_tags(str(place / "bert"), sentences, a, 32, "plain", 0.1, callbacks, lora).result
        return tune_pairs(str(pairs / "t5"), [str(pairs / "train.tsv")], a, 16, None, callbacks, lora=lora)

    assert learn(tmp_path / "one").complete
    assert not any(learn(tmp_path / "two", [Stop(steps)]).complete for steps in (2, 5))
    assert learn(tmp_path / "two").complete
    stage = "" if task == "pairs" else "stage-1"
    assert end_of(tmp_path / "one" / stage) == end_of(tmp_path / "two" / stage)
    one, two = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    tensors = load_file(tmp_path / "one" / "adapter_model.safetensors")
    assert any("lora_B" in name and array.any() for name, array in tensors.items())
    lora = LoraConfig(4, 9.0, 0.2)  # a run goes on as it began, or not at all
    with pytest.raises(CheckpointError, match="lora"):
        learn(tmp_path / "two")


def test_layers_thaw_one_after_the_other_with_their_adapters(place, tmp_path):  # noqa: F811
    a = told(tmp_path / "run", max_steps=0, num_train_epochs=1.0, save_steps=0, eval_steps=0)
    settings = TextSettings("ulmfit", lm_epochs=0)
    texts = read_texts(place / "texts.csv")
    learned = finetune_texts(str(place / "bert"), texts, a, settings, lora=LoraConfig(4))
    assert learned.result.complete
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir()) == [
        "stage-1", "stage-2", "stage-3",
    ]  # fmt: skip


def test_memory_counts_adapter_and_head_and_no_vocabulary(place, monkeypatch):  # noqa: F811
    model = pyllm.AutoModelForSequenceClassification.from_pretrained(place / "bert", num_labels=2)
    model.add_adapter(LoraConfig(r=16, target_modules=["q"])).train()
    plans = []
    monkeypatch.setattr(adapting, "refuse_unless_fits", lambda plan, free: plans.append(plan))
    a = told("unused", per_device_train_batch_size=8)
    adapting.refuse_unless_adapts("bert", model, a, 32)
    rows = {row.name: row.amount for row in memory(plans[0]).rows}
    width = model.config.hidden_size
    head = (width + 1) * 2 + (width + 1) * width  # the classifier, and the pooler that no file had
    assert rows["modules learned whole"] == 16 * head and rows["adapters"] > 0 and "logits" not in rows
    assert 0 <= rows["weights"] - 4 * model.num_parameters() + 4 * 2 * 2 * 16 * width <= 4096
    with pytest.raises(DoesNotFitError, match="modules learned whole"):
        refuse_unless_fits(plans[0], 1000)
    monkeypatch.undo()
    monkeypatch.setattr(adapting, "available", lambda: 1000)
    with pytest.raises(DoesNotFitError, match="training"):
        finetune_texts(str(place / "bert"), read_texts(place / "texts.csv"), a, TextSettings("plain", 0),
                       lora=LoraConfig())  # fmt: skip
    with pytest.raises(DoesNotFitError, match="training"):
        finetune_tags(str(place / "bert"), read_tagged(place / "tags.conll"), a, lora=LoraConfig())


def test_what_is_refused(place, pairs, capsys, monkeypatch):  # noqa: F811
    flags = ["--data", "@texts.csv", "--out", "@x"]
    texts = ["finetune", "@bert", "--task", "classify", "--lora", "4", *flags]
    model = pyllm.AutoModelForSequenceClassification.from_pretrained(place / "bert")
    model.add_adapter(LoraConfig(2)).eval().save_pretrained(place / "adapter")
    pyllm.AutoTokenizer.from_pretrained(place / "bert").save_pretrained(place / "adapter")
    for words, code, error in (
        ([*texts, "--lm-epochs", "1"], 2, "--lm-epochs changes the model, which --lora leaves as it is stored"),
        ([*texts, "--lora-targets", "q_proj"], 1, "'q_proj' is not known; known are q, k, v, o, up, down"),
        (["finetune", "@adapter", "--task", "classify", *flags], 1, "is an adapter; merge it first: pyllm convert"),
        (["finetune", "@adapter", "--task", "classify", "--lora", "4", "--lm-epochs", "0", *flags], 1, "is an adapter"),
        (["finetune", "@adapter", "--task", "tag", "--data", "@tags.conll", "--out", "@x"], 1, ""),
        (["convert", "@adapter", "-o", "@x.gguf"], 1, "an encoder's adapter; a folder as target"),
        (["generate", "-m", "@adapter", "-p", "a"], 1, "bert; a family that continues texts"),
        (["translate", "@adapter", "a"], 1, "'model_type': bert"),
    ):
        assert run(place, *words) == code, words
        assert error in capsys.readouterr().err
        assert not (place / "x").exists() or not list((place / "x").glob("adapter*"))
    model = AutoModelForSeq2SeqLM.from_pretrained(pairs / "t5")
    model.add_adapter(LoraConfig(2)).eval().save_pretrained(pairs / "adapter")
    pyllm.AutoTokenizer.from_pretrained(pairs / "t5").save_pretrained(pairs / "adapter")
    tune = ["--data", "@train.tsv", "--out", "@x"]
    assert run(pairs, "finetune", "@adapter", *tune) == 1 and "is an adapter; merge" in capsys.readouterr().err
    assert run(pairs, "finetune", "@t5", "--lora", "4", "--lora-targets", "x", *tune) == 1
    assert "'x' is not known; known are q, k, v, o, up, down, wi, wo" in capsys.readouterr().err
    assert run(pairs, "convert", "@adapter", "-o", "@x.gguf") == 1
    assert "an encoder-decoder's adapter; a folder as target" in capsys.readouterr().err
    monkeypatch.setattr("pyllm.train.language.available", lambda: 1000)
    assert run(pairs, "finetune", "@t5", "--lora", "4", *tune) == 1 and "adapters" in capsys.readouterr().err


def test_info_of_an_adapter_without_tensors_says_so(place, tmp_path, capsys):  # noqa: F811
    config = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": str(place / "bert")}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({}, tmp_path / "adapter_model.safetensors")
    assert run(tmp_path, "info", str(tmp_path), "--json") == 0
    assert said(capsys)[0]["adapter"]["parameters"] == 0
    (tmp_path / "adapter_model.safetensors").unlink()
    assert run(tmp_path, "info", str(tmp_path)) == 1 and "adapter_model.safetensors" in capsys.readouterr().err
