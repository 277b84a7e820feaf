"""nn.MultiheadAttention and the Transformer's layers beside PyTorch's of the same weights: results and gradients."""

import numpy as np
import pytest
import torch
from gradient_checks import learn

import pyllm
from pyllm import nn, ops

WIDTH, HEADS, BATCH, LENGTH, KEYS = 24, 3, 3, 7, 5
SHORT = np.arange(LENGTH) >= np.array([[7], [4], [6]])  # true: padding
HOLES = np.array([[0, 1, 0, 0, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
CAUSAL = np.triu(np.ones((LENGTH, LENGTH), bool), 1)
INFINITE = np.where(CAUSAL, -np.inf, 0).astype(np.float32)


def random(seed, *shape):
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


BIAS = random(9, LENGTH, LENGTH)
EACH = (random(8, BATCH * HEADS, LENGTH, LENGTH) < -1) & ~np.eye(LENGTH, dtype=bool)  # of every head its own
BOTH = np.where(EACH, -np.inf, random(7, BATCH * HEADS, LENGTH, LENGTH)).astype(np.float32)


def far(ours, theirs):
    """The distance of arrays as a share of the second."""
    wanted = theirs.detach().numpy()
    assert np.shape(ours) == wanted.shape
    return np.abs(np.asarray(ours) - wanted).max() / np.abs(wanted).max()


def one(module, *args, **options):
    """PyTorch's, and ours of the same weights."""
    torch.manual_seed(3)
    theirs = getattr(torch.nn, module)(*args, **options)
    for each in theirs.parameters():
        torch.nn.init.normal_(each, 0.1, 0.3)
    ours = getattr(nn, module)(*args, **options).load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    return theirs, ours


def compared(theirs, ours, inputs, call, masks):
    """The greatest distance of results, to learn and to run, and of gradients of inputs and of weights."""
    mine, other = learn(*inputs), [torch.tensor(x, requires_grad=True) for x in inputs]
    y, z = call(ours, mine, masks), call(theirs, other, {name: _torch(mask) for name, mask in masks.items()})
    dy = [random(i, *each.shape) for i, each in enumerate(y)]
    total = (y[0] * dy[0]).sum()
    for each, d in zip(y[1:], dy[1:], strict=True):
        total = total + (each * d).sum()
    total.backward()
    sum((each * torch.tensor(d)).sum() for each, d in zip(z, dy, strict=True)).backward()
    found = [far(a.data, b) for a, b in zip(y, z, strict=True)]
    found += [far(a.grad, b.grad) for a, b in zip(mine, other, strict=True)]
    weights = dict(theirs.named_parameters())
    found += [far(part.value.grad, weights[name].grad) for name, part in ours.learned().items()]
    found += [far(a, b) for a, b in zip(call(ours.eval(), inputs, masks), z, strict=True)]
    return max(found)


def _torch(mask):
    return torch.tensor(mask) if isinstance(mask, np.ndarray) else mask


SELF = {
    "all": {},
    "padding": {"key_padding_mask": SHORT},
    "holes": {"key_padding_mask": SHORT[:, ::-1].copy()},
    "causal": {"attn_mask": CAUSAL},
    "infinite": {"attn_mask": INFINITE},
    "hinted": {"attn_mask": CAUSAL, "is_causal": True},
    "causal padding": {"attn_mask": CAUSAL, "key_padding_mask": SHORT},
    "bias": {"attn_mask": BIAS},
    "bias and padding": {"attn_mask": BIAS, "key_padding_mask": np.where(SHORT, -np.inf, 0).astype(np.float32)},
    "weighed keys": {"attn_mask": BIAS, "key_padding_mask": random(4, BATCH, LENGTH)},
    "heads": {"attn_mask": EACH},
    "heads and bias": {"attn_mask": BOTH},
}


@pytest.mark.parametrize("more", [{"need_weights": False}, {}, {"average_attn_weights": False}], ids=str)
@pytest.mark.parametrize("case", list(SELF))
def test_attention_over_oneself(case, more):
    def call(part, inputs, masks):
        y, weights = part(inputs[0], inputs[0], inputs[0], **masks)
        return [y] if weights is None else [y, weights]

    theirs, ours = one("MultiheadAttention", WIDTH, HEADS, batch_first=True)
    assert compared(theirs, ours, [random(1, BATCH, LENGTH, WIDTH)], call, SELF[case] | more) < 2e-5


@pytest.mark.parametrize("widths", [{}, {"kdim": 10, "vdim": 6}, {"bias": False}], ids=str)
@pytest.mark.parametrize("masks", [{}, {"key_padding_mask": HOLES}, {"attn_mask": BIAS[:, :KEYS]}], ids=list)
def test_attention_over_others(widths, masks):
    def call(part, inputs, masks):
        return part(*inputs, need_weights=False, **masks)[:1]

    theirs, ours = one("MultiheadAttention", WIDTH, HEADS, **widths)
    sizes = WIDTH, widths.get("kdim", WIDTH), widths.get("vdim", WIDTH)
    inputs = [random(i, n, BATCH, size) for i, (n, size) in enumerate(zip((LENGTH, KEYS, KEYS), sizes, strict=True))]
    assert compared(theirs, ours, inputs, call, masks) < 2e-5


def test_attention_without_a_batch_and_without_a_key():
    theirs, ours = one("MultiheadAttention", WIDTH, HEADS)
    x = random(1, LENGTH, WIDTH)
    hidden = SHORT[1]
    wanted = theirs(*[torch.tensor(x)] * 3, key_padding_mask=torch.tensor(hidden))
    for mine, other in zip(ours(x, x, x, key_padding_mask=hidden), wanted, strict=True):
        assert far(mine, other) < 2e-5
    y, weights = ours(x, x, x, attn_mask=np.ones((LENGTH, LENGTH), bool))
    assert not weights.data.any() and np.allclose(y.data, ours.out_proj.bias.array())
    bias = learn(BIAS)[0]  # a bias that learns
    ours(x, x, x, attn_mask=bias)[0].sum().backward()
    other = torch.tensor(BIAS, requires_grad=True)
    theirs(*[torch.tensor(x)] * 3, attn_mask=other)[0].sum().backward()
    assert far(bias.grad, other.grad) < 2e-5


LAYERS = {
    "plain": {},
    "first": {"norm_first": True, "activation": "gelu"},
    "bias": {"bias": False, "batch_first": True},
    "function": {"activation": torch.nn.functional.gelu, "layer_norm_eps": 1e-3},
}
MASKS = {
    "none": ({}, {}),
    "padding": ({"src_key_padding_mask": SHORT}, {"memory_key_padding_mask": HOLES}),
    "causal": ({"src_mask": INFINITE}, {"tgt_mask": CAUSAL, "tgt_key_padding_mask": SHORT}),
    "bias": ({"src_mask": BIAS}, {"tgt_mask": BIAS, "memory_mask": BIAS[:, :KEYS]}),
}


def pair_of(module, options, count):
    """A stack or a layer of PyTorch's, and ours, without dropout."""
    options = {"dropout": 0.0, **options}
    mine = {**options, "activation": ops.gelu} if callable(options.get("activation")) else options
    side, whole = module[:18], [WIDTH, HEADS, 40]
    torch.manual_seed(5)
    theirs, ours = getattr(torch.nn, f"{side}Layer")(*whole, **options), getattr(nn, f"{side}Layer")(*whole, **mine)
    if count:
        norms = torch.nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        dense = {"enable_nested_tensor": False} if side.endswith("Encoder") else {}
        theirs = getattr(torch.nn, side)(theirs, count, norms[0], **dense)
        ours = getattr(nn, side)(ours, count, norms[1], **dense)
    for each in theirs.parameters():
        torch.nn.init.normal_(each, 0.1, 0.3)
    assert list(ours.initialise().state_dict()) == list(theirs.state_dict())
    return theirs, ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("masks", list(MASKS))
@pytest.mark.parametrize("layer", list(LAYERS))
def test_layers(layer, masks, count):
    def call(part, inputs, masks):
        return [part(*inputs, **masks)]

    first = LAYERS[layer].get("batch_first", False)
    inputs = [random(i, BATCH, n, WIDTH) for i, n in enumerate((LENGTH, KEYS))]
    inputs = inputs if first else [x.swapaxes(0, 1).copy() for x in inputs]
    for side, given, kinds in zip(("Encoder", "Decoder"), (inputs[:1], inputs), MASKS[masks], strict=True):
        if count and side == "Encoder":
            kinds = {{"src_mask": "mask"}.get(name, name): mask for name, mask in kinds.items()}
        theirs, ours = pair_of(f"Transformer{side}", LAYERS[layer], count)
        assert compared(theirs, ours, given, call, kinds) < 1e-4


def test_the_whole_transformer():
    def call(part, inputs, masks):
        return [part(*inputs, **masks)]

    with pytest.warns(UserWarning, match="enable_nested_tensor"):
        theirs, ours = one("Transformer", WIDTH, HEADS, 1, 2, 40, 0.0, batch_first=True)
    inputs = [random(i, BATCH, n, WIDTH) for i, n in enumerate((KEYS, LENGTH))]
    mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
    assert np.array_equal(mask, torch.nn.Transformer.generate_square_subsequent_mask(LENGTH).numpy())
    masks = {"tgt_mask": mask, "src_key_padding_mask": HOLES, "memory_key_padding_mask": HOLES}
    masks["tgt_key_padding_mask"] = np.where(SHORT, -np.inf, 0).astype(np.float32)
    assert compared(theirs, ours, inputs, call, masks) < 1e-4


def test_layers_drop_within_noise_and_draw_apart():
    stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, HEADS, 40, 0.3), 2).initialise()
    streams = [each.self_attn.dropout.stream for each in stack.layers]
    streams += [getattr(each, name).stream for each in stack.layers for name in ("dropout", "dropout1", "dropout2")]
    assert len(set(streams)) == 8
    x = random(1, LENGTH, BATCH, WIDTH)
    with ops.noise(0, 0):
        a, b = stack(x).data, stack(x).data
    with ops.noise(0, 1):
        c = stack(x).data
    assert np.array_equal(a, b) and not np.array_equal(a, c) and not np.array_equal(a, stack(x).data)


@pytest.mark.parametrize("shape", [(LENGTH, 0, WIDTH), (0, BATCH, WIDTH), (0, WIDTH)])
def test_without_a_row_there_is_none(shape):
    x = np.zeros(shape, np.float32)
    stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, HEADS, 40), 1).initialise()
    y = stack(x)
    assert y.shape == shape and stack.layers[0].self_attn(x, x, x)[0].shape == shape
    y.sum().backward()
    assert not stack.layers[0].self_attn.in_proj_weight.value.grad.any()


def test_learning_in_bf16_is_near_and_traces_show_the_weights():
    theirs, ours = one("TransformerEncoderLayer", WIDTH, HEADS, 40, 0.0)
    x = random(1, LENGTH, BATCH, WIDTH)
    for dtype in ("bf16", torch.bfloat16):
        with pyllm.autocast(dtype=dtype):
            y = ours(x)
        assert 1e-5 < far(y.data, theirs(torch.tensor(x))) < 0.03
    with pyllm.trace(ours) as t:
        y = ours(x, src_key_padding_mask=SHORT)
    assert far(y.data, theirs(torch.tensor(x), src_key_padding_mask=torch.tensor(SHORT))) < 1e-4
    weights = np.asarray(t["self_attn.weights"])
    assert weights.shape == (BATCH, HEADS, LENGTH, LENGTH) and not weights[1, :, :, 4:].any()
    assert np.allclose(weights.sum(-1), 1, atol=1e-6)


def test_refusals():
    x = random(1, LENGTH, BATCH, WIDTH)
    part = nn.MultiheadAttention(WIDTH, HEADS).initialise()
    with pytest.raises(ValueError, match=r"attn_mask \(7, 5\), allowed is \(7, 7\) or \(9, 7, 7\)"):
        part(x, x, x, attn_mask=CAUSAL[:, :KEYS])
    with pytest.raises(ValueError, match=r"key_padding_mask \(7, 3\), allowed is \(3, 7\)"):
        part(x, x, x, key_padding_mask=SHORT.T)
    with pytest.raises(TypeError, match="attn_mask holds int64, allowed are bool, true where hidden, and floats"):
        part(x, x, x, attn_mask=CAUSAL.astype(np.int64))
    with pytest.raises(ValueError, match="differ in their batch, or key and value in their length"):
        part(x, x[:, :2], x[:, :2])
    with pytest.raises(ValueError, match="width 24 in 5 heads"):
        nn.MultiheadAttention(WIDTH, 5)
    with pytest.raises(ValueError, match="activation 'sin', allowed are"):
        nn.TransformerEncoderLayer(WIDTH, HEADS, activation="sin")
    with pytest.raises(ValueError, match=r"linear: weight has no value yet; initialise\(\) or load_state_dict\(\)"):
        nn.Linear(4, 3)(np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"dropout: p is 1, allowed are 0 up to, but not with, 1"):
        nn.Dropout(1)
