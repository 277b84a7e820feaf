"""Many sequences in a fixed memory: admission, preemption, shared prefixes, and every page free again."""

from array import array

import numpy as np
import pytest
import tiny_models

from pyllm import AutoModelForCausalLM
from pyllm.generate import CacheBudgetError, GenerationConfig, PagedCache, Sampler, Scheduler, Sequence
from pyllm.generate.prefix import PrefixIndex
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
    assert PagedCache(model).pool.pages == 256 * model.context_length // 64


def test_the_type_of_the_cache_is_chosen_before_the_first_step(model, tmp_path):
    config = tiny_models.llama_config()
    path = tmp_path / "tiny.gguf"
    tiny_models.write_gguf(path, config, tiny_models.random_weights(config, seed=2), dtype="Q4_1")
    exact = AutoModelForCausalLM.from_pretrained(path, cache_type="f32")
    assert exact.new_pool().page_bytes == 2 * model.new_pool().page_bytes
    with pytest.raises(ValueError, match="cache_type: 'bf16' comes after the first step, which took F32"):
        exact.cache_type = "bf16"
    with pytest.raises(ValueError, match="cache_type: 'q1', allowed are F32, BF16"):
        AutoModelForCausalLM.from_pretrained(path, cache_type="q1")
    small = AutoModelForCausalLM.from_pretrained(path, cache_type="q8_0")
    assert small.new_pool().page_bytes == model.new_pool().page_bytes * 9 // 16
    prompt = np.arange(2, 300) % 317
    whole = small(prompt).logits[0]
    state = small.new_state()
    pieces = [small.step([(state, piece)], "all") for piece in np.array_split(prompt, 7)]
    assert np.array_equal(np.concatenate(pieces), whole)
    near = exact(prompt).logits[0]
    assert 0 < np.linalg.norm(whole - near) < 0.1 * np.linalg.norm(near)


def test_the_longest_unused_prefix_goes_first(model, cache):
    """Two prompts of two pages in a cache of seven; the third needs pages, and the first has been asked for again."""
    scheduler = Scheduler(model, cache(7))
    first, second, third = ([token] * 129 for token in (5, 6, 7))
    for prompt in (first, second, first, third):
        list(run(scheduler, sequence(prompt, new=2)))
    reused = []
    for prompt in (first, second):
        one = sequence(prompt, new=2)
        list(run(scheduler, one))
        reused.append(one.reused)
    assert reused[0] == 128 and scheduler.cache.used <= 7
    list(run(scheduler, sequence([8] * 380, new=60)))
    one = sequence(first, new=2)
    list(run(scheduler, one))
    assert one.reused == 0


def test_equal_hashes_do_not_make_equal_prefixes(model, cache, monkeypatch):
    """Every page's tokens with the same hash: the answers stay right, because tokens are compared."""

    class Key(bytes):
        def __hash__(self):
            return 1

    index = PrefixIndex(64)
    plain = PrefixIndex.key
    monkeypatch.setattr(PrefixIndex, "key", lambda self, tokens, at: Key(plain(self, tokens, at)))
    assert hash(index.key(array("q", range(64)), 0)) == hash(index.key(array("q", range(64, 128)), 0)) == 1
    scheduler = Scheduler(model, cache(30))
    for prompt in (LONG[:130], LONG[130:260], LONG[:64] + LONG[200:266], LONG[:130]):
        one, other = sequence(prompt, logits=True), sequence(prompt, logits=True)
        found = bytes_of(run(scheduler, one))[one]
        assert found == bytes_of(run(Scheduler(model, cache(30)), other))[other]
    assert scheduler.cache.reused == 64 + 128


def test_a_long_prompt_does_not_stall_those_who_decode(model, cache):
    scheduler = Scheduler(model, cache(40), chunk=64)
    short, long = sequence([5], new=40), sequence(LONG, new=2)
    scheduler.add(short)
    scheduler.step()
    scheduler.add(long)
    while not long.generated:
        before = len(short.generated)
        scheduler.step()
        assert len(short.generated) == min(40, before + 1)
        assert long.state.length <= 8 * len(short.generated) or len(short.generated) == 40
    scheduler.close()


def test_equal_prompts_at_once_are_computed_once(model, cache):
    scheduler = Scheduler(model, cache(40))
    everyone = [sequence(LONG[:330], new=2) for _ in range(5)]
    list(run(scheduler, *everyone))
    assert [each.reused for each in everyone] == [0, 320, 320, 320, 320]
