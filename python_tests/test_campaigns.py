"""The arithmetic of the campaigns: what quality.py, compare.py and invariance.py count is what they say."""
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import compare
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
    report = compare.report(rounds, 512)
    assert report["against"] == "llama.cpp-flash" and report["ratio"]["llama.cpp-flash"]["median"] == 1.5
    assert report["ratio"]["llama.cpp"]["interval"] == [2.0, 2.0]
    assert (report["pairs"], report["dropped"]) == (3, 2)
    assert report["per_second"]["pyllm"] == 256
    with pytest.raises(RuntimeError, match=r"only 1 of 3.*50%"):
        compare.report([rounds[0], *rounds[3:]], 1)


def test_mixes_meet_every_pair_of_workers_and_chunk():
    import request_mixes

    found = list(request_mixes.mixes(np.random.default_rng(0), 28))
    assert {(m.threads, m.chunk) for m in found} >= set(itertools.product(request_mixes.THREADS, request_mixes.CHUNKS))
    assert {m.company for m in found} == set(request_mixes.COMPANY)
