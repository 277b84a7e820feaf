"""Encoder-decoders: the same numbers as PyTorch's, forward and back, whole or step by step, whatever the batch."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from kernel_checks import same_bits, threads

import pyllm
from pyllm import ops
from pyllm.auto.new import new_config, new_model
from pyllm.errors import ContextError
from pyllm.models.counting import count_preset
from pyllm.models.encoder_decoder import split
from pyllm.models.planning import Plan, memory, sizes, training_flop
from pyllm.models.presets import PRESETS, from_config

SMALL = {"vocab_size": 50, "dropout": 0.0, "label_smoothing": 0.0, "eos_token_id": 0}
TRANSFORMER = SMALL | {
    "d_model": 32, "nhead": 4, "num_encoder_layers": 2, "num_decoder_layers": 2, "dim_feedforward": 48,
}  # fmt: skip
SEQ2SEQ = SMALL | {"embedding_size": 16, "hidden_size": 24}
KINDS = {
    "post-norm": ("transformer", TRANSFORMER),
    "pre-norm": ("transformer", TRANSFORMER | {"norm_first": True, "activation": "gelu", "tie_word_embeddings": False}),
    "tables apart": ("transformer", TRANSFORMER | {"share_encoder_decoder_embeddings": False}),
    "no biases": ("transformer", TRANSFORMER | {"bias": False, "norm_first": True, "activation": "gelu"}),
    "none": ("seq2seq", SEQ2SEQ | {"attention": "none", "cell": "gru", "bidirectional": False}),
    "dot": ("seq2seq", SEQ2SEQ | {"attention": "dot"}),
    "plain cells": ("seq2seq", SEQ2SEQ | {"attention": "dot", "cell": "tanh", "tie_word_embeddings": True,
                                          "embedding_size": 24}),
    "general": ("seq2seq", SEQ2SEQ | {"attention": "general", "cell": "gru", "share_encoder_decoder_embeddings": True}),
    "additive": ("seq2seq", SEQ2SEQ | {"attention": "additive", "num_layers": 1}),
}
LENGTHS = ((5, 4), (9, 3), (1, 7), (2, 1))


def model_of(kind, seed=0, **changes):
    family, fields = KINDS[kind]
    return new_model(new_config(family, **(fields | changes)), seed)


def pairs(seed=0, lengths=LENGTHS):
    """Sources and targets."""
    random = np.random.default_rng(seed)
    made = [(random.integers(1, 50, a), random.integers(1, 50, b)) for a, b in lengths]
    return [source for source, _ in made], [target for _, target in made]


def batch(sources, targets):
    """(ids, targets, starts) as the trainer gives them: targets begin with 0 and end with it."""
    rows = [each for s, t in zip(sources, targets, strict=True) for each in (s, np.append(0, t))]
    wanted = [each for s, t in zip(sources, targets, strict=True) for each in (np.full(len(s), -100), np.append(t, 0))]
    return np.concatenate(rows), np.concatenate(wanted), np.cumsum([0, *map(len, rows)])


def learned(model, sources, targets):
    """The loss, its gradients left in the model."""
    ids, wanted, starts = batch(sources, targets)
    with ops.documents(starts):
        loss = model.loss(ids, wanted)
    loss.backward()
    return loss.item()


class Torch(torch.nn.Module):
    """torch.nn.Transformer between the tables and the head, in float64."""

    def __init__(self, model):
        super().__init__()
        c = model.config
        self.transformer = torch.nn.Transformer(
            c.d_model, c.nhead, c.num_encoder_layers, c.num_decoder_layers, c.dim_feedforward, 0.0, c.activation,
            batch_first=True, norm_first=c.norm_first, bias=c.bias, dtype=torch.float64,
        )  # fmt: skip
        state = {name: torch.tensor(array, dtype=torch.float64) for name, array in model.state_dict().items()}
        inner = {n: a for n, a in state.items() if n.startswith(("encoder.", "decoder."))}
        self.transformer.load_state_dict(inner)
        self.source = torch.nn.Parameter(state["source_embedding.weight"])
        shared = c.share_encoder_decoder_embeddings
        self.target = self.source if shared else torch.nn.Parameter(state["target_embedding.weight"])
        self.head = self.target if c.tie_word_embeddings else torch.nn.Parameter(state["generator.weight"])
        self.bias = None if c.tie_word_embeddings else torch.nn.Parameter(state["generator.bias"])
        self.places = torch.tensor(model.places, dtype=torch.float64)
        self.scale = c.d_model**0.5

    def forward(self, sources, targets):
        """Logits of padded rows, and which places are padding."""
        pad = torch.nn.utils.rnn.pad_sequence
        s, t = (pad([torch.tensor(x) for x in rows], True, 0) for rows in (sources, targets))
        hidden = [
            torch.arange(ids.shape[1])[None] >= torch.tensor([len(x) for x in rows])[:, None]
            for ids, rows in ((s, sources), (t, targets))
        ]
        x, y = (table[ids] * self.scale + self.places[: ids.shape[1]]
                for table, ids in ((self.source, s), (self.target, t)))  # fmt: skip
        mask = torch.nn.Transformer.generate_square_subsequent_mask(t.shape[1], dtype=torch.float64).isinf()
        out = self.transformer(x, y, None, mask, None, hidden[0], hidden[1], hidden[0])
        return torch.nn.functional.linear(out, self.head, self.bias), ~hidden[1]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("kind", ["post-norm", "pre-norm", "tables apart", "no biases"])
def test_the_transformer_is_torchs_by_its_names(kind):
    """Logits and every gradient of a ragged batch, and nn.Transformer's own state_dict loads."""
    model, (sources, targets) = model_of(kind), pairs()
    theirs = Torch(model)
    logits, there = theirs(sources, [np.append(0, t) for t in targets])
    wanted = torch.tensor(np.concatenate([np.append(t, 0) for t in targets]))
    torch.nn.functional.cross_entropy(logits[there], wanted).backward()
    loss = learned(model, sources, targets)
    found = model.forward(sources, [np.append(0, t) for t in targets])
    np.testing.assert_allclose(found.data, logits[there].detach().numpy(), rtol=1e-5, atol=1e-5)
    assert abs(loss - torch.nn.functional.cross_entropy(logits[there], wanted).item()) < 1e-5
    mine = {name: parameter.value.grad for name, parameter in model.own_parameters().items()}
    assert len(mine) > 40 and all(np.isfinite(g).all() for g in mine.values())
    grads = {n: p.grad.numpy() for n, p in theirs.transformer.named_parameters()}
    parts = ("encoder", 0, "self_attn"), ("decoder", 1, "self_attn"), ("decoder", 0, "multihead_attn")
    for side, layer, part in parts:
        name = "cross" if part == "multihead_attn" else "attention"
        path = f"{side}.layers.{layer}"
        got = np.concatenate([mine[f"{path}.{name}.{each}.weight"] for each in "qkv"])
        near(got, grads[f"{path}.{part}.in_proj_weight"])
        near(mine[f"{path}.{name}.o.weight"], grads[f"{path}.{part}.out_proj.weight"])
        near(mine[f"{path}.feed_forward.up.weight"], grads[f"{path}.linear1.weight"])
        near(mine[f"{path}.feed_forward_norm.weight"], grads[f"{path}.norm{2 if side == 'encoder' else 3}.weight"])
    near(mine["source_embedding.weight"], theirs.source.grad.numpy())
    last = "decoder.norm.bias" if model.config.bias else "decoder.norm.weight"
    near(mine[last], grads[last])
    other = model_of(kind, seed=1)
    other.load_state_dict(theirs.transformer.state_dict())
    for name, array in other.state_dict().items():
        if name.startswith(("encoder.", "decoder.")):
            assert same_bits(array, model.state_dict()[name])


def torch_seq2seq(model, source, target):
    """Logits of one pair by torch's layers in float64, and the leaves by pyllm's names."""
    c, double = model.config, torch.float64
    leaves = {
        name: torch.tensor(array, dtype=double, requires_grad=True) for name, array in model.learned_arrays().items()
    }
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[c.cell]

    def over(side, x, *state, **options):
        size = c.hidden_size // (2 if options else 1)
        layers = kind(c.embedding_size, size, c.num_layers, dtype=double, **options)
        own = {n.removeprefix(side): leaf for n, leaf in leaves.items() if n.startswith(side)}
        return torch.func.functional_call(layers, own, (x, *state))

    def joined(h):
        return torch.cat([h[0::2], h[1::2]], dim=-1) if c.bidirectional else h

    ways = {"bidirectional": True} if c.bidirectional else {}
    memory, end = over("encoder.", leaves["source_embedding.weight"][torch.tensor(source)], **ways)
    first = tuple(map(joined, end)) if c.cell == "lstm" else joined(end)
    table = leaves.get("target_embedding.weight", leaves["source_embedding.weight"])
    h, _ = over("decoder.", table[torch.tensor(target)], first)
    if c.attention == "additive":
        a, b = h @ leaves["attention.queries.weight"].T, memory @ leaves["attention.keys.weight"].T
        scores = torch.tanh(a[:, None] + b[None]) @ leaves["attention.score.weight"][0]
    elif c.attention != "none":
        scores = h @ (memory if c.attention == "dot" else memory @ leaves["attention.keys.weight"].T).T
    if c.attention != "none":
        found = torch.softmax(scores, dim=-1) @ memory
        h = torch.tanh(torch.cat([found, h], dim=-1) @ leaves["attention.combine.weight"].T)
    return h @ leaves["head.weight"].T + leaves["head.bias"], leaves


@pytest.mark.parametrize("kind", ["none", "dot", "general", "additive"])
def test_recurrent_ones_are_torchs_layers(kind):
    """Logits and every gradient, of a pair that is the second of three."""
    model, (sources, targets) = model_of(kind), pairs()
    cotangent = np.random.default_rng(5).standard_normal((len(targets[1]), 50)).astype(np.float32)
    logits, leaves = torch_seq2seq(model, sources[1], targets[1])
    logits.backward(torch.tensor(cotangent, dtype=torch.float64))
    found = model.forward(sources[:3], targets[:3])
    part = slice(len(targets[0]), len(targets[0]) + len(targets[1]))
    np.testing.assert_allclose(found.data[part], logits.detach(), rtol=1e-5, atol=1e-5)
    dy = np.zeros(found.shape, np.float32)
    dy[part] = cotangent
    found.backward(dy)
    for name, parameter in model.own_parameters().items():
        near(parameter.value.grad, leaves[name].grad.numpy())


def near(a, b):
    assert a.shape == b.shape and np.abs(a - b).max() <= 1e-5 * max(np.abs(b).max(), 1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_slopes(kind):
    """Along a random direction of all numbers, in a batch of ragged pairs."""
    model, (sources, targets) = model_of(kind), pairs()
    learned(model, sources, targets)
    random = np.random.default_rng(3)
    tensors = model.parameters()
    assert all(t.grad is not None and np.abs(t.grad).max() > 0 for t in tensors)
    directions = [random.standard_normal(t.shape) for t in tensors]
    length = sum(float((d * d).sum()) for d in directions) ** 0.5
    directions = [(d / length).astype(np.float32) for d in directions]
    slope = sum(float((t.grad.astype(np.float64) * d).sum()) for t, d in zip(tensors, directions, strict=True))
    _, wanted, starts = batch(sources, targets)
    values, step = [], 0.03
    for sign in (1, -2, 1):
        for t, d in zip(tensors, directions, strict=True):
            t.data += np.float32(sign * step) * d
        with ops.documents(starts):
            values.append(float(ops.cross_entropy(model.forward(sources, [np.append(0, t) for t in targets]),
                                                  wanted[wanted >= -99]).item()))  # fmt: skip
    assert abs((values[0] - values[1]) / (2 * step) - slope) <= 2e-2 * abs(slope) + 3e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_has_the_same_bits_in_any_company_and_step_by_step(kind):
    model, (sources, targets) = model_of(kind).eval(), pairs()
    together = model.forward(sources, targets)
    ends = np.cumsum([0, *map(len, targets)])
    for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
        own = together[ends[i] : ends[i + 1]]
        assert same_bits(model.forward(source, target), own)
        state = model.start(source)
        assert same_bits(np.concatenate([model.step(state, [token]) for token in target]), own)
    with threads(1):
        assert same_bits(model.forward(sources, targets), together)


@pytest.mark.parametrize("kind", ["post-norm", "none", "additive"])
def test_beams_go_where_they_are_sent(kind):
    """After a reordering every beam gives what its own prefix gives alone, also when a source has no beam left."""
    model, (sources, _) = model_of(kind).eval(), pairs()
    state = model.start(sources[:3])
    model.step(state, [0, 0, 0])
    state.reorder([0, 0, 1, 2, 2])
    model.step(state, [4, 5, 6, 7, 8])
    state.reorder([1, 1, 4, 3])  # the second source ends
    found = model.step(state, [9, 10, 11, 12])
    for row, source, prefix in zip(found, (0, 0, 2, 2), ([0, 5, 9], [0, 5, 10], [0, 8, 11], [0, 7, 12]), strict=True):
        assert same_bits(row, model.forward(sources[source], prefix)[-1])
    with pytest.raises(ValueError, match="sources that do not descend"):
        state.reorder([3, 0])


@pytest.mark.parametrize("kind", ["pre-norm", "dot", "additive"])
def test_weights_of_attention_are_shares(kind):
    model, (sources, targets) = model_of(kind), pairs()
    weights = model.cross_weights(sources[0], targets[0])
    assert weights.shape == (4 if kind == "pre-norm" else 1, 4, 5)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-6)
    both = model.cross_weights(sources[:2], targets[:2])
    np.testing.assert_allclose(both[:, :4, :5], weights, atol=1e-6)
    assert not both[:, :4, 5:].any() and not both[:, 4:, :5].any()


def test_smoothing_and_dropout_act_only_while_it_learns():
    model, (sources, targets) = model_of("post-norm", label_smoothing=0.2, dropout=0.3), pairs()
    ids, wanted, starts = batch(sources, targets)
    plain = learned(model, sources, targets)
    same = model_of("post-norm")
    assert learned(same, sources, targets) == plain
    with ops.documents(starts), ops.noise(0, 0):
        noisy = model.loss(ids, wanted).item()
        assert model.loss(ids, wanted).item() == noisy != plain
    quiet = model_of("post-norm", label_smoothing=0.2)
    with ops.documents(starts), ops.noise(0, 0):
        smoothed = quiet.loss(ids, wanted).item()
    logits = quiet.forward(sources, [np.append(0, t) for t in targets]).data
    expected = ops.cross_entropy(logits, wanted[wanted != -100], label_smoothing=0.2)
    assert abs(smoothed - float(expected)) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_opens_again_with_the_same_logits(kind, tmp_path):
    model, (sources, targets) = model_of(kind), pairs()
    logits = model.forward(sources, targets).data
    model.save_pretrained(tmp_path / "a")
    again = pyllm.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "a")
    assert again.config == model.config
    np.testing.assert_allclose(again.forward(sources, targets), logits, rtol=1e-6, atol=1e-6)
    state = model.state_dict()
    other = model_of(kind, seed=5)
    other.load_state_dict(state)
    assert same_bits(other.forward(sources, targets).data, logits)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_counted_from_the_sizes(kind):
    model = model_of(kind)
    values = asdict(model.config) | {"model_type": KINDS[kind][0]}
    counted = sizes(from_config(values))
    assert counted.parameters == model.num_parameters()
    assert model.training_flops() == 3 * counted.multiplied
    plan = Plan(kind, counted, batch=2, context=8, dtype="fp32")
    assert training_flop(plan, 16) >= 6 * 8 * counted.multiplied and memory(plan).total > 16 * counted.parameters


def test_published_sizes_are_the_papers():
    assert [round(count_preset(PRESETS[f"transformer-{name}"]).total / 1e6) for name in ("base", "big")] == [63, 214]


def test_a_language_model_is_no_encoder_decoder(tmp_path):
    new_model(new_config("gpt2", n_layer=1, n_head=1, n_embd=8, n_positions=8, vocab_size=9)).save_pretrained(tmp_path)
    with pytest.raises(pyllm.ModelFileError, match="'model_type': gpt2; one of transformer, seq2seq"):
        pyllm.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)


def test_what_cannot_be_is_refused():
    model = model_of("post-norm", max_position_embeddings=8)
    refused = [
        (lambda: model.forward([[1, 2], []], [[1], [2]]), ValueError, "source 1: empty"),
        (lambda: model.forward([1, 2], []), ValueError, "target 0: empty"),
        (lambda: model.forward([1.5], [1]), ValueError, "source 0: float64"),
        (lambda: model.forward([[1], [2]], [[1]]), ValueError, "2 sources and 1 targets"),
        (lambda: model.forward([50], [1]), IndexError, "allowed are 0 to 49"),
        (lambda: model.forward([1 << 32], [1]), IndexError, "source: 4294967296, allowed are numbers of 32 bits"),
        (lambda: model.step(model.start([1]), np.array([1 << 32])), IndexError, "ids: 4294967296"),
        (lambda: model.start(list(range(1, 10))), ContextError, "source 0: 9 tokens, the model's context has 8"),
        (lambda: model.step(model.start([1]), [1, 2]), ValueError, r"ids \(2,\) for 1 beams"),
        (lambda: split(np.array([0, 2, 3, 4])), ValueError, "3 sequences, allowed is an even number"),
        (lambda: model_of("none").cross_weights([1], [1]), ValueError, "no attention"),
        (lambda: new_config("transformer", d_model=10, nhead=4), pyllm.ModelFileError, "a multiple of the 4 heads"),
        (lambda: new_config("seq2seq", hidden_size=7), pyllm.ModelFileError, "an even number"),
        (lambda: new_config("seq2seq", attention="local"), pyllm.ModelFileError, "known are: none, additive, dot"),
    ]
    for call, error, text in refused:
        with pytest.raises(error, match=text):
            call()
    state = model.start([1, 2])
    for token in range(8):
        model.step(state, [token])
    with pytest.raises(ContextError, match="targets have 8 tokens"):
        model.step(state, [1])
