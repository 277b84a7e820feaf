"""What tests of derivatives share: tensors that learn, and torch's float64 beside them."""

import numpy as np
import torch

from pyllm.tensor import Tensor

CLOSE = {"rtol": 2e-4, "atol": 2e-5}


def learn(*arrays):
    """Tensors that want their gradients, of copies."""
    return [Tensor(np.array(a, np.float32), requires_grad=True) for a in arrays]


def leaves(*arrays):
    """The same for torch, in float64: a twin of which the rounding does not count."""
    return [torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in arrays]


def parity(ours, theirs, *arrays, close=CLOSE):
    """Value and all gradients of a function, under a random cotangent, as torch's float64 twin has them."""
    mine, other = learn(*arrays), leaves(*arrays)
    y, z = ours(*mine), theirs(*other)
    assert isinstance(y, Tensor) and y.requires_grad and y.shape == tuple(z.shape)
    np.testing.assert_allclose(y.data, z.detach().numpy(), **close)
    dy = np.asarray(np.random.default_rng(9).standard_normal(y.shape), np.float32)
    y.backward(dy)
    z.backward(torch.tensor(dy.astype(np.float64)))
    for i, (tensor, leaf) in enumerate(zip(mine, other, strict=True)):
        if leaf.grad is None:
            assert tensor.grad is None
            continue
        assert tensor.grad.shape == tensor.shape and tensor.grad.dtype == np.float32
        wanted = leaf.grad.numpy()
        scale = max(1.0, float(np.abs(wanted).max(initial=0)))
        np.testing.assert_allclose(tensor.grad / scale, wanted / scale, **close, err_msg=f"input {i}")
