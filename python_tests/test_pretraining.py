"""Pretraining by every objective, in the command's own words and from Python; what is learned, refused and resumed."""

import json
import re
import sys
from itertools import pairwise

import data_corpora
import numpy as np
import pytest
import torch
import transformers
from test_cli_training import run, said
from tiny_training import end_of

import pyllm
from pyllm.auto.encoders import AutoModelForPreTraining
from pyllm.data import IGNORED, Shards, fingerprint
from pyllm.errors import TokenizerError
from pyllm.evaluate.objectives import measure
from pyllm.train import Callback, TrainingArguments
from pyllm.train.language import pretrain
from pyllm.train.objectives import segments

ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SMALL = {"d_model": 32, "nhead": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "dim_feedforward": 64}
BART = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in
        (("layers", 1), ("ffn_dim", 64), ("attention_heads", 2))} | {"d_model": 32}  # fmt: skip
CASES = {
    "mlm": ("bert", ENCODER | {"max_position_embeddings": 64}),
    "mlm+nsp": ("bert", ENCODER | {"max_position_embeddings": 64}),
    "span": ("transformer", SMALL),
    "denoise": ("transformer", SMALL),
    "prefix": ("gpt2", {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 48}),
}
MORE = {
    "roberta": ("mlm", ENCODER | {"max_position_embeddings": 64}),
    "distilbert": ("mlm", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64}),
    "albert": ("mlm", ENCODER | {"embedding_size": 16, "max_position_embeddings": 64}),
    "seq2seq": ("prefix", {"embedding_size": 16, "hidden_size": 24, "num_layers": 1, "attention": "general"}),
    "t5": ("span", {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "dropout_rate": 0.0}),
    "bart": ("denoise", BART | {"max_position_embeddings": 64, "dropout": 0.0}),
    "lstm": ("prefix", {"embedding_size": 16, "hidden_size": 24, "num_hidden_layers": 1}),
}


def text_of(i):
    """Sentences in which many words follow from the one before."""
    rng = np.random.default_rng(i)
    follow, word, found = data_corpora.WORDS[1:] + data_corpora.WORDS[:1], "the", []
    for n in range(90):
        word = follow[data_corpora.WORDS.index(word)] if rng.random() < 0.8 else str(rng.choice(data_corpora.WORDS))
        found.append(word + "." if n % 11 == 10 else word)
    return " ".join(found)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objectives")
    (folder / "in.txt").write_text("\n\n".join(text_of(i) for i in range(60)))
    words = ["tokenizer", "train", "@in.txt", "-o", "@tok", "--vocab", "330", "--special", "<mask>", "--sentinels", "9"]
    assert run(folder, *words) == 0
    words = ["data", "prepare", "@in.txt", "--tokenizer", "@tok", "-o", "@shards", "--valid", "0.2"]
    assert run(folder, *words, "--separator", "blank") == 0
    return folder


def told(out, **changes):
    usual = {"per_device_train_batch_size": 4, "max_steps": 6, "save_steps": 2, "eval_steps": 3, "learning_rate": 3e-3}
    return TrainingArguments(output_dir=str(out), **(usual | changes))


class Stop(Callback):
    """Ends a run after so many of its own steps."""

    def __init__(self, steps):
        self.left = steps

    def on_step_end(self, trainer, values):
        self.left -= 1
        if not self.left:
            trainer.stop()


@pytest.mark.parametrize("objective", CASES)
def test_stopped_and_taken_up_again_it_ends_with_the_same_bytes(place, tmp_path, objective):
    family, fields = CASES[objective]
    given = family, fields, str(place / "shards")
    whole = pretrain(*given, told(tmp_path / "a"), 48, objective=objective)
    assert whole.complete and whole.valid_loss is not None
    for steps in (1, 2, 99):
        result = pretrain(*given, told(tmp_path / "b"), 48, callbacks=[Stop(steps)], objective=objective)
    assert result.complete and end_of(tmp_path / "a") == end_of(tmp_path / "b")
    about = json.loads((tmp_path / "b" / "run.json").read_text())
    assert about["objective"]["name"] == objective and about["model"] in ("BERT", "Transformer", "GPT2")
    assert [each["step"] for each in about["samples"]] == sorted([3, 6] * (len(about["samples"]) // 2))
    facts = measure(str(tmp_path / "b"), str(place / "shards"), "valid", objective, 48)
    exact = facts["loss"] + facts.get("next_loss", 0.0)
    assert abs(exact - whole.valid_loss) < 0.03 and facts["targets"] > 100  # of the mean of both, and of the sum's


@pytest.mark.parametrize(("family", "name", "steps"), [("t5", "T5", 160), ("bart", "Bart", 260)])
def test_text_to_text_goes_on_from_a_pretrained_model(place, tmp_path, family, name, steps, capsys):
    objective, fields = MORE[family]
    pretrain(family, fields, str(place / "shards"), told(tmp_path / "r"), 40, objective=objective)
    words = ["quick", "brown", "fox", "dog"]
    pairs = [{"prompt": f"say {a} {b}", "completion": b} for a in words for b in words] * 8
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in pairs))
    out = ["--out", "@f", "--steps", str(steps), "--lr", "5e-3", "--batch", "16", "--warmup", "10"]
    assert run(tmp_path, "finetune", "@r", "--data", "@pairs.jsonl", "--valid", "@pairs.jsonl", *out) == 0
    capsys.readouterr()
    assert run(tmp_path, "translate", "@f", "say brown dog") == 0
    assert capsys.readouterr().out.strip() in words
    flags = ["--metric", "accuracy", "--samples", "16", "--json"]
    assert run(tmp_path, "eval", "@f", "--data", "@pairs.jsonl", *flags) == 0
    assert said(capsys)[0]["accuracy"] > 0.6  # of all 16; chance is 0.25
    theirs = getattr(transformers, f"{name}ForConditionalGeneration").from_pretrained(tmp_path / "f").eval()
    model = pyllm.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "f")
    tokenizer = pyllm.AutoTokenizer.from_pretrained(tmp_path / "f")
    source = [*tokenizer.encode("say fox quick", add_special_tokens=False), tokenizer.eos_token_id]
    target = [model.start_id, *tokenizer.encode("quick", add_special_tokens=False)]
    with torch.no_grad():
        exact = theirs(torch.tensor([source]), decoder_input_ids=torch.tensor([target])).logits[0].numpy()
    mine = model([source], decoder_input_ids=[target]).logits[0]
    assert np.abs(mine - exact).max() <= 1e-4 * np.abs(exact).max()


@pytest.mark.parametrize("kind", ["bpe", "word"])
def test_folders_say_how_texts_were_read(tmp_path, capsys, monkeypatch, kind):
    """What stood around texts, and the mask, for transformers and for whoever has no `tokenizers`."""
    (tmp_path / "in.txt").write_text("\n\n".join(f"the fox sees {i} dogs . it likes the dog ." for i in range(40)))
    flags = ["--kind", kind, "--vocab", "300", "--special", "<mask>", "--sentinels", "8"]
    assert run(tmp_path, "tokenizer", "train", "@in.txt", "-o", "@tok", *flags) == 0
    flags = ["--tokenizer", "@tok", "-o", "@shards", "--separator", "blank"]
    assert run(tmp_path, "data", "prepare", "@in.txt", *flags) == 0
    for family, fields in (("bert", CASES["mlm"][1]), ("t5", MORE["t5"][1])):
        pretrain(family, fields, str(tmp_path / "shards"), told(tmp_path / family, max_steps=2), 24)
        assert run(tmp_path, "eval", f"@{family}", "--data", "@shards", "--split", "train") == 0
    capsys.readouterr()
    texts = ["the fox <mask> dogs", "it <mask><mask>", "", "the fox likes it"]
    mine = [pyllm.AutoTokenizer.from_pretrained(tmp_path / family) for family in ("bert", "t5")]
    for tokenizer, family in zip(mine, ("bert", "t5"), strict=True):
        exact = transformers.AutoTokenizer.from_pretrained(tmp_path / family)(texts)["input_ids"]
        assert tokenizer(texts, allow_special=True).input_ids == exact
        end, around = tokenizer.eos_token_id, family == "bert"
        assert all(row[-1] == end and (row[0] == end or not around) for row in exact)
    found = pyllm.pipeline("fill-mask", tmp_path / "bert")(texts[0])
    theirs = transformers.pipeline("fill-mask", str(tmp_path / "bert"))(texts[0])
    assert [each["token"] for each in found] == [each["token"] for each in theirs]
    assert np.allclose([each["score"] for each in found], [each["score"] for each in theirs], atol=1e-5)
    assert run(tmp_path, "fill", "@bert", texts[0]) == 0
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "bert")
    whole, pair = (theirs(*each)["input_ids"] for each in (texts[3:], ("fox", "sees dogs")))
    kinds = theirs("fox", "sees dogs", return_token_type_ids=True)["token_type_ids"]
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    native = pyllm.AutoTokenizer.from_pretrained(tmp_path / "bert")
    assert native(texts, allow_special=True).input_ids == mine[0](texts, allow_special=True).input_ids
    assert native("fox", "sees dogs") == {"input_ids": pair, "token_type_ids": kinds, "attention_mask": [1] * len(pair)}
    for most in (2, 3, 6):
        assert native(texts[3], truncation=True, max_length=most).input_ids == [pair[0], *whole[1 : most - 1], pair[0]]
    with pytest.raises(TokenizerError, match="pairs are not cut"):
        native("fox", "sees dogs", truncation=True, max_length=5)
    assert fingerprint(native) == fingerprint(mine[0]) and native.mask_token == "<mask>"


@pytest.mark.parametrize("family", MORE)
def test_other_families_learn_what_is_theirs(place, tmp_path, family):
    objective, fields = MORE[family]
    result = pretrain(family, fields, str(place / "shards"), told(tmp_path / "r"), 40, objective=objective)
    assert result.complete and np.isfinite(result.loss)
    facts = measure(str(tmp_path / "r"), str(place / "shards"), "valid", objective, 40)
    assert abs(facts["loss"] - result.valid_loss) < 0.03


def test_another_objective_does_not_go_on(place, tmp_path):
    family, fields = CASES["mlm"]
    given = family, fields, str(place / "shards")
    pretrain(*given, told(tmp_path / "r", max_steps=2), 48)  # masked words are an encoder's usual objective
    assert json.loads((tmp_path / "r" / "run.json").read_text())["objective"]["name"] == "mlm"
    with pytest.raises(ValueError, match="objective"):
        pretrain(*given, told(tmp_path / "r", max_steps=2), 48, objective="mlm+nsp")


def test_the_share_that_is_hidden_is_the_commands_and_the_evaluations(place, tmp_path, capsys):
    words = ["pretrain", "--model", "bert", "--config", ",".join(f"{k}={v}" for k, v in CASES["mlm"][1].items()),
             "--data", str(place / "shards"), "--context", "48", "--steps", "2", "--mask-rate"]  # fmt: skip
    run_folder = str(tmp_path / "run")
    assert run(place, *words, "0.4", "--out", run_folder) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["objective"]["rate"] == 0.4
    targets = measure(run_folder, str(place / "shards"))["targets"]
    pretrain("bert", CASES["mlm"][1], str(place / "shards"), told(tmp_path / "usual"), 48)
    assert targets > 2.2 * measure(str(tmp_path / "usual"), str(place / "shards"))["targets"]
    assert measure(run_folder, str(place / "shards"), asked="mlm+nsp")["targets"] < targets / 2  # the usual share
    assert run(place, *words, "0.3", "--out", run_folder) != 0  # another share is another run
    assert "rate" in capsys.readouterr().err
    assert run(place, *words, "1", "--out", str(tmp_path / "none")) != 0
    assert "a rate of 1, allowed are shares above 0 and below 1" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"a rate of 0.2 for 'next', which hides nothing"):
        pretrain("gpt2", CASES["prefix"][1], str(place / "shards"), told(tmp_path / "next"), 48, rate=0.2)


def test_an_encoder_learns_to_fill_in_words(tmp_path):
    cycle = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and"]
    texts = [" ".join(cycle[(i + n) % 10] for n in range(60 + i)) for i in range(40)]
    (tmp_path / "in.txt").write_text("\n\n".join(texts))
    words = ["tokenizer", "train", "@in.txt", "-o", "@tok", "--kind", "word", "--special", "<mask>"]
    assert run(tmp_path, *words) == 0
    words = ["data", "prepare", "@in.txt", "--tokenizer", "@tok", "-o", "@shards", "--separator", "blank"]
    assert run(tmp_path, *words) == 0
    family, fields = CASES["mlm"]
    a = told(tmp_path / "r", max_steps=250, learning_rate=1e-2, per_device_train_batch_size=8, warmup_steps=10)
    result = pretrain(family, fields | {"hidden_dropout_prob": 0.0}, str(tmp_path / "shards"), a, 32)
    assert result.loss < 1.0  # ten words: 2.3
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "r").eval()
    tokenizer = pyllm.AutoTokenizer.from_pretrained(tmp_path / "r")
    mask, end = tokenizer.convert_tokens_to_ids("<mask>"), tokenizer.eos_token_id
    ids = np.array([end, *tokenizer.encode(texts[3], add_special_tokens=False)[:28], end])
    given = torch.tensor(ids[None])
    given[0, [5, 15]] = mask
    with torch.no_grad():
        best = model(given).logits[0].argmax(axis=-1).numpy()
    assert best[[5, 15]].tolist() == ids[[5, 15]].tolist()


def test_two_segments_are_told_apart():
    ids = np.array([0, 5, 6, 0, 7, 0, 0, 9, 0, 3, 3, 0], np.int32)
    starts = np.array([0, 6, 9, 12], np.int32)
    assert segments(ids, starts, 0).tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    assert segments(np.array([1, 5, 2, 7, 8, 2]), np.array([0, 6]), 2).tolist() == [0, 0, 0, 1, 1, 1]


def test_the_loss_of_two_segments_is_transformers(place, tmp_path):
    family, fields = CASES["mlm+nsp"]
    fields = fields | {"hidden_dropout_prob": 0.0}
    result = pretrain(family, fields, str(place / "shards"), told(tmp_path / "r", bf16=False), 48, objective="mlm+nsp")
    theirs = transformers.BertForPreTraining.from_pretrained(tmp_path / "r").eval()
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "r")
    from pyllm.data.lexicon import Lexicon
    from pyllm.data.tasks import Tasks, objective

    tokenizer = pyllm.AutoTokenizer.from_pretrained(tmp_path / "r")
    data = Tasks(Shards(place / "shards"), 48, objective("mlm+nsp", "encoder", Lexicon(tokenizer)))
    ids, targets, starts = data.batch(0, 1)
    types = segments(ids, starts, tokenizer.eos_token_id)
    words, following = targets[: len(ids)], targets[len(ids) :]
    total = hits = 0.0
    for i, (first, last) in enumerate(pairwise(starts)):
        row = slice(int(first), int(last))
        given = [torch.tensor(each[row][None].astype(np.int64)) for each in (ids, types)]
        with torch.no_grad():
            out = theirs(given[0], token_type_ids=given[1])
        wanted = torch.tensor(words[row].astype(np.int64))
        cost = torch.nn.functional.cross_entropy(
            out.prediction_logits[0], wanted, ignore_index=IGNORED, reduction="sum"
        )
        total, hits = total + float(cost), hits + float((wanted != IGNORED).sum())
        if following[i] != IGNORED:
            other = model([ids[row]], token_type_ids=[types[row]])[1][0]
            assert np.abs(other - out.seq_relationship_logits[0].numpy()).max() < 1e-4
    with pyllm.ops.documents(starts):
        mine = model.loss(ids, words, types).item()
    assert abs(mine - total / hits) < 1e-4 and np.isfinite(result.loss)


def test_the_command_pretrains_measures_and_refuses(place, capsys):
    sizes = "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,intermediate_size=64,max_position_embeddings=40"
    words = ["pretrain", "--data", "@shards", "--steps", "3", "--batch", "2", "--out", "@cli"]
    assert run(place, *words, "--model", "bert", "--config", sizes, "--objective", "mlm+nsp") == 0
    capsys.readouterr()
    assert run(place, "eval", "@cli", "--data", "@shards", "--json") == 0
    facts, _ = said(capsys)
    assert facts["objective"] == "mlm+nsp" and 0 <= facts["next_accuracy"] <= 1
    assert run(place, "eval", "@cli", "--data", "@shards", "--objective", "mlm", "--samples", "2") == 0
    line = capsys.readouterr().out
    assert re.fullmatch(r"mlm: loss \d\.\d+ nats per target, perplexity [\d.]+; \d+ targets\n", line)
    for family, name, allowed in (
        ("bert", "span", "mlm, mlm+nsp"), ("roberta", "mlm+nsp", "mlm"), ("gpt2", "mlm", "next, prefix"),
        ("transformer", "next", "span, denoise, prefix"), ("lstm", "nothing", "next, prefix"),
    ):  # fmt: skip
        assert run(place, *words, "--model", family, "--objective", name) == 1
        error = capsys.readouterr().err
        assert f"{family} cannot learn objective '{name}', allowed are {allowed}" in error
    assert run(place, *words, "--model", "vit") == 1 and "vit learns from images" in capsys.readouterr().err
    assert run(place, "eval", "@cli", "--data", "@shards", "--objective", "span") == 1
    assert "allowed are mlm, mlm+nsp" in capsys.readouterr().err


def test_tokenizers_that_lack_what_is_needed_and_models_too_large(tmp_path, capsys):
    (tmp_path / "in.txt").write_text("\n\n".join(text_of(i) for i in range(8)))
    assert run(tmp_path, "tokenizer", "train", "@in.txt", "-o", "@tok", "--vocab", "300") == 0
    words = ["data", "prepare", "@in.txt", "--tokenizer", "@tok", "-o", "@shards", "--separator", "blank"]
    assert run(tmp_path, *words) == 0
    words = ["pretrain", "--data", "@shards", "--steps", "3", "--batch", "2", "--out", "@r"]
    tiny = ",".join(f"{name}={value}" for name, value in ENCODER.items())
    pairs = ",".join(f"{name}={value}" for name, value in SMALL.items())
    for family, fields, name, error in (
        ("bert", tiny, "mlm", "mlm: tokenizer: has no mask token"),
        ("transformer", pairs, "denoise", "denoise: tokenizer: has no mask token"),
        ("transformer", pairs, "span", "0 sentinels in the tokenizer"),
        ("bert", "hidden_size=65536,num_attention_heads=64,intermediate_size=262144", "mlm", "GB are available"),
    ):
        capsys.readouterr()
        assert run(tmp_path, *words, "--model", family, "--config", fields, "--objective", name) == 1
        assert error in capsys.readouterr().err
    assert run(tmp_path, *words, "--model", "bert", "--config", tiny + ",max_position_embeddings=9") == 1


@pytest.mark.parametrize(("family", "fields", "objective"), (
    ("mpnet", ENCODER | {"max_position_embeddings": 64}, "mlm"),
    ("m2m_100", BART | {"max_position_embeddings": 64}, "denoise"),
))  # fmt: skip
def test_families_whose_places_stand_behind_the_padding_token_need_one(place, tmp_path, family, fields, objective):
    with pytest.raises(ValueError, match=f"{family}: pad_token_id 0, allowed is .* --special '<pad>'"):
        pretrain(family, fields, str(place / "shards"), told(tmp_path / "none"), 48, objective=objective)
    words = ["tokenizer", "train", "@in.txt", "-o", str(tmp_path / "tok"), "--vocab", "330", "--special", "<pad>"]
    assert run(place, *words, "--special", "<mask>") == 0
    words = ["data", "prepare", "@in.txt", "--tokenizer", str(tmp_path / "tok"), "-o", str(tmp_path / "shards")]
    assert run(place, *words) == 0
    pretrain(family, fields, str(tmp_path / "shards"), told(tmp_path / "run"), 48, objective=objective)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["pad_token_id"], config.get("decoder_start_token_id", 0)) == (1, 0)
    kind = transformers.AutoModelForMaskedLM if objective == "mlm" else transformers.AutoModelForSeq2SeqLM
    assert kind.from_pretrained(tmp_path / "run").config.pad_token_id == 1
