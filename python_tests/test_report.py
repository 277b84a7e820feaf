"""`pyllm report`: pages from whole, torn, missing and hostile runs; every page is well-formed and self-contained."""

from __future__ import annotations

import json
import math
import os
import random
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyllm
from pyllm.cli import main as frame
from pyllm.errors import ModelFileError
from pyllm.evaluate import curves, pages, report, runs

CONFIG = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 100}
PARAMETERS = 164 * 32 + 2 * (12 * 32 * 32 + 13 * 32) + 64
VOID = {"meta", "line", "polyline", "circle", "rect"}  # the page closes the last four with a slash


class Checker(HTMLParser):
    """Collects tags and attributes, and fails where a tag is not closed."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def checked(html: str) -> Checker:
    """A page that is well-formed, runs nothing and fetches nothing."""
    found = Checker()
    found.feed(html)
    found.close()
    assert found.open == []
    assert not {"script", "img", "iframe", "link", "object", "embed", "base", "form", "a"} & set(found.tags)
    names = {name for name, _ in found.attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "href", "srcdoc")]
    assert "url(" not in html and "@import" not in html and "default-src 'none'" in html
    return found


def words(html: str) -> str:
    return " ".join(checked(html).words)


def lines(records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def step(i: int) -> dict:
    record = {"step": i, "samples": 8 * i, "tokens": 512 * i, "loss": 5 / (1 + i / 50), "lr": 1e-3, "grad_norm": 1.5}
    return record | ({"valid_loss": 5 / (1 + i / 50) + 0.1} if i % 20 == 0 else {})


FACTS = {
    "model": "gpt2",
    "config": CONFIG,
    "parameters": PARAMETERS,
    "arguments": {"lr": 0.001, "batch": 8, "resume": False, "note": None},
    "command": "pyllm pretrain --lr 1e-3 <corpus>",
    "machine": {"processor": "A & B", "threads": 2},
    "samples": [{"step": 20, "prompt": "Once", "text": " upon a time"}, {"step": 40, "prompt": "", "text": "later"}],
}


@pytest.fixture
def run(tmp_path):
    """A whole run of 100 steps."""
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "log.jsonl").write_text(lines(step(i) for i in range(1, 101)))
    timings = [{"step": i, "seconds": 0.5, "tokens_per_second": 1000 + i, "share_of_peak": 0.4} for i in range(1, 101)]
    (folder / "timings.jsonl").write_text(lines(timings))
    (folder / "run.json").write_text(json.dumps(FACTS))
    return folder


def test_a_whole_run(run):
    page = report(run)
    assert page.facts == {
        "steps": 100,
        "samples": 800,
        "tokens": 51_200,
        "first_loss": step(1)["loss"],
        "last_loss": step(100)["loss"],
        "best_valid_loss": step(100)["valid_loss"],
        "at_step": 100,
        "perplexity": math.exp(step(100)["valid_loss"]),
        "seconds_in_steps": 50.0,
        "median_tokens_per_second": 1050.5,
        "parameters": PARAMETERS,
    }
    found = checked(page.html)
    assert found.tags.count("svg") == 6 and found.tags.count("polyline") == 6  # train and valid share one picture
    text = " ".join(found.words)
    for each in ("my run", "Once", " upon a time", "A & B", "pyllm pretrain --lr 1e-3 <corpus>", "n_positions"):
        assert each in text
    assert text.index("later") < text.index(" upon a time")  # the newest first
    assert f"{PARAMETERS:,} in all." in text and "feed-forward up" in text and "embedding: positions" in text
    assert "warning" not in [value for _, value in found.attributes]


def test_the_curve_goes_where_the_numbers_are():
    svg = curves.curves("t", [curves.Line("a", [(0, 1.0), (5, 3.0), (10, 2.0)])], "y")
    left, right = curves.LEFT, curves.WIDTH - curves.RIGHT
    top, bottom = curves.TOP, curves.HEIGHT - curves.BOTTOM
    wanted = f"{left:.1f},{bottom:.1f} {(left + right) / 2:.1f},{top:.1f} {right:.1f},{(top + bottom) / 2:.1f}"
    assert f"<polyline points='{wanted}'" in svg


def test_a_line_stops_where_a_number_is_not_finite():
    points = [(0, 1.0), (1, 2.0), (2, math.nan), (3, 3.0), (4, math.inf), (5, 1.0), (6, 1.5)]
    svg = curves.curves("t", [curves.Line("a", points)], "y")
    assert svg.count("<polyline") == 2 and svg.count("<circle") == 1
    assert "nan" not in svg and "inf" not in svg
    assert "nothing was recorded" in curves.curves("t", [curves.Line("a", [(0, math.nan)])], "y")


@pytest.mark.parametrize("values", [[0.0, 5e-324], [0.0, 1e-300, 5e-324], [1.0, 1e305, 2.0], [-1e308, 1e308, 3.0, 4.0]])
def test_extreme_numbers_stay_inside_the_picture(values):
    svg = curves.curves("t", [curves.Line("a", list(enumerate(values)))], "y")
    (line,) = re.findall(r"points='([^']*)'", svg)
    heights = [float(place.split(",")[1]) for place in line.split()]
    assert len(heights) == len(values)
    assert all(curves.TOP <= y <= curves.HEIGHT - curves.BOTTOM for y in heights)


def test_thinning_keeps_peaks():
    points = [(i, math.sin(i / 999)) for i in range(100_000)]
    points[54_321] = (54_321, 7.0)
    points[60_000] = (60_000, math.nan)
    found = curves.thinned(points)
    assert len(found) <= curves.MOST_POINTS + 2 and (54_321, 7.0) in found
    assert sum(not math.isfinite(y) for _, y in found) == 1
    assert [x for x, _ in found] == sorted(x for x, _ in found)
    worst = [(i, math.nan if i % 2 else 1.0) for i in range(100_000)]
    assert len(curves.curves("t", [curves.Line("a", worst)], "y")) < 200_000


@given(st.floats(-1e300, 1e300), st.floats(0, 1e300))
def test_ticks_are_few_and_inside(low, span):
    low, high = curves._range([low, low + span])
    found = curves.ticks(low, high)
    slack = 1e-6 * (high - low)
    assert 1 <= len(found) <= 8 and all(low - slack <= value <= high + slack for value in found)


@given(st.lists(st.floats(), max_size=30))
def test_any_numbers_give_a_picture(values):
    points = list(enumerate(values))
    html = curves.curves("t", [curves.Line("a", points), curves.Line("b", points, dots=True)], "y")
    found = Checker()
    found.feed(html)
    places = re.findall(r"[xy\d]='([^']*)'|points='([^']*)'", html)
    assert found.open == [] and not any("nan" in part or "inf" in part for pair in places for part in pair)


def test_a_missing_file_is_said(run):
    (run / "timings.jsonl").unlink()
    (run / "run.json").unlink()
    page = report(run)
    text = words(page.html)
    assert "timings.jsonl: is not there" in text and "run.json: is not there" in text
    assert "Throughput: nothing was recorded." in text and "Samples: nothing was recorded." in text
    assert "The parts cannot be counted" in text
    assert page.facts["steps"] == 100 and "seconds_in_steps" not in page.facts


def test_torn_lines_are_counted_and_the_rest_is_shown(run):
    whole = lines(step(i) for i in range(10, 0, -1))
    deep = "[" * 50_000 + "\n"
    (run / "log.jsonl").write_text(deep + whole)
    assert "log.jsonl: 1 line is torn" in words(report(run).html)
    assert [record["step"] for record in runs.read_run(run).log] == list(range(1, 11))
    (run / "log.jsonl").write_text(whole + '[1]\n\n{"loss": 1}\n{"step": 11, "lo')
    page = report(run)
    assert page.facts["steps"] == 10 and "log.jsonl: 3 lines are torn" in words(page.html)
    (run / "log.jsonl").write_text(whole + '{"step": 11, "lo')
    assert "log.jsonl: 1 line is torn" in words(report(run).html)


def test_a_run_that_went_on_from_a_checkpoint_keeps_the_later_lines(run):
    (run / "log.jsonl").write_text(lines([step(1), step(2), step(3), step(2) | {"loss": 9.0}]))
    found = runs.read_run(run)
    assert [record["step"] for record in found.log] == [1, 2, 3] and found.log[1]["loss"] == 9.0


def test_strings_stand_for_numbers_that_json_lacks(run):
    bad = [step(1), step(2) | {"loss": "nan", "grad_norm": "inf"}, step(3) | {"loss": "-inf", "lr": "x"}, step(4)]
    (run / "log.jsonl").write_text(lines(bad))
    page = report(run)
    assert page.facts["steps_without_a_finite_loss"] == 2 and page.facts["last_loss"] == step(4)["loss"]
    assert runs.as_number("INF") == math.inf and runs.as_number(True) is None and runs.as_number(10**400) == math.inf


HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>'\"&\x00\x1b[2J\u202eabc\ud800"


def test_hostile_texts_stay_texts(run):
    facts = FACTS | {
        "command": HOSTILE,
        "model": HOSTILE,
        "arguments": {HOSTILE: HOSTILE, "deep": [[HOSTILE]]},
        "machine": HOSTILE,
        "samples": [{"step": HOSTILE, "prompt": HOSTILE, "text": HOSTILE}, 7, {"text": ["a", 1]}],
    }
    (run / "run.json").write_text(json.dumps(facts))
    page = report(run)
    text = words(page.html)
    assert "<script>alert(1)</script>" in text and "\\x00\\x1b[2J\\u202eabc\\ud800" in text
    assert not set(page.html) & set("\x00\x1b\u202e\ud800")
    frame_html = page._repr_html_()
    assert frame_html.count("<") == 2 and "sandbox" in frame_html
    found = HTMLParser()
    found.handle_starttag = lambda tag, attributes: checked(dict(attributes)["srcdoc"])
    found.feed(frame_html)


@pytest.mark.parametrize(
    "facts",
    [
        [],
        {"samples": 3, "config": [], "arguments": 5, "machine": [], "parameters": "many", "command": None},
        {"config": {"n_layer": -1}, "model": "gpt2"},
        {"config": CONFIG, "model": ["gpt2"]},
        {"config": CONFIG, "model": "gpt2", "parameters": 12},
        {"samples": [{"step": i, "text": "x" * 100} for i in range(1000)]},
        {"samples": [{"step": 1, "text": "y" * 10**6}]},
    ],
)
def test_odd_facts_still_give_a_page(run, facts):
    (run / "run.json").write_text(json.dumps(facts))
    page = report(run)
    assert page.facts["steps"] == 100 and "Loss" in words(page.html) and len(page.html) < 300_000


def test_what_run_json_says_is_compared_with_the_count(run):
    (run / "run.json").write_text(json.dumps(FACTS | {"parameters": 12}))
    assert "run.json says 12 parameters." in words(report(run).html)


def test_many_and_long_samples_are_cut_and_it_is_said(run):
    many = [{"step": i, "text": f"text {i}."} for i in range(150)] + [{"step": 150, "text": "z" * 30_000}]
    (run / "run.json").write_text(json.dumps({"samples": many}))
    text = words(report(run).html)
    assert f"The last {pages.MOST_SAMPLES} of 151." in text and "text 149." in text and "text 50." not in text
    assert "(10,000 more characters)" in text


def test_damaged_bytes_never_stop_the_report(run):
    chance = random.Random(5)
    for name in ("log.jsonl", "timings.jsonl", "run.json"):
        whole = (run / name).read_bytes()
        for _ in range(40):
            damaged = bytearray(whole[: chance.randrange(len(whole))])
            for _ in range(5):
                at = chance.randrange(len(damaged) + 1)
                del damaged[at : at + 1]
                damaged[chance.randrange(len(damaged) + 1) : 0] = bytes([chance.randrange(256)])
            (run / name).write_bytes(bytes(damaged))
            checked(report(run).html)
        (run / name).write_bytes(whole)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(run):
    (run / "log.jsonl").unlink()
    os.mkfifo(run / "log.jsonl")
    assert "log.jsonl: is no file" in words(report(run).html)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ModelFileError, match=r"report: none of log\.jsonl, timings\.jsonl, run\.json is in it"):
        report(tmp_path)
    with pytest.raises(ModelFileError, match="no such folder"):
        report(tmp_path / "none")


def test_saving(run, tmp_path):
    page = report(run)
    page.save(tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text() == page.html
    with pytest.raises(ModelFileError, match="exists already"):
        page.save(run / "log.jsonl")
    page.save(tmp_path / "a.html", overwrite=True)
    assert repr(page).startswith("Report(") and "steps" in repr(page)


def test_the_verb(run, tmp_path, capsys):
    assert frame.main(["report", str(run)]) == 0
    out = capsys.readouterr().out
    assert (run / "report.html").read_text() == report(run).html
    assert "best valid loss" in out and "written: " in out and "51,200" in out
    assert frame.main(["report", str(run), "--json"]) == 0  # its own page is replaced
    assert json.loads(capsys.readouterr().out) == {"path": str(run / "report.html"), **report(run).facts}
    other = tmp_path / "other.html"
    assert frame.main(["report", str(run), "-o", str(other)]) == 0 and other.exists()
    capsys.readouterr()
    assert frame.main(["report", str(run), "-o", str(other)]) == 1
    assert "other.html: exists already" in capsys.readouterr().err
    assert frame.main(["report", str(run), "-o", str(other), "--overwrite"]) == 0
    assert frame.main(["report", str(tmp_path / "none")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_the_library_has_the_name():
    assert pyllm.evaluate.report is report
