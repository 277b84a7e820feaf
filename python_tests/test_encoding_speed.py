"""`pyllm bench encode`, and encoders whose sequences pass in groups, in int8."""

import json

import numpy as np
import pytest
from kernel_checks import threads

import pyllm.models.encoder
from pyllm import AutoModel
from pyllm.auto import new, new_config
from pyllm.auto.weights import store_as
from pyllm.cli.main import main

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 99}


@pytest.mark.parametrize("dtype", ["int8", "q8_0", "fp32", "bf16"])
@pytest.mark.parametrize("ragged", [False, True])
def test_bench_encode_measures_a_shape(capsys, monkeypatch, dtype, ragged):
    monkeypatch.setitem(new.SHAPES, "bert-base", {"model_type": "bert"} | SMALL)
    more = ["--ragged"] if ragged else []
    sizes = ["--batch", "3", "--length", "20", "--dtype", dtype]
    assert main(["bench", "encode", "BERT-base", *sizes, "--json", *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tok_s"] == pytest.approx(found["tokens"] / found["seconds"])
    assert 24 <= found["tokens"] < 60 if ragged else found["tokens"] == 60
    assert (found["batch"], found["length"], found["ragged"]) == (3, 20, ragged)


def test_bench_encode_names_the_shapes(capsys):
    assert main(["bench", "encode", "bert-huge"]) == 1
    assert "shapes are bert-base, bert-large, all-minilm-l6-v2" in capsys.readouterr().err
    assert main(["bench", "encode"]) == 2
    assert main(["bench", "train", "--dtype", "int8"]) == 2


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_groups_company_and_threads_change_no_bit(monkeypatch, dtype):
    model = AutoModel.from_config(new_config("bert", **SMALL)).eval()
    store_as(model, dtype)
    random = np.random.default_rng(3)
    texts = [random.integers(0, 99, n).astype(np.int32) for n in (5, 40, 1, 33, 64, 7, 12)]
    whole = model(texts)
    alone = [model([text]).last_hidden_state[0] for text in texts]
    most = 41 * model.width  # groups of one and several, one longer than a group
    monkeypatch.setattr(pyllm.models.encoder, "TOGETHER", most)
    grouped = model(texts)
    with threads(1):
        single = model(texts)
    for others in (alone, grouped.last_hidden_state, single.last_hidden_state):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(whole.last_hidden_state, others, strict=True))
    assert grouped.pooler_output.tobytes() == whole.pooler_output.tobytes()
