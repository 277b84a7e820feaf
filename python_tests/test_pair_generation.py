"""Targets of BART, mBART, Marian and T5 beside transformers': every option of search, scores, streams, draws, bytes."""

import itertools
import json
from collections import Counter

import numpy as np
import pair_models
import pytest
import torch
from kernel_checks import same_bits, threads
from pair_models import VARIANTS

import pyllm
from pyllm.generate import GenerationConfig, GenerationError, Sampler, stream

SOURCES = [[5, 6, 7, 8, 9, 10, 2], [9, 10, 2], [11], [4, 3, 12, 7]]
# transformers' cache of T5 counts the encoder's layers for the decoder's.
RUNNING = [name for name in VARIANTS if name not in ("t5 deeper", "mt5 deeper", "umt5 scaled")]
OPTIONS = {
    "greedy": {},
    "greedy edited": {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_length": 5},
    "beams": {"num_beams": 4},
    "early": {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0},
    "never": {"num_beams": 3, "early_stopping": "never", "length_penalty": 0.5},
    "short": {"num_beams": 3, "length_penalty": -1.0, "early_stopping": "never"},
    "flat": {"num_beams": 4, "length_penalty": 0.0, "early_stopping": False},
    "ngrams": {"num_beams": 4, "no_repeat_ngram_size": 2, "early_stopping": True},
    "long": {"num_beams": 3, "min_length": 8, "repetition_penalty": 1.2},
    "both least": {"num_beams": 3, "min_length": 9, "min_new_tokens": 3, "length_penalty": -1.0},
    "renormalized": {"num_beams": 3, "renormalize_logits": True, "suppress_tokens": [9, 10, 5, 7, 12]},
    "greedy renormalized": {"renormalize_logits": True, "suppress_tokens": [9, 10, 5, 7, 12]},
    "banned": {"num_beams": 3, "bad_words_ids": [[5], [7, 8], [12]], "suppress_tokens": [9, 10]},
    "forced": {"num_beams": 3, "forced_bos_token_id": 7},
    "forced end": {"num_beams": 2, "forced_eos_token_id": 2, "min_length": 11},
    "two ends": {"num_beams": 3, "eos_token_id": [2, 30]},
    "start": {"num_beams": 2, "decoder_start_token_id": 3},
    "few": {"num_beams": 4, "max_new_tokens": 2},
}


def padded(rows, fill=1):
    longest = max(map(len, rows))
    whole = torch.tensor([row + [fill] * (longest - len(row)) for row in rows])
    return whole, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


@pytest.fixture(scope="module", params=RUNNING)
def pair(request, tmp_path_factory):
    """(transformers' model, ours): sharp, so that scores differ."""
    spread = 0.3 if "t5" in request.param else 0.5  # T5's attention does not scale, and is sharp enough
    theirs, folder = pair_models.save(request.param, tmp_path_factory.mktemp("m"), spread=spread)
    return theirs, pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder)


def both(pair, **options):
    """Outputs of the two with scores of steps."""
    theirs, ours = pair
    ids, mask = padded(SOURCES)
    settings = {"max_length": 12, "return_dict_in_generate": True, "output_scores": True, **options}
    if "max_new_tokens" in options:
        del settings["max_length"]
    with torch.no_grad():
        wanted = theirs.generate(ids, attention_mask=mask, do_sample=False, output_logits=True, **settings)
    return wanted, ours.generate(ids.numpy(), attention_mask=mask.numpy(), output_logits=True, **settings)


def cut(rows, ends, begin=1):
    """Rows up to their end; what transformers puts behind it is not always padding."""
    found = []
    for row in np.asarray(rows).tolist():
        last = next((i for i, token in enumerate(row) if i >= begin and token in ends), len(row))
        found.append(row[: last + 1])
    return found


def worth(theirs, source, target, penalty):
    """The score that transformers' model gives a target: its log-probability over its length to `penalty`."""
    with torch.no_grad():
        ids, before = torch.tensor([source]), torch.tensor([target[:-1]])
        logits = theirs(input_ids=ids, decoder_input_ids=before).logits[0].log_softmax(-1)
    return float(logits[torch.arange(len(target) - 1), torch.tensor(target[1:])].sum()) / (len(target) - 1) ** penalty


@pytest.mark.parametrize("name", OPTIONS)
def test_targets_are_transformers(pair, name):
    """Tokens are the same wherever no other score, of a beam or of ours, is within 1e-4, and scores differ by less."""
    options = OPTIONS[name]
    beams = options.get("num_beams", 1)
    wanted, found = both(pair, **options, num_return_sequences=beams)
    ends = options.get("eos_token_id", [pair[1].config.eos_token_id])
    rows, mine = cut(wanted.sequences, ends), cut(found.sequences, ends)
    if beams == 1:
        assert mine == rows
        for a, b in zip(found.scores, wanted.scores, strict=True):
            going = np.isfinite(a).any(axis=1)
            np.testing.assert_allclose(a[going], b.numpy()[going], rtol=1e-4, atol=1e-4)
        return
    scores = wanted.sequences_scores.numpy()
    near = 1e-4 + 1e-5 * np.abs(scores)  # some models' scores are hundreds
    assert (np.abs(found.sequences_scores - scores) <= near).all()
    same = 0
    for i, (a, b) in enumerate(zip(mine, rows, strict=True)):
        group = np.delete(scores[i // beams * beams : (i // beams + 1) * beams], i % beams)
        apart = np.abs(group - scores[i]).min() > near[i]
        if a != b and apart:  # then ours is one that the search of theirs let go, and worth as much to their model
            gap = [worth(pair[0], SOURCES[i // beams], each, options.get("length_penalty", 1.0)) for each in (a, b)]
            assert abs(gap[0] - gap[1]) <= near[i]
        same += a == b
    assert same > 0.8 * len(rows)


def test_where_fewer_answers_are_possible_the_best_stands_again(pair):
    """With a forced end at once there is but one; what the others are worth tells that they are none."""
    end = pair[1].config.eos_token_id
    options = {"num_beams": 3, "num_return_sequences": 2, "forced_eos_token_id": end, "max_new_tokens": 1}
    wanted, found = both(pair, **options)
    assert found.sequences.tolist() == wanted.sequences.tolist() == [[pair[1].start_id, end]] * 2 * len(SOURCES)
    np.testing.assert_allclose(found.sequences_scores, wanted.sequences_scores.numpy())


def test_scores_of_steps_add_up_along_the_beam_indices(pair):
    """As transformers' compute_transition_scores has it."""
    wanted, found = both(pair, num_beams=3, num_return_sequences=3, length_penalty=1.0)
    for output in (found, wanted):
        steps, indices = np.stack([np.asarray(x) for x in output.scores]), np.asarray(output.beam_indices)
        sequences = np.asarray(output.sequences)
        for row, beams, score in zip(sequences, indices, np.asarray(output.sequences_scores), strict=True):
            count = int((beams >= 0).sum())
            total = sum(steps[t, beams[t], row[t + 1]] for t in range(count))
            assert abs(total / count - score) < 1e-4
    assert len(found.scores) == len(found.logits) and found.scores[0].shape == tuple(wanted.scores[0].shape)
    first = np.arange(0, len(SOURCES) * 3, 3)  # before the first step all beams of a source are the same
    np.testing.assert_allclose(found.logits[0][first], wanted.logits[0].numpy()[first], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.scores[0][first], wanted.scores[0].numpy()[first], rtol=1e-4, atol=1e-4)


def test_a_target_is_the_same_in_any_batch_and_on_any_workers(pair):
    _, ours = pair
    for options in ({"num_beams": 1}, {"num_beams": 3, "num_return_sequences": 3}, {"do_sample": True, "seed": 5}):
        settings = {"max_length": 10, "return_dict_in_generate": True, **options}
        together = ours.generate(SOURCES * 30, **settings)  # more than share a step
        copies = len(together.sequences) // len(SOURCES * 30)
        with threads(1):
            again = ours.generate(SOURCES * 30, **settings)
        assert again.new_tokens == together.new_tokens
        if options.get("do_sample"):
            continue  # each of a batch draws from a stream of its own
        for i, source in enumerate(SOURCES):
            alone = ours.generate([source], **settings)
            rows = slice(i * copies, (i + 1) * copies)
            assert alone.new_tokens == together.new_tokens[rows]
            assert same_bits(alone.sequences_scores, together.sequences_scores[rows])


def test_draws_follow_the_seed_and_the_distribution(pair):
    _, ours = pair
    draw = {"do_sample": True, "max_new_tokens": 6, "num_return_sequences": 5, "temperature": 1.3, "top_k": 0}
    one, same, other = (ours.generate(SOURCES, seed=seed, **draw) for seed in (3, 3, 4))
    assert one.tolist() == same.tolist() != other.tolist() and len(one) == 5 * len(SOURCES)
    seeds = [ours.generate([source], seed=[9], **draw).tolist() for source in SOURCES]
    listed = ours.generate(SOURCES, seed=[9] * len(SOURCES), **draw)
    assert [row[:7] for rows in seeds for row in rows] == listed[:, :7].tolist() or listed.shape[1] < 7
    first = ours.generate([SOURCES[0]], seed=1, do_sample=True, max_new_tokens=1, num_return_sequences=4000, top_k=4)
    counts = Counter(first[:, 1].tolist())
    logits = ours([SOURCES[0]], decoder_input_ids=[[first[0, 0]]]).logits[0][0].astype(np.float64)
    best = np.argsort(-logits)[:4]
    shares = np.exp(logits[best]) / np.exp(logits[best]).sum()
    assert set(counts) <= set(best.tolist())
    for token, share in zip(best.tolist(), shares, strict=True):
        assert abs(counts[token] / 4000 - share) < 5 * (share * (1 - share) / 4000) ** 0.5 + 1e-3


def test_tokens_come_as_they_are_made(pair):
    _, ours = pair
    whole = ours.generate([SOURCES[0]], max_new_tokens=6)[0].tolist()

    class Listener:
        def __init__(self):
            self.got = []

        def put(self, ids):
            self.got += np.asarray(ids).reshape(-1).tolist()

        def end(self):
            self.got.append("end")

    listener = Listener()
    ours.generate([SOURCES[0]], max_new_tokens=6, streamer=listener)
    assert listener.got == [*whole, "end"]
    events = list(stream(ours, SOURCES, max_new_tokens=6))
    assert [event.token for event in events if event.index == 0] == whole[1:]
    assert {event.index for event in events} == set(range(len(SOURCES)))
    assert all(event.logprob is None for event in events)
    running = stream(ours, SOURCES, max_new_tokens=6)
    assert next(running).index == 0
    running.close()
    with pytest.raises(GenerationError, match="beams know their tokens only at the end"):
        stream(ours, SOURCES, num_beams=2)
    with pytest.raises(GenerationError, match="beams know their tokens only at the end"):
        ours.generate(SOURCES[:1], num_beams=2, streamer=listener)


def test_attention_comes_with_the_targets(pair):
    _, ours = pair
    for beams in (1, 3):
        options = {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": 5}
        out = ours.generate(SOURCES, return_dict_in_generate=True, output_attentions=True, **options)
        for i, (new, layers) in enumerate(zip(out.new_tokens, out.cross_attentions, strict=True)):
            source = SOURCES[i // beams]
            assert len(layers) == len(ours.decoder.layers)
            for weights in layers:
                assert weights.shape[1:] == (len(new), len(source))
                np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
            for weights in out.decoder_attentions[i]:
                assert weights.shape[1:] == (len(new), len(new)) and np.triu(weights[0], 1).max() == 0
            assert out.encoder_attentions[i][0].shape[1:] == (len(source), len(source))


def test_targets_may_begin_with_more_than_one_token(pair):
    theirs, ours = pair
    ids, mask = padded(SOURCES)
    begin = torch.tensor([[ours.start_id, 7, 8]] * len(SOURCES))
    for beams in (1, 3):
        with torch.no_grad():
            wanted = theirs.generate(
                ids, attention_mask=mask, decoder_input_ids=begin, num_beams=beams, max_new_tokens=5, do_sample=False
            )
        found = ours.generate(SOURCES, decoder_input_ids=[ours.start_id, 7, 8], num_beams=beams, max_new_tokens=5)
        ends = [ours.config.eos_token_id]
        assert cut(found, ends, 3) == cut(wanted, ends, 3)


def test_processors_and_criteria_are_asked(pair):
    _, ours = pair

    def only_even(history, scores):
        scores = scores.copy()
        scores[:, 1::2] = -np.inf
        return scores

    for beams in (1, 3):
        out = ours.generate(SOURCES, num_beams=beams, max_new_tokens=5, logits_processor=only_even, eos_token_id=2)
        assert (out[:, 1:] % 2 == 0)[out[:, 1:] != ours.config.pad_token_id].all()
        longest = ours.generate(
            SOURCES, num_beams=beams, max_new_tokens=9, stopping_criteria=lambda ids, scores: ids.shape[1] >= 4
        )
        assert longest.shape[1] <= 4


@pytest.mark.parametrize("beams", [1, 3])
def test_what_few_folders_ask_for(pair, beams):
    """Of sources, of the beginning and of the end of targets."""
    theirs, ours = pair
    settings = {"num_beams": beams, "max_new_tokens": 9, "encoder_no_repeat_ngram_size": 2,
                "encoder_repetition_penalty": 2.5, "begin_suppress_tokens": [9, 10, 52],
                "exponential_decay_length_penalty": (4, 1.2), "sequence_bias": [[[5], 2.0], [[5, 6], 3.0]]}  # fmt: skip
    ends = [ours.config.eos_token_id]
    wanted = [theirs.generate(torch.tensor([row]), do_sample=False, **settings) for row in SOURCES]
    assert cut(ours.generate(SOURCES, **settings), ends) == [cut(each, ends)[0] for each in wanted]


@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_forced_may_stand_in_the_source(pair, beams):
    theirs, ours = pair
    end = ours.config.eos_token_id
    settings = {"num_beams": beams, "max_new_tokens": 6, "encoder_no_repeat_ngram_size": 1, "forced_eos_token_id": end}
    rows = [[*row, end] for row in SOURCES]
    wanted = [theirs.generate(torch.tensor([row]), do_sample=False, **settings) for row in rows]
    assert cut(ours.generate(rows, **settings), [end]) == [cut(each, [end])[0] for each in wanted]


@pytest.mark.parametrize(("name", "value"), [("num_beam_groups", 2), ("watermarking_config", {}), ("top_h", 0.4)])
def test_what_would_give_another_answer_is_refused(name, value):
    with pytest.raises(GenerationError, match=f"{name}=.*gives another answer"):
        GenerationConfig.from_dict({name: value})
    plain = {"num_beam_groups": 1, "constraints": [], "guidance_scale": None, "diversity_penalty": 0.0, "unknown": 3}
    assert GenerationConfig.from_dict(plain).to_dict() == {}


def test_the_folder_says_how_to_generate(tmp_path):
    """generation_config.json, or in older folders config.json."""
    theirs, folder = pair_models.save("bart", tmp_path / "m", spread=0.5)
    settings = {"num_beams": 3, "max_length": 9, "no_repeat_ngram_size": 2, "early_stopping": True, "min_length": 4}
    ids, mask = padded(SOURCES)
    wanted = theirs.generate(ids, attention_mask=mask, do_sample=False, **settings).tolist()
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": 2, "unknown": 1}))
    new = pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert new.generate(SOURCES).tolist() == wanted
    assert new.generate(SOURCES, num_beams=1, max_new_tokens=3).shape == (4, 4)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    old = pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert old.generate(SOURCES).tolist() == wanted
    old.save_pretrained(tmp_path / "again")
    again = type(theirs).from_pretrained(tmp_path / "again")
    assert again.generate(ids, attention_mask=mask, do_sample=False).tolist() == wanted


# --- the choice of continuations ---


def choice(rows, scores, starts, most, **settings):
    """(found by the core, wanted): in double, equal scores in the order of rows, then of ids."""
    sampler = Sampler(pyllm.GenerationConfig(**settings))
    said = [(np.array([1, 5, 7, 5], np.int64), 1, 9)] * len(rows) if sampler.core.edits else []
    found = pyllm._core.continuations(sampler.core, rows, scores, starts, most, said)
    wanted = []
    for first, end in itertools.pairwise(starts):
        group = []
        for row in range(first, end):
            x = rows[row].astype(np.float64)
            logs = x - x.max() - np.log(np.exp(x - x.max()).sum())
            edited = sampler.edit(logs.astype(np.float32), np.array([1, 5, 7, 5]), 1, 9) if said else logs
            group += [(scores[row] + float(edited[t]), row, t, logs[t]) for t in range(len(x)) if edited[t] > -np.inf]
        wanted.append(sorted(group, key=lambda each: (-each[0], each[1], each[2]))[:most])
    return found, wanted


@pytest.mark.parametrize("size", [1, 5, 64, 127, 1000])
@pytest.mark.parametrize(
    "settings", [{}, {"no_repeat_ngram_size": 2, "repetition_penalty": 1.5, "suppress_tokens": [0]}]
)
def test_the_best_continuations_of_all_groups(size, settings):
    if size < 8 and settings:
        settings = {"suppress_tokens": [size]} if size > 1 else {}
        settings = {} if size in settings.get("suppress_tokens", [size]) else settings
    rng = np.random.default_rng(size)
    rows = rng.standard_normal((9, size)).astype(np.float32) * 3
    scores, starts = rng.standard_normal(9).tolist(), [0, 4, 5, 5, 9]
    found, wanted = choice(rows, scores, starts, 6, **settings)
    for a, b in zip(found, wanted, strict=True):
        assert [each[1:3] for each in a] == [each[1:3] for each in b]
        np.testing.assert_allclose([[x[0], x[3]] for x in a], [[x[0], x[3]] for x in b], atol=1e-5)


@pytest.mark.parametrize("spread", [0.1, 10.0, 1000.0])
@pytest.mark.parametrize("settings", [{}, {"suppress_tokens": [3]}])
def test_log_probabilities_are_near_those_in_double(spread, settings):
    rng = np.random.default_rng(2)
    rows = (rng.standard_normal((4, 5003)) * spread).astype(np.float32)
    rows[1, ::2], rows[2, 7:] = -np.inf, -np.inf
    found, wanted = choice(rows, [0.0] * 4, [0, 1, 2, 3, 4], 3, **settings)
    for a, b in zip(found, wanted, strict=True):
        assert [each[2] for each in a] == [each[2] for each in b]
        np.testing.assert_allclose([x[3] for x in a], [x[3] for x in b], rtol=1e-6, atol=2e-6)


def test_equal_scores_keep_their_order():
    rows = np.zeros((3, 100), np.float32)
    found, _ = choice(rows, [0.0, 0.0, 0.0], [0, 3], 7)
    assert [(row, token) for _, row, token, _ in found[0]] == [(0, t) for t in range(7)]
    found, _ = choice(rows, [0.0, 1.0, 1.0], [0, 3], 5)
    assert [(row, token) for _, row, token, _ in found[0]] == [(1, t) for t in range(5)]
    with threads(1):
        alone, _ = choice(rows, [0.0, 1.0, 1.0], [0, 3], 5)
    assert alone == found


def test_choices_that_cannot_be_are_refused():
    how, rows = Sampler(pyllm.GenerationConfig()).core, np.zeros((2, 4), np.float32)
    refused = [
        ((rows[:1], [0.0, 0.0], [0, 2], 2), r"logits \(1, 4\) for 2 scores"),
        ((rows, [0.0, 0.0], [0, 1], 2), "groups ascend from 0 to the rows"),
        ((rows, [0.0, 0.0], [0, 2], 0), "most is above 0"),
        ((rows, [0.0, 0.0], [0, 2], 2, [(np.array([1]), 1, 0)]), "1 histories for 2 rows"),
        ((rows * np.nan, [0.0, 0.0], [0, 2], 2), "logits hold NaN at id 0"),
    ]
    for given, text in refused:
        with pytest.raises(ValueError, match=text):
            pyllm._core.continuations(how, *given)
    edited = Sampler(pyllm.GenerationConfig(bad_words_ids=[[9]])).core
    with pytest.raises(ValueError, match="bad_words_ids names id 9, the vocabulary has 4"):
        pyllm._core.continuations(edited, rows, [0.0, 0.0], [0, 2], 2, [(np.array([1]), 1, 0)] * 2)
