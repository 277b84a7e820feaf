"""The model class for EleutherAI's harness beside the harness's own `hf` on the same folder. Run by `make lm-eval`."""

import json

import numpy as np
import pytest
import tiny_models
import yaml
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from pyllm.evaluate.lm_eval import PyLLM

pytestmark = pytest.mark.filterwarnings("default")  # the harness and what it needs warn about each other

WORDS = "the quick brown fox jumps over a lazy dog and then another thing in that town while it was raining on her"
RNG = np.random.default_rng(11)


def words(count):
    return " ".join(RNG.choice(WORDS.split(), count))


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def pair(request, tmp_path_factory):
    """(ours, theirs) over one folder of float32 weights with a context of 64."""
    names = {"llama": "max_position_embeddings", "gpt2": "n_positions"}
    config = getattr(tiny_models, f"{request.param}_config")(**{names[request.param]: 64})
    weights = tiny_models.random_weights(config, seed=3)
    head = "lm_head.weight" if request.param == "llama" else "transformer.wte.weight"
    weights[head] = weights[head] * (4 if request.param == "llama" else 1.5)
    path = tmp_path_factory.mktemp(request.param)
    tiny_models.write_folder(path, config, weights)
    theirs = get_model("hf")(pretrained=str(path), device="cpu", dtype="float32", batch_size=3, max_length=64)
    return PyLLM(str(path), batch_size=3), theirs


def instances(kind, arguments):
    return [Instance(kind, {}, given, number) for number, given in enumerate(arguments)]


def close(ours, theirs):
    assert [said for _, said in ours] == [said for _, said in theirs]
    np.testing.assert_allclose([x for x, _ in ours], [x for x, _ in theirs], rtol=1e-4, atol=1e-4)


def test_loglikelihood(pair):
    ours, theirs = pair
    contexts = [words(n) for n in (1, 3, 12, 60)] + ["", "a dog ", "<s>a dog"]
    arguments = [(context, " " + words(n)) for context in contexts for n in (1, 2, 5)]
    requests = instances("loglikelihood", arguments)
    found = ours.loglikelihood(requests, disable_tqdm=True)
    close(found, theirs.loglikelihood(requests, disable_tqdm=True))


def test_greedy_continuations_are_told(pair):
    """As ids: what a random model says is rarely text that would be cut into the same tokens."""
    ours, theirs = pair
    requests = []
    for number in range(6):
        context = RNG.integers(0, 317, 5 + number).tolist()
        rest = ours.model.generate(context, max_new_tokens=4, min_new_tokens=4)[0, len(context) :].tolist()
        other = [*rest[:3], (rest[3] + 1) % 317]
        requests += [(None, context, rest), (None, context, rest[:1]), (None, context, other)]
    found = ours._loglikelihood_tokens(requests, disable_tqdm=True)
    assert [said for _, said in found] == [True, True, False] * 6
    close(found, theirs._loglikelihood_tokens(requests, disable_tqdm=True))


def test_loglikelihood_rolling(pair):
    requests = instances("loglikelihood_rolling", [(words(n),) for n in (1, 5, 30, 70, 160)])
    found, expected = (lm.loglikelihood_rolling(requests, disable_tqdm=True) for lm in pair)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_generate_until(pair):
    arguments = [(words(n), {"until": ["\n", " dog"], "max_gen_toks": 20}) for n in (2, 5, 9, 60)]
    arguments += [(words(n), {"until": [], "max_gen_toks": 12, "do_sample": False}) for n in (2, 30)]
    requests = instances("generate_until", arguments)
    found, expected = (lm.generate_until(requests, disable_tqdm=True) for lm in pair)
    assert found == expected and any(found)


def test_sampling_repeats_and_differs_between_requests(pair):
    given = {"until": [], "max_gen_toks": 16, "do_sample": True, "temperature": 1.5, "top_k": 0}
    requests = instances("generate_until", [("a dog", given)] * 5)
    found = pair[0].generate_until(requests, disable_tqdm=True)
    assert len(set(found)) == 5 and pair[0].generate_until(requests, disable_tqdm=True) == found


def test_chat_template(pair):
    turns = [{"role": "user", "content": " a dog "}, {"role": "assistant", "content": "a fox"}]
    for messages, add in ((turns[:1], True), (turns, False)):
        found, expected = (lm.apply_chat_template(messages, add_generation_prompt=add) for lm in pair)
        assert found == expected
    assert pair[0].chat_template(True) == pair[1].chat_template(True) and pair[0].tokenizer_name
    for text in (found, "a <s> dog", "<s>a", "a\n"):
        assert pair[0].tok_encode(text) == pair[1].tok_encode(text)
        assert pair[0].tok_encode(text, add_special_tokens=False) == pair[1].tok_encode(text, add_special_tokens=False)


def test_what_is_refused(pair, tmp_path):
    with pytest.raises(ValueError, match="max_gen_toks is 64"):
        pair[0].generate_until(instances("generate_until", [("a", {"max_gen_toks": 64})]))
    with pytest.raises(ValueError, match="a continuation of 65 tokens"):
        pair[0]._loglikelihood_tokens([(None, [5], [6] * 65)])
    config = tiny_models.gpt2_config()
    path = str(tiny_models.write_folder(tmp_path, config, tiny_models.random_weights(config)))
    with pytest.raises(ValueError, match="max_length is 700"):
        PyLLM(path, max_length=700)


TASKS = {
    "tiny_choice": {
        "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "tiny_text": {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "tiny_answer": {
        "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8}, "metric_list": [{"metric": "exact_match"}],
    },
}  # fmt: skip


def test_local_tasks_give_the_same_results(pair, tmp_path):
    lines = [{"question": words(9), "choices": [" " + words(2) for _ in range(4)], "answer": i % 4} for i in range(8)]
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    common = {
        "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "documents.jsonl")}, "cache_dir": str(tmp_path)},
    }  # fmt: skip
    for name, task in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **common, **task}))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    results = [
        simple_evaluate(model=lm, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0, log_samples=True)
        for lm in pair
    ]
    for name in TASKS:
        numbers = [
            {key: value for key, value in found["results"][name].items() if isinstance(value, float)}
            for found in results
        ]
        assert numbers[0] and numbers[0] == pytest.approx(numbers[1], rel=1e-4), name
    answers = [[sample["filtered_resps"] for sample in found["samples"]["tiny_answer"]] for found in results]
    assert answers[0] == answers[1]
