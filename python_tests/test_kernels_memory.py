"""Kernels read only their arrays and never what an earlier call or the allocator left behind."""
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import pytest
import reference_blocks as blocks
from kernel_checks import ISAS, guarded, packed, random, same_bits, using

from pyllm import _core, ops


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("front", [False, True])
@pytest.mark.parametrize("dtype", cases.TYPES)
def test_linear_reads_nothing_outside_its_arrays(isa, front, dtype):
    depths = (256, 512) if cases.GROUP[dtype] == 256 else (32, 96) if dtype in cases.QUANTISED else (1, 17, 33)
    for k in depths:
        for rows, n in ((1, 1), (2, 15), (5, 16), (13, 17), (6, 33)):
            raw = blocks.random_rows(dtype, n, k, seed=n)
            x, bias = random((rows, k), rows), random((n,), n)
            with using(isa):
                weight = packed(dtype, guarded(raw, front), k)
                y = ops.linear(guarded(x, front), weight, guarded(bias, front))
                plain = ops.linear(x, packed(dtype, raw, k), bias)
            assert same_bits(y, plain)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("front", [False, True])
def test_row_kernels_read_nothing_outside_their_arrays(isa, front):
    for n in cases.LENGTHS:
        for rows in (1, 3):
            x, weight, bias = (guarded(random(shape, n), front) for shape in ((rows, n), (n,), (n,)))
            with using(isa):
                for y in (
                    ops.rms_norm(x, weight, 1e-5), ops.layer_norm(x, weight, bias), ops.softmax(x), ops.silu(x),
                    ops.gelu(x), ops.gelu(x, approximate="tanh"), ops.swiglu(x, x), ops.matmul(x, x.T.copy()),
                ):
                    assert np.isfinite(y).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("front", [False, True])
def test_rotary_reads_nothing_outside_its_arrays(isa, front):
    for dim in (2, 8, 24, 64, 80):
        x, positions = guarded(random((1, 5, 3, dim), dim), front), guarded(np.arange(5), front)
        with using(isa):
            assert np.isfinite(ops.rotary(x, positions, theta=10000.0)).all()


def everything(seed):
    """One answer of every operation, as a list of arrays; odd sizes, so that padding exists."""
    out = []
    for dtype in cases.TYPES:
        weight = packed(dtype, blocks.random_rows(dtype, 21, 256, seed), 256)
        out += [ops.linear(random((rows, 256), seed), weight) for rows in (1, 3, 13)]
    odd = packed("BF16", blocks.random_rows("BF16", 19, 33, seed), 33)
    x, weight = random((5, 33), seed), random((33,), seed + 1)
    q, kv = random((1, 4, 7, 24), seed), random((1, 2, 99, 24), seed + 1)
    out += [
        ops.linear(x, odd), ops.matmul(x, x.T.copy()), ops.rms_norm(x, weight, 1e-5), ops.layer_norm(x, weight),
        ops.softmax(x), ops.silu(x), ops.gelu(x), ops.swiglu(x, x), ops.attention(q, kv, kv, causal=True),
        ops.attention(q, kv, kv, causal=True, window=9),
    ]
    return out


def poison():
    """Leave NaN in every scratch that a later call might find."""
    for dtype in cases.TYPES:
        weight = packed(dtype, blocks.random_rows(dtype, 70, 512, 1), 512)
        for rows in (1, 14):
            ops.linear(np.full((rows, 512), np.nan, np.float32), weight)
    bad = np.full((1, 4, 40, 40), np.nan, np.float32)
    ops.attention(bad, np.full((1, 2, 600, 40), np.nan, np.float32), np.full((1, 2, 600, 40), np.nan, np.float32))
    ops.attention(bad, bad, bad, causal=True)
    rows = np.full((14, 600), np.nan, np.float32)
    for function in (ops.softmax, ops.silu, ops.gelu):
        function(rows)
    ops.matmul(rows, rows.T.copy())
    ops.layer_norm(rows, rows[0])


@pytest.mark.parametrize("isa", ISAS)
def test_scratch_of_an_earlier_call_is_never_read(isa):
    with using(isa):
        clean = everything(3)
        poison()
        again = everything(3)
    assert all(np.isfinite(y).all() for y in clean)
    assert all(same_bits(a, b) for a, b in zip(clean, again, strict=True))


def digest(isa):
    """SHA-256 of everything's bytes."""
    with using(isa):
        return hashlib.sha256(b"".join(y.tobytes() for y in everything(4))).hexdigest()


@pytest.mark.parametrize("isa", ISAS)
def test_what_the_allocator_hands_out_is_never_read(isa):
    """glibc fills new memory with ~MALLOC_PERTURB_: 0x7f bytes are huge floats, 0xfe bytes large negative ones."""
    here = Path(__file__).parent
    found = {digest(isa)}
    for fill in ("128", "1"):
        script = f"import test_kernels_memory as t; print(t.digest({isa!r}))"
        path = os.pathsep.join([str(here), str(Path(_core.__file__).parent.parent)])
        environment = os.environ | {"MALLOC_PERTURB_": fill, "PYTHONPATH": path}
        run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True,
                             timeout=120, check=True)
        found.add(run.stdout.strip())
    assert len(found) == 1
