"""What users of PyTorch and transformers do with every model: devices, modes, frozen parts, configurations."""

import numpy as np
import pytest
import torch

import pyllm
from pyllm.auto.new import new_config, new_model

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = new_config("bert", **SIZES, intermediate_size=20, max_position_embeddings=24, hidden_dropout_prob=0.0)
PAIR = {"vocab_size": 40, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 20, "decoder_ffn_dim": 20}  # fmt: skip
MAKE = {
    "gpt2": lambda: new_model(new_config("gpt2", vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=24), 0),
    "bert": lambda: pyllm.AutoModelForMaskedLM.from_config(BERT, 0),
    "bart": lambda: pyllm.AutoModelForSeq2SeqLM.from_config(new_config("bart", **PAIR), 0),
}
IDS = np.array([[3, 5, 8, 1]])


@pytest.mark.parametrize("name", MAKE)
def test_devices_modes_and_configurations(name):
    model = MAKE[name]()
    assert model.to("cpu").to(torch.device("cpu")).to(device="cpu:0") is model and model.device == "cpu"
    for other in ("cuda", torch.float16, 0):
        with pytest.raises(ValueError, match=r"to .*, allowed is 'cpu'"):
            model.to(other)
    assert not model.train(False).parameters() and model.train(True).parameters()
    found = model.config.to_dict()
    assert found["model_type"] == model.config.model_type == name and found["vocab_size"] == 40
    again = new_config(**{key: value for key, value in found.items() if key != "model_type"}, family=name)
    assert again == model.config


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("ready", ["to run", "to learn"])
def test_what_is_frozen_stays_as_it_is(name, ready):
    model = MAKE[name]()
    if ready == "to run":
        model.eval()
    part = model.layers[0] if hasattr(model, "layers") else model.encoder
    every = model.num_parameters(only_trainable=True)
    assert part.requires_grad_(False) is part
    frozen = sum(each.size for _, each in part.named_parameters())
    assert frozen and model.num_parameters(only_trainable=True) == every - frozen and model.num_parameters() == every
    last = list(model.learned().values())[-1]
    last.requires_grad = False
    model.train()
    before = {key: array.copy() for key, array in model.learned_arrays().items()}
    optimizer = pyllm.optim.AdamW(model.parameters(), lr=0.01)
    tokens, targets, starts = IDS[0].repeat(2), np.array([5, 8, 1, 2, -100, 3, 4, 5]), np.array([0, 4, 8], np.int32)
    with pyllm.ops.documents(starts):
        model.loss(tokens, targets).backward()
    optimizer.step()
    still = {id(each) for _, each in part.named_parameters()} | {id(last)}
    after = model.learned_arrays()
    same = {key: np.array_equal(before[key], after[key]) for key in before}
    assert all(same[key] is (id(each) in still) for key, each in model.learned().items() if "bias" not in key)
    model.requires_grad_(False)
    assert not model.parameters() and len(model.requires_grad_().parameters()) == len(model.learned())


def test_a_batch_of_tokens_is_on_the_processor():
    batch = pyllm.text.train("a few words and a few more", vocab=270)(["a few", "words"])
    assert batch.to("cpu") is batch and batch.to(torch.device("cpu"), non_blocking=True) is batch
    with pytest.raises(ValueError, match=r"BatchEncoding: to cuda:0, allowed is 'cpu'"):
        batch.to("cuda:0")
