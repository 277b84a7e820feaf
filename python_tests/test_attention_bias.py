"""Attention whose scores get a bias by distance, and steps of many beams: float64 twins, slopes, bytes."""

import numpy as np
import pytest
import reference_attention_training as twin
from kernel_checks import ISAS, guarded, random, same_bits, threads, using
from reference import U_BF16
from reference_attention_training import Case
from reference_blocks import round_bf16

from pyllm import Tensor, _core, nn, ops

KINDS = {"both sides": (2, 2, False), "causal": (2, 2, True), "grouped": (4, 2, False), "one key head": (3, 1, True)}
UNIT = {"F32": 0.0, "BF16": U_BF16}


def case_of(kind, lengths, dim):
    heads, groups, causal = KINDS[kind]
    return Case(tuple(lengths), heads, groups, dim, causal)


def inputs(case, seed=0, more=0):
    """q, k, v, the cotangent, and a table for the longest sequence and `more`."""
    rows, longest = sum(case.lengths), max(case.lengths) + more
    sizes = (rows, case.heads), (rows, case.groups), (rows, case.groups), (rows, case.heads)
    arrays = [random((n, heads * case.dim), 5 * seed + i) for i, (n, heads) in enumerate(sizes)]
    return [*arrays, 2 * random((case.heads, longest if case.causal else 2 * longest - 1), 5 * seed + 4)]


def both(q, k, v, dout, table, case, type="F32"):
    options = case.starts, case.heads, case.groups, case.scale, case.causal, 0, 0.0, type, None, table
    out, lse = _core.attention_forward(q, k, v, *options)
    return (out, lse, *_core.attention_backward(dout, q, k, v, out, lse, *options))


def near(case, type, arrays):
    q, k, v, dout, table = arrays
    found = both(*arrays, case, type)
    if type == "BF16":
        q = round_bf16(q * np.float32(case.scale)) / case.scale
        k, v, dout = round_bf16(k), round_bf16(v), round_bf16(dout)
    expected = (*twin.forward(q, k, v, case, table), *twin.backward(dout, q, k, v, case, table))
    limits = twin.bounds(dout, q, k, v, case, UNIT[type], table)
    names = ("out", "lse", "dq", "dk", "dv", "dbias")
    for name, a, b, bound in zip(names, found, expected, limits, strict=True):
        assert a.dtype == np.float32 and a.shape == b.shape and np.isfinite(a).all()
        worst = (np.abs(a - b) / bound).max()
        assert worst <= 1, f"{case} {type}: {name} is {worst:.3g} times its bound off"
        if type == "F32":
            assert np.abs(a - b).max() <= 1e-5 * max(np.abs(b).max(), 0.1), name
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_twin_is_the_slope(kind):
    case = case_of(kind, (4, 1, 3), 3)
    *arrays, dout, table = (x.astype(np.float64) for x in inputs(case, 5, more=1))
    given = [*arrays, table]
    for at, found in enumerate(twin.backward(dout, *arrays, case, table)):
        direction, step, value = random(found.shape, 40 + at).astype(np.float64), 1e-6, []
        for sign in (1, -1):
            moved = list(given)
            moved[at] = given[at] + sign * step * direction
            value.append((dout * twin.forward(*moved[:3], case, moved[3])[0]).sum())
        assert abs((value[0] - value[1]) / (2 * step) - (found * direction).sum()) < 1e-6


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", ["F32", "BF16"])
def test_every_width_and_length_is_near_the_twin(isa, type):
    with using(isa):
        for kind in KINDS:
            for seed, dim in enumerate((1, 15, 16, 17, 64, 80)):
                case = case_of(kind, (67, 1, 16), dim)
                near(case, type, inputs(case, seed, more=seed % 3))
            for lengths in (range(1, 71), (255, 256, 257), (513,)):
                case = case_of(kind, lengths, 8)
                near(case, type, inputs(case, 1))


@pytest.mark.parametrize("type", ["F32", "BF16"])
def test_a_bias_of_zeros_changes_no_bit(type):
    for kind in KINDS:
        case = case_of(kind, (65, 3, 100), 24)
        *arrays, table = inputs(case, 3)
        plain = case.starts, case.heads, case.groups, case.scale, case.causal, 0, 0.0, type
        out, lse = _core.attention_forward(*arrays[:3], *plain)
        wanted = out, lse, *_core.attention_backward(arrays[3], *arrays[:3], out, lse, *plain)
        found = both(*arrays, np.zeros_like(table), case, type)
        assert all(same_bits(a, b) for a, b in zip(wanted, found[:5], strict=True))


def everything(type, place=lambda x: x):
    found = []
    for kind, lengths in (("both sides", (257, 70, 130, 1)), ("grouped", (99, 300)), ("one key head", (200, 31, 64))):
        case = case_of(kind, lengths, 20)
        found += [x.tobytes() for x in both(*(place(x) for x in inputs(case, 11)), case, type)]
    return found


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", ["F32", "BF16"])
def test_workers_change_no_bit_and_nothing_beyond_the_ends_is_touched(isa, type):
    with using(isa):
        with threads(1):
            alone = everything(type)
        for workers in (2, 3):
            with threads(workers):
                assert everything(type) == alone
        for front in (False, True):
            assert everything(type, lambda x, front=front: guarded(x, front)) == alone


def test_sequences_do_not_depend_on_their_neighbours():
    for kind in KINDS:
        case = case_of(kind, (65, 31, 130), 20)
        arrays, part = inputs(case, 13), slice(65, 96)
        table = arrays[4]
        for x in arrays[:4]:
            x[:65] = x[96:] = np.nan
        found = both(*arrays, case)
        alone = both(*(np.ascontiguousarray(x[part]) for x in arrays[:4]), table, case_of(kind, (31,), 20))
        assert all(same_bits(a[part], b) for a, b in zip(found[:5], alone[:5], strict=True))


def test_autograd_and_the_unfused_definition_agree():
    for kind in ("both sides", "causal"):
        case = case_of(kind, (9, 4), 6)
        *arrays, dout, table = inputs(case, 4, more=2)
        tensors = [Tensor(x, requires_grad=True) for x in (*arrays, table)]
        y = ops.row_attention(*tensors[:3], case.starts, 2, 2, case.causal, case.scale, bias=tensors[3])
        y.backward(dout)
        fused = [x.grad for x in tensors]
        again = [Tensor(x, requires_grad=True) for x in (*arrays, table)]
        q, k, v = (ops.transpose(ops.reshape(x, (13, 2, 6)), 1, 0, 2) for x in again[:3])
        spread = ops.spread_bias(again[3], case.starts, case.causal)
        seen = nn.seen(case.starts, case.starts, case.causal)
        weights = ops.attention_weights(q, k, seen, case.scale, bias=spread)
        plain = ops.reshape(ops.transpose(ops.attended(weights, v), 1, 0, 2), (13, 12))
        np.testing.assert_allclose(y.data, plain.data, atol=1e-5)
        plain.backward(dout)
        for a, b in zip(fused, again, strict=True):
            np.testing.assert_allclose(a, b.grad, atol=2e-5)


def test_biases_that_do_not_fit_are_refused():
    case = case_of("both sides", (5, 4), 8)
    q, k, v, dout, table = inputs(case)
    good = {"starts": case.starts, "heads": 2, "groups": 2, "scale": 1.0, "causal": False, "window": 0, "softcap": 0.0,
            "type": "F32", "bias": table}  # fmt: skip
    out, lse = _core.attention_forward(q, k, v, **good)
    refused = [
        ({"bias": table[:, :8].copy()}, r"bias \(2, 8\), allowed is \(2, 9 or more, an odd number\)"),
        ({"bias": table[:, :7].copy()}, r"bias \(2, 7\)"),
        ({"bias": table[:1].copy()}, r"bias \(1, 9\), allowed is \(2, "),
        ({"bias": table[0].copy()}, r"bias \(9,\)"),
        ({"bias": table[:, :4].copy(), "causal": True}, r"bias \(2, 4\), allowed is \(2, 5 or more\)"),
        ({"softcap": 1.0}, "bias with window or softcap"),
        ({"window": 2, "causal": True}, "bias with window or softcap"),
        ({"key_starts": case.starts}, "bias with key_starts"),
    ]
    for change, what in refused:
        with pytest.raises(ValueError, match=f"^attention_forward: {what}"):
            _core.attention_forward(q, k, v, **{**good, **change})
        with pytest.raises(ValueError, match=f"^attention_backward: {what}"):
            _core.attention_backward(dout, q, k, v, out, lse, **{**good, **change})


# --- steps of beams ---


def step_case(seed, rows, heads, dim, counts, biased):
    """Arguments of a step and, for every beam, the rows that it sees."""
    rng = np.random.default_rng(seed)
    counts = np.array(counts, np.int32)
    places = rng.integers(0, rows, (len(counts), counts.max() + 3)).astype(np.int32)
    q = random((len(counts), heads * dim), seed)
    keys, values = random((rows, heads * dim), seed + 1), random((rows, heads * dim), seed + 2)
    bias = 2 * random((heads, int(counts.max()) + 2), seed + 3) if biased else None
    return q, keys, values, places, counts, heads, dim**-0.5, bias


def step_twin(q, keys, values, places, counts, heads, scale, bias):
    """(out, weights of each beam) in float64."""
    dim, out, shown = q.shape[1] // heads, np.zeros(q.shape), []
    for b, count in enumerate(counts):
        rows = places[b, :count] if places.ndim == 2 else np.arange(places[b], places[b] + count)
        k, v = (x[rows].astype(np.float64).reshape(count, heads, dim) for x in (keys, values))
        s = np.einsum("hd,khd->hk", q[b].astype(np.float64).reshape(heads, dim), k) * scale
        s = s if bias is None else s + bias[:, bias.shape[1] - count :]
        w = np.exp(s - s.max(axis=1, keepdims=True))
        w /= w.sum(axis=1, keepdims=True)
        out[b] = np.einsum("hk,khd->hd", w, v).reshape(-1)
        shown.append(w)
    return out, shown


def half(x):
    return ops.halves(x)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", ["F32", "BF16"])
def test_steps_are_near_the_twin(isa, type):
    with using(isa):
        for seed, (heads, dim) in enumerate([(1, 1), (2, 5), (3, 16), (2, 17), (12, 64), (2, 80), (1, 128)]):
            for biased in (False, True):
                counts = [1, 15, 16, 17, 33, 2, 40]
                q, keys, values, places, *rest = step_case(seed, 50, heads, dim, counts, biased)
                if type == "BF16":
                    keys, values = round_bf16(keys), round_bf16(values)
                stored = [half(x) for x in (keys, values)] if type == "BF16" else [keys, values]
                runs = np.array([0, 3, 2, 30, 17, 48, 10], np.int32)
                for where in (places, runs):
                    out, weights = _core.step_attention(q, *stored, where, *rest, weights=True)
                    wanted, shown = step_twin(q, keys, values, where, *rest)
                    assert np.abs(out - wanted).max() <= 1e-5 * np.abs(wanted).max()
                    for b, w in enumerate(shown):
                        np.testing.assert_allclose(weights[b][:, : w.shape[1]], w, atol=2e-6)
                        assert (weights[b][:, w.shape[1] :] == 0).all()
                    assert same_bits(_core.step_attention(q, *stored, where, *rest), out)


def test_steps_have_the_bits_of_each_beam_alone():
    q, keys, values, places, counts, *rest = step_case(3, 700, 4, 20, [300, 7, 512, 64, 1] * 8, True)
    found = []
    for workers in (1, 2, 3):
        with threads(workers):
            found.append(_core.step_attention(q, keys, values, places, counts, *rest))
    assert same_bits(found[0], found[1]) and same_bits(found[0], found[2])
    for b in (0, 1, 4):
        part = slice(b, b + 1)
        alone = _core.step_attention(*(guarded(x) for x in (q[part], keys, values)), places[part], counts[part], *rest)
        assert same_bits(alone, found[0][part])


def test_steps_that_cannot_be_are_refused():
    q, keys, values, places, counts, heads, scale, bias = step_case(1, 9, 2, 4, [3, 2], True)
    good = {"q": q, "keys": keys, "values": values, "places": places, "count": counts, "heads": heads, "scale": scale}
    outside = places.copy()
    outside[1, 1] = 9
    refused = [
        ({"heads": 3}, r"q \(2, 8\), allowed is \(rows, a multiple of 3 heads\)"),
        ({"keys": keys[:, :4].copy()}, r"keys \(9, 4\), allowed is \(9, 8\)"),
        ({"values": values[:8].copy()}, r"values \(8, 8\), allowed is \(9, 8\)"),
        ({"values": half(values)}, "keys and values of two types"),
        ({"count": counts[:1]}, r"count \(1,\), allowed is \(2\)"),
        ({"count": np.array([3, 0], np.int32)}, "row 1 sees 0 keys"),
        ({"count": np.array([7, 1], np.int32)}, "row 0 sees 7 keys, allowed are 1 to 6"),
        ({"places": places[:1]}, r"places \(1, 6\) for 2 rows"),
        ({"places": outside}, "row 1 sees place 9, there are 9"),
        ({"places": np.array([0, -1], np.int32)}, "row 1 sees place -1"),
        ({"places": np.array([7, 0], np.int32)}, "row 0 sees place 9"),
        ({"bias": bias[:1].copy()}, r"bias \(1, 5\), allowed is \(2, 3 or more\)"),
    ]
    for change, what in refused:
        with pytest.raises(ValueError, match=f"^step_attention: {what}"):
            _core.step_attention(**{**good, **change})


# --- buckets ---


@pytest.mark.parametrize(("buckets", "most"), [(32, 128), (32, 129), (8, 10), (16, 64), (64, 1000), (4, 3)])
@pytest.mark.parametrize("both", [False, True])
def test_buckets_are_those_of_transformers(buckets, most, both):
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = np.arange(-3000, 3001)
    wanted = T5Attention._relative_position_bucket(torch.tensor(distances), both, buckets, most)
    found = nn.relative.buckets_of(distances, buckets, most, both)
    np.testing.assert_array_equal(found, wanted.numpy())
