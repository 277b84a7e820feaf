"""What beams cost in the real engine: one step for all, pages copied only where two beams write, none left behind."""

import numpy as np
import pytest
import tiny_models

import pyllm

PROMPT = np.random.default_rng(5).integers(0, 317, 150).tolist()
PAGE = 64


@pytest.fixture(scope="module", params=["llama", "lstm"])
def model(request, tmp_path_factory):
    config = tiny_models.llama_config() if request.param == "llama" else tiny_models.recurrent_config(request.param)
    path = tiny_models.write_folder(tmp_path_factory.mktemp("tiny"), config, tiny_models.random_weights(config), "BF16")
    return pyllm.AutoModelForCausalLM.from_pretrained(path)


def used(model):
    """Pages in use."""
    model.new_state()
    return model._pool.pages - model._pool.free_pages


def watch(model, monkeypatch):
    """[(lengths before, pages in use after)] of every step."""
    steps, step = [], model.step

    def watched(batch, logits="last"):
        lengths = [state.length for state, _ in batch]
        rows = step(batch, logits)
        steps.append((lengths, used(model)))
        return rows

    monkeypatch.setattr(model, "step", watched)
    return steps


@pytest.mark.parametrize("beams", [2, 5, 16])
def test_beams_share_full_pages_and_run_in_one_step(model, monkeypatch, beams):
    steps = watch(model, monkeypatch)
    model.generate(PROMPT, num_beams=beams, max_new_tokens=60, min_new_tokens=60, early_stopping=True)
    assert len(steps) == 60 and used(model) == 0
    assert steps[0] == ([0], 3)
    for lengths, pages in steps[1:]:
        assert len(lengths) == beams and len(set(lengths)) == 1
        own = -(-(lengths[0] + 1) // PAGE) - len(PROMPT) // PAGE  # pages since the prompt's last full one
        assert len(PROMPT) // PAGE + 1 <= pages <= len(PROMPT) // PAGE + beams * own


def test_a_page_that_ends_with_the_parent_is_not_copied(model):
    state = model.new_state()
    model.step([(state, PROMPT[:128])])
    before = used(model)
    children = [state, *(state.fork() for _ in range(3))]
    assert used(model) == before == 2
    model.step([(child, [i]) for i, child in enumerate(children)])
    assert used(model) == 2 + 4
    only, *others = children
    for child in others:
        child.free()
    model.step([(only, [7])])  # the last owner writes into its page where it stands
    assert used(model) == 3
    only.free()


def test_many_prompts_run_a_few_at_a_time(model, monkeypatch):
    prompts = [PROMPT[i : i + 5] for i in range(40)]
    alone = [model.generate(p, num_beams=8, max_new_tokens=4, return_dict_in_generate=True) for p in prompts]
    steps = watch(model, monkeypatch)
    out = model.generate(prompts, num_beams=8, max_new_tokens=4, return_dict_in_generate=True)
    assert out.new_tokens == [one.new_tokens[0] for one in alone]
    assert np.array_equal(out.sequences_scores, np.concatenate([one.sequences_scores for one in alone]))
    assert max(len(lengths) for lengths, _ in steps) == 64 and max(pages for _, pages in steps) <= 64
    assert len(steps) == 4 * 5 and used(model) == 0


def test_an_error_in_a_step_frees_all_beams(model, monkeypatch):
    def stop(ids, scores):
        if ids.shape[1] == 155:
            raise KeyboardInterrupt
        return scores

    with pytest.raises(KeyboardInterrupt):
        model.generate([PROMPT, PROMPT[:4]], num_beams=4, max_new_tokens=30, logits_processor=[stop])
    assert used(model) == 0
