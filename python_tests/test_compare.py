"""`pyllm compare`: models of equal size, what they learn, how far gradients come, the page and its table."""

from __future__ import annotations

import json
from itertools import count, islice

import numpy as np
import pytest
from test_report import Checker

from pyllm import ops
from pyllm.auto.new import new_model
from pyllm.autograd import no_grad
from pyllm.cli import main as frame
from pyllm.data.packed import IGNORED
from pyllm.evaluate import comparison, contest
from pyllm.evaluate.contest import KINDS


def model_of(kind, parameters=20_000, seed=0):
    return new_model(contest.config_of(kind, parameters, comparison.SYMBOLS + 2, 128), seed)


def batches(task, longest, seed=0):
    random = np.random.default_rng(seed)
    return ([comparison.symbols(random, 1 + int(random.integers(longest)), task) for _ in range(16)] for _ in count())


def test_models_are_of_equal_size_and_no_larger():
    for parameters in (20_000, 200_000):
        sizes = {kind: model_of(kind, parameters).num_parameters() for kind in KINDS}
        assert max(sizes.values()) <= parameters and min(sizes.values()) > 0.8 * parameters, sizes
    with pytest.raises(ValueError, match=r"100 parameters, allowed are [\d,]+ or more, which a RNN of 66 tokens"):
        model_of("RNN", 100)


def test_a_task_says_its_target_and_no_symbol_twice():
    random = np.random.default_rng(0)
    for task, order in (("copy", 1), ("reverse", -1)):
        source, target = comparison.symbols(random, 20, task)
        assert source[-1] == target[-1] == comparison.END and len(set(source.tolist())) == 21
        assert (target[:-1] == source[:-1][::order]).all() and source[:-1].min() >= 2


@pytest.mark.parametrize("kind", KINDS)
def test_each_model_learns_and_is_judged_as_its_loss_says(kind):
    model = model_of(kind)
    held = next(batches("copy", 3, 1))
    before = contest.judged(model.eval(), held)
    curve = contest.learn(model, islice(batches("copy", 3), 60), 1e9, 1e-2, 0)
    assert len(curve.losses) == 60 and np.mean(curve.losses[-5:]) < 0.9 * curve.losses[0]
    loss, right = contest.judged(model.eval(), held)
    assert loss < 0.9 * before[0] and before[1] <= right <= 1
    batch = contest.batch_of(held, model.start_id)
    with no_grad(), ops.documents(batch.starts):
        assert abs(model.train().loss(batch.ids, batch.targets).item() - loss) < 1e-5 * loss


@pytest.mark.parametrize("kind", ("RNN", "Transformer"))
def test_the_reach_of_a_gradient_is_that_of_each_token(kind):
    model, random = model_of(kind), np.random.default_rng(3)
    pairs = [comparison.symbols(random, 20, "reverse") for _ in range(3)]
    norms = contest.reach(model, pairs)
    table, wanted = model.source_embedding.weight.value, []
    for pair in pairs:
        batch = contest.batch_of([pair], model.start_id)
        targets = np.where(np.arange(len(batch.targets)) == len(batch.targets) - 1, batch.targets, IGNORED)
        model.zero_grad()
        with ops.documents(batch.starts):
            model.loss(batch.ids, targets).backward()
        seen = table.grad[pair.source].astype(np.float64)
        assert np.count_nonzero(np.abs(table.grad).sum(axis=1)) == len(pair.source)  # no other token has a gradient
        wanted.append(np.sqrt((seen**2).sum(axis=1)))
    assert np.allclose(norms, np.mean(wanted, axis=0), rtol=1e-6)
    faded = norms[0] / norms[-1]  # a new plain net forgets what lies 20 steps back, attention does not
    assert faded < 1e-3 if kind == "RNN" else faded > 1e-2, norms


def test_each_tick_of_the_table_is_a_measurement():
    points = {"A": [(4.0, 1.0), (8.0, 0.95), (12.0, 0.5)], "B": [(4.0, 0.2), (8.0, 0.1), (12.0, 0.0)]}
    times = {n: {kind: [(16.0, 0.01), (32.0, 0.04 / n)] for kind in "AB"} for n in (1, 2)}
    falling = {kind: [(1.0, 3.0), (2.0, 1.0)] for kind in "AB"}
    sizes, accuracy = dict.fromkeys("AB", 10), {"copy": points, "real": points}
    found = comparison.Found(sizes, accuracy, times, falling, falling, points, 1.0)
    table = comparison.verdicts(found)
    assert table["A"] == {
        "parameters": 10, "longest source learned": 8.0, "step at the shortest, ms": 10.0,
        "step at the longest, ms": 20.0, "time per token, longest : shortest": 1.0, "faster with 2 threads": 2.0,
        "loss after all seconds": 1.0,
        "loss saved by 30x the data": 2.0,
    }  # fmt: skip
    assert table["B"]["longest source learned"] == 0


def test_one_command_gives_one_page(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(comparison, "STEPS", (4, 8))
    monkeypatch.setattr(comparison, "LENGTHS", (2, 4))
    monkeypatch.setattr(comparison, "LEAST", 5)
    lines = [f"{'a b c d'[: 1 + 2 * (i % 4)]} {i}\t{i} x" for i in range(200)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines) + "\n")
    page = tmp_path / "page.html"
    words = ["compare", "-o", page, "--seconds", "0.02", "--parameters", "20000"]
    words += ["--data", tmp_path / "pairs.tsv", "--vocab", "270"]
    assert frame.main([*map(str, words), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts["table"]) == list(KINDS) and all(row["parameters"] <= 20000 for row in facts["table"].values())
    html = page.read_text()
    checker = Checker()
    checker.feed(html)
    for part in ("Accuracy against length: copy", "reverse", "real pairs", "Gradient through time", "The table"):
        assert part in html
    assert html.count("<polyline") >= 5 * len(KINDS)
    assert frame.main([str(word) for word in words]) == 1 and "exists" in capsys.readouterr().err
    assert frame.main(["compare", "--tokenizer", "x", "-o", str(tmp_path / "b.html")]) == 2
