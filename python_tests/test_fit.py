"""`pyllm fit` and `pyllm predict`: from a CSV file to a net and back; digits beside scikit-learn's own models."""

import csv
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import pyllm
from pyllm import _core
from pyllm.cli import main as frame
from pyllm.errors import ModelFileError
from pyllm.evaluate import report
from pyllm.train import read, tabular

FILES = ["columns.json", "log.jsonl", "model.safetensors", "run.json", "timings.jsonl"]


def written(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    data = load_digits()
    rows = [[*map(int, x), int(y)] for x, y in zip(data.data, data.target, strict=True)]
    return written(tmp_path_factory.mktemp("digits") / "digits.csv", [*data.feature_names, "digit"], rows)


def flat_rows(count=400, seed=0):
    """Rooms, age and colour, some missing, make a price."""
    draw = np.random.default_rng(seed)
    worth = {"red": 30, "green": 0, "blue": -20}
    for _ in range(count):
        rooms, age, colour = int(draw.integers(1, 8)), float(draw.uniform(0, 100)), str(draw.choice(list(worth)))
        price = 50 * rooms - age + worth[colour] + draw.normal(0, 5)
        lost = draw.random(2) < 0.05
        yield ["" if lost[0] else rooms, f"{age:.1f}", "" if lost[1] else colour, f"{price:.2f}"]


@pytest.fixture(scope="module")
def flats(tmp_path_factory):
    return written(tmp_path_factory.mktemp("flats") / "flats.csv", ["rooms", "age", "colour", "price"], flat_rows())


def command(*words, cwd):
    argv = [sys.executable, "-m", "pyllm", *map(str, words)]
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, encoding="utf-8", timeout=120)


def test_digits_beside_scikit_learn(digits, tmp_path):
    """96 % of the digits held out within 10 s; as good as scikit-learn's net, better than its linear model less 1 %."""
    begin = time.monotonic()
    net = pyllm.fit_table(digits, "digit", drop_constant=True)
    assert time.monotonic() - begin < 10
    settings = tabular.Settings(drop_constant=True)
    table = tabular.read_table(digits, "digit", settings, lambda *_: None, lambda *_: None)
    rows, held = tabular.split(table, settings)
    x = np.stack(list(table.values.values()), axis=1)
    assert len(rows) + len(held) == 1797 and not set(rows) & set(held)
    scale = StandardScaler().fit(x[rows])
    learned, unseen, y = scale.transform(x[rows]), scale.transform(x[held]), table.wanted
    peers = {
        "net": MLPClassifier((64, 32), max_iter=400, random_state=0),
        "line": LogisticRegression(max_iter=2000),
    }
    with threadpool_limits(1):
        found = {name: peer.fit(learned, y[rows]).score(unseen, y[held]) for name, peer in peers.items()}
    scores = net.scores
    assert scores["rows"] == len(held) == 359
    assert scores["accuracy"] >= 0.96
    assert scores["accuracy"] >= found["net"] - 0.015 and scores["accuracy"] >= found["line"] - 0.01
    assert np.trace(scores["confusion"]) / 359 == scores["accuracy"] > 5 * scores["majority_accuracy"]
    assert np.sum(scores["confusion"]) == 359
    net.save(tmp_path / "run")
    again = pyllm.open_table(tmp_path / "run").predict(digits)
    assert np.mean([said == str(is_) for said, is_ in zip(again.values, y, strict=True)]) > 0.99
    assert again.probabilities.shape == (1797, 10)
    np.testing.assert_allclose(again.probabilities.sum(axis=1), 1, rtol=1e-5)


def test_a_number_beside_always_the_mean(flats):
    net = pyllm.fit_table(flats, "price")
    scores = net.scores
    assert net.target.task == "regression" and scores["r2"] > 0.9 > 0.1 > scores["mean_r2"]
    assert scores["rmse"] < scores["mean_rmse"] / 3
    assert [type(column).__name__ for column in net.columns] == ["Number", "Number", "Category"]
    assert net.columns[2].values == ("", "blue", "green", "red") and net.model.sizes == (6, 64, 32, 1)
    table = tabular.read_table(flats, "price", tabular.Settings(), lambda *_: None, lambda *_: None)
    rows, held = tabular.split(table, tabular.Settings())
    rooms = np.array([float(row[0] or "nan") for row in flat_rows()])[rows]
    assert net.columns[0].mean == pytest.approx(np.nanmean(rooms)) and net.target.mean == table.wanted[rows].mean()
    assert net.columns[0].deviation == pytest.approx(np.nanstd(rooms))
    said, wanted = np.array(net.predict(flats).values)[held], table.wanted[held]
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean((said - wanted) ** 2)), rel=1e-5)
    spread = np.sum((wanted - wanted.mean()) ** 2)
    assert scores["r2"] == pytest.approx(1 - np.sum((said - wanted) ** 2) / spread, rel=1e-5)
    assert scores["mean_rmse"] == pytest.approx(np.sqrt(np.mean((wanted - net.target.mean) ** 2)), rel=1e-5)


def test_the_command_says_every_step(flats, tmp_path):
    done = command("fit", "mlp", flats, "--target", "price", "--out", "runs/flats", "--hidden", "16,8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stages = [line.split()[0] for line in done.stdout.splitlines() if line[0] != " "]
    assert stages == ["read", "missing", "target", "split", "scale", "build", "train", "evaluate", "written"]
    for said in (
        "400 rows, 2 columns of numbers, 1 of words ('colour')",
        "320 rows to learn from, 80 held out (20%)",
        "MLP(6, 16, 8, 1, act='relu'): 257 parameters",
        "1,000 steps of 64 rows",
        "always the mean: RMSE",
    ):
        assert said in done.stdout
    assert "training" in done.stderr and sorted(os.listdir(tmp_path / "runs")) == ["flats"]
    assert sorted(os.listdir(tmp_path / "runs" / "flats")) == FILES
    lines = read(tmp_path / "runs" / "flats")
    assert [line["step"] for line in lines] == list(range(1, 1001))
    assert lines[-1]["loss"] < 0.2 < lines[0]["loss"] and lines[0]["lr"] == 1e-3 and "valid_loss" in lines[-1]
    page = report(tmp_path / "runs" / "flats")
    assert page.facts["steps"] == 1000 and page.facts["parameters"] == 257 and "perplexity" not in page.facts
    assert "257 in all" in page.html and "cannot be" not in page.html and "nothing was recorded" in page.html
    assert command("report", "runs/flats", cwd=tmp_path).returncode == 0
    again = command("fit", "mlp", flats, "--target", "price", "--out", "runs/flats", cwd=tmp_path)
    assert again.returncode == 1 and "flats: exists already and is not empty" in again.stderr
    words = ("fit", "mlp", flats, "--target", "price", "--out", "runs/flats", "--overwrite", "--steps", "10", "--json")
    data = json.loads(command(*words, cwd=tmp_path).stdout)
    assert data["parameters"] == 2561 and data["rows"] == {"learned": 320, "held_out": 80, "left_out": 0}
    assert len(read(tmp_path / "runs" / "flats")) == 10 and data["told"]["target"] == "price: a number"


def test_the_command_predicts(flats, tmp_path, capsys):
    pyllm.fit_table(flats, "price", steps=200).save(tmp_path / "run")
    new = written(tmp_path / "new.csv", ["note", "colour", "rooms", "age"], [
        ["a", "red", 3, 10], ["b", "purple", "", 10], ["c", "", 1e99, -1e99],
    ])  # fmt: skip
    words = ["predict", str(tmp_path / "run"), str(new)]
    assert frame.main(words) == 0
    out = capsys.readouterr()
    header, *rows = out.out.splitlines()
    assert header == "price" and len(rows) == 3 and np.isfinite([float(row) for row in rows]).all()
    assert "colour: 1 unknown words" in out.err and "rooms: 1 missing" in out.err and "colour: 1 missing" in out.err
    assert frame.main([*words, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["predictions"] == [float(row) for row in rows] and data["rows"] == 3
    assert (data["missing"], data["unknown"]) == ({"rooms": 1, "colour": 1}, {"colour": 1})
    assert frame.main([*words, "-o", str(tmp_path / "out.csv")]) == 0
    assert (tmp_path / "out.csv").read_text() == "\n".join([header, *rows]) + "\n"
    assert frame.main([*words, "-o", str(tmp_path / "out.csv")]) == 1
    assert "out.csv: exists already" in capsys.readouterr().err
    bad = written(tmp_path / "bad.csv", ["colour", "rooms", "age"], [["red", 1, 2], ["red", "x", 2]])
    assert frame.main(["predict", str(tmp_path / "run"), str(bad), "-o", str(tmp_path / "other.csv")]) == 1
    assert "bad.csv: line 3: column 'rooms': 'x'" in capsys.readouterr().err
    assert not [name for name in os.listdir(tmp_path) if "other" in name or name.startswith(".")]
    lacks = written(tmp_path / "lacks.csv", ["color", "rooms", "age"], [["red", 1, 2]])
    assert frame.main(["predict", str(tmp_path / "run"), str(lacks)]) == 1
    assert "no column 'colour'; did you mean 'color'?" in capsys.readouterr().err
    none = written(tmp_path / "none.csv", ["colour", "rooms", "age"], [])
    assert frame.main(["predict", str(tmp_path / "run"), str(none), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"] == []


def test_rows_are_predicted_alone_or_together(flats, tmp_path, monkeypatch):
    net = pyllm.fit_table(flats, "price", steps=50)
    whole = net.predict(flats)
    monkeypatch.setattr("pyllm.train.table_model.ROWS_AT_ONCE", 7)
    parts = net.predict(flats)
    assert parts.values == whole.values and parts.missing == whole.missing != {}


@pytest.mark.parametrize("name", ["digits", "flats"])
def test_the_same_seed_gives_the_same_bytes_for_any_number_of_threads(name, tmp_path, request):
    path, target = request.getfixturevalue(name), {"digits": "digit", "flats": "price"}[name]
    words = ("fit", "mlp", path, "--target", target, "--drop-constant", "--steps", "60")
    for out, more in (("a", ("-t", 1)), ("b", ("-t", 2)), ("c", ("-t", 2, "--seed", 1))):
        done = command(*words, "--out", out, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    for file in set(FILES) - {"timings.jsonl"}:
        a, b, c = ((tmp_path / out / file).read_bytes() for out in "abc")
        assert a == b, file
        assert a != c, file


def test_classes_are_whole_numbers_or_words(tmp_path):
    rows = [[i % 7, i % 5, ("1", "2.0", "10", "2", "")[i % 5], ("no", "yes")[i % 2]] for i in range(60)]
    path = written(tmp_path / "t.csv", ["a", "b", "number", "word"], rows)
    told = []
    net = pyllm.fit_table(path, "number", steps=300, tell=lambda stage, text: told.append(text))
    assert net.target.classes == ("1", "2", "10") and net.facts["rows"]["left_out"] == 12
    assert "number: 3 classes ('1', '2', '10'); 12 rows without it left out" in told
    assert net.scores["accuracy"] == 1.0 and net.scores["majority_class"] == "2"
    assert pyllm.fit_table(path, "word", steps=5).target.classes == ("no", "yes")
    assert pyllm.fit_table(path, "b", steps=5, task="regression").target.task == "regression"
    assert pyllm.fit_table(path, "b", steps=5, drop=("word",)).model.sizes[0] == 1 + 1
    counts = np.sum(pyllm.fit_table(path, "word", steps=5, valid=0.5).scores["confusion"], axis=1)
    assert counts.tolist() == [15, 15]  # of each class the same share


def test_what_only_held_out_rows_say_is_unknown(tmp_path):
    rows = [[i % 9, f"w{i}", i % 2] for i in range(40)]
    net = pyllm.fit_table(written(tmp_path / "t.csv", ["a", "word", "y"], rows), "y", steps=5)
    assert len(net.columns[1].values) == 32 == net.facts["rows"]["learned"]
    assert sum(net.predict(tmp_path / "t.csv").unknown.values()) == 8


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_and_spreadsheets(tmp_path, delimiter):
    lines = ["\ufeffa;b;y", *(f'{i};" {i % 3}";{"x" if i % 2 else "z"}' for i in range(20)), "", ""]
    (tmp_path / "t.csv").write_bytes("\r\n".join(lines).replace(";", delimiter).encode())
    net = pyllm.fit_table(tmp_path / "t.csv", "y", steps=5)
    assert [column.name for column in net.columns] == ["a", "b"] and sum(net.facts["rows"].values()) == 20


def test_small_nets_keep_to_one_thread(flats):
    before, seen = _core.threads(), []
    for work, count in (({}, None), ({"hidden": (1000, 1000)}, None), ({}, 2)):

        def look(what, done, total):
            if what == "training":
                seen.append(_core.threads())

        pyllm.fit_table(flats, "price", steps=1, report=look, threads=count, **work)
        assert _core.threads() == before
    assert seen == [1, before, 2]


def test_settings_are_checked(flats):
    for settings, said in [
        ({"hidden": (0,)}, "fit: hidden is (0,); at most 64 sizes from 1"),
        ({"act": "sine"}, "fit: act is 'sine'; relu, tanh"),
        ({"steps": 5, "epochs": 5}, "fit: steps is 5; a whole number from 1, or epochs instead"),
        ({"lr": float("nan")}, "fit: lr is nan"),
        ({"valid": 0.0}, "fit: valid is 0.0; a share"),
        ({"batch": True}, "fit: batch is True"),
        ({"threads": 0}, "fit: threads is 0; a whole number from 1 to 4096"),
        ({"seed": -1}, "fit: seed is -1"),
        ({"task": "guess"}, "fit: task is 'guess'"),
        ({"schedule": "x"}, "schedule: 'x' is not known"),
        ({"rate": 1}, "fit: rate not known; known are hidden"),
    ]:
        with pytest.raises(ValueError) as caught:
            pyllm.fit_table(flats, "price", **settings)
        assert str(caught.value).startswith(said)
    with pytest.raises(ValueError, match=r"fit: the (loss is|net's answers are not)"), np.errstate(all="ignore"):
        pyllm.fit_table(flats, "price", lr=1000.0, weight_decay=1000.0, steps=200, schedule="constant")


def test_an_interrupted_fit_leaves_nothing(flats, tmp_path, monkeypatch):
    def stop(what, done, total):
        if what == "training":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pyllm.fit_table(flats, "price", report=stop)
    net = pyllm.fit_table(flats, "price", steps=5)
    monkeypatch.setattr("pyllm.train.table_files._described", lambda table: {"x": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        net.save(tmp_path / "run")
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()
    net.save(tmp_path / "run")
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(ModelFileError, match=r"run: thesis.txt: would be lost"):
        net.save(tmp_path / "run", overwrite=True)
