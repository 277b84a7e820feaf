"""Beam search against a plain search over lists, and the bookkeeping of forked states."""

import numpy as np
import pytest
from fakes import END, FakeModel

from pyllm.generate import GenerationError, generate

PROMPTS = [[7, 8, 9], [4, 5], [11, 12, 13, 14]]


def log_softmax(row):
    row = row.astype(np.float64)
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def everything(model, prompt, new):
    """All sequences of at most `new` tokens, [(score, tokens)], the best first."""
    found, running = [], [(0.0, [])]
    while running:
        score, tokens = running.pop()
        if tokens and (tokens[-1] == END or len(tokens) == new):
            found.append((score, tokens))
            continue
        row = log_softmax(model.logits(prompt + tokens))
        running += [(score + row[t], [*tokens, t]) for t in range(row.size)]
    return sorted(found, reverse=True)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, -0.5])
def test_beams_as_wide_as_the_tree_find_the_best(length_penalty):
    model = FakeModel(vocab=4, scale=1.0)
    prompt = [1, 2]
    out = generate(
        model,
        prompt,
        num_beams=64,
        num_return_sequences=5,
        max_new_tokens=3,
        length_penalty=length_penalty,
        early_stopping="never",
        return_dict_in_generate=True,
    )
    ranked = sorted(((s / len(t) ** length_penalty, t) for s, t in everything(model, prompt, 3)), reverse=True)
    assert out.new_tokens == [tokens for _, tokens in ranked[:5]]
    np.testing.assert_allclose(out.sequences_scores, [score for score, _ in ranked[:5]], rtol=1e-5)
    assert model.alive == 0


def test_batch_equals_each_alone_and_states_are_shared():
    model = FakeModel()
    settings = {"num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 8, "return_dict_in_generate": True}
    whole = generate(model, PROMPTS, pad_token_id=3, **settings)
    assert sum(start == 0 for start, _ in model.fed) == 3  # each prompt once
    assert whole.sequences.shape[0] == 6 and model.alive == 0
    for i, prompt in enumerate(PROMPTS):
        alone = generate(model, prompt, **settings)
        assert whole.new_tokens[2 * i : 2 * i + 2] == alone.new_tokens
        np.testing.assert_array_equal(whole.sequences_scores[2 * i : 2 * i + 2], alone.sequences_scores)


def test_scores_are_the_sums_of_the_log_probabilities():
    model = FakeModel()
    out = generate(model, PROMPTS[0], num_beams=3, max_new_tokens=6, return_dict_in_generate=True)
    tokens = PROMPTS[0] + out.new_tokens[0]
    expected = [log_softmax(model.logits(tokens[:n]))[tokens[n]] for n in range(3, len(tokens))]
    np.testing.assert_allclose(out.logprobs[0], expected, atol=1e-5)
    assert out.sequences_scores[0] == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    assert out.finish_reasons[0] in ("stop", "length")


def test_bans_and_the_context_hold_for_beams():
    model = FakeModel(context=9)
    out = generate(model, PROMPTS[0], num_beams=3, max_new_tokens=50, suppress_tokens=range(20), min_new_tokens=50)
    assert out.shape == (1, 9) and (out[0, 3:] >= 20).all()


def test_what_beams_do_not_report():
    for name in ("top_logprobs", "prompt_logprobs", "output_scores", "output_logits"):
        with pytest.raises(GenerationError, match=f"{name}=.*not with num_beams > 1"):
            generate(FakeModel(), [5], num_beams=2, return_dict_in_generate=True, **{name: name != "top_logprobs" or 2})
