"""Generation over the real engine and a tiny model: the same answer however it is served, and after an interrupt."""

import signal
from array import array

import numpy as np
import pytest
import tiny_models

from pyllm import AutoModelForCausalLM, AutoTokenizer, _core
from pyllm.errors import ContextError
from pyllm.generate import Chat, GenerationConfig, PagedCache, Sampler, Scheduler, Sequence, generate
from pyllm.generate.stopping import StopRules

PROMPTS = [[5, 6, 7], [9] * 40, [300, 12, 44, 8, 91], [17], list(range(3, 300))]
SAMPLED = {"do_sample": True, "temperature": 1.3, "top_k": 0, "top_p": 0.95, "eos_token_id": None}


@pytest.fixture(scope="module", params=["llama-Q4_1", "gru-F32"])
def path(request, tmp_path_factory):
    family, dtype = request.param.split("-")
    config = tiny_models.llama_config() if family == "llama" else tiny_models.recurrent_config(family)
    file = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny_models.write(file, config, tiny_models.random_weights(config, seed=2), dtype=dtype)
    return file


@pytest.fixture(scope="module")
def model(path):
    return AutoModelForCausalLM.from_pretrained(path)


def report(model, prompts, **settings):
    """(new tokens, bytes of their log-probabilities and of the prompt's) per sequence."""
    out = generate(model, prompts, return_dict_in_generate=True, prompt_logprobs=True, **settings)
    copies = len(out.new_tokens) // len(prompts)
    scores = zip(out.logprobs, np.repeat(np.arange(len(prompts)), copies), strict=True)
    scores = [row.tobytes() + out.prompt_logprobs[i].tobytes() for row, i in scores]
    return list(zip(out.new_tokens, scores, strict=True))


@pytest.mark.parametrize("settings", [{"eos_token_id": None}, {**SAMPLED, "seed": [1, 2, 3, 4, 5]}])
def test_bytes_do_not_depend_on_neighbours_or_threads(model, settings):
    settings = {"max_new_tokens": 20, **settings}
    whole = report(model, PROMPTS, **settings)
    seeds = settings.pop("seed", [0] * 5)
    threads = _core.threads()
    try:
        for count in (1, 2):
            _core.set_threads(count)
            for prompt, seed, expected in zip(PROMPTS, seeds, whole, strict=True):
                assert report(model, [prompt], seed=seed, **settings) == [expected]
    finally:
        _core.set_threads(threads)


def test_forks_equal_sequences_that_computed_the_prompt_themselves(model):
    both = report(model, [PROMPTS[1]], num_return_sequences=3, seed=7, max_new_tokens=15, **SAMPLED)
    assert len({tuple(tokens) for tokens, _ in both}) == 3
    alone = generate(model, [PROMPTS[1]] * 3, seed=7, max_new_tokens=15, **SAMPLED)
    assert alone[:, 40:].tolist() == [tokens for tokens, _ in both]


def test_requests_join_and_leave_at_any_step(model):
    def sequence(prompt, seed):
        sampler = Sampler(GenerationConfig(do_sample=True, top_k=0))
        return Sequence(array("q", prompt), sampler, StopRules(most=len(prompt) + 12), seed=seed)

    expected = []
    for seed, prompt in enumerate(PROMPTS):
        with Scheduler(model, PagedCache(model, "50MB")) as batch:
            batch.add(one := sequence(prompt, seed))
            list(batch.run())
        expected.append(one.generated)
    with Scheduler(model, PagedCache(model, "50MB"), chunk=50) as batch:
        waiting = [sequence(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
        lost = sequence([4, 4], 9)
        batch.add(lost)
        everyone = list(waiting)
        while batch.running or batch.waiting or waiting:
            if waiting:
                batch.add(waiting.pop())
            batch.step()
            if len(lost.tokens) == 5 and lost.state is not None:
                batch.remove(lost)
    assert [one.generated for one in everyone] == expected
    assert all(one.finish_reason == "length" and one.state is None for one in everyone)
    assert lost.finish_reason is None and len(lost.generated) == 3


def test_the_context_of_the_model_holds(model):
    full = generate(model, [5] * 630, max_new_tokens=100, eos_token_id=None)
    assert full.shape == (1, model.context_length)
    with pytest.raises(ContextError, match=r"640 tokens, the context holds 640"):
        generate(model, [5] * 640)


@pytest.mark.parametrize("beams", [1, 4])
def test_an_interrupt_stops_and_leaves_the_model_usable(model, beams):
    settings = {"max_new_tokens": 30, "num_beams": beams, "eos_token_id": None}
    expected = generate(model, PROMPTS, **settings)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for delay in (0.002, 0.01, 0.03):
            signal.setitimer(signal.ITIMER_REAL, delay)
            with pytest.raises(KeyboardInterrupt):
                while True:
                    generate(model, PROMPTS, **settings)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert np.array_equal(generate(model, PROMPTS, **settings), expected)


def test_chat_says_the_same_with_and_without_its_kept_state(model, path):
    tokenizer = AutoTokenizer.from_pretrained(path)
    settings = {"max_new_tokens": 12, "do_sample": True, "temperature": 1.2, "seed": 3}
    with Chat(model, tokenizer, "Talk.", **settings) as kept, Chat(model, tokenizer, "Talk.", **settings) as fresh:
        for question in ("the fox", "and then", "a dog"):
            fresh.forget()
            assert kept.send(question) == fresh.send(question)
        assert kept.messages == fresh.messages
        assert kept.undo() == "a dog"
        kept.send("a dog")
        assert kept.messages == fresh.messages
