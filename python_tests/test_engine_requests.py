"""Engine and AsyncEngine: many requests at once, what bad ones get, and every page and slot free again."""

import asyncio
import threading
import time

import numpy as np
import pytest
import tiny_models

import pyllm
from pyllm import AutoModelForCausalLM
from pyllm.generate import CacheBudgetError, ContextError, EngineClosedError, GenerationError, LogitsError, generate

RANDOM = np.random.default_rng(8)
LONG = [int(t) for t in RANDOM.integers(6, 317, 400)]
PROMPTS = [LONG[:n] for n in (1, 64, 65, 200)] + [LONG[n : n + 90] for n in (3, 50)]
FREE = {"eos_token_id": None}


def tiny(folder, **changes):
    config = tiny_models.llama_config(**changes)
    weights = tiny_models.random_weights(config, seed=2)
    tiny_models.write_gguf(folder / "tiny.gguf", config, weights, dtype="Q4_1")
    return AutoModelForCausalLM.from_pretrained(folder / "tiny.gguf")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(model):
    """Engines of some pages, all of which must be free at the end, and nobody must be left."""
    made = []

    def make(pages=40, kind=pyllm.Engine, **options):
        made.append(kind(model, memory=pages * model.new_pool().page_bytes, **{**FREE, **options}))
        return made[-1]

    yield make
    for each in (getattr(each, "engine", each) for each in made):
        assert not each.busy and not each.requests
        each.clear()
        assert each.stats().free_pages == each.stats().pages > 0


def run(engine):
    """Every event until nothing is left to do."""
    events = []
    while engine.busy:
        events += engine.step()
    return events


def tokens(events, request):
    """What the sequences of a request said."""
    said = [[] for _ in request.sequences]
    for event in events:
        if event.sequence in request.sequences and event.token is not None:
            said[event.index].append(event.token)
    return said


def test_requests_are_answered_as_alone(model, engine):
    many = engine(12, chunk=40)
    requests = [many.submit(prompt, max_new_tokens=20, do_sample=True, seed=7) for prompt in PROMPTS]
    both = many.submit(PROMPTS[:2], max_new_tokens=9, num_return_sequences=3, do_sample=True, seed=8)
    events = run(many)
    for prompt, request in zip(PROMPTS, requests, strict=True):
        alone = generate(model, prompt, max_new_tokens=20, do_sample=True, seed=7, **FREE)
        assert tokens(events, request) == [alone[0, len(prompt) :].tolist()]
    expected = generate(model, PROMPTS[:2], max_new_tokens=9, num_return_sequences=3, do_sample=True, seed=8, **FREE)
    assert tokens(events, both) == expected[:, 64:].tolist()
    assert many.stats().hits > 0 and many.stats().reused_tokens % 64 == 0


@pytest.mark.parametrize(
    ("prompt", "settings", "error"),
    [
        ([], {"bos_token_id": None}, GenerationError),
        ([5, 317], {}, GenerationError),
        ([5, -1], {}, GenerationError),
        ([5] * 640, {}, ContextError),
        ([5] * 300, {"max_new_tokens": 400}, CacheBudgetError),
        ([5], {"temperature": -1}, GenerationError),
        ([5], {"num_beams": 2}, GenerationError),
        ([5], {"streamer": 5}, GenerationError),
        ([0.5], {}, GenerationError),
    ],
)
def test_bad_requests_are_refused_and_others_go_on(model, engine, prompt, settings, error):
    one = engine(6)
    kept = one.submit(PROMPTS[0], max_new_tokens=5)
    one.step()
    with pytest.raises(error):
        one.submit(prompt, **settings)
    assert tokens(run(one), kept)[0] == generate(model, PROMPTS[0], max_new_tokens=5, **FREE)[0, 2:].tolist()


class Broken(Exception):
    """What a caller's own function raises."""


@pytest.mark.parametrize("name", ["logits_processor", "stopping_criteria", "streamer"])
@pytest.mark.parametrize("after", [1, 4])
def test_a_callable_that_fails_ends_its_own_request(model, engine, name, after):
    calls = []

    def broken(*arguments):
        calls.append(1)
        if len(calls) == after:
            raise Broken
        return arguments[1] if name == "logits_processor" else False

    one = engine()
    kept = one.submit(PROMPTS[3], max_new_tokens=9)
    lost = one.submit(PROMPTS[2], max_new_tokens=9, **{name: broken})
    events = run(one)
    errors = [event for event in events if event.error is not None]
    assert [(type(event.error), event.sequence) for event in errors] == [(Broken, lost.sequences[0])]
    assert errors[0].finish_reason == "error" and len(tokens(events, lost)[0]) == after - 1
    assert tokens(events, kept)[0] == generate(model, PROMPTS[3], max_new_tokens=9, **FREE)[0, 200:].tolist()


def test_nan_of_one_sequence_reaches_no_other(tmp_path):
    """Token 5 has a row of NaN. Its pages go to others afterwards, and beside it others compute in the same steps."""
    config = tiny_models.llama_config()
    weights = tiny_models.random_weights(config, seed=2)
    name = next(name for name in weights if "embed" in name)
    clean = tiny_models.write_folder(tmp_path / "clean", config, weights, "BF16")
    weights[name] = weights[name].copy()
    weights[name][5] = np.nan
    broken = tiny_models.write_folder(tmp_path / "broken", config, weights, "BF16")
    clean, broken = (AutoModelForCausalLM.from_pretrained(path) for path in (clean, broken))
    settings = {"max_new_tokens": 30, "suppress_tokens": [5], **FREE}
    with pyllm.Engine(broken, memory=9 * broken.new_pool().page_bytes) as engine:
        for _ in range(3):
            kept = [engine.submit(prompt, logprobs=True, **settings) for prompt in PROMPTS]
            lost = [engine.submit([*LONG[:n], 5, 7], **settings) for n in (0, 10, 64, 150)]
            events = run(engine)
            errors = {event.sequence: event.error for event in events if event.error is not None}
            assert {id(s) for s in errors} == {id(request.sequences[0]) for request in lost}
            assert all(isinstance(error, LogitsError) for error in errors.values())
            for prompt, request in zip(PROMPTS, kept, strict=True):
                alone = generate(clean, prompt, return_dict_in_generate=True, **settings)
                found = [event for event in events if event.sequence is request.sequences[0]]
                assert [event.token for event in found] == alone.new_tokens[0]
                assert np.array([event.logprob for event in found]).tobytes() == alone.logprobs[0].tobytes()
        engine.clear()
        assert engine.stats().free_pages == engine.stats().pages


def test_a_request_is_cancelled_at_every_step(model, engine):
    """While it waits, is fed its prompt, decodes, or waits again; its neighbours never notice."""
    settings = {"max_new_tokens": 150, "do_sample": True, "seed": 3}
    expected = [generate(model, prompt, **settings, **FREE)[0, len(prompt) :].tolist() for prompt in PROMPTS]
    places = set()
    for at in (*range(30), *range(30, 330, 11)):
        one = engine(7, chunk=128, max_sequences=4)
        requests = [one.submit(prompt, **settings) for prompt in PROMPTS]
        lost, events, steps = requests[at % len(requests)], [], 0
        while one.busy:
            steps += 1
            if steps > at and lost is not None:
                (sequence,) = lost.sequences
                started = len(sequence.generated) > 0
                where = "waiting" if sequence in one.scheduler.waiting else "running"
                places.add((where if sequence.finish_reason is None else "done", started))
                one.cancel(lost)
                one.cancel(lost)
                assert sequence.state is None
                gone, lost = lost, None
            events += one.step()
        for request, said in zip(requests, expected, strict=True):
            found = tokens(events, request)[0]
            assert found == (said[: len(found)] if request is gone else said)
    assert places >= {("waiting", False), ("running", False), ("running", True), ("waiting", True), ("done", True)}


def test_ten_thousand_at_once(model, engine):
    many = engine(400)
    started = time.process_time()
    requests = [many.submit(LONG[i % 90 : i % 90 + 1 + i % 7], max_new_tokens=1 + i % 2) for i in range(2_000)]
    first = time.process_time() - started
    requests += [many.submit(LONG[i % 90 : i % 90 + 1 + i % 7], max_new_tokens=1 + i % 2) for i in range(8_000)]
    for request in requests[5000:9000]:
        many.cancel(request)
    assert time.process_time() - started < 10 * first  # 5 times as many; every one looking at all others would be 25
    events = run(many)
    assert len(events) == 6_000 * 1.5
    assert {event.finish_reason for event in events} == {None, "length"}


def test_text_comes_with_the_models_own_tokenizer(model, engine):
    one = engine()
    request = one.submit("the fox", max_new_tokens=8)
    events = run(one)
    ids = model.tokenizer.encode("the fox")
    assert request.prompts == [ids]
    said = generate(model, ids, max_new_tokens=8, **FREE)[0, len(ids) :].tolist()
    assert "".join(event.text for event in events) == model.tokenizer.decode(said)


def serve(engine, body):
    """Run `body(engine)` in an event loop and close the engine."""

    async def main():
        async with engine:
            return await body(engine)

    return asyncio.run(asyncio.wait_for(main(), 60))


def test_tasks_share_steps_and_get_their_own_answers(model, engine):
    settings = {"max_new_tokens": 12, "do_sample": True, "seed": 4}
    expected = [generate(model, prompt, **settings, **FREE)[0, len(prompt) :].tolist() for prompt in PROMPTS]
    one = engine(14, pyllm.AsyncEngine)
    steps = []
    step, one.engine.step = one.engine.step, lambda: steps.append(1) or step()

    async def body(one):
        outputs = await asyncio.gather(*(one.generate(PROMPTS[i % 6], **settings) for i in range(60)))
        assert [out.new_tokens[0] for out in outputs] == [expected[i % 6] for i in range(60)]
        assert len(steps) < 60 * 12 / 2
        streamed = [event.token async for event in one.stream(PROMPTS[3], **settings)]
        assert streamed == expected[3]
        return one.stats()

    assert serve(one, body).waiting == 0


def test_a_cancelled_task_gives_its_pages_back(model, engine):
    one = engine(30, pyllm.AsyncEngine)

    async def body(one):
        kept = asyncio.create_task(one.generate(PROMPTS[3], max_new_tokens=60))
        lost = [asyncio.create_task(one.generate(prompt, max_new_tokens=400)) for prompt in PROMPTS[1:4]]
        async for event in one.stream(PROMPTS[0], max_new_tokens=400):
            if event.index == 0 and len(event.sequence.generated) == 5:
                break  # leaves its loop
        for task in lost:
            task.cancel()
        assert all(
            isinstance(found, asyncio.CancelledError) for found in await asyncio.gather(*lost, return_exceptions=True)
        )
        out = await kept
        while one.stats().running:
            await asyncio.sleep(0.01)
        return out, one.stats()

    out, stats = serve(one, body)
    assert out.new_tokens == generate(model, PROMPTS[3], max_new_tokens=60, **FREE)[:, 200:].tolist()
    assert stats.running == stats.waiting == 0 and stats.pages - stats.free_pages == stats.cached_pages


def test_errors_reach_only_their_task(model, engine):
    async def body(one):
        work = [
            one.generate(PROMPTS[0], max_new_tokens=5),
            one.generate([999]),
            one.generate([5] * 600, max_new_tokens=30),
        ]
        work += [one.generate([7], logits_processor=lambda ids, scores: scores[:, :3]), one.generate([7], streamer=len)]
        return await asyncio.gather(*work, return_exceptions=True)

    out, *errors = serve(engine(9, pyllm.AsyncEngine), body)
    assert out.new_tokens == generate(model, PROMPTS[0], max_new_tokens=5, **FREE)[:, 1:].tolist()
    assert [type(error) for error in errors] == [GenerationError, CacheBudgetError, GenerationError, TypeError]


def test_closing_ends_those_who_wait_and_refuses_more(model, engine):
    one = engine(30, pyllm.AsyncEngine)

    async def body(one):
        tasks = [asyncio.create_task(one.generate(prompt, max_new_tokens=430)) for prompt in PROMPTS]
        await asyncio.sleep(0.02)
        await one.close()
        await one.close()
        found = await asyncio.gather(*tasks, one.generate([5]), return_exceptions=True)
        assert {type(error) for error in found} == {EngineClosedError}

    serve(one, body)


def test_several_event_loops_share_an_engine(model, engine):
    one = engine(30, pyllm.AsyncEngine)
    expected = [generate(model, prompt, max_new_tokens=15, **FREE)[0, len(prompt) :].tolist() for prompt in PROMPTS]
    found = {}

    def user(i):
        found[i] = asyncio.run(one.generate(PROMPTS[i], max_new_tokens=15)).new_tokens[0]

    threads = [threading.Thread(target=user, args=(i,)) for i in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[i] for i in range(len(PROMPTS))] == expected
    asyncio.run(one.close())


def test_threads_may_generate_at_once(model):
    settings = {"max_new_tokens": 12, "do_sample": True, "seed": 5, **FREE}
    expected = [generate(model, prompt, **settings).tolist() for prompt in PROMPTS]
    found = [None] * 18

    def user(i):
        found[i] = generate(model, PROMPTS[i % 6], **settings).tolist()

    threads = [threading.Thread(target=user, args=(i,)) for i in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [expected[i % 6] for i in range(len(found))]
