"""Tables that cannot be learned and run folders that cannot be trusted: one sentence each, nothing left behind."""

import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyllm
from pyllm.cli import main as frame
from pyllm.errors import ModelFileError
from pyllm.formats import csv_file
from pyllm.formats.csv_file import CsvFile

GOOD = "a,b,y\n" + "".join(f"{i},{i * i % 7},{'no' if i % 3 else 'yes'}\n" for i in range(30))
CONSTANT = "a,b,c,y\n" + "".join(f"{i},5,,{i}.5\n" for i in range(30))
WRONG = {
    "empty": ("", "t.csv: is empty; a first line of column names"),
    "blank": ("\n \n\n", "column 1 has no name"),
    "names alone": ("a,b,y\n", "t.csv: has no rows; rows after the line of names"),
    "short row": (GOOD + "1,2\n", "t.csv: line 32: 2 fields; 3, as the first line has"),
    "long row": (GOOD + "\n1,2,no,4\n", "t.csv: line 33: 4 fields; 3, as the first line has"),
    "row after a field of two lines": (GOOD + '1,2,"no\nno"\n1\n', "t.csv: line 34: 1 fields; 3"),
    "open quote": (GOOD + '1,2,"no\n', "t.csv: line 32: is no CSV: unexpected end of data"),
    "text after a quote": (GOOD + '1,"2"2,no\n', "t.csv: line 32: is no CSV: ',' expected after '\"'"),
    "endless field": (GOOD + f"1,2,{'n' * 200_000}\n", "t.csv: line 32: is no CSV: field larger than field limit"),
    "no name": (GOOD.replace("b", "", 1), "t.csv: line 1: column 2 has no name"),
    "same name": (GOOD.replace("b", " a", 1), "t.csv: line 1: columns 1 and 2 are both called 'a'; each name once"),
    "no target": (GOOD.replace("y", "yy", 1), "t.csv: no column 'y'; did you mean 'yy'?"),
    "nothing like it": ("aaa,bbb\n1,2\n", "t.csv: no column 'y'; columns: 'aaa', 'bbb'"),
    "not UTF-8": (GOOD.encode() + b"1,2,n\xf6\n", "t.csv: line 32: byte 6 of it is not UTF-8; text in UTF-8"),
    "UTF-16": (GOOD.encode("utf-16"), "t.csv: line 1: holds a byte 0; text in UTF-8"),
    "nan": (GOOD + "nan,2,no\n", "t.csv: line 32: column 'a': 'nan'; finite numbers, or an empty field where"),
    "infinity": (GOOD + "-Inf,2,no\n", "t.csv: line 32: column 'a': '-Inf'; finite numbers"),
    "overflow": (GOOD + "1e999,2,no\n", "t.csv: line 32: column 'a': '1e999'; numbers up to 1e+100"),
    "one class": (GOOD.replace("yes", "no"), "t.csv: target 'y' has one class only: 'no'; two or more"),
    "no values": (GOOD.replace("yes", "").replace("no", "NA"), "t.csv: target 'y' has no values"),
    "one number": (GOOD.replace("yes", "1.5").replace("no", "1.50"), "t.csv: target 'y' is constant: 1.5; numbers"),
    "constant": (CONSTANT, "t.csv: 2 columns are constant: 'b', 'c'; columns that differ between rows; --drop leaves"),
    "target alone": ("y\n1\n2\n", "t.csv: no columns are left to learn from"),
    "one row of each": ("a,y\n1,no\n2,yes\n", "t.csv: 2 rows with a target; at least two, of one class"),
    "too many words": (
        "a,y\n" + "".join(f"w{i},{i % 2}\n" for i in range(1100)),
        "t.csv: line 2: column 'a': 'w0' is no number, and there are more than 1,000 different values",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", list(WRONG))
def test_a_bad_table_is_one_clear_sentence(what, tmp_path, capsys):
    text, said = WRONG[what]
    (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    words = ["fit", "mlp", str(tmp_path / "t.csv"), "--target", "y", "--out", str(tmp_path / "run"), "--steps", "3"]
    assert frame.main(words) == 1
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err
    assert sum(line.startswith("pyllm: ") for line in err.splitlines()) == 1
    assert os.listdir(tmp_path) == ["t.csv"]


def test_what_the_sentences_advise_helps(tmp_path):
    (tmp_path / "t.csv").write_text(CONSTANT)
    net = pyllm.fit_table(tmp_path / "t.csv", "y", steps=3, drop_constant=True)
    assert [column.name for column in net.columns] == ["a"]
    assert pyllm.fit_table(tmp_path / "t.csv", "y", steps=3, drop=("b", "c")).model.sizes == net.model.sizes
    with pytest.raises(ModelFileError, match="no column 'x'"):
        pyllm.fit_table(tmp_path / "t.csv", "y", drop=("x",))
    with pytest.raises(ModelFileError, match="column 'y' is the target"):
        pyllm.fit_table(tmp_path / "t.csv", "y", drop=("y",))
    with pytest.raises(ModelFileError, match=r"line 2: target 'y': 'no'; numbers, for a regression"):
        (tmp_path / "g.csv").write_text(GOOD.replace("yes", "no", 1))
        pyllm.fit_table(tmp_path / "g.csv", "y", task="regression")


def test_paths_that_are_no_tables(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, said in [(tmp_path, "is a directory"), (tmp_path / "pipe", "is a named pipe"),
                       (tmp_path / "none", "cannot be opened: No such file")]:  # fmt: skip
        with pytest.raises(ModelFileError, match=said):
            pyllm.fit_table(path, "y")


def test_long_lines_and_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "_PIECE", 7)
    (tmp_path / "t.csv").write_text(GOOD + "ä,ö,no\n")
    file = CsvFile(tmp_path / "t.csv")
    told = []
    rows = list(file.rows(told.append))
    assert len(rows) == 31 and rows[0] == (2, ["0", "0", "yes"]) and rows[-1] == (32, ["ä", "ö", "no"])
    assert sum(told) == file.size
    monkeypatch.setattr(csv_file, "LONGEST_LINE", 20)
    (tmp_path / "t.csv").write_text(GOOD + "a" * 40)
    with pytest.raises(ModelFileError, match="line 32: more than 20 bytes without an end of line"):
        list(CsvFile(tmp_path / "t.csv").rows())


def test_a_table_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text(GOOD)
    file = CsvFile(path)
    path.write_text(GOOD.replace("a,b", "c,b"))
    with pytest.raises(ModelFileError, match="has changed while it was read"):
        next(file.rows())
    path.write_text(GOOD)
    grown = []

    def grow(what, done, total):
        if what == "reading" and not grown:
            grown.append(True)
            path.write_text(GOOD + "1,2,no\n")

    with pytest.raises(ModelFileError, match="has changed while it was read"):
        pyllm.fit_table(path, "y", steps=3, report=grow)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200))
def test_no_bytes_crash(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "t.csv"
    path.write_bytes(b"a,y\n" + data)
    try:
        net = pyllm.fit_table(path, "y", steps=2, hidden=(3,), drop_constant=True)
    except ModelFileError as error:
        assert str(error).startswith("t.csv: ")
        return
    for value in net.predict(path).values:
        assert isinstance(value, str) or np.isfinite(value)


# --- run folders ---


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "t.csv").write_text(GOOD.replace("29,", "x,"))
    (folder / "n.csv").write_text("a,b,y\n" + "".join(f"{i},{'uvw'[i % 3]},{i / 7}\n" for i in range(30)))
    pyllm.fit_table(folder / "n.csv", "y", steps=3, hidden=(4,)).save(folder / "run")
    return folder


def put(value, *path):
    """Set one field of a JSON value."""

    def change(whole):
        at = whole
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        return whole

    return change


BROKEN = {
    "format": ("run.json", put("other", "format"), "run.json: format: not a file of a table's net"),
    "list": ("run.json", lambda whole: [whole], "run.json: format: not a file of a table's net"),
    "version": ("run.json", put(2, "version"), "run.json: version: 2; 1; a later pyllm may have written it"),
    "no config": ("run.json", put(None, "config"), "run.json: config: None; an object"),
    "act": ("run.json", put("sine", "config", "act"), "run.json: act: 'sine'; relu, tanh"),
    "few sizes": ("run.json", put([5], "config", "sizes"), "run.json: sizes: [5]; from 2 to 66 sizes"),
    "huge sizes": ("run.json", put([4, 2**31 - 1, 1], "config", "sizes"), "sizes: [4, 2147483647, 1]; 4 inputs and 1"),
    "size 0": ("run.json", put([4, 0, 1], "config", "sizes"), "run.json: sizes: [4, 0, 1]; from 2 to 66"),
    "size true": ("run.json", put([4, True, 1], "config", "sizes"), "run.json: sizes: [4, True, 1]"),
    "inputs": ("run.json", put([5, 4, 1], "config", "sizes"), "4 inputs and 1 outputs, as columns.json says"),
    "weights": ("run.json", put([4, 5, 1], "config", "sizes"),
                "tensor 'layers.0.weight': shape [4, 4] x F32; shape [5, 4] x F32"),
    "layers": ("run.json", put([4, 4, 4, 1], "config", "sizes"), "tensor 'layers.1.weight': shape [1, 4] x F32; shape"),
    "fewer layers": ("run.json", put([4, 1], "config", "sizes"), "tensor 'layers.0.weight': shape [4, 4] x F32"),
    "scores": ("run.json", put(1, "scores"), "run.json: scores: 1; an object"),
    "no name": ("columns.json", put(5, "columns", 0, "name"), "columns.json: name: 5; text"),
    "no column": ("columns.json", put([], "columns"), "columns.json: columns: []; one or more, each name once"),
    "twice": ("columns.json", put("b", "columns", 0, "name"), "columns: ['b', 'b']; one or more, each name once"),
    "target twice": ("columns.json", put("y", "columns", 0, "name"), "columns: ['y', 'b']; one or more"),
    "column": ("columns.json", put("x", "columns", 0), "columns.json: name: None; text"),
    "mean": ("columns.json", put("x", "columns", 0, "mean"), "columns.json: mean: 'x'; a number from -1e+100 to"),
    "deviation": ("columns.json", put(-1, "columns", 0, "deviation"), "columns.json: deviation: -1; a number from 0"),
    "words": ("columns.json", put(["u", "u", "w"], "columns", 1, "words"), "columns.json: words: ['u', 'u', 'w']"),
    "word": ("columns.json", put(["u", 1], "columns", 1, "words"), "columns.json: words: ['u', 1]; from 1 to 1,001"),
    "classes": ("columns.json", put(["u"], "target", "classes"), "columns.json: classes: ['u']; from 2 to 1,001"),
    "target": ("columns.json", put(0, "target", "deviation"), "columns.json: deviation: 0; a number from"),
    "other outputs": ("columns.json", put(["u", "v"], "target", "classes"), "4 inputs and 2 outputs, as columns.json"),
}  # fmt: skip


@pytest.mark.parametrize("what", list(BROKEN))
def test_a_broken_folder_is_named(what, run, tmp_path, capsys):
    name, change, said = BROKEN[what]
    shutil.copytree(run / "run", tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    assert frame.main(["predict", str(tmp_path / "run"), str(run / "n.csv")]) == 1
    out, err = capsys.readouterr()
    assert said in err and out == "" and "Traceback" not in err


@pytest.mark.parametrize("name", ["run.json", "columns.json", "model.safetensors"])
def test_a_missing_or_torn_file_is_named(name, run, tmp_path):
    shutil.copytree(run / "run", tmp_path / "run")
    whole = (tmp_path / "run" / name).read_bytes()
    for end in range(0, len(whole) - 1, 37):
        (tmp_path / "run" / name).write_bytes(whole[:end])
        with pytest.raises(ModelFileError, match=f"^{name}"):
            pyllm.open_table(tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    with pytest.raises(ModelFileError, match=f"{name}: cannot be opened"):
        pyllm.open_table(tmp_path / "run")
    with pytest.raises(ModelFileError, match="none: no such folder; the folder of `pyllm fit`"):
        pyllm.open_table(tmp_path / "none")


def test_weights_that_are_no_numbers_are_refused(run, tmp_path):
    shutil.copytree(run / "run", tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + np.float32("nan").tobytes())
    with pytest.raises(ModelFileError, match=r"tensor 'layers.1.bias': holds nan or infinity; finite numbers"):
        pyllm.open_table(tmp_path / "run")


def test_a_folder_goes_round(run, tmp_path):
    net = pyllm.open_table(run / "run")
    net.save(tmp_path / "again")
    for name in ("run.json", "columns.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (run / "run" / name).read_bytes()
    assert repr(net).startswith("TableModel(MLP(4, 4, 1, act='relu'): 25 parameters, 1 columns of numbers, 1 of words")
    assert net.scores == json.loads((run / "run" / "run.json").read_text())["scores"]
