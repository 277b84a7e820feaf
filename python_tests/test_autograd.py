"""The walk backwards: what a graph may and may not do, where gradients go, whose memory is whose."""

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from gradient_checks import learn, parity
from kernel_checks import random, same_bits, threads

from pyllm import ops
from pyllm.autograd import enabled, no_grad
from pyllm.tensor import Tensor

F = torch.nn.functional
A, B, ONE = random((3, 4), 0), random((3, 4), 1), random((), 4)


# --- the graph ---


def test_a_tensor_used_several_times():
    """Gradients that are passed through belong to several tensors: nothing may be added to them in place."""

    def f(x, y):
        h = x * 1.0
        a = h + y
        b = a + h
        c = b + a
        return c * b + (a + c) + h

    parity(f, f, A, B)


def test_residual_branches():
    w, v = random((4, 4), 1), random((4, 4), 2)

    def ours(x, w, v):
        h = x * 2
        h = ops.linear_add(h, ops.tanh(h), w)
        h = ops.linear_add(h, ops.softmax(h), v)
        return h + ops.concatenate([h[:, :2], h[:, :2]], 1) + ops.reshape(h, (3, 4))

    def theirs(x, w, v):
        h = x * 2
        h = h + F.linear(torch.tanh(h), w)
        h = h + F.linear(torch.softmax(h, -1), v)
        return h + torch.cat([h[:, :2], h[:, :2]], 1) + h.reshape(3, 4)

    parity(ours, theirs, A, w, v)


def test_the_callers_gradient_is_left_alone():
    x, y = learn(A, B)
    h = x + y
    z = h + h + x
    dy = random((3, 4), 5)
    before = dy.copy()
    z.backward(dy)
    assert same_bits(dy, before)
    np.testing.assert_allclose(x.grad, 3 * dy, rtol=1e-6)
    np.testing.assert_allclose(y.grad, 2 * dy, rtol=1e-6)
    assert not np.shares_memory(x.grad, dy) and not np.shares_memory(x.grad, y.grad)


def test_single_numbers_used_several_times():
    def f(x):
        s = x.exp()
        return s.exp() + s.exp() * s + s / 2

    parity(f, f, ONE)


@pytest.mark.parametrize("seed", range(20))
def test_random_graphs(seed):
    draw = np.random.default_rng(seed)
    plan = [(int(draw.integers(9)), int(draw.integers(1 << 30)), int(draw.integers(1 << 30))) for _ in range(25)]

    def f(*given):
        pool = list(given)
        tanh = ops.tanh if isinstance(given[0], Tensor) else torch.tanh
        softmax = ops.softmax if isinstance(given[0], Tensor) else lambda t: torch.softmax(t, -1)
        join = ops.concatenate if isinstance(given[0], Tensor) else torch.cat
        moves = (
            lambda a, b: a + b, lambda a, b: a - b, lambda a, b: tanh(a) * b, lambda a, b: tanh(a),
            lambda a, b: softmax(a), lambda a, b: tanh(a @ b), lambda a, b: join([a[:1], b[1:]]),
            lambda a, b: a.T + b, lambda a, b: (a + b).sum(0) / 4 + a,
        )  # fmt: skip
        for kind, i, j in plan:
            a, b = pool[i % len(pool)], pool[j % len(pool)]
            pool.append(moves[kind](a, b))
        return tanh(pool[-1] + pool[-2] + pool[-3])

    parity(f, f, *(random((4, 4), 100 * seed + i, 0.5) for i in range(3)), close={"rtol": 1e-3, "atol": 2e-4})


def test_a_graph_is_walked_once():
    (x,) = learn(A)
    h = x * 2
    loss = (h * h).sum()
    loss.backward()
    first = x.grad.copy()
    for root in (loss, h.sum(), (h + 1).sum()):
        with pytest.raises(ValueError, match="backward: this graph has been walked already"):
            root.backward()
    assert same_bits(x.grad, first)


def test_what_cannot_be_walked_is_refused():
    x = Tensor(A)
    with pytest.raises(ValueError, match="nothing that this tensor was computed from requires a gradient"):
        ops.sum(x).backward()
    (y,) = learn(A)
    with pytest.raises(ValueError, match=r"the tensor has shape \(3, 4\); a single number, or give its gradient"):
        (y * 2).backward()
    with pytest.raises(ValueError, match=r"the gradient has shape \(4,\), the tensor \(3, 4\)"):
        (y * 2).backward(np.ones(4))
    assert y.grad is None
    with pytest.raises(ValueError, match=r"grad has shape \(2,\), allowed is \(3, 4\)"):
        y.grad = np.zeros(2)


def test_a_leaf_is_its_own_root():
    (x,) = learn(3.0)
    x.backward()
    x.backward(2.5)
    assert x.grad == 3.5


def test_no_grad():
    (x,) = learn(A)
    with no_grad():
        assert not enabled()
        y = ops.linear(x * 2, x, np.zeros(3))
        with no_grad():
            pass
        assert not enabled()
        with pytest.raises(RuntimeError, match="out"), no_grad():
            raise RuntimeError("out")
        assert not enabled()
    assert enabled() and isinstance(y, Tensor) and not y.requires_grad and y.source is None
    assert isinstance(ops.exp(A), np.ndarray)
    assert not (x.detach() * 2).requires_grad
    assert np.shares_memory(x.detach().data, x.data)


def test_no_grad_is_of_one_thread():
    seen, inside, over = [], threading.Event(), threading.Event()

    def other():
        with no_grad():
            inside.set()
            over.wait(10)
            seen.append(enabled())

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10) and enabled()
    over.set()
    thread.join()
    assert seen == [False]


def test_threads_learn_at_the_same_time():
    """Each its own graph, over one weight that only reads: the gradients are those of one thread."""
    w = random((40, 30), 1)
    found = [None] * 4

    def work(i):
        for _ in range(20):
            x, weight = learn(random((7, 30), i + 2), w)
            ops.mse(ops.tanh(ops.linear(x, weight)), np.zeros((7, 40), np.float32)).backward()
            found[i] = (x.grad, weight.grad)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    together = list(found)
    for i in range(4):
        work(i)
        for a, b in zip(found[i], together[i], strict=True):
            assert same_bits(a, b)


def test_the_same_bits_for_any_number_of_workers():
    x, w, b = random((300, 70), 1), random((90, 70), 2, 0.2), random((90,), 3)
    targets = np.random.default_rng(4).integers(0, 90, 300)
    found = []
    for count in (1, 2, 3):
        with threads(count):
            tensors = learn(x, w, b, np.ones(70))
            h = ops.linear(ops.rms_norm(tensors[0], tensors[3]), *tensors[1:3])
            loss = ops.cross_entropy(ops.gelu(h), targets)
            loss.backward()
            found.append([loss.data, *(tensor.grad for tensor in tensors)])
    for other in found[1:]:
        assert all(same_bits(a, b) for a, b in zip(found[0], other, strict=True))


def test_ten_thousand_operations_deep():
    (x,) = learn([1.0, 2.0])
    h = x
    for _ in range(10_000):
        h = h * 1.0001
    h.sum().backward()
    np.testing.assert_allclose(x.grad, 1.0001**10_000, rtol=1e-2)
    h = x
    for _ in range(100_000):  # let go without a walk
        h = h + 1
    del h
    gc.collect()


def test_gradients_add_up_until_they_are_forgotten():
    (x,) = learn(A)
    for i in range(1, 4):
        (x * 2).sum().backward()
        np.testing.assert_allclose(x.grad, 2.0 * i)
    memory = x.grad
    x.zero_grad()
    assert x.grad is None
    (x * 3).sum().backward()
    assert x.grad is memory
    np.testing.assert_allclose(memory, 3.0)
    x.zero_grad()
    x.zero_grad()
    ops.linear(A, x).sum().backward()  # a kernel writes where the gradient belongs
    assert x.grad is memory
    np.testing.assert_allclose(memory, np.tile(A.sum(0), (3, 1)), rtol=1e-5)


def test_gradients_go_where_they_are_kept():
    (x,) = learn(A)
    flat = np.zeros(20, np.float32)
    x.sum().backward()
    x.keep_grad_in(flat[4:16].reshape(3, 4))
    assert flat[4:16].all() and not flat[:4].any() and not flat[16:].any()
    x.sum().backward()
    np.testing.assert_allclose(flat[4:16], 2.0)
    x.zero_grad()
    (x * 5).sum().backward()
    np.testing.assert_allclose(flat[4:16], 5.0)
    for wrong in (np.zeros((4, 3), np.float32), np.zeros((3, 4))):
        with pytest.raises(ValueError, match=r"tensor: gradients of \(3, 4\) do not fit into"):
            x.keep_grad_in(wrong)


# --- memory of others ---


def test_tensors_view_what_is_float32():
    array = A.copy()
    assert Tensor(array).data is array
    theirs = torch.tensor(A)
    view = Tensor(theirs)
    theirs[0, 0] = 42
    assert view.data[0, 0] == 42
    assert np.shares_memory(Tensor(torch.nn.Parameter(theirs)).data, theirs.numpy())
    back = torch.from_dlpack(view)
    back[0, 1] = 43
    assert view.data[0, 1] == 43 and torch.utils.dlpack.from_dlpack(view).data_ptr() == theirs.data_ptr()
    assert np.asarray(view) is view.data and np.array(view) is not view.data
    assert np.asarray(view, np.float64).dtype == np.float64
    widened = Tensor(torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
    assert widened.data.tolist() == [1.5, -2.0]
    assert Tensor(view).data is view.data
    turned = Tensor(array.T)  # another order is copied
    assert turned.data.flags.c_contiguous and not np.shares_memory(turned.data, array)
    for wrong in ("a", [None], np.array([1j]), {"a": 1}):
        with pytest.raises(TypeError, match=r"tensor: holds .*, allowed are real numbers"):
            Tensor(wrong)


def test_operations_take_arrays_of_any_maker():
    (w,) = learn(random((5, 4), 1))
    y = ops.linear(torch.tensor(A), w)
    assert same_bits(y.data, ops.linear(A, w).data)
    assert same_bits((np.float32(2) * w).data, (w * 2).data) and same_bits((A[0] + w).data, (w + A[0]).data)
    assert isinstance(A @ w.T, Tensor)
    assert float(w[0, 0]) == w.data[0, 0] and len(w) == 5 and [row.shape for row in w] == [(4,)] * 5


def test_a_tensor_brings_its_operators():
    code = "import pyllm; t = pyllm.Tensor([1.0, 2.0], requires_grad=True); (t * t).sum().backward(); print(t.grad)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"[2. 4.]\n"


def test_empty_tensors_keep_their_graph():
    x, w, b = learn(np.zeros((0, 4)), random((5, 4), 1), np.zeros(5))
    for y in (
        ops.linear(x, w, b), ops.matmul(x, w.T), ops.linear_add(np.zeros((0, 5)), x, w),
        ops.embedding(np.zeros((2, 0), np.int64), w), ops.cross_entropy(ops.linear(x, w), np.zeros(0, np.int64)),
        ops.linear_cross_entropy(x, w, np.zeros(0, np.int64)),
    ):  # fmt: skip
        w.grad = None
        y.sum().backward()
        assert w.grad.shape == (5, 4) and not w.grad.any()
