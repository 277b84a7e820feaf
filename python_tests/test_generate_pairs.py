"""Targets of encoder-decoders: search against every target there is, and the same bytes whatever the batch."""

import itertools

import numpy as np
import pytest
from test_encoder_decoder import KINDS, TRANSFORMER, model_of, pairs

from pyllm.auto.new import new_config, new_model
from pyllm.errors import ContextError
from pyllm.generate.errors import GenerationError

END, WORDS, MOST = 0, 5, 4


@pytest.fixture(scope="module")
def tiny():
    """Five words, of which one ends a target; sharper than a new model's, so that scores differ."""
    model = new_model(new_config("transformer", **(TRANSFORMER | {"vocab_size": WORDS})), 3)
    model.source_embedding.weight.value.data[...] *= 8
    return model.eval()


def score(model, source, target, penalty):
    """Sum of log-probabilities over length ** penalty."""
    rows = model.forward(source, [END, *target[:-1]]).astype(np.float64)
    logs = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return logs[np.arange(len(target)), target].sum() / len(target) ** penalty


def every_target(model, source, penalty):
    """(score, target) of all targets: those that end, and those that are as long as allowed."""
    words = range(1, WORDS)
    ended = [[*t, END] for n in range(MOST) for t in itertools.product(words, repeat=n)]
    cut = [list(t) for t in itertools.product(words, repeat=MOST)]
    return sorted(((score(model, source, t, penalty), t) for t in ended + cut), reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_enough_beams_find_the_best_of_all(tiny, penalty):
    source = [3, 1, 4, 2]
    best = every_target(tiny, source, penalty)
    out = tiny.generate(
        [source], num_beams=400, num_return_sequences=5, max_new_tokens=MOST, length_penalty=penalty,
        early_stopping="never", return_dict_in_generate=True,
    )  # fmt: skip
    assert out.new_tokens == [t for _, t in best[:5]]
    np.testing.assert_allclose(out.sequences_scores, [s for s, _ in best[:5]], atol=1e-5)
    for logprobs, value in zip(out.logprobs, out.sequences_scores, strict=True):
        assert abs(logprobs.sum() / len(logprobs) ** penalty - value) < 1e-5


def test_one_beam_takes_the_likeliest_each_time(tiny):
    for source in ([1, 2], [3, 1, 4, 2], [4]):
        found = tiny.generate(source, max_new_tokens=6)[0].tolist()
        assert found[0] == END
        for i in range(1, len(found)):
            assert found[i] == tiny.forward(source, found[:i])[-1].argmax()
        assert len(found) == 7 or found[-1] == END


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [1, 3])
def test_a_target_is_the_same_in_any_batch(kind, beams):
    model = model_of(kind, 7).eval()
    sources, _ = pairs(2, tuple((1 + i % 6, 1) for i in range(25)))  # more than share a step
    options = {"num_beams": beams, "num_return_sequences": beams, "return_dict_in_generate": True}
    together = model.generate([s.tolist() for s in sources], **options)
    for i in (0, 7, 24):
        alone = model.generate([sources[i].tolist()], **options)
        rows = slice(i * beams, (i + 1) * beams)
        assert alone.new_tokens == together.new_tokens[rows]
        assert alone.sequences_scores.tobytes() == together.sequences_scores[rows].tobytes()
        assert all(len(new) <= 2 * len(sources[i]) + 10 for new in alone.new_tokens)


def test_padding_is_no_part_of_a_source():
    model, (sources, _) = model_of("dot").eval(), pairs()
    padded = np.full((2, 9), 7)
    padded[0, :5], padded[1] = sources[0], sources[1]
    mask = np.ones((2, 9), int)
    mask[0, 5:] = 0
    found = model.generate(padded, attention_mask=mask, num_beams=2)
    wanted = model.generate([s.tolist() for s in sources[:2]], num_beams=2)
    assert found.tolist() == wanted.tolist()


def test_what_cannot_be_generated_is_refused():
    model = model_of("post-norm", max_position_embeddings=6).eval()
    refused = [
        ({"input_ids": [[1], []]}, GenerationError, r"input_ids\[1\]"),
        ({"input_ids": [[1, 50]]}, GenerationError, "the vocabulary has ids 0 to 49"),
        ({"input_ids": [[1] * 7]}, ContextError, "a source of 7 tokens, the model's context has 6"),
        ({"input_ids": [1], "prompt_lookup_num_tokens": 3}, GenerationError, "not with an encoder-decoder"),
        ({"input_ids": [1], "decoder_input_ids": [[1], [2]]}, GenerationError, "as many tokens for each of 1 sources"),
        ({"input_ids": [1], "decoder_input_ids": [60]}, GenerationError, "the vocabulary has ids 0 to 49"),
        ({"input_ids": [1], "forced_bos_token_id": 50}, GenerationError, "the vocabulary has ids 0 to 49"),
        ({"input_ids": [1], "num_return_sequences": 2}, GenerationError, "at most num_beams=1"),
        ({"input_ids": [1], "num_beam": 2}, GenerationError, "did you mean 'num_beams'"),
        ({"input_ids": [1], "output_attentions": True}, GenerationError, "needs return_dict_in_generate=True"),
    ]
    for options, error, text in refused:
        with pytest.raises(error, match=text):
            model.generate(**options)
    assert model.generate([1], min_new_tokens=5).shape == (1, 6)  # as many as there are positions
