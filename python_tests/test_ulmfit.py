"""AWD-LSTM beside a PyTorch twin with the same masks; its dropouts; folders in fastai's names."""

import itertools
import json
import zlib
from dataclasses import asdict

import numpy as np
import pytest
import torch
from gradient_checks import parity
from kernel_checks import random, same_bits

from pyllm import _core, nn, ops
from pyllm.auto import AutoModelForCausalLM, new_config, new_model
from pyllm.errors import ModelFileError
from pyllm.models.counting import count_preset
from pyllm.models.planning import sizes
from pyllm.models.presets import from_config

SIZES = {"embedding_size": 8, "hidden_size": 12, "num_hidden_layers": 3, "vocab_size": 30}
DROPPED = {"output_p": 0.3, "hidden_p": 0.25, "input_p": 0.4, "embed_p": 0.2, "weight_p": 0.5}
SEED, BATCH = 7, 3


def model_of(**more):
    return new_model(new_config("awd-lstm", **(SIZES | more)))


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, SIZES["vocab_size"], shape)


def mask(shape, p, stream):
    """A dropout's factors as a float64 tensor."""
    return torch.tensor(_core.dropout(np.ones(shape, np.float32), p, SEED, stream, BATCH << 32).astype(np.float64))


def twin(model, ids, targets, noise):
    """(loss, gradient of each parameter) of equally long sequences, by torch's parts in float64."""
    c, state = model.config, {}
    for name, array in model.learned_arrays().items():
        state[name] = torch.tensor(array.astype(np.float64), requires_grad=True)
    table = state["embedding.weight"]
    x = table[torch.tensor(ids)]
    if noise:
        x = x * mask((c.vocab_size, 1), c.embed_p, zlib.crc32(b"words"))[torch.tensor(ids)]
        x = x * mask((len(ids), x.shape[-1]), c.input_p, zlib.crc32(b"input"))[:, None]
    for i, size in enumerate(c.widths[1:]):
        if noise and i:
            x = x * mask((len(ids), x.shape[-1]), c.hidden_p, zlib.crc32(f"hidden{i}".encode()))[:, None]
        names = [f"rnns.{i}.{kind}_l0" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        w, r, b, bh = (state[name] for name in names)
        if noise:
            r = r * mask(r.shape, c.weight_p, zlib.crc32(b"_l0", zlib.crc32(b"rnns") + i))
        layer = torch.nn.LSTM(x.shape[-1], size, batch_first=True).double()
        call = dict(zip(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), (w, r, b, bh), strict=True))
        x = torch.func.functional_call(layer, call, (x,))[0]
    dropped = x * mask((len(ids), x.shape[-1]), c.output_p, zlib.crc32(b"output"))[:, None] if noise else x
    logits = dropped @ (table if c.tie_word_embeddings else state["head.weight"]).T
    logits = logits + state["head.bias"] if c.head_bias else logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten())
    if noise:
        loss = loss + c.alpha * (dropped**2).mean() + c.beta * ((x[:, 1:] - x[:, :-1]) ** 2).mean()
    loss.backward()
    return loss.item(), {name: tensor.grad.numpy() for name, tensor in state.items()}


@pytest.mark.parametrize("noise", (False, True))
@pytest.mark.parametrize("tied", (False, True))
@pytest.mark.parametrize("layers", (1, 3))
def test_loss_and_gradients_are_those_of_a_torch_twin_with_the_same_masks(noise, tied, layers):
    model = model_of(tie_word_embeddings=tied, head_bias=tied, num_hidden_layers=layers, **DROPPED)
    ids, targets = tokens(4, 6), tokens(4, 6, seed=1)
    targets[1, 2] = -100
    with ops.noise(SEED, BATCH) if noise else ops.documents(None):
        loss = model.loss(ids, targets)
    loss.backward()
    wanted, gradients = twin(model, ids, targets, noise)
    assert loss.item() == pytest.approx(wanted, rel=1e-6)
    for name, parameter in model.learned().items():
        off = np.linalg.norm(parameter.value.grad - gradients[name])
        assert off <= 2e-6 * max(np.linalg.norm(gradients[name]), 1e-2), name


def test_each_dropout_alone_changes_what_is_learned_and_repeats():
    ids = tokens(3, 5)
    plain = model_of(**dict.fromkeys(DROPPED, 0.0), alpha=0.0, beta=0.0)
    with ops.noise(1, 0):
        base = plain.loss(ids, ids).item()
    assert base == plain.loss(ids, ids).item()
    for name in DROPPED:
        model = model_of(**(dict.fromkeys(DROPPED, 0.0) | {name: 0.5}), alpha=0.0, beta=0.0)
        found = []
        for batch in (0, 0, 1):
            with ops.noise(1, batch):
                found.append(model.loss(ids, ids).item())
        assert found[0] == found[1] and len({*found, base}) == 3, name
    for name in ("alpha", "beta"):
        model = model_of(**dict.fromkeys(DROPPED, 0.0), **({"alpha": 0.0, "beta": 0.0} | {name: 1.0}))
        with ops.noise(1, 0):
            assert model.loss(ids, ids).item() > base, name
        assert model.loss(ids, ids).item() == base


def test_a_shared_mask_is_one_for_all_rows_of_an_owner():
    x, owners = random((7, 5), 0), np.array([0, 1, 0, 2, 1, 0, 2])
    for shape in ((3, 5), (3, 1)):
        draw = (0.5, SEED, 11, 64)
        factors = _core.dropout(np.ones(shape, np.float32), *draw)
        assert {0.0, 2.0} == set(factors.flat)
        assert same_bits(ops.shared_dropout(x, owners, shape, draw), x * factors[owners])
        full = torch.tensor(factors[owners].astype(np.float64))
        parity(lambda a, s=shape, d=draw: ops.shared_dropout(a, owners, s, d), lambda a, f=full: a * f, x)
    with pytest.raises(ValueError, match=r"dropout: x \(7, 5\) with 6 owners"):
        ops.shared_dropout(x, owners[:6], (3, 5), draw)


def test_weight_drop_is_the_layer_with_some_hidden_weights_dropped():
    layer = nn.WeightDrop("gru", 4, 6, 2, weight_p=0.5, bidirectional=True).initialise(1)
    plain = nn.Recurrent("gru", 4, 6, 2, bidirectional=True).initialise(1)
    x = random((5, 3, 4), 0)
    assert same_bits(layer(x)[0].data, plain(x)[0].data)
    for name, parameter in plain.learned().items():
        if name.startswith("weight_hh"):
            stream = zlib.crc32(name.removeprefix("weight_hh").encode(), layer.stream)
            parameter.value.data[...] = _core.dropout(parameter.value.data, 0.5, SEED, stream, BATCH << 32)
    with ops.noise(SEED, BATCH):
        assert same_bits(layer(x)[0].data, plain(x)[0].data)


def test_documents_do_not_see_each_other_and_folders_give_back_the_model(tmp_path):
    model, ids, starts = model_of(), tokens(20), [0, 3, 4, 13, 20]
    with ops.documents(starts):
        logits = model.forward(ids).data
    alone = [model.forward(ids[a:b]).data for a, b in itertools.pairwise(starts)]
    assert same_bits(logits, np.concatenate(alone))
    model.eval()
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert same_bits(again(ids).logits, model(ids).logits) and again.config == model.config
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["model_type"] == "ulmfit" and raw["architectures"] == ["AWDLSTM"]
    (tmp_path / "config.json").write_text(json.dumps(raw | {"weight_p": 1.5}))
    with pytest.raises(ModelFileError, match="weight_p"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("tied", (False, True))
def test_fastais_names_give_and_take_the_weights(tied):
    model, other = model_of(tie_word_embeddings=tied), model_of(tie_word_embeddings=tied)
    other.initialise(5)
    state = model.state_dict()
    copies = {"0.encoder_dp.emb.weight": state["0.encoder.weight"]}
    copies |= {f"0.rnns.{i}.module.weight_hh_l0": state[f"0.rnns.{i}.weight_hh_l0_raw"] for i in range(3)}
    assert "1.decoder.weight" in state and "1.decoder.bias" in state
    other.load_state_dict({name: torch.tensor(array) for name, array in (state | copies).items()})
    pairs = zip(model.learned_arrays().values(), other.learned_arrays().values(), strict=True)
    assert all(same_bits(a, b) for a, b in pairs)
    with pytest.raises(ValueError, match=r"0\.rnns\.1\.module\.bias_ih_l0"):
        other.load_state_dict({name: array for name, array in state.items() if "1.module.bias_ih" not in name})


@pytest.mark.parametrize("tied", (False, True))
@pytest.mark.parametrize("layers", (1, 2, 4))
def test_a_configuration_is_counted_as_the_model_is_built(tied, layers):
    model = model_of(tie_word_embeddings=tied, num_hidden_layers=layers)
    preset = from_config(asdict(model.config) | {"model_type": "ulmfit"})
    assert sizes(preset).parameters == model.num_parameters() == count_preset(preset).total


def test_drop_mult_acts_on_a_model_that_is_there():
    model = model_of().train()
    ids = tokens(3, 7)
    whole = model.trunk(ids)[0].data.copy()
    for drop_mult, same in ((0.0, True), (1.0, False)):
        model.config = model_of(output_p=0.0, hidden_p=0.0, input_p=0.0, embed_p=0.0).config.dropping(drop_mult)
        with ops.noise(0, 0):
            assert same_bits(model.trunk(ids)[0].data, whole) == same


def test_drop_mult_scales_every_dropout_and_is_kept_within_its_range():
    config = new_config("awd-lstm", **SIZES, **DROPPED).dropping(0.5)
    assert [getattr(config, name) for name in DROPPED] == [p / 2 for p in DROPPED.values()]
    with pytest.raises(ValueError, match=r"awd-lstm: input_p 1\.2 with drop_mult 3, allowed are 0 to below 1"):
        new_config("awd-lstm", **SIZES, **DROPPED).dropping(3)
