// The way back through functions of single numbers, and through softmax.
#include "kernels/activation.h"
#include "kernels/training_rows.h"

namespace pyllm::PYLLM_ISA {

// y = f(x) up: dx = dy up f'(x), dup = dy f(x).
void map_backward(const MapBackwardArgs& a, int worker, int workers) {
  const Share s = vector_share(a.n, worker, workers);
  for (int64_t i = s.first; i < s.last; i += 16) {
    const int n = lanes_left(s.last, i);
    const f32v x = load_n(a.x + i, n), dy = load_n(a.dy + i, n);
    f32v d = mul(dy, slope(x, a.act, a.cap));
    if (a.up) {
      d = mul(d, load_n(a.up + i, n));
      store_n(a.dup + i, mul(dy, activate(x, a.act, a.cap)), n);
    }
    store_n(a.dx + i, d, n);
  }
}

// dx = y (dy - sum(dy y)) over each row.
void softmax_backward(const SoftmaxBackwardArgs& a, int worker, int workers) {
  const Share s = share(a.rows, worker, workers);
  for (int64_t r = s.first; r < s.last; ++r) {
    const float *dy = a.dy + r * a.k, *y = a.y + r * a.k;
    f32v products = set1(0);
    for (int64_t i = 0; i < a.k; i += 16) {
      const int n = lanes_left(a.k, i);
      products = fma(load_n(dy + i, n), load_n(y + i, n), products);
    }
    const f32v total = set1(sum(products));
    for (int64_t i = 0; i < a.k; i += 16) {
      const int n = lanes_left(a.k, i);
      store_n(a.dx + r * a.k + i, mul(load_n(y + i, n), sub(load_n(dy + i, n), total)), n);
    }
  }
}

}  // namespace pyllm::PYLLM_ISA
