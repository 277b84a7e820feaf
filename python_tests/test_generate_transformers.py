"""The same weights here and in transformers: tokens, beam scores and every processor must agree."""

from array import array
from copy import deepcopy

import numpy as np
import pytest
import tiny_models
import torch
import transformers
from transformers.generation import logits_process as theirs

from pyllm import AutoModelForCausalLM
from pyllm.generate import GenerationConfig, Sampler

PROMPTS = np.array([[5, 17, 100, 33, 250], [9, 8, 7, 6, 5], [300, 2, 2, 11, 301]])


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def pair(request, tmp_path_factory):
    """(ours, theirs) over one folder of float32 weights, sharp enough that ties are rare."""
    config = tiny_models.llama_config() if request.param == "llama" else tiny_models.gpt2_config()
    weights = tiny_models.random_weights(config, seed=3)
    head = "lm_head.weight" if request.param == "llama" else "transformer.wte.weight"
    weights[head] = weights[head] * (4 if request.param == "llama" else 1.5)
    path = tmp_path_factory.mktemp(request.param)
    tiny_models.write_folder(path, config, weights)
    reference = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    reference.generation_config = transformers.GenerationConfig(pad_token_id=1)
    return AutoModelForCausalLM.from_pretrained(path), reference


def reference_of(model, ids, **settings):
    with torch.no_grad():
        return model.generate(torch.tensor(ids), attention_mask=torch.ones(ids.shape, dtype=torch.long), **settings)


def same(ours, reference):
    """Rows equal up to their common width, only padding beyond."""
    width = min(ours.shape[1], reference.shape[1])
    return np.array_equal(ours[:, :width], np.asarray(reference)[:, :width])


RARE = [
    {"sequence_bias": [[[t], 3.0] for t in range(100, 130)] + [[[t, t + 1], 9.0] for t in range(100, 316)]},
    {"begin_suppress_tokens": list(range(0, 300, 2)), "exponential_decay_length_penalty": (3, 1.3)},
    {"encoder_no_repeat_ngram_size": 1, "encoder_repetition_penalty": 1.8},
    {"encoder_no_repeat_ngram_size": 3, "encoder_repetition_penalty": 0.6},
]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        *RARE,
        {"repetition_penalty": 1.6},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 1, "repetition_penalty": 0.7},
        {"bad_words_ids": [[5], [17, 100], [33, 250]], "suppress_tokens": list(range(40, 90))},
        {"min_new_tokens": 12},
    ],
)
def test_greedy(pair, settings):
    settings = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": [1, 60, 61], "pad_token_id": 1, **settings}
    assert same(pair[0].generate(PROMPTS, **settings), reference_of(pair[1], PROMPTS, **settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 4},
        *({"num_beams": 3, **each} for each in RARE),
        {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True},
        {"num_beams": 3, "num_return_sequences": 2, "early_stopping": "never", "length_penalty": 2.0},
        {"num_beams": 5, "length_penalty": -1.0, "repetition_penalty": 1.3},
        {"num_beams": 2, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
    ],
)
def test_beams(pair, settings):
    settings = {
        **{"max_new_tokens": 16, "eos_token_id": [1, 5, 60, 61], "pad_token_id": 1},
        **{"return_dict_in_generate": True, **settings},
    }
    ours = pair[0].generate(PROMPTS, **settings)
    # In float64: on some processors float32 rounds scores of long penalties further away than the bound.
    reference = reference_of(deepcopy(pair[1]).double(), PROMPTS, output_scores=True, **settings)
    assert same(ours.sequences, reference.sequences)
    np.testing.assert_allclose(ours.sequences_scores, reference.sequences_scores.numpy(), rtol=2e-6, atol=1e-4)


def test_left_padding(pair):
    ids, mask = np.full((2, 6), 1), np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    ids[0, 2:], ids[1] = PROMPTS[0, :4], [*PROMPTS[1], 44]
    settings = {"max_new_tokens": 10, "eos_token_id": 60, "pad_token_id": 1}
    reference = pair[1].generate(torch.tensor(ids), attention_mask=torch.tensor(mask), do_sample=False, **settings)
    assert same(pair[0].generate(ids, attention_mask=mask, **settings), reference)


def test_scores_and_logits(pair):
    settings = {
        **{"max_new_tokens": 6, "do_sample": False, "repetition_penalty": 1.2, "pad_token_id": 1},
        **{"return_dict_in_generate": True, "output_scores": True, "output_logits": True},
    }
    ours, reference = pair[0].generate(PROMPTS, **settings), reference_of(pair[1], PROMPTS, **settings)
    for name in ("scores", "logits"):
        for mine, other in zip(getattr(ours, name), getattr(reference, name), strict=True):
            np.testing.assert_allclose(mine, other.numpy(), atol=1e-4 * np.abs(other.numpy()).max())
    expected = torch.stack(reference.logits).log_softmax(-1).permute(1, 0, 2).numpy()
    chosen = np.take_along_axis(expected, np.array(ours.new_tokens)[:, :, None], 2)[:, :, 0]
    np.testing.assert_allclose(np.stack(ours.logprobs), chosen, atol=2e-4)


def test_whole_sequence_scores_equal_prompt_logprobs(pair):
    out = pair[0].generate(PROMPTS, max_new_tokens=1, return_dict_in_generate=True, prompt_logprobs=True)
    with torch.no_grad():
        expected = pair[1](torch.tensor(PROMPTS)).logits.log_softmax(-1).numpy()
    for row, ids, found in zip(expected, PROMPTS, out.prompt_logprobs, strict=True):
        np.testing.assert_allclose(found[1:], row[np.arange(4), ids[1:]], atol=2e-4)


@pytest.mark.parametrize(
    ("settings", "warpers"),
    [
        ({"temperature": 0.6}, [theirs.TemperatureLogitsWarper(0.6)]),
        ({"top_k": 13}, [theirs.TopKLogitsWarper(13)]),
        ({"top_p": 0.8}, [theirs.TopPLogitsWarper(0.8)]),
        ({"min_p": 0.03}, [theirs.MinPLogitsWarper(0.03)]),
        ({"typical_p": 0.5}, [theirs.TypicalLogitsWarper(0.5)]),
        (
            {"temperature": 1.8, "top_k": 90, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.8},
            [
                theirs.TemperatureLogitsWarper(1.8),
                theirs.TopKLogitsWarper(90),
                theirs.TopPLogitsWarper(0.9),
                theirs.MinPLogitsWarper(0.02),
                theirs.TypicalLogitsWarper(0.8),
            ],
        ),
    ],
)
def test_warpers(settings, warpers):
    rng = np.random.default_rng(2)
    choose = Sampler(GenerationConfig(do_sample=True, **{"top_k": 0, **settings}))
    for scale in (0.3, 2, 6):
        row = (rng.standard_normal(2000) * scale).astype(np.float32)
        expected = torch.tensor(row)[None]
        for warp in warpers:
            expected = warp(torch.tensor([[0]]), expected)
        np.testing.assert_allclose(choose.core.warp(row), expected[0].numpy(), rtol=1e-5)


def test_processors_in_their_order():
    rng = np.random.default_rng(5)
    row = (rng.standard_normal(400) * 3).astype(np.float32)
    tokens = [*rng.integers(0, 30, 60).tolist(), 3, 4, 5, 3, 4]
    bias = {int(i): float(rng.standard_normal()) for i in rng.integers(0, 60, 20)}
    choose = Sampler(
        GenerationConfig(
            **{"logit_bias": bias, "repetition_penalty": 1.7, "no_repeat_ngram_size": 2},
            **{"bad_words_ids": [[77], [4, 99], [5, 98]], "suppress_tokens": [101], "eos_token_id": 2},
            min_new_tokens=9,
        )
    )
    expected = torch.tensor(row)[None]
    for process in (
        theirs.SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()}),
        theirs.RepetitionPenaltyLogitsProcessor(1.7),
        theirs.NoRepeatNGramLogitsProcessor(2),
        theirs.NoBadWordsLogitsProcessor([[77], [4, 99], [5, 98]], torch.tensor([2])),
        theirs.MinNewTokensLengthLogitsProcessor(60, 9, torch.tensor([2]), device="cpu"),
        theirs.SuppressTokensLogitsProcessor([101], device="cpu"),
    ):
        expected = process(torch.tensor([tokens]), expected)
    np.testing.assert_allclose(choose.edit(row, array("q", tokens), 60), expected[0].numpy(), rtol=1e-6)
