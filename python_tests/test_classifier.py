"""Text classifiers: pooling, reading in pieces, truncated gradients, transformers' classifier; damaged folders."""

import json
import tracemalloc
from itertools import pairwise

import numpy as np
import pair_models
import pytest
import tiny_families
import tiny_tokenizers
import torch
import transformers
from gradient_checks import parity
from kernel_checks import random, same_bits, threads
from lora_torch import called
from sklearn.metrics import accuracy_score, f1_score

import pyllm
from pyllm import ops
from pyllm.auto import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    new_config,
    new_model,
)
from pyllm.auto.classifiers import save_classifier
from pyllm.cli.main import main
from pyllm.data.labelled import Texts
from pyllm.errors import ModelFileError
from pyllm.evaluate.texts import probabilities
from pyllm.models.classifier import ClassifierConfig, TextClassifier
from pyllm.models.reading import read
from pyllm.optim import AdamW
from pyllm.train import LoraConfig, TrainingArguments
from pyllm.train.texts import TextSettings, finetune_texts

TINY = {
    "awd-lstm": {"embedding_size": 8, "hidden_size": 12, "num_hidden_layers": 2},
    "gru": {"embedding_size": 8, "hidden_size": 12},
    "rnn": {"embedding_size": 8, "hidden_size": 12, "num_hidden_layers": 1},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16},
    "llama": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16},
}
STARTS = np.array([0, 3, 4, 9], np.int32)


def model_of(family, pooling="concat", **more):
    trunk = new_model(new_config(family, vocab_size=30, **TINY[family]))
    config = ClassifierConfig(("no", "yes", "maybe"), pooling, **({"hidden": 5, "bptt": 4, "max_len": 12} | more))
    return TextClassifier(trunk, config, seed=1)


def texts_of(*lengths):
    return [np.random.default_rng(n).integers(0, 30, n).astype(np.int32) for n in lengths]


def joined(texts):
    return np.concatenate(texts), np.cumsum([0, *map(len, texts)]).astype(np.int32)


def segments(x, f):
    return torch.stack([f(x[a:b]) for a, b in pairwise(STARTS)])


def test_pooling_is_torchs_with_and_without_what_was_read_before():
    x, before, counts = random((9, 4), 0), random((3, 4), 1), np.array([2, 0, 5])
    before[1] = -np.inf
    parity(lambda a: ops.last_rows(a, STARTS), lambda a: segments(a, lambda s: s[-1]), x)
    parity(lambda a: ops.max_rows(a, STARTS), lambda a: segments(a, lambda s: s.max(0).values), x)
    parity(lambda a: ops.mean_rows(a, STARTS), lambda a: segments(a, lambda s: s.mean(0)), x)
    least = torch.tensor(before.astype(np.float64))
    parity(lambda a: ops.max_rows(a, STARTS, before),
           lambda a: torch.maximum(segments(a, lambda s: s.max(0).values), least), x)  # fmt: skip
    total = random((3, 4), 2)
    lengths = torch.tensor(np.diff(STARTS) + counts)[:, None]
    twin = torch.tensor(total.astype(np.float64))
    parity(lambda a: ops.mean_rows(a, STARTS, total, counts),
           lambda a: (segments(a, lambda s: s.sum(0)) + twin) / lengths, x)  # fmt: skip
    x[4, 2] = np.nan
    found = ops.max_rows(x, STARTS, before)
    assert np.isnan(found[2, 2]) and np.isfinite(found[:2]).all()
    for bad in (np.array([0, 3, 3, 9]), np.array([0, 8]), np.array([0])):
        with pytest.raises(ValueError, match="pool: x"):
            ops.last_rows(x, bad)


@pytest.mark.parametrize("family", list(TINY))
@pytest.mark.parametrize("pooling", ("concat", "last", "max", "mean"))
def test_answers_do_not_depend_on_company_order_or_threads(family, pooling):
    model = model_of(family, pooling).eval()
    texts = texts_of(5, 50, 1, 13, 12, 11, 4, 3)
    alone = np.concatenate([model.logits([text]) for text in texts])
    with threads(1):
        assert same_bits(model.logits(texts[::-1])[::-1], alone)
    with threads(2):
        assert same_bits(model.logits(texts), alone)
    model.train()
    assert same_bits(model.forward(*joined(texts)).data, alone)


@pytest.mark.parametrize("family", ("awd-lstm", "gru"))
def test_reading_in_pieces_is_reading_at_once(family):
    trunk, texts = model_of(family).trunk, texts_of(9, 30, 1)
    ids, starts = joined(texts)
    whole = read(trunk, ids, starts, 100, 100)
    pieces = read(trunk, ids, starts, 4, 100)
    assert whole.before is None and pieces.before is None and same_bits(whole.rows.data, pieces.rows.data)
    kept = read(trunk, ids, starts, 4, 10)
    assert kept.before.counts.tolist() == [0, 20, 0] and np.diff(kept.starts).tolist() == [9, 10, 1]
    assert same_bits(kept.rows.data[9:19], whole.rows.data[29:39])
    assert same_bits(kept.before.greatest[1], whole.rows.data[9:29].max(axis=0))
    np.testing.assert_allclose(kept.before.total[1], whole.rows.data[9:29].sum(axis=0), rtol=1e-5)


def test_gradients_end_at_the_beginning_of_a_piece_and_before_max_len():
    model, text, bptt, max_len = model_of("gru", "mean", hidden=0), texts_of(23)[0], 4, 8
    ids, targets = text, np.array([2])
    with ops.documents([0, 23]):
        loss = model.loss(ids, targets)
    loss.backward()
    state = {name: torch.tensor(a.astype(np.float64), requires_grad=True) for name, a in model.learned_arrays().items()}
    layers = torch.nn.GRU(8, 12, 2).double()
    weights = {name.removeprefix("trunk.rnn."): tensor for name, tensor in state.items() if ".rnn." in name}
    h, rows = torch.zeros(2, 12, dtype=torch.float64), []
    for at in range(0, 23, bptt):
        x = state["trunk.embedding.weight"][torch.tensor(ids[at : at + bptt])]
        y, h = torch.func.functional_call(layers, weights, (x, h.detach()))
        rows.append(y if at >= 16 else y.detach())  # 16: whole pieces before the last 8 of 23 tokens
    logits = torch.cat(rows).mean(0) @ state["head.score.weight"].T
    wanted = torch.nn.functional.cross_entropy(logits[None], torch.tensor(targets))
    wanted.backward()
    assert model.config.bptt == bptt and max_len < model.config.max_len + 1
    short = TextClassifier(model.trunk, ClassifierConfig(("a", "b", "c"), "mean", 0, bptt=bptt, max_len=max_len), 1)
    short.zero_grad()
    with ops.documents([0, 23]):
        loss = short.loss(ids, targets)
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    for name, parameter in short.learned().items():
        off = np.linalg.norm(parameter.value.grad - state[name].grad.numpy())
        assert off <= 1e-5 * max(float(state[name].grad.norm()), 1e-3), name


def test_a_gpt2_classifier_is_transformers():
    config = transformers.GPT2Config(vocab_size=30, n_embd=16, n_layer=2, n_head=2, n_positions=16, num_labels=3,
                                     pad_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip
    torch.manual_seed(0)
    other = transformers.GPT2ForSequenceClassification(config).eval()
    model = model_of("gpt2", "last", hidden=0)
    state = other.state_dict()
    model.trunk.load_state_dict({n: t for n, t in state.items() if n != "score.weight"}
                                | {"lm_head.weight": state["transformer.wte.weight"]})  # fmt: skip
    model.head.load_state_dict({"score.weight": state["score.weight"]})
    texts, labels = texts_of(5, 9, 2), np.array([0, 2, 1])
    found = [other(torch.tensor(text[None].astype(np.int64))).logits[0] for text in texts]
    np.testing.assert_allclose(model.logits(texts), torch.stack(found).detach().numpy(), rtol=1e-4, atol=1e-5)
    torch.nn.functional.cross_entropy(torch.stack(found), torch.tensor(labels)).backward()
    ids, starts = joined(texts)
    with ops.documents(starts):
        model.loss(ids, labels).backward()
    pairs = {"trunk.embedding.weight": other.transformer.wte, "head.score.weight": other.score,
             "trunk.norm.weight": other.transformer.ln_f}  # fmt: skip
    for name, part in pairs.items():
        np.testing.assert_allclose(model.learned()[name].value.grad, part.weight.grad.numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", ("awd-lstm", "gpt2"))
def test_it_learns_by_heart(family):
    model = model_of(family, hidden=20)
    texts, labels = texts_of(5, 9, 2, 14, 20, 3), np.array([0, 2, 1, 1, 0, 2])
    ids, starts = joined(texts)
    optimizer, losses = AdamW(model.parameters(), lr=1e-2), []
    for _ in range(60):
        optimizer.zero_grad()
        with ops.documents(starts):
            loss = model.loss(ids, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < losses[0]
    assert model.eval().logits(texts).argmax(axis=1).tolist() == labels.tolist()


def test_memory_does_not_grow_with_a_text():
    model, peaks = model_of("rnn"), []
    for length in (2_000, 40_000):
        ids = texts_of(length)[0]
        tracemalloc.start()
        with ops.documents([0, length]), ops.noise(1, 0):
            model.loss(ids, np.array([1])).backward()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 1000


def test_folders_give_back_the_classifier_and_damaged_ones_are_refused(tmp_path):
    model, texts = model_of("awd-lstm"), texts_of(5, 1, 30)
    logits = model.eval().logits(texts)
    save_classifier(model, tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert same_bits(again.logits(texts), logits) and again.config == model.config
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config == model.trunk.config
    good = json.loads((tmp_path / "classifier.json").read_text())
    for change, found in (
        ({"classes": ["a"]}, "classes"), ({"classes": ["a", "a", "b"]}, "classes"), ({"classes": [1, 2]}, "classes"),
        ({"pooling": "sum"}, "pooling"), ({"hidden": 6}, "tensor"), ({"hidden": -1}, "hidden"), ({"bptt": 0}, "bptt"),
        ({"dropout": 1.0}, "dropout"), ({"format": "x"}, "format"), ({"version": 2}, "version"),
        ({"max_len": None}, "max_len"), ({"problem_type": ["a"]}, "problem_type"),
    ):  # fmt: skip
        (tmp_path / "classifier.json").write_text(json.dumps(good | change))
        with pytest.raises(ModelFileError, match=found):
            AutoModelForSequenceClassification.from_pretrained(tmp_path)
    older = {name: value for name, value in good.items() if name not in ("framed", "problem_type")}
    (tmp_path / "classifier.json").write_text(json.dumps(older))
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config == model.config
    (tmp_path / "classifier.json").unlink()
    with pytest.raises(ModelFileError, match=r"without a head of classes; bert, .*finetune --task classify"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


GPT2 = {"n_embd": 16, "n_head": 2, "n_layer": 2, "bos_token_id": 0, "eos_token_id": 1}
HEADED = {"GPT2": GPT2} | {k: tiny_families.config(f) for k, f in (("Llama", "llama"), ("GPTNeoX", "gpt_neox"))}


@pytest.mark.parametrize("kind", HEADED)
def test_transformers_decoders_with_a_head_are_read(tmp_path, kind, capsys):
    """As transformers' tokenizer and model have a text, by predict and pipeline too."""
    names = {0: "bad", 1: "fair", 2: "good"}
    fields = HEADED[kind] | {"vocab_size": 317, "pad_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(**fields, id2label=names)
    torch.manual_seed(0)
    other = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    other.score.weight.data *= 20
    other.save_pretrained(tmp_path)
    tiny_tokenizers.write_json(tmp_path, 317)
    text, theirs = "the lazy fox", transformers.AutoTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        wanted = torch.softmax(other(**theirs(text, return_tensors="pt")).logits[0], -1).numpy()
    call = pyllm.pipeline("text-classification", str(tmp_path), dtype="float32", top_k=None)
    found = {each["label"]: each["score"] for each in call([text])[0]}
    np.testing.assert_allclose([found[name] for name in names.values()], wanted, atol=1e-5)
    assert main(["predict", str(tmp_path), text, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"] == [names[int(wanted.argmax())]]
    assert call.model.config.max_len == max(1440, config.max_position_embeddings)  # transformers cuts nothing
    theirs_call = transformers.pipeline("text-classification", str(tmp_path), top_k=None)
    for function in ("none", "sigmoid", None):
        pairs = zip(*(c([text], function_to_apply=function)[0] for c in (call, theirs_call)), strict=True)
        assert all(a["label"] == b["label"] and abs(a["score"] - b["score"]) < 1e-5 for a, b in pairs), function
    call.model.save_pretrained(tmp_path / "again")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again")
    assert again.config == call.model.config and again.config.framed
    saved = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "again").eval()
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    with torch.no_grad():  # which batches of texts need pad_token_id for
        np.testing.assert_allclose(saved(ids).logits, other(ids).logits, atol=1e-5)
    with pytest.raises(ModelFileError, match="it tells classes of texts"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(about | {"problem_type": "multi_label_classification"}))
    theirs_call = transformers.pipeline("text-classification", str(tmp_path), top_k=None)
    found = pyllm.pipeline("text-classification", str(tmp_path), dtype="float32", top_k=None)([text])[0]
    assert max(abs(a["score"] - b["score"]) for a, b in zip(found, theirs_call([text])[0], strict=True)) < 1e-5
    assert main(["predict", str(tmp_path), text, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["predictions"] == [[names[i] for i, p in enumerate(facts["probabilities"][0]) if p > 0.5]]
    (tmp_path / "config.json").write_text(json.dumps(about | {"problem_type": "several"}))
    with pytest.raises(ModelFileError, match="problem_type"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("lora", (False, True))
def test_transformers_decoders_with_a_head_learn_on(tmp_path, lora, capsys):
    """From what they know, also of numbers and of other classes; an adapter of one is PEFT's."""
    config = transformers.LlamaConfig(
        **HEADED["Llama"] | {"vocab_size": 317, "pad_token_id": 0}, id2label={0: "good", 1: "bad"}
    )
    torch.manual_seed(0)
    transformers.LlamaForSequenceClassification(config).eval().save_pretrained(tmp_path / "m")
    tiny_tokenizers.write_json(tmp_path / "m", 317)
    before = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").head.score.weight.array()
    texts = [f"{'lazy' if i % 2 else 'quick'} fox" for i in range(24)]
    arguments = {"per_device_train_batch_size": 8, "num_train_epochs": 1, "learning_rate": 0.0, "weight_decay": 0.0}
    settings = TextSettings(recipe="plain", lm_epochs=0.0, valid=0.0)
    named, three = [("bad", "good")[i % 2] for i in range(24)], ["abc"[i % 3] for i in range(24)]
    for labels, problem, classes in (
        (named, "single_label", ("good", "bad")), (three, "single_label", ("a", "b", "c")),
        ([f"{i % 2}.5" for i in range(24)], "regression", ("LABEL_0",)),
        ([("bad",) if i % 2 else () for i in range(24)], "multi_label", ("good", "bad")),
    ):  # fmt: skip
        out = tmp_path / f"{problem}-{len(classes)}"
        adapter = {"lora": LoraConfig(2, 4)} if lora else {}
        finetune_texts(
            str(tmp_path / "m"), Texts(texts, labels), TrainingArguments(str(out), **arguments), settings, **adapter
        )
        again = AutoModelForSequenceClassification.from_pretrained(out)
        assert again.config.classes == classes and again.config.framed and again.config.problem_type.startswith(problem)
        assert (len(classes) == 2) == np.array_equal(again.head.score.weight.array()[:2], before)
    assert probabilities(again, AutoTokenizer.from_pretrained(out), texts).shape == (24, 2)
    lines = [json.dumps({"text": text, "label": name}) for text, name in zip(texts, named, strict=True)]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    run, data = ["--out", str(tmp_path / "c")], ["--data", str(tmp_path / "d.jsonl")]
    more = ["--lr", "1e-2", "--epochs", "8", "--batch", "8", *(["--lora", "4"] if lora else [])]
    assert main(["finetune", str(tmp_path / "m"), "--task", "classify", "--recipe", "plain", *data, *run, *more]) == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "c"), *data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 1
    model, tokenizer = (
        each.from_pretrained(tmp_path / "c") for each in (AutoModelForSequenceClassification, AutoTokenizer)
    )
    if not lora:
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "c").eval()
        with torch.no_grad():
            logits = theirs(torch.tensor([tokenizer(texts[0]).input_ids])).logits[0]
        assert theirs.config.id2label == {0: "good", 1: "bad"} and type(theirs).__name__.startswith("LlamaForSeq")
        np.testing.assert_allclose(probabilities(model, tokenizer, texts[:1])[0], torch.softmax(logits, -1), atol=1e-5)
        assert main(["finetune", str(tmp_path / "c"), "--task", "classify", *data, "--out", str(tmp_path / "d")]) == 0
    else:
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").eval()
        ids = torch.tensor([tokenizer(texts[0]).input_ids])
        wanted = torch.softmax(called(theirs, tmp_path / "c", input_ids=ids).logits[0], -1).numpy()
        np.testing.assert_allclose(probabilities(model, tokenizer, texts[:1])[0], wanted, atol=1e-5)
    with pytest.raises(
        ValueError, match="lm_epochs 1, pooling concat with lora or a head of transformers; allowed are 0"
    ):
        finetune_texts(str(tmp_path / "m"), Texts(texts, named), TrainingArguments(str(tmp_path / "x")))


def test_families_without_the_head_say_which_have_it(tmp_path):
    pair_models.save("bart", tmp_path)
    with pytest.raises(ModelFileError, match=r"'bart' without a head of classes; bert, roberta"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_a_language_models_own_head_is_no_part_of_it():
    tied, own = model_of("awd-lstm"), model_of("gru")
    assert "trunk.embedding.weight" in tied.learned() and "trunk.head.bias" not in tied.learned()
    assert not any(name.startswith("trunk.head") for name in own.own_parameters())
    assert own.num_parameters() == sum(parameter.size for parameter in own.learned().values())


def test_the_heads_scale_begins_with_mean_and_deviation_of_what_it_will_see():
    model, texts = model_of("gru"), texts_of(*range(1, 40))
    model.standardise(texts, seed=3)
    ids, starts = joined(texts)
    scaled = model.head.scale(model.pooled(ids, starts)).data
    spread, own = scaled.std(axis=0), model.pooled(ids, starts).data.std(axis=0)
    assert np.abs(scaled.mean(axis=0)).max() < 1e-3
    assert np.abs(spread - own / np.maximum(own, 0.1 * own.mean())).max() < 1e-3  # what hardly varies stays small
    assert np.abs(spread - 1).max() < 0.2 and np.abs(np.median(spread) - 1) < 1e-3
    again = model_of("gru")
    again.standardise(texts, seed=3)
    assert same_bits(again.head.scale.weight.array(), model.head.scale.weight.array())
    dropping = model_of("awd-lstm").eval()  # as a loaded one is
    dropping.standardise(texts)
    with ops.noise(0, 0):
        noisy = dropping.head.scale(dropping.pooled(*joined(texts[:32]))).data
    assert 0.5 < noisy.std() < 2.0  # with what dropout makes of the texts, which varies far more than they do


def test_the_head_is_torchs_parts():
    model = model_of("gru")
    head, x = model.head, random((6, 36), 0)
    parts = {name: torch.tensor(array.astype(np.float64)) for name, array in head.learned_arrays().items()}
    functional = torch.nn.functional

    def twin(a):
        scaled = a * parts["scale.weight"] + parts["scale.bias"]
        inner = functional.linear(scaled, parts["inner.weight"], parts["inner.bias"])
        normed = functional.layer_norm(inner, inner.shape[-1:], parts["norm.weight"], parts["norm.bias"])
        return functional.linear(functional.relu(normed), parts["score.weight"], parts["score.bias"])

    parity(head, twin, x)


def test_classes_that_training_has_not_met_count_as_wrong(tmp_path, capsys):
    fields = HEADED["GPT2"] | {"vocab_size": 317, "pad_token_id": 0, "id2label": dict(enumerate("ab"))}
    config = transformers.GPT2Config(**fields)
    transformers.GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizers.write_json(tmp_path, 317)
    texts, labels = ["the lazy fox", "a dog", "fox", "the", "quick"], ["a", "odd", "b", "perhaps", "odd"]
    data = tmp_path / "texts.csv"
    data.write_text("text,label\n" + "".join(f"{each},{label}\n" for each, label in zip(texts, labels, strict=True)))
    assert main(["predict", str(tmp_path), *texts, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["predictions"]
    assert main(["eval", str(tmp_path), "--data", str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, said)) and found["texts"] == 5
    assert found["f1"] == pytest.approx(f1_score(labels, said, average="macro", zero_division=0))
    assert found["majority"] == {"class": "a", "accuracy": 0.2}
    assert found["unmet"] == {"classes": ["odd", "perhaps"], "texts": 3}
    assert main(["eval", str(tmp_path), "--data", str(data)]) == 0
    assert "3 of them have a class not met in training, wrong: 'odd', 'perhaps'" in capsys.readouterr().out
    assert main(["eval", str(tmp_path), "--data", str(data), "--samples", "1", "--json"]) == 0
    assert "unmet" not in json.loads(capsys.readouterr().out)
