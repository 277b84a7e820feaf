"""The twins are themselves checked: block types against PyPI's `gguf`, bounds against float32 arithmetic."""

import cases
import gguf
import gguf_reference
import numpy as np
import pytest
import reference as ref
import reference_blocks as blocks
import tiny_models


def same_bits(a, b):
    return np.array_equal(np.asarray(a, np.float32).view(np.uint32), np.asarray(b, np.float32).view(np.uint32))


@pytest.mark.parametrize("name", cases.QUANTISED)
def test_block_types_equal_gguf_on_random_bytes(name):
    raw = blocks.random_rows(name, 16, 2048, seed=7)
    expected = gguf.dequantize(raw, gguf.GGMLQuantizationType[name])
    assert np.abs(expected).max() > 0
    assert same_bits(blocks.dequantise(name, raw), expected)


@pytest.mark.parametrize("name", cases.QUANTISED)
def test_block_types_equal_gguf_on_every_finite_scale(name):
    """All 65,536 halves as the first scale, infinities and NaN left out: their products' sign bits are free."""
    block = blocks.BLOCKS[name]
    halves = np.arange(65536, dtype=np.uint16)
    halves = halves[np.isfinite(halves.view(np.float16))]
    raw = np.resize(blocks.random_rows(name, 64, 256, seed=8).reshape(-1, block.nbytes), (len(halves), block.nbytes))
    raw[:, block.halves[0] : block.halves[0] + 2] = halves[:, None].view(np.uint8)
    expected = gguf.dequantize(raw, gguf.GGMLQuantizationType[name])
    assert same_bits(blocks.dequantise(name, raw), expected)


def test_bf16_rounding_equals_gguf():
    x = np.random.default_rng(1).standard_normal((4, 4096)).astype(np.float32)
    x[0, :4] = [1.00390625, 1.01171875, -1.00390625, 0]  # ties go to even
    expected = gguf.quantize(x, gguf.GGMLQuantizationType.BF16).view(np.uint8)
    assert np.array_equal(blocks.encode("BF16", x), expected.reshape(4, -1))
    assert same_bits(blocks.round_bf16(x), gguf.dequantize(expected, gguf.GGMLQuantizationType.BF16))


def test_int8_activations_stay_within_half_a_step():
    x = np.random.default_rng(2).standard_normal((64, 256)).astype(np.float32) * np.logspace(-6, 6, 64)[:, None]
    x = x.astype(np.float32)
    code, scale = blocks.quantise_activations(x)
    assert np.abs(code).max(axis=-1).min() == 127
    error = np.abs(x.reshape(64, 8, 32) - code * scale[..., None].astype(np.float64))
    assert (error <= scale[..., None] * 0.5 * (1 + 2**-14)).all()  # 127 * 2 u of the code's own rounding
    assert not np.any(blocks.quantise_activations(np.zeros((1, 32), np.float32))[0])


@pytest.mark.parametrize("k", [1, 17, 256, 1000])
def test_bounds_hold_for_float32_arithmetic_and_are_not_idle(k):
    """Plain float32 sums, one after another, stay inside; a relative error of 1e-3 does not."""
    rng = np.random.default_rng(k)
    a, b = rng.standard_normal((3, k)).astype(np.float32), rng.standard_normal((k, 5)).astype(np.float32)
    total = np.zeros((3, 5), np.float32)
    for i in range(k):
        total = total + a[:, i : i + 1] * b[i]
    exact, bound = ref.matmul(a, b), ref.matmul_bound(a, b)
    assert (np.abs(total - exact) <= bound).all()
    assert (np.abs(exact * 1e-3) > bound).any()


def test_row_bounds_hold_for_float32_arithmetic():
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((64, 97)) * 3 + 100).astype(np.float32)
    weight, bias = rng.standard_normal((2, 97)).astype(np.float32)
    centred = x - x.mean(axis=-1, keepdims=True)
    y = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(1e-5)) * weight + bias
    assert (np.abs(y - ref.layer_norm(x, weight, bias)) <= ref.layer_norm_bound(x, weight, bias)).all()
    y = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(1e-5)) * weight
    assert (np.abs(y - ref.rms_norm(x, weight, 1e-5)) <= ref.rms_norm_bound(x, weight, 1e-5)).all()
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    y = e / e.sum(axis=-1, keepdims=True)
    assert (np.abs(y - ref.softmax(x)) <= ref.softmax_bound(x)).all()


def test_whole_attention_is_one_row_at_a_time():
    rng = np.random.default_rng(4)
    q = rng.standard_normal((1, 4, 6, 8))
    k, v = rng.standard_normal((2, 1, 2, 6, 8))
    whole = ref.attention(q, k, v, causal=True)
    for i in range(6):
        row = ref.attention(q[:, :, i : i + 1], k[:, :, : i + 1], v[:, :, : i + 1])
        assert np.allclose(whole[:, :, i], row[:, :, 0], rtol=1e-12, atol=1e-12)
    narrow = ref.attention(q, k, v, causal=True, window=1)
    assert np.allclose(narrow, np.repeat(v, 2, axis=1))


def test_rotary_forms_are_the_same_turn():
    x = np.random.default_rng(5).standard_normal((1, 2, 9, 8))
    frequency, _ = ref.rotary_frequencies(8, 10000.0)
    halves = ref.rotary(x, np.arange(9), frequency)
    order = np.arange(8).reshape(2, 4).T.reshape(-1)  # halves -> neighbours
    assert np.allclose(ref.rotary(x[..., order], np.arange(9), frequency, interleaved=True), halves[..., order])
    assert np.allclose(np.linalg.norm(halves, axis=-1), np.linalg.norm(x, axis=-1))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", cases.TYPES)
def test_tiny_gguf_files_read_back(tmp_path, family, dtype):
    wide = {"hidden_size": 256, "intermediate_size": 512} if family == "llama" else {"n_embd": 256}
    config = getattr(tiny_models, f"{family}_config")(**wide)
    weights = tiny_models.random_weights(config)
    found, _ = gguf_reference.read(tiny_models.write_gguf(tmp_path / "m.gguf", config, weights, dtype))
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert found[name].shape == value.shape
        if not dtype.endswith("_K"):
            assert np.abs(found[name] - value).max() <= np.abs(value).max() / (4 if dtype[0] == "Q" else 128)
