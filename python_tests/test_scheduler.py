"""Many sequences in a fixed memory: admission, preemption, shared prefixes, and every page free again."""

from array import array

import numpy as np
import pytest
import tiny_models

from pyllm import AutoModelForCausalLM
from pyllm.generate import CacheBudgetError, GenerationConfig, PagedCache, Sampler, Scheduler, Sequence
from pyllm.generate.sequence import Wants
from pyllm.generate.stopping import StopRules

RANDOM = np.random.default_rng(3)
LONG = [int(t) for t in RANDOM.integers(0, 317, 400)]
PROMPTS = [LONG[:n] for n in (1, 63, 64, 65, 130, 200)] + [LONG[n : n + 90] for n in (0, 7, 100, 130)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = tiny_models.llama_config()
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny_models.write_gguf(path, config, tiny_models.random_weights(config, seed=2), dtype="Q4_1")
    return AutoModelForCausalLM.from_pretrained(path)


@pytest.fixture
def cache(model):
    """A cache of a given number of pages, all of which must be free at the end."""
    made = []

    def make(pages):
        made.append(PagedCache(model, pages * model.new_pool().page_bytes))
        return made[-1]

    yield make
    for each in made:
        each.clear()
        assert each.used == 0


def sequence(prompt, seed=0, new=12, copies=1, **wants):
    sampler = Sampler(GenerationConfig(do_sample=seed > 0, top_k=0))
    rules = StopRules(most=len(prompt) + new)
    made = [
        Sequence(array("q", prompt), sampler, rules, seed=seed, stream=i, wants=Wants(**wants)) for i in range(copies)
    ]
    made[0].siblings = made[1:]
    return made[0]


def bytes_of(events):
    """Per sequence its tokens and the bytes of its log-probabilities."""
    found = {}
    for event in events:
        assert event.error is None
        tokens, scores = found.setdefault(event.sequence, ([], bytearray()))
        tokens.append(event.token)
        scores += event.logits.tobytes()
    return found


def run(scheduler, *sequences):
    for each in sequences:
        scheduler.add(each)
    return scheduler.run()


@pytest.fixture(scope="module")
def expected(model):
    """What every prompt gives alone, by seed."""
    found = {}
    for seed in (0, 5):
        everyone = [sequence(prompt, seed, 180, logits=True) for prompt in PROMPTS]
        found[seed] = [bytes_of(run(Scheduler(model, PagedCache(model, "1MB")), each))[each] for each in everyone]
    return found


@pytest.mark.parametrize(("pages", "chunk", "seed"), [(6, 512, 0), (6, 50, 5), (9, 7, 5), (12, 512, 5), (60, 90, 0)])
def test_bytes_depend_neither_on_memory_nor_on_chunks(model, cache, expected, pages, chunk, seed):
    scheduler = Scheduler(model, cache(pages), chunk=chunk)
    everyone = [sequence(prompt, seed, 180, logits=True) for prompt in PROMPTS]
    found = bytes_of(run(scheduler, *everyone))
    assert [found[each] for each in everyone] == expected[seed]
    assert scheduler.cache.reused > 0
    assert (scheduler.preemptions > 0) == (pages < 60)


def test_a_request_that_never_fits_is_refused_before_anything_is_computed(model, cache):
    scheduler = Scheduler(model, cache(2))
    scheduler.add(sequence([5] * 100, new=29))
    with pytest.raises(CacheBudgetError, match="generate: 129 tokens need 3 pages of 64, the memory budget has 2"):
        scheduler.add(sequence([5] * 100, new=30))
    assert len(list(scheduler.run())) == 29


@pytest.mark.parametrize("memory", [0, -5, "nothing", "2 XB", 100, True])
def test_budgets_are_checked(model, memory):
    with pytest.raises(CacheBudgetError, match="memory: "):
        PagedCache(model, memory)


def test_budgets_are_read(model):
    page = model.new_pool().page_bytes
    assert PagedCache(model, "1MiB").pool.pages == 2**20 // page
    assert PagedCache(model, "1.5 MB").pool.pages == 1_500_000 // page
    assert PagedCache(model).pool.pages == 256 * model.config.context_length // 64
