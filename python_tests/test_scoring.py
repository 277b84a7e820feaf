"""Scores and embeddings: what they are, and that company, order, chunks and workers do not change a byte of them."""

import importlib
import json
import math
import sys

import numpy as np
import pytest
import tiny_models
import torch
import transformers

import pyllm
from pyllm import _core
from pyllm.cli import main
from pyllm.evaluate import embedding, scoring
from pyllm.generate import GenerationError

RNG = np.random.default_rng(3)
TEXTS = [[int(i) for i in RNG.integers(0, 317, n)] for n in (1, 2, 3, 63, 64, 65, 130, 5, 600, 40, 2)]


@pytest.fixture(scope="module", params=["llama-Q4_1", "gpt2-F32", "lstm-F32"])
def model(request, tmp_path_factory):
    family, dtype = request.param.split("-")
    known = {"llama": tiny_models.llama_config, "gpt2": tiny_models.gpt2_config}
    config = known[family]() if family in known else tiny_models.recurrent_config(family)
    path = tmp_path_factory.mktemp("scoring") / "m.gguf"
    tiny_models.write(path, config, tiny_models.random_weights(config), dtype)
    return pyllm.AutoModelForCausalLM.from_pretrained(path)


def taken(model):
    model.program()
    return model._pool.pages - model._pool.free_pages


def plain(model, ids):
    """log-softmax of the model's logits in float64: [i] of the token after ids[i]."""
    rows = model([ids]).logits[0].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows[np.arange(len(ids) - 1), ids[1:]]


def test_scores_are_log_softmax_and_equal_to_prompt_logprobs(model):
    for ids, found in zip(TEXTS, model.score(TEXTS), strict=True):
        assert found.tokens == ids and np.isnan(found.logprobs[0]) and found.count == len(ids) - 1
        np.testing.assert_allclose(found.logprobs[1:], plain(model, ids), atol=1e-9)
        out = model.generate(ids, max_new_tokens=1, return_dict_in_generate=True, prompt_logprobs=True)
        assert out.prompt_logprobs[0].tobytes() == found.logprobs.tobytes()
        assert found.sum == pytest.approx(found.logprobs[1:].sum())
        if len(ids) > 1:
            assert found.perplexity == pytest.approx(math.exp(-found.sum / found.count))
    assert math.isnan(found.loss) == (found.count == 0) and taken(model) == 0


def test_company_order_chunks_and_workers_change_no_byte(model, monkeypatch):
    alone = [model.score([ids])[0].logprobs.tobytes() for ids in TEXTS]
    vectors = [model.embed([ids])[0].tobytes() for ids in TEXTS]
    before = _core.threads()
    try:
        for threads, rows, order in ((1, 512, 1), (2, 7, -1), (3, 64, 1)):
            _core.set_threads(threads)
            monkeypatch.setattr(model, "batch_rows", rows)
            assert [s.logprobs.tobytes() for s in model.score(TEXTS[::order])] == alone[::order]
            assert [v.tobytes() for v in model.embed(TEXTS[::order])] == vectors[::order]
    finally:
        _core.set_threads(before)


def test_logits_are_held_a_few_rows_at_a_time(model, monkeypatch):
    sizes, steps, logits_of, hidden = [], [], model.logits_of, model.hidden
    monkeypatch.setattr(model, "logits_of", lambda rows: sizes.append(len(rows)) or logits_of(rows))
    monkeypatch.setattr(model, "hidden", lambda batch, rows: steps.append(batch) or hidden(batch, rows))
    model.score([[5, 6, 7]] * 100 + TEXTS)
    assert max(sizes) == scoring.HEAD_ROWS == 64 and sum(sizes) == 200 + sum(len(ids) - 1 for ids in TEXTS)
    rows = [sum(len(ids) for _, ids in batch) for batch in steps]
    assert max(rows) == 512 and len(steps) <= 5 and max(map(len, steps)) == 64


def test_top_alternatives(model):
    found = model.score([TEXTS[3]], top=4)[0]
    rows = model([TEXTS[3]]).logits[0]
    assert found.top[0] is None
    for best, row in zip(found.top[1:], rows, strict=False):
        assert [i for i, _ in best] == [int(i) for i in np.argsort(-row, kind="stable")[:4]]
        assert best == _core.likeliest(row, 4)
    assert model.score([TEXTS[3]])[0].top is None


def test_windows_with_a_stride(model):
    """As Hugging Face's guide to perplexity reads a long text: windows, each judging what none before has judged."""
    ids = [int(i) for i in RNG.integers(0, 317, 101)]
    found = model.score([ids, TEXTS[1]], stride=16, max_length=48)[0]
    expected, judged_until = np.full(101, np.nan), 0
    for begin in range(0, 101, 16):
        end = min(begin + 48, 101)
        here = plain(model, ids[begin:end])
        new = end - max(judged_until, begin + 1)
        expected[end - new : end] = here[len(here) - new :]
        judged_until = end
        if end == 101:
            break
    np.testing.assert_allclose(found.logprobs, expected, atol=1e-9)
    longer = [*ids * 7]
    assert np.isfinite(model.score([longer], stride=300)[0].logprobs[1:]).all()
    with pytest.raises(pyllm.ContextError, match=r"score: texts\[1\] has 707 tokens, the context holds 640"):
        model.score([ids, longer])
    for wrong in ({"stride": 48}, {"stride": 0}, {"max_length": 641}, {"max_length": 1}):
        with pytest.raises(ValueError, match=r"score: (stride|max_length) is \d+, allowed are"):
            model.score([ids], **{"max_length": 48, **wrong})
    assert taken(model) == 0


def test_what_is_refused(model):
    for call in (model.score, model.embed):
        with pytest.raises(GenerationError, match=r"input_ids\[1\]\[2\]"):
            call([[1], [1, 2, 317]])
        with pytest.raises(ValueError, match=r"texts\[1\]: no tokens"):
            call(["a", ""])
        with pytest.raises(GenerationError, match="input_ids"):
            call({"a": 1})
    with pytest.raises(pyllm.ContextError, match=r"embed: texts\[0\] has 641 tokens, the context holds 640"):
        model.embed([[1] * 641])
    with pytest.raises(ValueError, match="embed: pooling is 'max', allowed are mean, last, none"):
        model.embed([[1]], pooling="max")
    assert taken(model) == 0


def test_an_interrupt_frees_every_state(model, monkeypatch):
    hidden, calls = model.hidden, []

    def stop(batch, rows):
        calls.append(batch)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return hidden(batch, rows)

    monkeypatch.setattr(model, "hidden", stop)
    with pytest.raises(KeyboardInterrupt):
        scoring.continuations(model, [(TEXTS[8], [i]) for i in range(20)] + [(TEXTS[6], [1, 2])] * 3)
    calls.clear()
    assert taken(model) == 0


def test_continuations_share_their_contexts(model, monkeypatch):
    fed, hidden = [], model.hidden
    monkeypatch.setattr(
        model, "hidden", lambda batch, rows: fed.extend(len(ids) for _, ids in batch) or hidden(batch, rows)
    )
    contexts = [TEXTS[6], TEXTS[3], TEXTS[8], [9]]
    rests = [[4], [4, 5], [7, 8, 9, 10], [4, 5, 6]]
    pairs = [(context, rest) for rest in rests for context in contexts]
    found = scoring.continuations(model, pairs)
    monkeypatch.undo()
    for (context, rest), (total, said) in zip(pairs, found, strict=True):
        whole = [*context, *rest]
        expected = plain(model, whole)[len(context) - 1 :]
        best = model([whole]).logits[0][len(context) - 1 : -1].argmax(axis=1)
        assert total == pytest.approx(expected.sum(), abs=1e-8) and said == (best.tolist() == rest)
    once = sum(len(context) - 1 for context in contexts)
    assert sum(fed) == once + sum(map(len, rests)) * len(contexts)
    greedy = model.generate(TEXTS[3], max_new_tokens=4, min_new_tokens=4)[0, -4:].tolist()
    assert scoring.continuations(model, [(TEXTS[3], greedy)])[0][1] is True
    assert taken(model) == 0


@pytest.mark.parametrize("pooling", embedding.POOLINGS)
@pytest.mark.parametrize("normalize", [True, False])
def test_embeddings_are_pooled_hidden_rows(model, pooling, normalize):
    found = model.embed(TEXTS, pooling=pooling, normalize=normalize)
    for ids, vector in zip(TEXTS, found, strict=True):
        state = model.new_state()
        rows = model.hidden([(state, ids)], "all").astype(np.float64)
        state.free()
        expected = {"mean": rows.mean(axis=0), "last": rows[-1], "none": rows}[pooling]
        if normalize:
            expected = expected / np.linalg.norm(expected, axis=-1, keepdims=True)
        assert vector.dtype == np.float32 and vector.shape == expected.shape
        np.testing.assert_allclose(vector, expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_embeddings_are_within_1e4_of_transformers(tmp_path, family):
    config = getattr(tiny_models, f"{family}_config")()
    path = tiny_models.write_folder(tmp_path, config, tiny_models.random_weights(config, seed=4))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model = pyllm.AutoModelForCausalLM.from_pretrained(path)
    for text, vector in zip(("the quick brown fox", "a"), model.embed(["the quick brown fox", "a"]), strict=True):
        with torch.no_grad():
            ids = torch.tensor([model.tokenizer.encode(text)])
            rows = theirs(ids, output_hidden_states=True).hidden_states[-1][0].mean(dim=0)
        np.testing.assert_allclose(vector, (rows / rows.norm()).numpy(), atol=1e-4)


def test_the_model_knows_its_tokenizer(tmp_path):
    config = tiny_models.llama_config()
    tiny_models.write_gguf(tmp_path / "m.gguf", config, tiny_models.random_weights(config))
    model = pyllm.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf")
    ids = pyllm.AutoTokenizer.from_pretrained(tmp_path / "m.gguf").encode("over a lazy dog")
    assert model.score("over a lazy dog")[0].tokens == ids == model.tokenizer.encode("over a lazy dog")
    assert model.tokenizer is model.tokenizer
    other = type(model)(model.config)
    with pytest.raises(ValueError, match="tokenizer: this model was not loaded from a file"):
        other.score("text")


def test_the_verbs(tmp_path, capsys):
    config = tiny_models.llama_config()
    path = str(tiny_models.write_gguf(tmp_path / "m.gguf", config, tiny_models.random_weights(config)))
    text = "the quick brown fox jumps é"
    (tmp_path / "text").write_text(text, encoding="utf-8")
    assert main.main(["score", path, text, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    [score] = pyllm.AutoModelForCausalLM.from_pretrained(path).score(text)
    assert [s["id"] for s in data["scores"]] == score.tokens and data["scores"][0]["logprob"] is None
    first = len(data["scores"][0]["text"].encode())
    assert (data["tokens"], data["bytes"]) == (score.count, len(text.encode()) - first)
    assert data["bits_per_byte"] == pytest.approx(-score.sum / data["bytes"] / math.log(2))
    assert data["perplexity"] == pytest.approx(score.perplexity)
    assert main.main(["score", path, "-f", str(tmp_path / "text")]) == 0
    assert capsys.readouterr().out.startswith(f"loss {score.loss:.4f} nats per token, perplexity")
    assert main.main(["score", path, text, "-c", "6"]) == 1 and "the context holds 6" in capsys.readouterr().err
    assert main.main(["score", path, text, "-c", "6", "--stride", "3"]) == 0
    assert "bits per byte" in capsys.readouterr().out
    assert main.main(["embed", path, "a fox", "a dog", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert np.array(data["embeddings"]).shape == (2, 64) and data["cosines"][0][0] == pytest.approx(1, abs=1e-6)
    assert main.main(["embed", path, "a fox", "a dog", "-o", str(tmp_path / "x.npy")]) == 0
    assert np.load(tmp_path / "x.npy").tolist() == data["embeddings"]
    capsys.readouterr()
    assert main.main(["embed", path, "a fox", "a dog"]) == 0
    assert f"{data['cosines'][0][1]:6.3f}" in capsys.readouterr().out
    assert main.main(["embed", path]) == 2 and main.main(["score", path]) == 2


def test_without_the_harness_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "pyllm.evaluate.lm_eval", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pyllm\[eval\]'"):
        importlib.import_module("pyllm.evaluate.lm_eval")
