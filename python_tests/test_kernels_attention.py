"""Attention on every instruction set, against the float64 twin: grouped heads, masks, windows, offsets, chunk edges."""
import cases
import numpy as np
import pytest
import reference as ref
import reference_blocks as blocks
from kernel_checks import ISAS, check, guarded, random, same_bits, threads, using

from pyllm import _core, ops


def inputs(case, seed, scale=1.0):
    q = random((case.batch, case.heads, case.length, case.dim), seed, scale)
    k = random((case.batch, case.groups, case.total, case.dim), seed + 1, scale)
    v = random((case.batch, case.groups, case.total, case.dim), seed + 2)
    return q, k, v


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_attention_is_within_its_bound(isa, scale):
    for seed, case in enumerate(cases.ATTENTION):
        q, k, v = inputs(case, seed, scale)
        with using(isa):
            y = ops.attention(q, k, v, causal=case.causal, window=case.window)
        expected = ref.attention(q, k, v, case.causal, None, case.window)
        bound = ref.attention_bound(q, k, v, case.causal, None, case.window)
        try:
            check(y, expected, bound)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error


def core_attention(q, k, v, case, cache):
    """One batch member through the core, whose keys and values lie in pages of the cache type."""
    rows = [np.ascontiguousarray(x[0].transpose(1, 0, 2)).reshape(x.shape[2], -1) for x in (q, k, v)]
    y = _core.attention(*rows, case.heads, case.groups, case.dim, case.dim**-0.5, case.causal, case.window or 0, 0,
                        cache)
    return y.reshape(case.length, case.heads, case.dim).transpose(1, 0, 2)[None]


@pytest.mark.parametrize("isa", ISAS)
def test_bf16_cache_is_within_its_bound(isa):
    """Queries are scaled, then rounded; keys and values are read back rounded; probabilities are stored rounded."""
    for seed, case in enumerate(case for case in cases.ATTENTION if case.batch == 1):
        q, k, v = inputs(case, seed)
        with using(isa):
            y = core_attention(q, k, v, case, "BF16")
        scaled = blocks.round_bf16(q * np.float32(case.dim**-0.5))
        arguments = (scaled, blocks.round_bf16(k), blocks.round_bf16(v), case.causal, 1.0, case.window)
        try:
            check(y, ref.attention(*arguments), ref.attention_bound(*arguments, probability_unit=ref.U_BF16))
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error


@pytest.mark.parametrize("isa", ISAS)
def test_q8_0_cache_is_within_its_bound(isa):
    """Keys and values are read back from int8 with a half as scale for every 16 features, rounded to bf16."""
    wide = [case for case in cases.ATTENTION if case.batch == 1 and case.dim % 16 == 0]
    assert len(wide) > 4
    for seed, case in enumerate(wide):
        q, k, v = inputs(case, seed)
        with using(isa):
            y = core_attention(q, k, v, case, "Q8_0")
        k, v = blocks.cached_q8_0(k), blocks.cached_q8_0(v)
        scaled = blocks.round_bf16(q * np.float32(case.dim**-0.5))
        arguments = (scaled, k, v, case.causal, 1.0, case.window)
        try:
            check(y, ref.attention(*arguments), ref.attention_bound(*arguments, probability_unit=ref.U_BF16))
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error


@pytest.mark.parametrize("isa", ISAS)
def test_q8_0_cache_keeps_zeros_and_passes_nan_on(isa):
    case = cases.Attention(1, 1, 4, 70, 32)
    q, k, v = inputs(case, 7)
    v[:, :, 3] = 0
    k[:, :, 69, 5] = np.nan
    with using(isa):
        y = core_attention(q, k, v, case, "Q8_0")
    assert np.isfinite(y[:, :, :3]).all()
    assert np.isnan(y[:, :, 3]).all()


@pytest.mark.parametrize("isa", ISAS)
def test_scale_is_taken(isa):
    q, k, v = inputs(cases.Attention(2, 2, 9, 9, 16), 40)
    with using(isa):
        y = ops.attention(q, k, v, causal=True, scale=0.7)
    check(y, ref.attention(q, k, v, True, 0.7), ref.attention_bound(q, k, v, True, 0.7))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cap", [0.5, 50.0])
def test_softcap_is_within_its_bound(isa, cap):
    for seed, case in enumerate(cases.ATTENTION):
        q, k, v = inputs(case, seed, 3.0)
        with using(isa):
            y = ops.attention(q, k, v, causal=case.causal, window=case.window, softcap=cap)
        arguments = (q, k, v, case.causal, None, case.window)
        try:
            check(y, ref.attention(*arguments, cap=cap), ref.attention_bound(*arguments, cap=cap))
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error


@pytest.mark.parametrize("isa", ISAS)
def test_masked_positions_are_never_read(isa):
    """NaN in every key and value that no query may see changes no bit."""
    case = cases.Attention(4, 2, 40, 300, 32, window=33)
    q, k, v = inputs(case, 50)
    with using(isa):
        clean = ops.attention(q, k, v, causal=True, window=case.window)
        unseen = ~ref.visible(case.length, case.total, True, case.window).any(axis=0)
        assert unseen.sum() > 200
        k[:, :, unseen], v[:, :, unseen] = np.nan, np.inf
        y = ops.attention(q, k, v, causal=True, window=case.window)
        assert same_bits(y, clean)
        q, k, v = inputs(cases.Attention(2, 1, 30, 30, 16), 51)
        clean = ops.attention(q, k, v, causal=True)
        k[:, :, 20:], v[:, :, 20:] = np.nan, np.nan
        y = ops.attention(q, k, v, causal=True)
    assert same_bits(y[:, :, :20], clean[:, :, :20])
    assert np.isnan(y[:, :, 20:]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("total", [1, 63, 64, 65, 255, 256, 257, 300, 600])
def test_a_query_alone_has_the_bits_it_has_among_others(isa, total):
    q, k, v = inputs(cases.Attention(6, 2, min(total, 70), total, 32), total)
    with using(isa):
        whole = ops.attention(q, k, v, causal=True)
        for row in {0, 1, 7, 15, 16, 33, 64, q.shape[2] - 1} & set(range(q.shape[2])):
            seen = total - q.shape[2] + row + 1
            alone = ops.attention(q[:, :, row : row + 1].copy(), k[:, :, :seen].copy(), v[:, :, :seen].copy(),
                                  causal=True)
            assert same_bits(alone, whole[:, :, row : row + 1]), f"row {row} of {q.shape[2]}, {seen} positions"
        for count in (1, 3):
            with threads(count):
                assert same_bits(ops.attention(q, k, v, causal=True), whole)


@pytest.mark.parametrize("isa", ISAS)
def test_a_head_and_a_batch_member_keep_their_bits(isa):
    q, k, v = inputs(cases.Attention(4, 2, 20, 90, 24, batch=3), 60)
    with using(isa):
        whole = ops.attention(q, k, v, causal=True)
        for b in range(3):
            for group in range(2):
                heads = slice(2 * group, 2 * group + 2)
                part = ops.attention(q[b : b + 1, heads].copy(), k[b : b + 1, group : group + 1].copy(),
                                     v[b : b + 1, group : group + 1].copy(), causal=True)
                assert same_bits(part, whole[b : b + 1, heads])


@pytest.mark.parametrize("isa", ISAS)
def test_far_scores_do_not_overflow(isa):
    q, k, v = inputs(cases.Attention(2, 2, 5, 40, 16), 70)
    k[:, :, 7] = q[:, :, 2] * 1e6
    with using(isa):
        y = ops.attention(q * 1e3, k, v, causal=True)
    assert np.isfinite(y).all()
    assert np.abs(y[:, :, 2] - v[:, :, 7]).max() < 1e-5


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("front", [False, True])
def test_attention_reads_nothing_outside_its_arrays(isa, front):
    for seed, case in enumerate(cases.ATTENTION):
        q, k, v = (guarded(x, front) for x in inputs(case, seed))
        with using(isa):
            y = ops.attention(q, k, v, causal=case.causal, window=case.window)
        assert np.isfinite(y).all()


def test_shapes_that_do_not_fit_are_refused():
    q, k, v = inputs(cases.Attention(4, 2, 3, 5, 8), 80)
    with pytest.raises(ValueError, match="attention"):
        ops.attention(q[:, :3], k, v)
    with pytest.raises(ValueError, match="attention"):
        ops.attention(q, k[..., :4], v)
    with pytest.raises(ValueError, match="attention"):
        ops.attention(q, k[:, :, :2], v, causal=True)
    with pytest.raises(ValueError, match="attention"):
        ops.attention(q, k, v[:, :, :4])
    with pytest.raises(ValueError, match="attention"):
        ops.attention(q[0], k[0], v[0])
