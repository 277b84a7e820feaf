"""The bytes of greedy answers and of all log-probabilities do not depend on workers, prompt chunks or company."""
from collections import Counter

import numpy as np
import pytest
import request_mixes
import schedules
import tiny_models
from request_mixes import MODELS

import pyllm


def load(folder, name, precision="default"):
    config, dtype = MODELS[name]
    path = tiny_models.write(folder / "m.gguf", config, tiny_models.random_weights(config), dtype)
    return pyllm.AutoModelForCausalLM.from_pretrained(str(path), precision=precision)


LOADS = [(name, "default") for name in MODELS]
LOADS += [(name, "high") for name in MODELS if name.startswith(("llama", "gpt2"))]


@pytest.mark.parametrize(("name", "precision"), LOADS)
def test_answers_do_not_depend_on_how_they_are_served(tmp_path, name, precision):
    model, rng = load(tmp_path, name, precision), np.random.default_rng(1)
    requests = request_mixes.random_requests(rng, 18, 317, longest=90, new=10)
    alone = request_mixes.serve(model, requests, request_mixes.ALONE)
    assert len({digest for _, digest in alone}) == len(requests)
    for mix in request_mixes.mixes(rng, 16):
        answers = request_mixes.serve(model, requests, mix)
        wrong = [i for i, (a, b) in enumerate(zip(alone, answers, strict=True)) if a != b]
        assert not wrong, f"{mix}: requests {wrong} differ, prompts of {[len(requests[i].prompt) for i in wrong]}"


@pytest.mark.parametrize("name", ["llama-Q4_1", "mistral-Q4_0"])
def test_long_prompts_do_not_depend_on_how_they_are_served(tmp_path, name):
    """Past 256 positions attention merges several chunks, or leaves them unread; past 512 a prompt is several steps."""
    model, rng = load(tmp_path, name), np.random.default_rng(2)
    requests = [
        request_mixes.Request(tuple(int(t) for t in rng.integers(0, 317, n)), 4) for n in (600, 255, 256, 257, 511)
    ]
    alone = request_mixes.serve(model, requests, request_mixes.ALONE)
    for mix in (request_mixes.Mix(2, 512, 5, 0), request_mixes.Mix(2, 64, 3, 7), request_mixes.Mix(1, 7, 5, 8)):
        assert request_mixes.serve(model, requests, mix) == alone, str(mix)


def test_the_same_request_twice_is_the_same_answer(tmp_path):
    """A digest that never changes would pass everything: a changed token must change it."""
    model = load(tmp_path, "llama-BF16")
    one, other = request_mixes.Request((5, 6, 7), 5), request_mixes.Request((5, 6, 8), 5)
    answers = request_mixes.serve(model, [one, one, other], request_mixes.Mix(2, 2, 3, 0))
    assert answers[0] == answers[1]
    assert answers[0][1] != answers[2][1]


@pytest.mark.parametrize("name", MODELS)
def test_answers_do_not_depend_on_the_schedule(tmp_path, name):
    """Sampled and greedy, siblings, warm caches, memory that is too small for all, neighbours that leave, drafts."""
    model, rng, counts = load(tmp_path, name), np.random.default_rng(3), Counter()
    orders = schedules.random_orders(rng, 12, 317, longest=200, new=80)
    crowded = [schedules.Schedule(1, 512, 8, memory, True, 2, 3, 7) for memory in ("least", "double", "plenty")]
    assert schedules.compare(model, orders, [*crowded, *schedules.schedules(rng, 5)], counts) == []
    assert counts["cases"] >= 96
    assert min(counts[what] for what in ("preempted", "prefix_hits", "forked", "drafts_held")) > 5


def test_a_prompt_of_one_token_has_its_scores_with_drafts_too(tmp_path):
    """The campaign found it: drafts come with the first token, and nothing of the prompt is left to be scored."""
    model, order = load(tmp_path, "gpt2-F16"), schedules.Order(prompt=(283,), new=7, seed=614, scored=True)
    alone = schedules.alone(model, [order])
    for drafts in (1, 3, 10):
        assert schedules.serve(model, [order], schedules.Schedule(drafts=drafts), None, alone) == alone
    assert schedules.sequence_of(order).prompt_logprobs is not None
