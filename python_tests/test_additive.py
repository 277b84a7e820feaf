"""Additive attention beside PyTorch: values, gradients, blocks of queries, and what is refused."""

import numpy as np
import pytest
import torch
from gradient_checks import learn, leaves, parity
from kernel_checks import random, same_bits, threads

from pyllm import ops
from pyllm.ops import additive

STARTS, KEY_STARTS = np.array([0, 3, 4, 9], np.int32), np.array([0, 4, 10, 11], np.int32)
ARRAYS = [random(shape, i) for i, shape in enumerate([(9, 7), (11, 7), (11, 5), (7,)])]


def plain(q, k, v, w):
    """The same of torch, sequence by sequence."""
    found = []
    for i in range(3):
        a, b, c = q[STARTS[i] : STARTS[i + 1]], *(x[KEY_STARTS[i] : KEY_STARTS[i + 1]] for x in (k, v))
        scores = torch.tanh(a[:, None] + b[None]) @ w
        found.append(torch.softmax(scores, dim=-1) @ c)
    return torch.cat(found)


def ours(q, k, v, w):
    return ops.additive_attention(q, k, v, w, STARTS, KEY_STARTS)


@pytest.mark.parametrize("at_once", [1 << 22, 60])
def test_values_and_gradients_are_torchs(at_once, monkeypatch):
    """Also where queries are cut into blocks."""
    monkeypatch.setattr(additive, "_AT_ONCE", at_once)
    parity(ours, plain, *ARRAYS)


def test_a_sequence_has_its_bits_in_any_company():
    together = ours(*ARRAYS)
    q, k, v, w = ARRAYS
    alone = ops.additive_attention(q[4:], k[10:], v[10:], w, [0, 5], [0, 1])
    assert same_bits(alone, together[4:])
    one = ops.additive_attention(q[5:6], k[10:], v[10:], w, [0, 1], [0, 1])
    assert same_bits(one, together[5:6])
    with threads(1):
        assert same_bits(ours(*ARRAYS), together)


def test_what_does_not_fit_is_refused():
    q, k, v, w = ARRAYS
    refused = [
        ((q[:, :6], k, v, w[:6], STARTS, KEY_STARTS), r"q \(9, 6\), k \(11, 7\)"),
        ((q, k, v[:-1], w, STARTS, KEY_STARTS), r"v \(10, 5\)"),
        ((q, k, v, w[:3], STARTS, KEY_STARTS), "weight has shape"),
        ((q, k, v, w, [0, 9], KEY_STARTS), "1 sequences of queries and 3 of keys"),
        ((q, k, v, w, [0, 3, 3, 9], KEY_STARTS), "starts must rise from 0 to the 9 rows"),
        ((q, k, v, w, STARTS, [0, 4, 10, 12]), "key_starts must rise from 0 to the 11 rows"),
    ]
    for arguments, text in refused:
        with pytest.raises(ValueError, match=text):
            ops.additive_attention(*arguments)


@pytest.mark.parametrize("queries, keys, groups", [(5, 9, 2), (9, 4, 4), (1, 70, 1)])
def test_attention_learns_over_more_keys_or_fewer_than_queries(queries, keys, groups):
    shapes = (2, 4, queries, 8), (2, groups, keys, 8), (2, groups, keys, 8)
    arrays = [random(shape, 20 + i) for i, shape in enumerate(shapes)]

    def theirs(q, k, v):
        k, v = (x.repeat_interleave(4 // groups, 1) for x in (k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    parity(ops.attention, theirs, *arrays)
    np.testing.assert_allclose(ops.attention(*learn(*arrays)).data, theirs(*leaves(*arrays)).detach(), atol=1e-5)
    with pytest.raises(ValueError, match=f"{queries} queries over {keys} keys: to learn, causal has as many"):
        ops.attention(*learn(*arrays), causal=True)
