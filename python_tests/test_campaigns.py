"""The arithmetic of the campaigns: what quality.py, paired.py and invariance.py count is what they say."""
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import compare_rows
import generated
import paired
import quality


def test_quality_of_the_reference_itself_is_perfect():
    logits = np.random.default_rng(1).standard_normal((1, 200, 50)).astype(np.float32) * 3
    ids = np.arange(200)[None] % 50
    truth = quality.measure(lambda _: logits[0], ids, logits, "reference")
    summary = quality.summary(truth, truth)
    assert summary["top_token_percent"] == 100 and summary["sure_misses"] == 0
    assert abs(summary["kl_mean"]) < 1e-12 and summary["perplexity_percent"] == 0


def test_quality_counts_by_the_definitions():
    reference = np.log(np.array([[0.5, 0.25, 0.25], [0.9, 0.05, 0.05]]))
    ours = np.log(np.array([[0.25, 0.5, 0.25], [0.9, 0.05, 0.05]]))
    ids = np.array([0, 1])
    found = quality.figures_of(ours, reference, ids)
    truth = quality.figures_of(reference, reference, ids)
    assert found.top.tolist() == [1, 0] and truth.top.tolist() == [0, 0]
    assert np.allclose(found.divergence, [0.25 * np.log(2), 0])
    assert np.isclose(found.loss[0], np.log(2)) and np.allclose(truth.margin, [np.log(2), np.log(18)])
    stack = [quality.Figures(*(column[None] for column in figures)) for figures in (found, truth)]
    summary = quality.summary(*stack)
    assert (summary["top_token_percent"], summary["sure_positions"], summary["sure_misses"]) == (50, 1, 0)
    assert np.isclose(summary["perplexity"], 2) and np.isclose(summary["perplexity_percent"], -50)


def test_targets_fail_one_by_one():
    good = {"top_token_percent": 97.0, "sure_misses": 0, "perplexity_percent": 0.1, "kl_mean": 0.001}
    peer = {"top_token_percent": 96.9, "kl_mean": 0.002}

    def missed(tokens_equal=True, precision="default", **changes):
        result = {"tokens_equal": tokens_equal, "pyllm": good | changes, "llama.cpp": peer}
        return len(quality.failed(result, precision))

    assert missed() == 0 and missed(precision="high") == 1 and missed(tokens_equal=False) == 1
    assert missed(sure_misses=1) == 1 and missed(perplexity_percent=-0.6) == 1 and missed(kl_mean=0.003) == 1
    assert missed(top_token_percent=96.6) == 1 and missed(top_token_percent=96.0) == 2


def test_ratios_are_of_pairs_and_against_the_faster_peer():
    rounds = [
        {"seconds": {"pyllm": 1.0 * mood, "llama.cpp": 2.0 * mood, "llama.cpp-flash": 1.5 * mood}, "idle": 0.0,
         "steal": 0.5 if mood == 9 else 0.0, "foreign": 0.5 if mood == 8 else 0.01}
        for mood in (1, 2, 3, 8, 9)
    ]
    report = paired.report(rounds, 512)
    assert report["against"] == "llama.cpp-flash" and report["ratio"]["llama.cpp-flash"]["median"] == 1.5
    assert report["ratio"]["llama.cpp"]["interval"] == [2.0, 2.0]
    assert (report["pairs"], report["dropped"]) == (3, 2)
    assert report["per_second"]["pyllm"] == 256
    with pytest.raises(RuntimeError, match=r"only 1 of 3.*50%"):
        paired.report([rounds[0], *rounds[3:]], 1)


def test_mixes_meet_every_pair_of_workers_and_chunk():
    import request_mixes

    found = list(request_mixes.mixes(np.random.default_rng(0), 28))
    assert {(m.threads, m.chunk) for m in found} >= set(itertools.product(request_mixes.THREADS, request_mixes.CHUNKS))
    assert {m.company for m in found} == set(request_mixes.COMPANY)


def test_pairs_are_measured_again_when_others_were_at_work(monkeypatch):
    shares = iter([0.5, 0.0, 0.0, 0.9, 0.0])
    monkeypatch.setattr(paired, "PAUSE", 0)
    monkeypatch.setattr(paired.Machine, "shares", lambda self: {"steal": 0.0, "foreign": next(shares)})
    order = []
    sides = [paired.Side(name, lambda name=name: order.append(name) or 1.0) for name in ("pyllm", "other")]
    rounds = paired.paired(sides, 3)
    assert [paired.quiet(each, 0.05) for each in rounds] == [False, True, True, False, True]
    assert order[:4] == ["pyllm", "other", "other", "pyllm"]


def test_rows_are_chosen_by_group_file_or_name():
    names = [row.name for group in compare_rows.GROUPS.values() for row in group]
    assert len(set(names)) == len(names)
    assert [row.name for row in compare_rows.chosen(["7B-Q8_0", "decode"])] == [
        "decode", "7B-Q8_0-decode", "7B-Q8_0-prompt",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no row, file or group 'x'"):
        compare_rows.chosen(["x"])


@pytest.mark.parametrize("mix", [kind for kind in generated.FILE_TYPES if kind not in ("Q4_K", "F16")])
def test_random_files_have_finite_logits(mix, tmp_path):
    import pyllm

    path = str(tmp_path / "m.gguf")
    generated.write("tiny", mix, path)
    model = pyllm.AutoModelForCausalLM.from_pretrained(path)
    logits = model.step([(model.new_state(), [5, 600, 31999])])
    assert np.isfinite(logits).all() and 0.1 < logits.std() < 10
    types = {tensor.dtype for tensor in pyllm.formats.GGUF(path).tensors.values()}
    assert types == {"F32", *({"Q4_K", "Q6_K"} if mix == "Q4_K_M" else {"Q4_0", "Q6_K"} if mix == "Q4_0" else {mix})}
