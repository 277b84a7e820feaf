"""Self-attention: softmax(q k^T / sqrt(d)) v by hand and by the kernel. Run: python examples/self_attention.py"""

import numpy as np

import pyllm

rng = np.random.default_rng(0)
length, size = 6, 16
q, k, v = rng.standard_normal((3, 1, 1, length, size), dtype=np.float32)  # (batch, heads, length, size) each

scores = q[0, 0] @ k[0, 0].T / np.sqrt(size)
scores[np.triu_indices(length, 1)] = -np.inf  # nobody looks at what comes later
weights = np.exp(scores - scores.max(axis=1, keepdims=True))
weights /= weights.sum(axis=1, keepdims=True)
by_hand = weights @ v[0, 0]

print("who looks at whom, in per cent:")
print(np.round(100 * weights).astype(int))
by_kernel = pyllm.ops.attention(q, k, v, causal=True)
print(f"largest difference from the kernel: {np.abs(by_kernel[0, 0] - by_hand).max():.1e}")
