// Operations that work row by row or number by number: norms, activations, softmax, rotary positions.
#include "kernels/rows.h"
#include "kernels/prepare.h"
#include "simd/math.h"

namespace pyllm::PYLLM_ISA {

void norm(const NormArgs& a, int worker, int workers) {
  Share s = share(a.rows, worker, workers);
  for (int64_t r = s.first; r < s.last; ++r)
    normalise(a.x + r * a.k, a.weight, a.bias, a.eps, a.norm, a.k, a.out + r * a.k);
}

void map(const MapArgs& a, int worker, int workers) {
  Share s = share((a.n + 15) / 16, worker, workers);
  for (int64_t i = s.first * 16; i < s.last * 16 && i < a.n; i += 16) {
    int n = a.n - i < 16 ? (int)(a.n - i) : 16;
    f32v x = load_n(a.x + i, n);
    if (a.act == Act::SiLU) x = silu(x);
    if (a.act == Act::GELU) x = gelu(x);
    if (a.act == Act::GELUTanh) x = gelu_tanh(x);
    if (a.up) x = mul(x, load_n(a.up + i, n));
    store_n(a.out + i, x, n);
  }
}

// The maximum is subtracted first. A row of -inf alone gives NaN, as in PyTorch.
void softmax(const SoftmaxArgs& a, int worker, int workers) {
  Share s = share(a.rows, worker, workers);
  for (int64_t r = s.first; r < s.last; ++r) {
    const float* x = a.x + r * a.k;
    float* y = a.out + r * a.k;
    f32v top = set1(-INFINITY), total = set1(0);
    for (int64_t i = 0; i < a.k; i += 16) {
      int n = a.k - i < 16 ? (int)(a.k - i) : 16;
      top = max(top, below(n, load_n(x + i, n), set1(-INFINITY)));
    }
    float m = max_of(top);
    for (int64_t i = 0; i < a.k; i += 16) {
      int n = a.k - i < 16 ? (int)(a.k - i) : 16;
      f32v d = sub(load_n(x + i, n), set1(m));
      f32v e = below(n, exp(d), set1(0));
      store_n(y + i, e, n);
      total = add(total, e);
    }
    f32v l = set1(sum(total));
    for (int64_t i = 0; i < a.k; i += 16) {
      int n = a.k - i < 16 ? (int)(a.k - i) : 16;
      store_n(y + i, div(load_n(y + i, n), l), n);
    }
  }
}

// y[2i] = x[2i] cos - x[2i+1] sin, y[2i+1] = x[2i+1] cos + x[2i] sin; the table holds -sin at even places.
void rotary(const RotaryArgs& a, int worker, int workers) {
  Share s = share(a.rows * a.heads, worker, workers);
  for (int64_t r = s.first; r < s.last; ++r) {
    const float* table = a.table + a.position[r / a.heads] * 2 * a.dim;
    for (int64_t d = 0; d < a.dim; d += 16) {
      int n = a.dim - d < 16 ? (int)(a.dim - d) : 16;
      f32v x = load_n(a.x + r * a.dim + d, n);
      f32v y = fma(swap_pairs(x), load_n(table + a.dim + d, n), mul(x, load_n(table + d, n)));
      store_n(a.out + r * a.dim + d, y, n);
    }
  }
}

}  // namespace pyllm::PYLLM_ISA
