"""Attention of training on every instruction set: many sequences at once, against float64 twins checked by slopes."""

import numpy as np
import pytest
import reference_attention_training as twin
import torch
from kernel_checks import ISAS, guarded, random, same_bits, threads, using
from reference import U_BF16
from reference_attention_training import Case
from reference_blocks import round_bf16

from pyllm import _core

WIDTHS = (1, 15, 16, 17, 64, 80, 128)
# What a case is given beside lengths and width: heads, groups, causal, window, softcap.
KINDS = {
    "causal": (2, 2, True, 0, 0.0),
    "grouped": (4, 2, True, 0, 0.0),
    "one key head": (3, 1, False, 0, 0.0),
    "window": (2, 1, True, 33, 0.0),
    "narrow window": (1, 1, True, 1, 0.0),
    "softcap": (2, 1, True, 0, 2.0),
    "all": (2, 2, False, 0, 0.0),
}
UNIT = {"F32": 0.0, "BF16": U_BF16}


# Queries and keys of other lengths: heads, groups, softcap.
CROSS = {"cross": (2, 2, 0.0), "cross grouped": (4, 2, 0.0), "cross softcap": (2, 1, 2.0)}


def cross_cases(lengths, keys, dim):
    for heads, groups, cap in CROSS.values():
        yield Case(tuple(lengths), heads, groups, dim, False, 0, cap, tuple(keys))


def cases(lengths, dim):
    for heads, groups, causal, window, cap in KINDS.values():
        yield Case(tuple(lengths), heads, groups, dim, causal, window, cap)


def inputs(case, seed=0):
    """q, k, v and the cotangent."""
    rows, keys = sum(case.lengths), int(case.key_starts[-1])
    sizes = (rows, case.heads), (keys, case.groups), (keys, case.groups), (rows, case.heads)
    return [random((n, heads * case.dim), 4 * seed + i) for i, (n, heads) in enumerate(sizes)]


def options(case, type="F32"):
    key_starts = None if case.keys is None else case.key_starts
    return case.starts, case.heads, case.groups, case.scale, case.causal, case.window, case.cap, type, key_starts


def both(q, k, v, dout, case, type="F32", drop=None):
    """out, lse, dq, dk, dv of the core."""
    out, lse = _core.attention_forward(q, k, v, *options(case, type), drop=drop)
    return (out, lse, *_core.attention_backward(dout, q, k, v, out, lse, *options(case, type), drop=drop))


def factors(case, drop):
    """(rows, heads, keys to whole 64s) of the weights' dropout."""
    longest = int(np.diff(case.key_starts).max())
    return _core.dropout(np.ones((sum(case.lengths), case.heads, -(-longest // 64) * 64), np.float32), *drop)


def near(case, type, arrays, drop=None):
    """Every number of every result within its bound; gives the results."""
    q, k, v, dout = arrays
    found = both(q, k, v, dout, case, type, drop)
    factor = None if drop is None else factors(case, drop)
    if type == "BF16":  # the kernel rounds q times scale
        q = round_bf16(q * np.float32(case.scale)) / case.scale
        k, v, dout = round_bf16(k), round_bf16(v), round_bf16(dout)
    expected = (*twin.forward(q, k, v, case, None, factor), *twin.backward(dout, q, k, v, case, None, factor))
    limits = twin.bounds(dout, q, k, v, case, UNIT[type], None, factor)
    for name, a, b, bound in zip(("out", "lse", "dq", "dk", "dv"), found, expected, limits, strict=True):
        assert a.dtype == np.float32 and a.shape == b.shape and np.isfinite(a).all()
        worst = (np.abs(a - b) / bound).max()
        assert worst <= 1, f"{case} {type}: {name} is {worst:.3g} times its bound off"
        if type == "F32" and case.window != 1 and np.abs(k).max() < 100:  # else little is left of large terms
            assert np.abs(a - b).max() <= 1e-5 * max(np.abs(b).max(), 0.1)
    return found


# --- the twin ---


@pytest.mark.parametrize("kind", KINDS)
def test_the_twin_of_the_way_back_is_the_slope(kind):
    heads, groups, causal, window, cap = KINDS[kind]
    case = Case((4, 1, 3), heads, groups, 3, causal, min(window, 2), cap)
    q, k, v, dout = (x.astype(np.float64) for x in inputs(case, 5))
    for at, found in enumerate(twin.backward(dout, q, k, v, case)):
        slope, step = np.empty_like(found), 1e-5
        for i in np.ndindex(*slope.shape):
            value = []
            for sign in (1, -1):
                moved = [q, k, v]
                moved[at] = moved[at].copy()
                moved[at][i] += sign * step
                value.append((dout * twin.forward(*moved, case)[0]).sum())
            slope[i] = (value[0] - value[1]) / (2 * step)
        np.testing.assert_allclose(found, slope, rtol=1e-6, atol=1e-8)


def test_the_twin_of_cross_attention_is_the_slope():
    case = Case((4, 1, 3), 4, 2, 3, False, 0, 1.5, (2, 5, 1))
    q, k, v, dout = (x.astype(np.float64) for x in inputs(case, 6))
    for at, found in enumerate(twin.backward(dout, q, k, v, case)):
        moved, direction = [q, k, v], random(found.shape, 30 + at).astype(np.float64)
        step, value = 1e-6, []
        for sign in (1, -1):
            moved[at] = (q, k, v)[at] + sign * step * direction
            value.append((dout * twin.forward(*moved, case)[0]).sum())
        assert abs((value[0] - value[1]) / (2 * step) - (found * direction).sum()) < 1e-6


# --- the core beside the twin ---


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", ["F32", "BF16"])
def test_every_width_and_kind_is_near_the_twin(isa, type):
    with using(isa):
        for seed, dim in enumerate(WIDTHS):
            for case in cases((67, 1, 16), dim):
                near(case, type, inputs(case, seed))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", ["F32", "BF16"])
def test_every_length_is_near_the_twin(isa, type):
    with using(isa):
        long = [Case((513, 2), 1, 1, 64), Case((513,), 2, 1, 32, False, 0, 3.0), Case((513,), 1, 1, 20, True, 200)]
        for case in (*cases(range(1, 71), 8), *cases((255, 256, 257), 17), *long):
            near(case, type, inputs(case, 1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", ["F32", "BF16"])
def test_queries_over_other_keys_are_near_the_twin(isa, type):
    """Few queries over many keys and many over few: blocks of keys and of queries end at other places."""
    lengths, keys = (67, 1, 97, 16, 1, 200), (1, 67, 65, 260, 1, 17)
    with using(isa):
        for seed, dim in enumerate(WIDTHS):
            for case in cross_cases(lengths, keys, dim):
                near(case, type, inputs(case, seed))
        for case in (*cross_cases(range(1, 40), range(39, 0, -1), 8), Case((3,), 1, 1, 64, False, 0, 0.0, (513,))):
            near(case, type, inputs(case, 2))


@pytest.mark.parametrize("type", ["F32", "BF16"])
def test_a_sequence_that_sees_itself_has_the_bits_of_its_own(type):
    """key_starts that are the starts change nothing."""
    lengths = (65, 3, 100)
    alone = Case(lengths, 4, 2, 24, False)
    other = Case(lengths, 4, 2, 24, False, 0, 0.0, lengths)
    found = [both(*inputs(case, 3), case, type) for case in (alone, other)]
    assert all(same_bits(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", ["F32", "BF16"])
def test_dropped_weights_are_near_the_twin(isa, type):
    """Of rows of which none, some or all weights are dropped; the draws are those of ops.dropout."""
    other = Case((67, 1, 97, 16), 4, 2, 24, False, 0, 0.0, (1, 67, 65, 260))
    lone = Case((300, 2), 2, 1, 20, True, 70, 2.0)
    with using(isa):
        for i, case in enumerate((*cases((67, 1, 130), 40), other, lone)):
            for p in (0.1, 0.9):
                near(case, type, inputs(case, i), (p, 7, 1 << 33, (3 << 32) + 64 * i))
        case = Case((70, 3), 2, 2, 16)
        none = both(*inputs(case), case, type)
        assert all(same_bits(a, b) for a, b in zip(none, both(*inputs(case), case, type, (0.0, 1, 2, 0)), strict=True))


def test_dropped_weights_have_the_same_bits_on_every_number_of_threads():
    case = Case((200, 65, 1, 130), 4, 2, 32)
    found = []
    for count in (1, 2, 3):
        with threads(count):
            found.append(both(*inputs(case), case, "BF16", (0.3, 5, 6, 7 << 32)))
    assert all(same_bits(a, b) for each in found[1:] for a, b in zip(found[0], each, strict=True))


def test_the_twin_of_dropped_weights_is_the_slope():
    case, random_factor = Case((4, 1, 3), 2, 1, 3, False, 0, 1.5, (2, 5, 1)), np.random.default_rng(3)
    factor = random_factor.choice([0.0, 2.0], (8, 2, 5))
    q, k, v, dout = (x.astype(np.float64) for x in inputs(case, 6))
    for at, found in enumerate(twin.backward(dout, q, k, v, case, None, factor)):
        moved, direction = [q, k, v], random(found.shape, 30 + at).astype(np.float64)
        step, value = 1e-6, []
        for sign in (1, -1):
            moved[at] = (q, k, v)[at] + sign * step * direction
            value.append((dout * twin.forward(*moved, case, None, factor)[0]).sum())
        assert abs((value[0] - value[1]) / (2 * step) - (found * direction).sum()) < 1e-6


WRONG_DRAWS = {"p 1": (1.0, 0, 0, 0), "p -0": (-0.1, 0, 0, 0), "multiple of 64": (0.1, 0, 0, 3)}


@pytest.mark.parametrize("what", WRONG_DRAWS)
def test_draws_that_are_none_are_refused(what):
    case = Case((5,))
    with pytest.raises(ValueError, match=what):
        both(*inputs(case), case, "F32", WRONG_DRAWS[what])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", ["F32", "BF16"])
def test_large_scores_keep_their_slopes(isa, type):
    """One key takes all: its dv is the sum of dout, the others get nothing, and nothing overflows."""
    case = Case((90,), 1, 1, 16, False)
    q, k, v, dout = inputs(case, 7)
    k[41] = 500
    with using(isa):
        out, lse, _, _, dv = near(case, type, [np.abs(q) + 1, k, v, dout])
    seen = v[41] if type == "F32" else round_bf16(v[41])
    assert (lse > 1000).all() and np.allclose(out, seen, atol=1e-5)
    assert np.allclose(dv[41], dout.sum(axis=0), atol=0.1) and np.abs(np.delete(dv, 41, axis=0)).max() < 1e-35


def test_autograd_of_torch_agrees():
    for case in (Case((40, 129), 4, 2, 64), Case((70, 3), 2, 2, 24, False)):
        arrays = inputs(case, 9)
        q, k, v = (torch.tensor(x, requires_grad=True) for x in arrays[:3])
        out = []
        for b, e in zip(case.starts[:-1], case.starts[1:], strict=True):
            parts = (x[b:e].reshape(e - b, -1, case.dim).transpose(0, 1) for x in (q, k, v))
            one = torch.nn.functional.scaled_dot_product_attention(
                *(x if i == 0 else x.repeat_interleave(case.heads // case.groups, 0) for i, x in enumerate(parts)),
                is_causal=case.causal, scale=case.scale,
            )  # fmt: skip
            out.append(one.transpose(0, 1).reshape(e - b, -1))
        torch.cat(out).backward(torch.tensor(arrays[3]))
        found = both(*arrays, case)
        for a, b in zip((found[0], *found[2:]), (torch.cat(out).detach(), q.grad, k.grad, v.grad), strict=True):
            assert np.abs(a - b.numpy()).max() <= 1e-5 * np.abs(b.numpy()).max()


# --- the same bytes in any company ---


def everything(type, place=lambda x: x):
    """Bytes of all results on arrays that are large enough for several workers; `place` puts each into memory."""
    found = []
    other = Case((20, 170, 65), 4, 2, 20, False, 0, 0.0, (130, 1, 99))
    for case in (
        Case((257, 70, 130, 1, 97), 6, 3, 32), Case((150, 33), 2, 1, 15, False), Case((99, 300), 2, 2, 33), other,
    ):  # fmt: skip
        arrays = [place(x) for x in inputs(case, 11)]
        out, lse = _core.attention_forward(*arrays[:3], *options(case, type))
        grads = _core.attention_backward(arrays[3], *arrays[:3], place(out), place(lse), *options(case, type))
        found += [x.tobytes() for x in (out, lse, *grads)]
    return found


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", ["F32", "BF16"])
def test_workers_change_no_bit(isa, type):
    with using(isa):
        with threads(1):
            alone = everything(type)
        for workers in (2, 3):
            with threads(workers):
                assert everything(type) == alone


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", ["F32", "BF16"])
@pytest.mark.parametrize("front", [False, True])
def test_nothing_beyond_the_ends_is_touched(isa, type, front):
    with using(isa):
        assert everything(type, lambda x: guarded(x, front)) == everything(type)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type", ["F32", "BF16"])
def test_sequences_do_not_depend_on_each_other(isa, type):
    """The bits of a sequence are those it has alone, also beside one that is nothing but NaN."""
    for case in cases((65, 31, 130), 20):
        arrays = inputs(case, 13)
        with using(isa):
            for nan in (0, 2):
                for x in arrays:
                    x[case.starts[nan] : case.starts[nan + 1]] = np.nan
            found = both(*arrays, case, type)
            part = slice(case.starts[1], case.starts[2])
            lone = Case((31,), case.heads, case.groups, case.dim, case.causal, case.window, case.cap)
            alone = both(*(np.ascontiguousarray(x[part]) for x in arrays), lone, type)
        for a, b in zip(found, alone, strict=True):
            assert same_bits(a[part], b) and np.isfinite(b).all()
            assert np.isnan(a[: case.starts[1]]).all() and np.isnan(a[case.starts[2] :]).all()


def test_queries_over_other_keys_do_not_depend_on_the_neighbours():
    """The bits are those of the sequence alone, beside queries and keys that are nothing but NaN."""
    for case in cross_cases((65, 31, 13), (20, 70, 130), 20):
        arrays = inputs(case, 17)
        for at, x in enumerate(arrays):
            starts = case.starts if at in (0, 3) else case.key_starts
            for nan in (0, 2):
                x[starts[nan] : starts[nan + 1]] = np.nan
        found = both(*arrays, case)
        rows, keys = (slice(each[1], each[2]) for each in (case.starts, case.key_starts))
        parts = rows, keys, keys, rows
        lone = Case((31,), case.heads, case.groups, 20, False, 0, case.cap, (70,))
        alone = both(*(np.ascontiguousarray(x[part]) for x, part in zip(arrays, parts, strict=True)), lone)
        for a, b, part in zip(found, alone, (rows, rows, rows, keys, keys), strict=True):
            assert same_bits(a[part], b) and np.isfinite(b).all()


def test_work_that_is_cut_into_slices_is_done_whole():
    """So many operations are done in several runs of the kernel, each with a part of the tasks."""
    case, lone = Case((1024, 1000, 1024), 6, 3, 64), Case((1000,), 6, 3, 64)
    arrays = inputs(case, 15)
    found = []
    for workers in (1, 2, 3):
        with threads(workers):
            found.append(both(*arrays, case))
    alone = both(*(np.ascontiguousarray(x[1024:2024]) for x in arrays), lone)
    for each in found:
        assert all(same_bits(a, b) for a, b in zip(each, found[0], strict=True))
        assert all(same_bits(a[1024:2024], b) for a, b in zip(each, alone, strict=True))


def test_no_sequence_is_no_work():
    case = Case((), 2, 1, 8)
    found = both(*inputs(case), case)
    assert [x.shape for x in found] == [(0, 16), (0, 2), (0, 16), (0, 8), (0, 8)]


# --- what is refused ---


def test_what_cannot_be_is_refused_by_name():
    case = Case((5, 4), 4, 2, 8)
    q, k, v, dout = inputs(case)
    good = {
        "q": q, "k": k, "v": v, "starts": case.starts, "heads": 4, "groups": 2, "scale": 1.0, "causal": True,
        "window": 0, "softcap": 0.0, "type": "F32",
    }  # fmt: skip
    out, lse = _core.attention_forward(**good)
    back = {"dout": dout, "out": out, "lse": lse}

    def starts(*numbers):
        return {"starts": np.array(numbers, np.int32)}

    def keys(*numbers):
        return {"key_starts": np.array(numbers, np.int32)}

    refused = [
        ({"k": k[:-1]}, r"k \(8, 16\), allowed is \(9, 16\)"),
        ({"v": v[:, :8].copy()}, r"v \(9, 8\), allowed is \(9, 16\)"),
        ({"q": q[:, :30].copy()}, r"q \(9, 30\), allowed is \(rows, a multiple of 4 heads\)"),
        ({"q": q.ravel()}, r"q \(288,\), allowed is"),
        ({"groups": 3}, "4 heads in 3 groups"),
        ({"groups": 0}, "4 heads in 0 groups"),
        ({"heads": -4}, "-4 heads in 2 groups"),
        ({"window": -1}, "window -1, allowed is 0"),
        ({"window": 3, "causal": False}, "window 3 without causal"),
        ({"softcap": -1.0}, "softcap -1"),
        ({"softcap": float("nan")}, "softcap nan"),
        ({"type": "F16"}, "type: 'F16' is not known; known are F32, BF16"),
        (starts(), r"starts \(0,\)"),
        (starts(1, 9), "starts begin with 1"),
        (starts(0, 5, 5, 9), "starts 5 at 2 after 5"),
        (starts(0, 7, 5, 9), "starts 5 at 2 after 7"),
        (starts(0, 5, 10), "starts end with 10, q has 9 rows"),
        (keys(0, 5, 9), "key_starts with causal"),
        ({**keys(0, 9), "causal": False}, "key_starts of 1 sequences, allowed is 2"),
        ({**keys(0, 5, 8), "causal": False}, "key_starts end with 8, k has 9 rows"),
        ({**keys(0, 9, 9), "causal": False}, "key_starts 9 at 2 after 9"),
    ]
    for change, what in refused:
        with pytest.raises(ValueError, match=f"^attention_forward: {what}"):
            _core.attention_forward(**{**good, **change})
        with pytest.raises(ValueError, match=f"^attention_backward: {what}"):
            _core.attention_backward(**{**good, **back, **change})
    for name, shape in (("dout", "8, 32"), ("out", "8, 32"), ("lse", "8, 4")):
        with pytest.raises(ValueError, match=rf"^attention_backward: {name} \({shape}\), allowed is \(9, "):
            _core.attention_backward(**{**good, **back, name: back[name][:-1]})
