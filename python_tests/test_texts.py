"""Text classification from files to answers: reading, metrics, the baseline, the verbs, the estimator, bad input."""

import csv
import gzip
import json
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse
from kernel_checks import same_bits
from sklearn import metrics as theirs
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from test_learner import Watch

import pyllm
from pyllm import text
from pyllm.auto import new_config, new_model
from pyllm.cli import main
from pyllm.data import read_texts
from pyllm.data.labelled import Labelled, Pieces, Texts, encoded, numbered
from pyllm.errors import DataError, ModelFileError
from pyllm.evaluate import metrics
from pyllm.evaluate.baseline import fit_baseline, open_baseline
from pyllm.evaluate.texts import probabilities
from pyllm.sklearn import TextClassifier, TextRegressor
from pyllm.train import TrainingArguments
from pyllm.train.split import split, tell_texts
from pyllm.train.texts import TextSettings, finetune_texts

GOOD = ("a fine film", "what a joy", "warm and funny", "great fun", "i loved it")
BAD = ("a dull film", "what a bore", "cold and sad", "no fun", "i hated it")


def rows_of(count=60):
    """Texts that one word decides, and their labels."""
    random = np.random.default_rng(0)
    found = [(str(random.choice(GOOD if i % 2 else BAD)) + " " + " ".join(random.choice(list("abcd"), 3)), i % 2)
             for i in range(count)]  # fmt: skip
    return [each for each, _ in found], [("neg", "pos")[label] for _, label in found]


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """The folder of a tiny AWD-LSTM that has learned nothing, with its tokenizer."""
    folder = tmp_path_factory.mktemp("lm")
    tokenizer = text.train(rows_of(200)[0], "bpe", vocab=320)
    tokenizer.save_pretrained(folder)
    sizes = {"embedding_size": 16, "hidden_size": 24, "num_hidden_layers": 2, "vocab_size": tokenizer.vocab_size}
    ends = {"eos_token_id": tokenizer.eos_token_id}
    new_model(new_config("awd-lstm", **sizes, **ends)).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(language_model, tmp_path_factory):
    """The folder of a classifier that `pyllm finetune` has made of it, and the file that it learned from."""
    folder = tmp_path_factory.mktemp("run")
    with (folder / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("id", "text", "label"), *((i, *row) for i, row in enumerate(zip(*rows_of(), strict=True)))]
        )
    argv = f"--task classify --recipe plain --out {folder / 'c'} --epochs 40 --batch 8 --lr 0.01".split()
    argv = ["finetune", str(language_model), "--data", str(folder / "texts.csv"), "--dtype", "fp32", *argv]
    argv += ["--valid-share", "0.2", "--lm-epochs", "2", "--drop-mult", "0.3", "--dropout", "0.2"]
    assert main.main(argv) == 0
    assert json.loads((folder / "c" / "classifier.json").read_text())["dropout"] == 0.2
    return folder


def test_texts_are_read_from_tables_objects_and_lines(tmp_path):
    wanted = Texts(["one, two", "", "ünï"], ["a", "b", None])
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("label", "text"), ("a", "one, two"), ("b", ""), ("", "ünï")])
    (tmp_path / "t.tsv").write_text("sentence\tclass\none, two\ta\n\tb\nünï\t\n", encoding="utf-8")
    lines = [{"review": t, "target": y} for t, y in zip(*wanted, strict=True)]
    with gzip.open(tmp_path / "t.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(each) + "\n" for each in lines)
    for name in ("t.csv", "t.tsv", "t.jsonl.gz"):
        assert read_texts(tmp_path / name) == wanted, name
    assert read_texts(tmp_path / "t.csv", text="label", label="text").texts == ["a", "b", ""]
    (tmp_path / "t.txt").write_text("one\ntwo\n")
    assert read_texts(tmp_path / "t.txt") == Texts(["one", "two"], [None, None])


def test_several_labels_and_numbers_are_read(tmp_path):
    lines = '{"text": "a", "labels": ["x", 2]}\n{"text": "b", "labels": []}\n'
    (tmp_path / "a.jsonl").write_text(lines + '{"text": "c"}\n{"text": "d", "labels": 1.5}\n')
    assert read_texts(tmp_path / "a.jsonl") == Texts(["a", "b", "c", "d"], [("x", "2"), (), None, "1.5"])
    with pytest.raises(ValueError, match="problem is 'x', allowed are single_label, multi_label, regression"):
        TextSettings(problem="x")


def test_a_label_that_was_named_is_there(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\na,1\n")
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n{"text": "b", "mood": 1}\n')
    assert read_texts(tmp_path / "t.jsonl", label="mood").labels == [None, "1"]
    for name in ("t.csv", "t.jsonl"):
        with pytest.raises(DataError, match=f"{name}: no 'moood'; one of 'text', "):
            read_texts(tmp_path / name, label="moood")


@pytest.mark.parametrize(("name", "content", "found"), (
    ("a.csv", "x,y\n1,2\n", "no column of text among 'x', 'y'"), ("a.csv", "text,label\n", "has no rows"),
    ("a.csv", "", "is empty"), ("a.jsonl", "[1]\n", "a list; an object"), ("a.jsonl", '{"text": 3}\n', "its text is 3"),
    ("a.jsonl", '{"text": "a", "label": {"b": 1}}\n', "its label is {'b': 1}"), ("a.jsonl", "{\n", "line 1"),
    ("a.jsonl", '{"text": "a", "label": true}\n', "its label is True"), ("a.txt", "", "holds no text"),
    ("a.jsonl", '{"text": "a", "labels": ["b", null]}\n', "text, a number or a list of texts"),
    ("a.txt", b"\xff\n", "is not UTF-8"), ("a.jsonl", "", "holds no record"),
))  # fmt: skip
def test_bad_files_are_refused_in_one_sentence(tmp_path, name, content, found):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((DataError, ModelFileError), match=found) as error:
        read_texts(tmp_path / name)
    assert name in str(error.value)


def test_labels_are_numbered_in_order_and_unknown_ones_refused():
    assert numbered(["10", "9", None, "10"])[1] == ["9", "10"]
    assert numbered(["2", "-1"])[1] == ["-1", "2"] and numbered(["2", "--1"])[1] == ["--1", "2"]
    found, classes = numbered(["b", None, "a"])
    assert found.tolist() == [1, -100, 0] and classes == ["a", "b"]
    with pytest.raises(DataError, match="one class only: 'a'; two classes or more"):
        numbered(["a", None])
    with pytest.raises(DataError, match="no label; two classes"):
        numbered([None])
    with pytest.raises(DataError, match="'c' not met in training; 'a', 'b'"):
        numbered(["a", "c"], ["a", "b"])


def test_samples_are_functions_of_the_position():
    texts = [np.arange(n, dtype=np.int32) for n in (1, 4, 2, 3)]
    data = Labelled(texts, np.array([0, -100, 1, 2]), seed=3)
    seen = [data.batch(position, 1) for position in range(6)]
    assert len(data) == 3 and sorted(int(each.targets[0]) for each in seen[:3]) == [0, 1, 2]
    both = data.batch(1, 4)
    assert both.targets.tolist() == [int(each.targets[0]) for each in seen[1:5]]
    assert np.array_equal(both.ids, np.concatenate([each.ids for each in seen[1:5]])) and both.starts[-1] == len(
        both.ids
    )
    pieces = Pieces(texts, 2)
    assert sorted(each.tolist() for each in pieces.pieces) == [[0, 1], [0, 1, 2], [0, 1, 2], [2, 3]]
    batch = pieces.batch(0, 4)
    assert np.array_equal(batch.targets, batch.ids + 1) and len(batch.starts) == 5
    for bad in (lambda: Labelled(texts, np.full(4, -100)), lambda: Pieces([texts[0]], 2)):
        with pytest.raises(DataError):
            bad()


def test_the_same_share_of_each_class_is_held_out_and_equal_texts_stay_together():
    texts, labels = rows_of(400)
    targets, _ = numbered(labels)
    train, held = split(Texts(texts, labels), targets, 0.25, 0)
    assert train | held == set(range(400)) and not {texts[i] for i in train} & {texts[i] for i in held}
    assert 80 <= len(held) <= 130 and 0.35 < targets[sorted(held)].mean() < 0.65
    assert split(Texts(texts, labels), targets, 0.0, 0)[1] == set()
    assert len(split(Texts(["x", "y", "z"], ["a", "b", "b"]), np.array([0, 1, 1]), 0.9, 0)[1]) == 1
    with pytest.raises(DataError, match="1 texts of 1 classes to learn from; two classes"):
        for seed in range(20):  # once the text that both classes have is held out
            split(Texts(["x", "y", "x"], ["a", "a", "b"]), np.array([0, 0, 1]), 0.6, seed)


@pytest.mark.parametrize("classes", (2, 4))
def test_metrics_are_scikit_learns(classes):
    random = np.random.default_rng(classes)
    wanted, said = random.integers(0, classes, (2, 50))
    average = "binary" if classes == 2 else "macro"
    for w, s in ((wanted, said), (wanted, wanted), (wanted, np.zeros_like(said)), (np.ones(3, int), np.ones(3, int))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert metrics.accuracy(w, s) == pytest.approx(theirs.accuracy_score(w, s))
            own = average if max(w.max(), s.max()) > 1 else "binary"
            assert metrics.f1(w, s) == pytest.approx(theirs.f1_score(w, s, average=own, zero_division=0))
            assert metrics.mcc(w, s) == pytest.approx(theirs.matthews_corrcoef(w, s))
    for bad in (([], []), ([0], [0, 1]), ([0.5], [1]), ([-1], [0])):
        with pytest.raises(ValueError, match="metrics: "):
            metrics.accuracy(*map(np.array, bad))
    with pytest.raises(ValueError, match="bleu not known, allowed are accuracy, f1, mcc"):
        metrics.scores(wanted, said, ("bleu",))


def test_nothing_held_out_says_why():
    rows, said = Texts(["a", "b", "c"], ["x", "y", "x"]), []
    for share, more in ((0.1, "; 0.1 of the texts of each class are less than one: more texts"), (0.0, "")):
        sides = split(rows, numbered(rows.labels)[0], share, 0)
        tell_texts(rows, ["x", "y"], sides, share, lambda stage, text: said.append(text))
        assert said[-1].startswith(f"3 to learn from, 0 held out{more}") and (more or said[-1].endswith("held out"))


def test_metrics_of_several_classes_and_of_numbers_are_scikit_learns():
    random = np.random.default_rng(1)
    wanted, said = (random.random((40, 5)) > 0.6 for _ in range(2))
    assert metrics.f1_micro(wanted, said) == pytest.approx(theirs.f1_score(wanted, said, average="micro"))
    assert metrics.exact(wanted, wanted) == 1
    assert metrics.exact(wanted, said) == pytest.approx(theirs.accuracy_score(wanted, said))
    numbers, found = random.random(40), random.random(40).astype(np.float32)
    assert metrics.mse(numbers, found) == pytest.approx(theirs.mean_squared_error(numbers, found))
    assert metrics.pearson(numbers, found) == pytest.approx(np.corrcoef(numbers, found)[0, 1])
    assert metrics.pearson(numbers, np.zeros(40)) == 0


@pytest.mark.parametrize("classes", (2, 3))
def test_the_baseline_comes_back_from_its_folder(tmp_path, classes):
    texts = rows_of()[0]
    targets = np.arange(len(texts)) % classes
    baseline = fit_baseline(texts, targets)
    baseline.save(str(tmp_path))
    again = open_baseline(str(tmp_path))
    assert np.array_equal(again.predict(texts), baseline.predict(texts)) and open_baseline(str(tmp_path / "no")) is None
    assert metrics.accuracy(targets, baseline.predict(texts)) > 1 / classes
    (tmp_path / "baseline.json").write_text('["a"]')
    with pytest.raises(ModelFileError, match=r"baseline\.safetensors: idf"):
        open_baseline(str(tmp_path))


def test_finetune_predict_and_eval_on_the_command_line(run, capsys):
    facts = json.loads((run / "c" / "run.json").read_text())
    assert facts["scores"]["accuracy"] > 0.8 and facts["scores"]["baseline"]["accuracy"] > 0.8
    assert facts["config"]["classes"] == ["neg", "pos"] and facts["texts"]["held_out"] >= 8
    assert main.main(["predict", str(run / "c"), "what a joy a b c", "no fun d d a", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["predictions"] == ["pos", "neg"] and sum(found["probabilities"][0]) == pytest.approx(1)
    assert main.main(["predict", str(run / "c"), "", "\x00☃", "zzz " * 300, str(run / "texts.csv")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 3 + 60
    assert main.main(["predict", str(run / "c"), "no fun", "-o", str(run / "p.csv")]) == 0
    assert (run / "p.csv").read_text().startswith("prediction,probability\nneg,")
    capsys.readouterr()
    assert main.main(["eval", str(run / "c"), "--data", str(run / "texts.csv")]) == 0
    said = capsys.readouterr().out
    assert "of 60 texts" in said and "always 'neg': accuracy 0.5000" in said and "TF-IDF + logistic regression" in said
    assert main.main(["eval", str(run / "c"), "--data", str(run / "texts.csv"), "--metric", "mcc", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mcc"] > 0.6 and "f1" not in found and found["baseline"]["mcc"] > 0.6
    assert main.main(["report", str(run / "c" / "stage-1"), "-o", str(run / "r.html")]) == 0


def test_the_command_line_refuses_in_one_sentence(run, language_model, tmp_path, capsys):
    (tmp_path / "u.csv").write_text("text,label\nhello,perhaps\n")
    (tmp_path / "one.csv").write_text("text,label\nhello,a\nyou,a\n")
    (tmp_path / "none.csv").write_text("text,x\nhello,a\n")
    c, train = str(run / "c"), ["finetune", str(language_model), "--task", "classify", "--out", str(tmp_path / "o")]
    for argv, found in (
        (["eval", c, "--data", str(tmp_path / "u.csv")], "'perhaps' not met in training; 'neg', 'pos'"),
        (["eval", c, "--data", str(tmp_path / "none.csv")], "labels: none is there, allowed are neg, pos"),
        (["eval", c, "--data", str(run / "texts.csv"), "--metric", "bleu"], "bleu not known"),
        ([*train, "--data", str(tmp_path / "one.csv")], "one class only: 'a'"),
        ([*train, "--data", str(tmp_path / "none.csv")], "no label"),
        ([*train, "--data", str(tmp_path / "nothing.csv")], "nothing.csv"),
        ([*train, "--data", str(run / "texts.csv"), "--text", "body"], "no 'body'"),
        ([*train, "--data", str(run / "texts.csv"), "--lora", "2"], "AWDLSTM has no matrix to be changed"),
    ):
        assert main.main(argv) == 1, argv
        said = capsys.readouterr().err.strip().splitlines()
        assert found in said[-1] and len(said) == 1, said
    assert main.main(["predict", str(tmp_path / "no"), "a", "b"]) == 2


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(language_model, tmp_path):
    rows = Texts(*rows_of(24))
    settings, found = TextSettings(valid=0.0), []
    for folder, stops in (("a", ()), ("b", (2, 5, 3, 4))):
        arguments = TrainingArguments(str(tmp_path / folder), per_device_train_batch_size=4, num_train_epochs=1)
        for last in stops:
            assert not finetune_texts(str(language_model), rows, arguments, settings, [Watch(last)]).result.complete
        found.append(finetune_texts(str(language_model), rows, arguments, settings).model.learned_arrays())
    assert all(same_bits(found[0][name], found[1][name]) for name in found[0])
    assert (tmp_path / "a" / "head.safetensors").read_bytes() == (tmp_path / "b" / "head.safetensors").read_bytes()


def test_a_very_long_text_is_read(run):
    from pyllm.auto import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(run / "c")
    tokenizer = AutoTokenizer.from_pretrained(run / "c")
    long = "great fun a b " * 8_000
    found = probabilities(model, tokenizer, ["great fun a b", long])
    assert len(encoded(tokenizer, [long])[0]) > 20_000 and found[0].argmax() == 1 and np.isfinite(found).all()
    assert same_bits(found[1:], probabilities(model, tokenizer, [long]))
    assert probabilities(model, tokenizer, []).shape == (0, 2)


@pytest.mark.parametrize(("labels", "problem", "score"), (
    (lambda good: ["kind", "text"] if good else ["text"], "multi_label_classification", "f1_micro"),
    (lambda good: 1.5 if good else -0.5, "regression", "pearson"),
))  # fmt: skip
def test_language_models_learn_several_classes_and_numbers(language_model, tmp_path, capsys, labels, problem, score):
    texts, names = rows_of()
    lines = [json.dumps({"text": t, "labels": labels(n == "pos")}) for t, n in zip(texts, names, strict=True)]
    (tmp_path / "d.jsonl").write_text("\n".join(lines) + "\n")
    run, data, epochs = str(tmp_path / "r"), ("--data", str(tmp_path / "d.jsonl")), ("--epochs", "24")
    more = ("--recipe", "plain", "--lm-epochs", "0", "--drop-mult", "0", "--lr", "2e-2", "--batch", "8")
    assert main.main(["finetune", str(language_model), "--task", "classify", *data, "--out", run, *more, *epochs]) == 0
    assert ("numbers (regression)" if problem == "regression" else "several of a text") in capsys.readouterr().out
    assert json.loads((tmp_path / "r" / "classifier.json").read_text())["problem_type"] == problem
    assert main.main(["eval", run, *data, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[score] > 0.9 and "majority" not in found
    assert main.main(["predict", run, "great fun a b", "no fun a b", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["predictions"]
    (best, *_), (least, *_) = pyllm.pipeline("text-classification", run, top_k=None)(["great fun a b", "no fun a b"])
    if problem == "regression":
        assert abs(said[0] - 1.5) < 0.5 and abs(said[1] + 0.5) < 0.5 and abs(best["score"] - said[0]) < 1e-5
    else:
        assert said == [["kind", "text"], ["text"]] and best["score"] > 0.5 and least["label"] == "text"


def estimator(kind=TextClassifier, **more):
    sizes = {"embedding_size": 16, "hidden_size": 16, "vocab": 320, "min_steps": 80, "batch_size": 8}
    return kind(**(sizes | {"learning_rate": 1e-2, "epochs": 1} | more))


def test_the_estimator_learns_in_scikit_learns_ways(language_model):
    texts, y = rows_of()
    model = clone(estimator()).fit(np.array(texts), y)
    assert model.classes_.tolist() == ["neg", "pos"] and model.score(texts, y) > 0.9
    proba = model.predict_proba(texts[:5])
    assert proba.shape == (5, 2) and np.allclose(proba.sum(axis=1), 1)
    assert same_bits(clone(model).fit(texts, y).predict_proba(texts[:5]), proba)
    again = pickle.loads(pickle.dumps(model))
    assert same_bits(again.predict_proba(texts[:5]), proba) and again.get_params() == model.get_params()
    assert pickle.loads(pickle.dumps(estimator(vocab=300))).get_params()["vocab"] == 300
    drawn = [clone(estimator(min_steps=1, random_state=each)).fit(texts, y).predict_proba(texts[:5])
             for each in (None, np.random.RandomState(3), np.random.RandomState(3))]  # fmt: skip
    assert same_bits(*drawn[1:]) and not same_bits(*drawn[:2])
    pipe = make_pipeline(FunctionTransformer(lambda rows: [each.upper() for each in rows]), estimator(min_steps=20))
    assert cross_val_score(pipe, texts, y, cv=2).mean() > 0.6
    assert estimator(dropout=0.3, min_steps=1).fit(texts, y).model_.config.dropout == 0.3
    logs = model.predict_log_proba(texts)
    assert logs.dtype == np.float32 and np.allclose(np.exp(logs), model.predict_proba(texts), atol=1e-6)
    tuned = (
        estimator(pretrained=str(language_model)).set_params(lm_epochs=0, recipe="plain").fit(texts, np.arange(60) % 3)
    )
    assert tuned.predict_proba(texts).shape == (60, 3) and tuned.get_params()["recipe"] == "plain"


def test_estimators_learn_several_classes_and_numbers():
    texts, names = rows_of()
    good = np.array(names) == "pos"
    y = np.stack([good, np.ones(60), np.zeros(60), ~good], axis=1).astype(int)
    for given in (y, scipy.sparse.csr_matrix(y)):
        model = estimator(min_steps=80 if given is y else 1).fit(texts, given)
        assert model.predict(texts).shape == (60, 4) and model.classes_.tolist() == [0, 1, 2, 3]
        logs = model.predict_log_proba(texts)
        assert np.allclose(np.exp(logs), model.predict_proba(texts), atol=1e-6) and np.isfinite(logs).all()
        if given is y:
            assert model.score(texts, y) > 0.9 and cross_val_score(estimator(min_steps=1), texts, y, cv=2).shape == (2,)
    numbers = 1e5 + 2e4 * good
    found = estimator(kind=TextRegressor).fit(texts, numbers)
    assert found.score(texts, numbers) > 0.9 and 0.9e5 < found.predict(texts[:1])[0] < 1.3e5
    assert same_bits(pickle.loads(pickle.dumps(found)).predict(texts[:5]), found.predict(texts[:5]))
    for kind, labels, error in (
        (TextClassifier, y / 2, "Unknown label type"),
        (TextClassifier, y[:5], r"y \(5, 4\)"),
        (TextRegressor, names, "a finite number"),
        (TextRegressor, y, r"\(60, 4\)"),
    ):
        with pytest.raises(ValueError, match=error):
            estimator(kind=kind).fit(texts, labels)
    for kind in (TextClassifier, TextRegressor):
        with pytest.raises(TypeError, match=f"{kind.__name__}.fit: sample_weight is not known, allowed are X and y"):
            estimator(kind=kind).fit(texts, good, sample_weight=numbers)


def test_the_estimator_passes_the_checks_that_apply_and_refuses_other_input():
    for check in (
        "check_parameters_default_constructible", "check_get_params_invariance", "check_set_params",
        "check_no_attributes_set_in_init", "check_estimator_cloneable", "check_estimator_repr", "check_mixin_order",
        "check_valid_tag_types", "check_estimator_get_tags_default_keys",
    ):  # fmt: skip
        if hasattr(estimator_checks, check):
            for kind in (TextClassifier, TextRegressor):
                getattr(estimator_checks, check)(kind.__name__, kind())
    texts, y = rows_of(8)
    with pytest.raises(NotFittedError):
        estimator().predict(texts)
    for bad, labels, found in ((texts, ["a"] * 8, "one class only"), (texts, y[:3], r"y \(3,\) for 8 texts"),
                               ("text", y, "one str"), ([1.0], y, "a float among"), ([], [], "no text"),
                               *((texts, odd, "Unknown label type") for odd in (
                                   np.linspace(0, 1, 8), [1.0, np.nan] * 4, np.array([None, "a"] * 4),
                                   np.array([1, "a"] * 4, object)))):  # fmt: skip
        with pytest.raises(ValueError, match=found):
            estimator().fit(bad, labels)


def test_without_scikit_learn_only_what_needs_it_says_so():
    code = ("import sys; sys.modules['sklearn'] = None\nimport pyllm, pyllm.evaluate.texts, pyllm.train.texts\n"
            "for f in (lambda: pyllm.sklearn, lambda: pyllm.evaluate.baseline.fit_baseline(['a'], [0])):\n"
            "    try: f()\n    except ImportError as error: print(error)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.count("pip install pyllm[sklearn]") == 2, done.stderr
