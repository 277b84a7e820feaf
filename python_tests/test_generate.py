"""`generate` on a model that can be predicted: greedy, sampling, batches, stopping, errors, freed states."""

import numpy as np
import pytest
from fakes import END, FakeModel, FakeTokenizer

from pyllm.errors import ContextError
from pyllm.generate import GenerationConfig, GenerationError, LogitsError, generate, stream

PROMPT = [7, 8, 9]


@pytest.fixture
def model():
    """A fake model that must have no live state at the end."""
    fake = FakeModel()
    yield fake
    assert fake.alive == 0


def test_greedy_follows_the_likeliest_token(model):
    out = generate(model, PROMPT, max_new_tokens=12)
    assert out.dtype == np.int64
    assert out.tolist() == [model.greedy(PROMPT, 12)]


def test_prompt_forms_agree(model):
    expected = generate(model, PROMPT, max_new_tokens=5)
    for form in ([PROMPT], np.array(PROMPT), np.array([PROMPT], dtype=np.int32), tuple(PROMPT), [np.array(PROMPT)]):
        assert np.array_equal(generate(model, form, max_new_tokens=5), expected)


def test_batch_equals_each_alone(model):
    prompts = [[5, 6], [7, 8, 9, 10], [11]]
    whole = generate(model, prompts, max_new_tokens=9, pad_token_id=3)
    for row, prompt in zip(whole, prompts, strict=True):
        expected = model.greedy(prompt, 9)
        padded = [3] * (4 - len(prompt)) + expected
        assert row.tolist() == padded + [3] * (len(row) - len(padded))


@pytest.mark.parametrize("left", [True, False])
def test_padding_is_not_read(model, left):
    row = [3, 3, *PROMPT] if left else [*PROMPT, 3, 3]
    mask = [0, 0, 1, 1, 1] if left else [1, 1, 1, 0, 0]
    out = generate(model, [row], attention_mask=[mask], max_new_tokens=4)[0].tolist()
    assert out[:5] == row
    assert PROMPT + out[5:] == model.greedy(PROMPT, 4)
    assert generate(model, [row], pad_token_id=3, max_new_tokens=4)[0].tolist() == out


def test_twenty_new_tokens_when_nothing_is_said():
    model = FakeModel(script=[5])
    assert generate(model, PROMPT).shape == (1, 23)
    assert generate(model, PROMPT, max_length=10).shape == (1, 10)
    assert generate(model, PROMPT, max_length=10, max_new_tokens=2).shape == (1, 5)


def test_end_token_stops_and_rows_are_padded():
    model = FakeModel(script=[5, 6, END])
    out = generate(model, PROMPT, max_new_tokens=9, return_dict_in_generate=True)
    assert out.sequences.tolist() == [[*PROMPT, 5, 6, END]]
    assert (out.finish_reasons, out.stopped_by) == (["stop"], [END])
    out = generate(FakeModel(script=[5, 6, 8]), PROMPT, max_new_tokens=9, eos_token_id=[40, 6])
    assert out.tolist() == [[*PROMPT, 5, 6]]


def test_end_tokens_come_from_the_model_and_the_tokenizer_unless_named():
    class Tokenizer(FakeTokenizer):
        end_ids = frozenset({7})

    def new(**settings):
        return generate(FakeModel(script=[5, 7, END, 6]), PROMPT, max_new_tokens=4, **settings)[0, 3:].tolist()

    assert new() == [5, 7, END]
    assert new(tokenizer=Tokenizer()) == [5, 7]
    assert new(tokenizer=Tokenizer(), eos_token_id=6) == new(eos_token_id=None) == [5, 7, END, 6]


def test_min_new_tokens_holds_the_end_back(model):
    assert len(model.greedy(PROMPT, 40)) < 43  # the fake model would stop
    out = generate(model, PROMPT, max_new_tokens=40, min_new_tokens=40)
    assert out.shape == (1, 43) and END not in out[0, :-1]
    assert np.array_equal(generate(model, PROMPT, max_new_tokens=40, min_length=43), out)
    few = generate(model, PROMPT, max_new_tokens=40, min_new_tokens=2, min_length=43)  # the former is what counts
    assert np.array_equal(few, generate(model, PROMPT, max_new_tokens=40, min_new_tokens=2)) and few.shape[1] < 43


def test_context_full_ends_with_length():
    model = FakeModel(context=10, script=[5])
    out = generate(model, PROMPT, max_new_tokens=50, return_dict_in_generate=True)
    assert out.sequences.shape == (1, 10) and out.finish_reasons == ["length"]


@pytest.mark.parametrize("length", [64, 65, 1000])
def test_prompt_longer_than_the_context(model, length):
    with pytest.raises(ContextError, match=rf"{length:,} tokens, the context holds 64"):
        generate(model, [5] * length)


def test_samples_are_those_of_the_seed_whatever_runs_beside(model):
    settings = {"max_new_tokens": 8, "do_sample": True, "temperature": 1.5}
    alone = [generate(model, [p], seed=s, **settings)[0].tolist() for p, s in (([5, 6], 1), ([7, 8], 2))]
    together = generate(model, [[5, 6], [7, 8]], seed=[1, 2], **settings)
    for row, expected in zip(together, alone, strict=True):
        assert row[: len(expected)].tolist() == expected
    assert not np.array_equal(generate(model, [5, 6], seed=3, **settings), np.array([alone[0]]))
    fresh = {tuple(generate(model, [5, 6], **settings)[0]) for _ in range(4)}
    assert len(fresh) > 1


def test_temperature_zero_is_greedy(model):
    out = generate(model, PROMPT, do_sample=True, temperature=0, max_new_tokens=6)
    assert out.tolist() == [model.greedy(PROMPT, 6)]


def test_return_sequences_share_the_prompt(model):
    out = generate(model, [5] * 20, do_sample=True, num_return_sequences=5, max_new_tokens=6, seed=1, temperature=2.0)
    assert out.shape[0] == 5 and len({tuple(row) for row in out}) > 1
    assert [ids for start, ids in model.fed if start == 0] == [[5] * 20]
    two = generate(model, [5] * 20, do_sample=True, num_return_sequences=2, max_new_tokens=6, seed=1, temperature=2.0)
    width = min(out.shape[1], two.shape[1])
    assert np.array_equal(out[:2, :width], two[:, :width])


def test_long_prompts_are_fed_in_parts():
    model = FakeModel(context=4000)
    prompts = [[5 + i % 40 for i in range(n)] for n in (1500, 3, 700)]
    out = generate(model, prompts, max_new_tokens=4, pad_token_id=4)
    assert max(len(ids) for _, ids in model.fed) <= 512
    for row, prompt in zip(out, prompts, strict=True):
        expected = model.greedy(prompt, 4)
        assert row[1500 - len(prompt) : 1500 + len(expected) - len(prompt)].tolist() == expected
    assert model.alive == 0


def log_softmax(row):
    row = row.astype(np.float64)
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def test_log_probabilities(model):
    out = generate(
        model,
        [PROMPT, [4]],
        max_new_tokens=5,
        do_sample=True,
        temperature=0.7,
        repetition_penalty=1.3,
        seed=4,
        return_dict_in_generate=True,
        top_logprobs=3,
        prompt_logprobs=True,
        output_scores=True,
        output_logits=True,
    )
    for i, prompt in enumerate((PROMPT, [4])):
        tokens = prompt + out.new_tokens[i]
        rows = [log_softmax(model.logits(tokens[:n])) for n in range(1, len(tokens))]
        every = [row[token] for row, token in zip(rows, tokens[1:], strict=True)]
        assert np.isnan(out.prompt_logprobs[i][0])
        np.testing.assert_allclose(out.prompt_logprobs[i][1:], every[: len(prompt) - 1], atol=1e-10)
        np.testing.assert_allclose(out.logprobs[i], every[len(prompt) - 1 :], atol=1e-10)
        for top, row in zip(out.top_logprobs[i], rows[len(prompt) - 1 :], strict=True):
            assert [token for token, _ in top] == np.argsort(-row, kind="stable")[:3].tolist()
            np.testing.assert_allclose([value for _, value in top], np.sort(row)[::-1][:3], atol=1e-10)
    assert len(out.scores) == len(out.logits) == max(map(len, out.new_tokens))
    assert out.scores[0].shape == (2, 50)
    assert np.array_equal(out.logits[0][0], model.logits(PROMPT))


def test_stop_strings_need_and_use_the_tokenizer():
    tok = FakeTokenizer()
    model = FakeModel(vocab=261, script=tok.encode("one two three"))
    with pytest.raises(GenerationError, match=r"stop_strings=.*needs tokenizer="):
        generate(model, PROMPT, stop_strings="two")
    out = generate(model, PROMPT, stop_strings=["x", "two"], tokenizer=tok, return_dict_in_generate=True)
    assert tok.decode(out.new_tokens[0]) == "one two"
    assert (out.finish_reasons, out.stopped_by) == (["stop"], ["two"])
    model.answered = 0
    pieces = [event.text for event in stream(model, PROMPT, stop_strings=["two"], tokenizer=tok)]
    assert "".join(pieces) == "one "


def test_stream_gives_whole_characters_and_closing_it_frees():
    tok = FakeTokenizer()
    model = FakeModel(vocab=261, script=tok.encode("é→𝄞!"))
    texts = [event.text for event in stream(model, PROMPT, max_new_tokens=9, tokenizer=tok)]
    assert texts == ["", "é", "", "", "→", "", "", "", "𝄞"]
    model.answered = 0
    cut = [event.text for event in stream(model, PROMPT, max_new_tokens=4, tokenizer=tok)]
    assert "".join(cut) == "é\ufffd"
    assert next(stream(model, PROMPT, logprobs=True)).logprob < 0
    events = stream(model, PROMPT, max_new_tokens=9)
    assert next(events).logprob is None
    assert model.alive == 1
    steps = model.steps
    events.close()
    assert (model.alive, model.steps) == (0, steps)


def test_callables(model):
    seen = []

    def never_odd(input_ids, scores):
        seen.append(input_ids.shape)
        assert scores.shape == (1, 50) and scores.dtype == np.float32
        scores[:, 1::2] = -np.inf
        return scores

    out = generate(model, PROMPT, logits_processor=[never_odd], max_new_tokens=6)
    assert all(token % 2 == 0 for token in out[0, 3:]) and seen[0] == (1, 3)
    out = generate(model, PROMPT, stopping_criteria=lambda ids, scores: ids.shape[1] >= 5, return_dict_in_generate=True)
    assert out.sequences.shape == (1, 5) and out.finish_reasons == ["criteria"]
    with pytest.raises(GenerationError, match=r"logits_processor=\(3,\); must return scores of shape \(1, 50\)"):
        generate(model, PROMPT, logits_processor=[lambda ids, scores: scores[0, :3]])


def test_max_time():
    model = FakeModel(script=[5])
    out = generate(model, PROMPT, max_new_tokens=40, max_time=0, return_dict_in_generate=True)
    assert out.sequences.shape == (1, 4) and out.finish_reasons == ["time"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("kernel")])
@pytest.mark.parametrize("beams", [1, 3])
def test_states_are_freed_whatever_happens(error, beams):
    model = FakeModel(fail=dict.fromkeys(range(4, 99), error))
    with pytest.raises(type(error)):
        generate(model, [PROMPT, [4]], max_new_tokens=9, num_beams=beams, num_return_sequences=beams)
    assert model.alive == 0


def test_nan_logits_are_an_error(model):
    model.table[:, 17] = np.nan
    with pytest.raises(LogitsError, match="sample: logits hold NaN at id 17"):
        generate(model, PROMPT)
    with pytest.raises(LogitsError, match="sample: logits hold NaN at id 17"):
        generate(model, PROMPT, num_beams=2)


def test_bans_that_leave_nothing(model):
    with pytest.raises(LogitsError, match="all 50 logits are -inf: no token is left"):
        generate(model, PROMPT, suppress_tokens=range(50))


def test_unknown_keyword_names_the_nearest(model):
    with pytest.raises(GenerationError, match=r"generate: max_new_token=5; no such .* did you mean 'max_new_tokens'"):
        generate(model, PROMPT, max_new_token=5)
    with pytest.raises(GenerationError, match="did you mean 'attention_mask'"):
        generate(model, PROMPT, attn_mask=[[1]])
    with pytest.raises(GenerationError, match=r"xyzzy=1; no such parameter$"):
        generate(model, PROMPT, xyzzy=1)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        *[("temperature", v, "from 0 and finite") for v in (-1, np.nan, np.inf, "1", True, [1.0], None)],
        *[("top_p", v, "from 0 to 1") for v in (-0.1, 1.01, np.nan, np.inf)],
        *[("min_p", v, "from 0 to 1") for v in (-0.1, 1.01, np.nan)],
        *[("typical_p", v, "above 0 to 1") for v in (0, 1.01, np.nan)],
        *[("top_k", v, "integer from 0") for v in (-1, 1.5, np.nan, 2**31, True)],
        *[("repetition_penalty", v, "above 0 and finite") for v in (0, -1, np.nan, np.inf)],
        *[("presence_penalty", v, "needs a number") for v in (np.nan, np.inf, "x")],
        *[("frequency_penalty", v, "needs a number") for v in (np.nan, -np.inf)],
        *[("max_new_tokens", v, "integer from 1") for v in (0, -1, 2.5, 10**10)],
        *[("seed", v, "integer from 0 to 18446744073709551615") for v in (-1, 2**64, 0.5)],
        ("logit_bias", {3: np.nan}, "needs a number"),
        ("logit_bias", {3: np.inf}, "needs a number"),
        ("logit_bias", [3], "needs a dict"),
        ("logit_bias", {-1: 1.0}, "integer from 0"),
        ("stop_strings", "", "at least one character"),
        ("bad_words_ids", [[]], "bans nothing"),
        ("do_sample", 1, "True or False"),
        ("num_return_sequences", 0, "from 1 to 65536"),
        ("early_stopping", "always", "True, False or 'never'"),
    ],
)
def test_parameters_are_checked(name, value, allowed):
    with pytest.raises(GenerationError) as caught:
        GenerationConfig(**{name: value})
    assert caught.value.name.startswith(name) and allowed in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_ids": [[5, 50]]}, r"input_ids\[0\]\[1\]=50; the vocabulary has ids 0 to 49"),
        ({"input_ids": [-1]}, r"input_ids\[0\]\[0\]=-1"),
        ({"input_ids": []}, "an empty prompt needs bos_token_id"),
        ({"input_ids": "text"}, "input_ids='str'; needs a list of ids"),
        ({"input_ids": [[1.5]]}, "needs a list of ids"),
        ({"input_ids": np.zeros((1, 1, 1), dtype=int)}, "needs a list of ids"),
        ({"attention_mask": [[1, 0, 1]]}, "row 0: 0 at column 1"),
        ({"attention_mask": [[1, 1]]}, r"attention_mask=\[2\]"),
        ({"max_length": 3}, "max_length=3; the prompt has 3"),
        ({"eos_token_id": 50}, "eos_token_id=50"),
        ({"logit_bias": {99: 1.0}}, "logit_bias=99"),
        ({"bad_words_ids": [[1, 77]]}, "bad_words_ids=77"),
        ({"seed": [1, 2]}, "needs one integer, or 1"),
        ({"top_logprobs": 3}, "needs return_dict_in_generate=True"),
        ({"num_beams": 2, "do_sample": True}, "beams do not sample"),
        ({"num_beams": 2, "num_return_sequences": 3}, "at most num_beams=2"),
        ({"streamer": 5}, "needs put"),
        ({"generation_config": 5}, "needs a GenerationConfig or a dict"),
    ],
)
def test_calls_are_checked(model, settings, message):
    with pytest.raises(GenerationError, match=message):
        generate(model, **{"input_ids": [PROMPT], **settings})
    assert model.steps == 0


def test_empty_prompt_becomes_the_beginning(model):
    assert generate(model, [], bos_token_id=1, max_new_tokens=3).tolist() == [model.greedy([1], 3)]


def test_configurations(model):
    config = GenerationConfig(max_new_tokens=4, eos_token_id=END)
    expected = model.greedy(PROMPT, 4)
    assert generate(model, PROMPT, config).tolist() == [expected]
    assert generate(model, PROMPT, {"max_new_tokens": 4, "transformers_version": "5"}).tolist() == [expected]
    model.generation_config = {"max_new_tokens": 2}
    assert generate(model, PROMPT).shape == (1, 5)
    assert config.to_dict() == {"max_new_tokens": 4, "eos_token_id": [END]}
    assert config.max_new_tokens == 4
