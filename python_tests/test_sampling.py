"""The sampler against a plain float64 twin, its distribution, its random numbers and what it refuses."""

from array import array

import numpy as np
import pytest

from pyllm import _core
from pyllm.generate import GenerationConfig, LogitsError, Sampler

NONE = array("q")
SIZES = (1, 2, 63, 64, 65, 200, 1000)


def sampler(**settings):
    """A Sampler that draws, cutting nothing unless told."""
    return Sampler(GenerationConfig(**{"do_sample": True, "top_k": 0, **settings}))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def kept(row, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0):
    """Indices that stay, by the definitions, from sorted float64 rows."""
    x = row.astype(np.float64) / temperature
    order = np.lexsort((np.arange(x.size), -x))
    order = order[np.isfinite(x[order])]
    if top_k:
        order = order[x[order] >= x[order[min(top_k, order.size) - 1]]]
    p = softmax(x[order])
    if top_p < 1:
        before = np.concatenate([[0], np.cumsum(p)[:-1]])
        order = order[np.maximum(before < top_p, np.arange(p.size) == 0)]
        p = softmax(x[order])
    order = order[p >= min_p * p[0]]
    p = softmax(x[order])
    if typical_p < 1:
        near = np.argsort(np.abs(-np.log(p) + (p * np.log(p)).sum()), kind="stable")
        before = np.concatenate([[0], np.cumsum(p[near])[:-1]])
        order = order[near[np.maximum(before < typical_p, np.arange(p.size) == 0)]]
    return np.sort(order)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers_of_random123(counter, key, expected):
    assert tuple(_core.philox4x32(counter, key)) == expected


def test_uniform_numbers_are_uniform_and_depend_on_each_key():
    draws = np.array([_core.philox_uniform(3, s, p) for s in range(20) for p in range(1000)])
    assert draws.min() >= 0 and draws.max() < 1 and len(set(draws)) == draws.size
    counts = np.histogram(draws, 50, (0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 90  # chi-square, 49 degrees of freedom: p = 0.0003
    assert len({_core.philox_uniform(*key) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**32, 0, 0))}) == 5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.3},
        {"top_k": 1},
        {"top_k": 7},
        {"top_k": 500},
        {"top_p": 0.0},
        {"top_p": 0.5},
        {"top_p": 0.9, "temperature": 3.0},
        {"min_p": 0.05},
        {"min_p": 1.0},
        {"typical_p": 0.4},
        {"top_k": 40, "top_p": 0.8, "min_p": 0.02, "typical_p": 0.7, "temperature": 1.7},
    ],
)
def test_what_is_cut_equals_the_twin(size, settings):
    rng = np.random.default_rng(size)
    choose = sampler(**settings)
    for trial in range(6):
        row = (rng.standard_normal(size) * (0.05, 2, 6)[trial % 3]).astype(np.float32)
        row[rng.random(size) < 0.1] = -np.inf
        row[rng.integers(size)] = 0.5  # something is finite
        if trial == 3:
            row = np.round(row)  # ties
        found = choose.core.warp(row)
        expected = kept(row, **settings)
        if trial == 3 and {"top_p", "typical_p"} & set(settings):
            # Where equal ones fill up the mass, the last rounding and their order say which of them is the last.
            assert abs(np.isfinite(found).sum() - expected.size) <= 1
            continue
        assert np.array_equal(np.flatnonzero(np.isfinite(found)), expected)
        wanted = row[expected].astype(np.float64) / settings.get("temperature", 1.0)
        np.testing.assert_allclose(found[expected], wanted, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.01, 1, 4])
@pytest.mark.parametrize(
    "settings", [{"top_p": 0.9}, {"top_p": 0.3, "temperature": 2.0}, {"top_k": 50, "top_p": 0.9}, {"min_p": 0.3}]
)
def test_what_is_cut_from_a_real_vocabulary(scale, settings):
    row = (np.random.default_rng(8).standard_normal(49152) * scale).astype(np.float32)
    found = np.isfinite(sampler(**settings).core.warp(row))
    expected = np.zeros(row.size, dtype=bool)
    expected[kept(row, **settings)] = True
    assert (found != expected).sum() <= 1  # the last rounding of a sum of 49,152 terms


@pytest.mark.parametrize("size", SIZES)
def test_log_probabilities_in_double(size):
    row = (np.random.default_rng(size).standard_normal(size) * 8).astype(np.float32)
    x = row.astype(np.float64)
    expected = x - x.max() - np.log(np.exp(x - x.max()).sum())
    choice = sampler(temperature=0.5, top_k=3)(row, NONE, 0, seed=5, logprob=True, top=5)
    assert choice.logprob == pytest.approx(expected[choice.token], abs=1e-11)
    assert [token for token, _ in choice.top] == np.argsort(-row, kind="stable")[:5].tolist()
    np.testing.assert_allclose([v for _, v in choice.top], np.sort(expected)[::-1][:5], atol=1e-11)
    rows = np.stack([row, -row])
    np.testing.assert_allclose(_core.log_softmax_at(rows, np.array([0, 0]))[0], expected[0], atol=1e-11)


@pytest.mark.parametrize("size", SIZES)
def test_greedy_takes_the_first_of_equals(size):
    row = np.zeros(size, dtype=np.float32)
    assert Sampler(GenerationConfig())(row, NONE, 0).token == 0
    row[size // 2 :] = 1
    assert sampler(temperature=0)(row, NONE, 0).token == size // 2
    assert sampler(top_k=1, temperature=1e-30)(-np.arange(size, dtype=np.float32), NONE, 0).token == 0


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 5},
        {"top_p": 0.7},
        {"min_p": 0.1},
        {"typical_p": 0.6},
        {"top_k": 20, "top_p": 0.9, "temperature": 1.5},
    ],
)
def test_draws_follow_the_distribution(settings):
    row = (np.random.default_rng(1).standard_normal(30) * 1.5).astype(np.float32)
    choose = sampler(**settings)
    draws = 100_000
    counts = np.bincount([choose.core.choose(row, NONE, 0, 7, i)[0] for i in range(draws)], minlength=30)
    expected = np.zeros(30)
    left = kept(row, **settings)
    expected[left] = softmax(row[left].astype(np.float64) / settings.get("temperature", 1.0)) * draws
    assert counts[expected == 0].sum() == 0
    statistic = ((counts[left] - expected[left]) ** 2 / expected[left]).sum()
    freedom = left.size - 1
    assert statistic < freedom + 4.5 * np.sqrt(2 * freedom) + 10  # p below 1e-5 for each of these


def test_a_draw_depends_on_seed_sequence_and_position_only():
    row = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    choose = sampler(top_k=100)
    first = choose(row, array("q", [1, 2]), 1, seed=9, sequence=3).token
    for _ in range(3):
        choose(row[::-1].copy(), array("q", range(50)), 1, seed=1)
    assert choose(row, array("q", [400, 17]), 2, seed=9, sequence=3).token == first
    assert sampler(top_k=100)(row, array("q", [1, 2]), 1, seed=9, sequence=3).token == first
    others = {choose(row, array("q", [1] * n), 1, seed=9, sequence=3).token for n in range(1, 20)}
    assert len(others) > 5


def test_edits_equal_the_twin():
    rng = np.random.default_rng(4)
    row = (rng.standard_normal(100) * 3).astype(np.float32)
    row[33] = -np.inf
    tokens, prompt = array("q", [5, 9, 33, 5, 40, 9, 5, 61, 5]), 4
    settings = {"repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": 0.25}
    found = sampler(**settings, logit_bias={5: 1.0, "9": -2.0, 70: -np.inf}).edit(row, tokens, prompt)
    expected = row.astype(np.float64)
    expected[[5, 9]] += [1.0, -2.0]
    expected[70] = -np.inf
    for token in set(tokens):
        expected[token] *= 1.4 if expected[token] < 0 else 1 / 1.4
        count = list(tokens[prompt:]).count(token)
        expected[token] -= 0.25 * count + 0.5 * (count > 0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_bans():
    row = np.zeros(50, dtype=np.float32)

    def banned(tokens, prompt=2, **settings):
        found = sampler(**settings).edit(row, array("q", tokens), prompt)
        return np.flatnonzero(np.isneginf(found)).tolist()

    assert banned([1, 2, 3, 1, 2], no_repeat_ngram_size=3) == [3]
    assert banned([1, 2, 3, 1, 2, 4, 1, 2], no_repeat_ngram_size=3) == [3, 4]
    assert banned([1, 2], no_repeat_ngram_size=1) == [1, 2]
    assert banned([1], prompt=1, no_repeat_ngram_size=3) == []
    assert banned([1, 2], bad_words_ids=[[7], [2, 8], [1, 9], [1, 2, 10], [0, 1, 2, 11]]) == [7, 8, 10]
    assert banned([1, 2], bad_words_ids=[[3], [4]], eos_token_id=[4]) == [3]
    assert banned([1, 2], suppress_tokens=[5, 6]) == [5, 6]
    assert banned([1, 2, 3], min_new_tokens=2, eos_token_id=[4, 5]) == [4, 5]
    assert banned([1, 2, 3, 3], min_new_tokens=2, eos_token_id=[4, 5]) == []


EXTREMES = [
    *[{"temperature": t} for t in (5e-324, 1e-310, 1e-30, 1e-3, 1e30, 1.7e308)],
    *[{"top_p": p} for p in (0, 5e-324, 1 - 1e-16, 1)],
    *[{"top_k": k} for k in (0, 1, 300, 2**31 - 1)],
    *[{"min_p": p} for p in (0, 5e-324, 1)],
    *[{"typical_p": p} for p in (5e-324, 1 - 1e-16)],
    *[{"repetition_penalty": p} for p in (5e-324, 1e-30, 1e30, 1e308)],
    *[{"presence_penalty": p, "frequency_penalty": p} for p in (-1e30, 1e30)],
    *[{"logit_bias": {7: b}} for b in (-1e30, 1e30, -np.inf)],
]


@pytest.mark.parametrize("more", [{}, {"temperature": 1e-30}, {"temperature": 1e30, "min_p": 0.5}, {"top_p": 0.5}])
@pytest.mark.parametrize("settings", EXTREMES)
def test_extreme_parameters_still_choose_a_token_that_may_be_chosen(settings, more):
    rows = np.random.default_rng(0).standard_normal((5, 300)).astype(np.float32)
    rows[1, 10:] = -np.inf
    rows[2] *= 3e38 / np.abs(rows[2]).max()
    rows[3] = 3.4e38
    rows[4, :299] = -np.inf
    choose = sampler(**{**more, **settings})
    for row in rows:
        for seed in range(20):
            token = choose(row, array("q", [7, 7, 8]), 1, seed=seed).token
            assert 0 <= token < 300 and np.isfinite(row[token])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("greedy", [True, False])
def test_nan_and_infinite_logits_are_refused_wherever_they_stand(size, greedy):
    choose = Sampler(GenerationConfig(do_sample=not greedy, top_p=0.9))
    for at in sorted({0, size // 2, size - 1}):
        row = np.ones(size, dtype=np.float32)
        row[at] = np.nan
        with pytest.raises(LogitsError, match=rf"sample: logits hold NaN at id {at}$"):
            choose(row, NONE, 0)
        row[at] = np.inf
        with pytest.raises(LogitsError, match=rf"sample: logits hold inf at id {at}$"):
            choose(row, NONE, 0)
    with pytest.raises(LogitsError, match=rf"all {size} logits are -inf"):
        choose(np.full(size, -np.inf, dtype=np.float32), NONE, 0)
    assert issubclass(LogitsError, ValueError)


def test_arguments_of_the_core_are_checked():
    choose = sampler()
    with pytest.raises(ValueError, match=r"logits \(2, 3\), needs one float32 row"):
        choose(np.zeros((2, 3), dtype=np.float32), NONE, 0)
    with pytest.raises(ValueError, match=r"logits \(0,\), needs one float32 row"):
        choose(np.zeros(0, dtype=np.float32), NONE, 0)
    with pytest.raises(TypeError):
        choose(np.zeros(5), NONE, 0)
    with pytest.raises(ValueError, match=r"prompt of 2 tokens in a history \(0,\)"):
        choose(np.zeros(5, dtype=np.float32), NONE, 2)
    with pytest.raises(ValueError, match="logit_bias names id 9, the vocabulary has 5"):
        sampler(logit_bias={9: 1.0})(np.zeros(5, dtype=np.float32), NONE, 0)
    with pytest.raises(ValueError, match="id 5, the vocabulary has 5"):
        _core.log_softmax_at(np.zeros((1, 5), dtype=np.float32), np.array([5]))
