"""Speculation changes no byte: each answer equals the one without drafts, whoever drafts, wherever an answer ends."""

from array import array

import numpy as np
import pytest
import tiny_models
from fakes import FakeModel

import pyllm
from pyllm.cli import main
from pyllm.generate import Chat, GenerationError, PagedCache, Sampler, Scheduler, Sequence, generate, request, stream
from pyllm.generate.lookup import REST, PromptLookup
from pyllm.generate.sequence import Wants
from pyllm.generate.stopping import StopRules

RNG = np.random.default_rng(9)
PROMPTS = [RNG.integers(3, 317, n).tolist() for n in (1, 5, 40, 70, 130)]
PROMPTS += [[5, 6, 7, 8] * 10, [9] * 30, PROMPTS[2] * 2]


@pytest.fixture(scope="module", params=["llama-BF16", "gpt2-Q8_0", "lstm-F32"])
def model(request, tmp_path_factory):
    """Sharp enough that greedy answers repeat themselves and drawn ones do at times."""
    family, dtype = request.param.split("-")
    config = {"llama": tiny_models.llama_config, "gpt2": tiny_models.gpt2_config}.get(
        family, lambda **more: tiny_models.recurrent_config(family, **more)
    )(**{"n_positions" if family == "gpt2" else "max_position_embeddings": 200})
    weights = tiny_models.random_weights(config, seed=3)
    for head in {"lm_head.weight", "decoder.weight", "transformer.wte.weight"} & set(weights):
        weights[head] *= 3
    path = tmp_path_factory.mktemp("lookup") / "m.gguf"
    return pyllm.AutoModelForCausalLM.from_pretrained(tiny_models.write(path, config, weights, dtype))


class Oracle:
    """Drafts that are often right: the answers known from before, with mistakes."""

    def __init__(self, answers, most=6, wrong=0.2, seed=0):
        self.answers, self.most, self.wrong = answers, most, wrong
        self.rng = np.random.default_rng(seed)
        self.given = self.held = 0

    def drafts(self, tokens, room):
        so_far = list(tokens)
        after = next((a[len(so_far) :] for a in self.answers if a[: len(so_far)] == so_far), [])
        after = [*after, *self.rng.integers(0, 317, self.most).tolist()]
        count = int(self.rng.integers(0, self.most + 1))
        return [int(t) if self.rng.random() > self.wrong else int(t + 1) % 317 for t in after[: min(count, room)]]

    def learn(self, drafted, held):
        assert 0 <= held <= drafted
        self.given, self.held = self.given + drafted, self.held + held


def answer(model, prompts, **settings):
    settings = {"max_new_tokens": 40, "eos_token_id": [1, 60, 61], "pad_token_id": 1, "seed": 5, **settings}
    given = {"return_dict_in_generate": True, "logprobs": True, "top_logprobs": 3, **settings}
    return generate(model, prompts, **given)


def bytes_of(out):
    """Everything that an answer tells."""
    logprobs = [row.tobytes() for row in out.logprobs]
    rows = [row.tobytes() for of in (out.scores, out.logits, out.prompt_logprobs) for row in of or ()]
    return out.sequences.tobytes(), out.new_tokens, out.finish_reasons, out.stopped_by, logprobs, out.top_logprobs, rows


SETTINGS = {
    "greedy": {},
    "sampled": {"do_sample": True, "temperature": 0.7, "top_k": 0},
    "sharp": {"do_sample": True, "temperature": 0.2, "top_p": 0.9},
    "processors": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "min_new_tokens": 9, "suppress_tokens": [7]},
    "reports": {"output_scores": True, "output_logits": True, "prompt_logprobs": True},
    "several": {"do_sample": True, "num_return_sequences": 3, "temperature": 0.5},
    "to the end of the context": {"max_new_tokens": 500, "eos_token_id": None},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_answers_are_the_same_with_drafts(model, monkeypatch, name):
    plain = answer(model, PROMPTS, **SETTINGS[name])
    for tokens, size in ((1, 1), (5, 2), (64, 4)):
        drafted = {"prompt_lookup_num_tokens": tokens, "max_matching_ngram_size": size}
        assert bytes_of(answer(model, PROMPTS, **SETTINGS[name], **drafted)) == bytes_of(plain), drafted
    copies = SETTINGS[name].get("num_return_sequences", 1)
    known = [[*PROMPTS[i // copies], *new] for i, new in enumerate(plain.new_tokens)]
    oracles = []

    def oracle(config):
        oracles.append(Oracle(known, seed=len(oracles)))
        return oracles[-1]

    monkeypatch.setattr(request, "lookup_of", oracle)
    assert bytes_of(answer(model, PROMPTS, **SETTINGS[name])) == bytes_of(plain)
    assert sum(each.held for each in oracles) > sum(each.given for each in oracles) / 4 > 10


def test_fewer_steps_where_the_text_repeats(model, monkeypatch):
    steps, step = [], model.step
    monkeypatch.setattr(model, "step", lambda batch, rows: steps.append(sum(rows)) or step(batch, rows))
    plain = answer(model, [PROMPTS[5]], max_new_tokens=100, eos_token_id=None)
    before, steps[:] = len(steps), []
    drafted = answer(model, [PROMPTS[5]], max_new_tokens=100, eos_token_id=None, prompt_lookup_num_tokens=8)
    assert drafted.new_tokens == plain.new_tokens and before == 100
    assert len(steps) < before and max(steps) <= 9


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 6, 7, 12])
def test_an_answer_may_end_inside_a_draft(model, monkeypatch, most):
    """Its length, an end token, a stop string, a criterion: each at every place of a draft, in one batch."""
    full = answer(model, PROMPTS, max_new_tokens=30, eos_token_id=None)
    known = [[*prompt, *new] for prompt, new in zip(PROMPTS, full.new_tokens, strict=True)]
    token = full.new_tokens[2][most]
    text = model.tokenizer.decode(full.new_tokens[3])[most : most + 2]
    for settings in (
        {"max_new_tokens": most},
        {"eos_token_id": [token]},
        {"stop_strings": [text], "tokenizer": model.tokenizer},
        {"stopping_criteria": lambda ids, scores: ids.shape[1] % 30 == most},
    ):
        plain = bytes_of(answer(model, PROMPTS, **settings))
        with monkeypatch.context() as patch:
            patch.setattr(request, "lookup_of", lambda config: Oracle(known, wrong=0.05, seed=most))
            assert bytes_of(answer(model, PROMPTS, **settings)) == plain, settings


def test_processors_see_each_token_once_and_in_order(model, monkeypatch):
    known = [[*PROMPTS[1], *answer(model, [PROMPTS[1]]).new_tokens[0]]]
    seen = []

    def note(ids, scores):
        seen.append(ids[0].tolist())
        return scores

    answer(model, [PROMPTS[1]], logits_processor=note)
    plain, seen[:] = list(seen), []
    monkeypatch.setattr(request, "lookup_of", lambda config: Oracle(known))
    answer(model, [PROMPTS[1]], logits_processor=note)
    assert seen == plain


def test_an_error_comes_after_the_tokens_before_it(model, monkeypatch):
    full = answer(model, [PROMPTS[1]], eos_token_id=None)

    def fail(ids, scores):
        if ids.shape[1] == len(PROMPTS[1]) + 7:
            raise ZeroDivisionError
        return scores

    monkeypatch.setattr(request, "lookup_of", lambda config: Oracle([[*PROMPTS[1], *full.new_tokens[0]]], wrong=0.0))
    said = []
    with pytest.raises(ZeroDivisionError):
        for event in stream(model, [PROMPTS[1]], eos_token_id=None, max_new_tokens=40, logits_processor=fail):
            said.append(event.token)
    assert said == full.new_tokens[0][:7]


def test_preemption_in_a_small_cache(model):
    """Few pages, so that sequences are thrown out and computed again while they draft."""

    def run(memory, lookup):
        cache = PagedCache(model, memory)
        sampler = Sampler(request.config_of(model, do_sample=True, temperature=0.3, seed=1))
        found = {}
        with Scheduler(model, cache) as scheduler:
            for i, prompt in enumerate(PROMPTS):
                rules = StopRules(frozenset(), len(prompt) + 60)
                scheduler.add(
                    Sequence(array("q", prompt), sampler, rules, index=i, seed=1, stream=i, wants=Wants(logprob=True),
                             lookup=PromptLookup(8) if lookup else None)
                )  # fmt: skip
            for event in scheduler.run():
                found.setdefault(event.index, []).append((event.token, event.logprob, event.finish_reason))
        cache.clear()
        assert cache.pool.free_pages == cache.pool.pages
        return found, scheduler.preemptions

    page = model.new_pool().page_bytes
    plain, _ = run(200 * page, False)
    roomy, none = run(200 * page, True)
    tight, many = run(6 * page, True)
    assert plain == roomy == tight and none == 0 < many


def test_a_chat_answers_the_same(model):
    tokenizer, settings = model.tokenizer, {"max_new_tokens": 24}
    with Chat(model, tokenizer, **settings) as plain, Chat(
        model, tokenizer, prompt_lookup_num_tokens=6, **settings
    ) as drafted:
        for message in ("the fox the fox the fox", "a dog"):
            assert drafted.send(message) == plain.send(message)
            assert drafted.fed == plain.fed and drafted.state.length == plain.state.length
        pieces = drafted.stream("the quick brown fox")
        next(pieces)
        pieces.close()
        assert drafted.finish_reason == "cancelled"
        assert len(drafted.fed) == drafted.state.length


def brute(tokens, longest, count):
    """The drafts by rescanning: of the longest match the latest, going on in circles."""
    for size in range(min(longest, len(tokens) - 1), 0, -1):
        for end in range(len(tokens) - 1, size - 1, -1):
            if tokens[end - size : end] == tokens[-size:]:
                whole = list(tokens)
                for i in range(count):
                    whole.append(whole[end + i])
                return whole[len(tokens) :]
    return []


def test_drafts_are_what_a_rescan_finds():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        longest, tokens = int(rng.integers(1, 5)), array("q", rng.integers(0, 6, 5).tolist())
        lookup = PromptLookup(7, longest)
        for _ in range(40):
            assert lookup.drafts(tokens, 5) == brute(tokens.tolist(), longest, 5)
            tokens.extend(rng.integers(0, 6, int(rng.integers(1, 4))).tolist())


def test_drafts_grow_while_they_hold_and_rest_when_they_fail():
    lookup, tokens = PromptLookup(8), array("q", [3] * 20)
    counts = []
    for held in (8, 3, 1, 0, 0):
        counts.append(len(lookup.drafts(tokens, 99)))
        lookup.learn(counts[-1], min(held, counts[-1]))
        tokens.append(3)
    assert counts == [8, 8, 6, 2, 1] and lookup.rest == REST
    assert [len(lookup.drafts(tokens, 99)) for _ in range(REST + 1)] == [0] * REST + [1]
    assert lookup.drafts(tokens, 0) == [] and PromptLookup(4).drafts(array("q", [1, 2, 3]), 9) == []


def test_parameters_and_flags(tmp_path, capsys):
    for wrong in ({"prompt_lookup_num_tokens": 65}, {"prompt_lookup_num_tokens": -1}, {"max_matching_ngram_size": 0}):
        with pytest.raises(GenerationError, match=next(iter(wrong))):
            generate(FakeModel(), [5, 6], **wrong)
    with pytest.raises(GenerationError, match=r"prompt_lookup_num_tokens=.*not with num_beams > 1"):
        generate(FakeModel(), [5, 6], num_beams=2, prompt_lookup_num_tokens=3)
    config = tiny_models.llama_config()
    path = str(tiny_models.write_gguf(tmp_path / "m.gguf", config, tiny_models.random_weights(config)))
    outs = []
    for lookup in ("0", "8"):
        assert main.main(["generate", "-m", path, "-p", "a dog a dog a dog", "-n", "30", "--lookup", lookup]) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1]
