// The way back through functions of single numbers, and through softmax.
#include "kernels/activation.h"
#include "kernels/training_rows.h"

namespace pyllm::PYLLM_ISA {

namespace {

template <class T> void map_back(const MapBackwardArgs& a, const T* of, const T* up, Share s) {
  vectors(s.first, s.last, [&](int64_t i, auto at) {
    const f32v x = at.get(of + i), dy = at.get(a.dy + i);
    f32v d = mul(dy, slope(x, a.act, a.cap));
    if (up) {
      d = mul(d, at.get(up + i));
      at.put(a.dup + i, mul(dy, activate(x, a.act, a.cap)));
    }
    at.put(a.dx + i, d);
  });
}

}  // namespace

// y = f(x) up: dx = dy up f'(x), dup = dy f(x).
void map_backward(const MapBackwardArgs& a, int worker, int workers) {
  const Share s = vector_share(a.n, worker, workers);
  if (a.half) map_back(a, (const uint16_t*)a.x, (const uint16_t*)a.up, s);
  else map_back(a, (const float*)a.x, (const float*)a.up, s);
}

// dx = y (dy - sum(dy y)) over each row.
void softmax_backward(const SoftmaxBackwardArgs& a, int worker, int workers) {
  const Share s = share(a.rows, worker, workers);
  for (int64_t r = s.first; r < s.last; ++r) {
    const float *dy = a.dy + r * a.k, *y = a.y + r * a.k;
    f32v products = set1(0);
    vectors(0, a.k, [&](int64_t i, auto at) { products = fma(at.get(dy + i), at.get(y + i), products); });
    const f32v total = set1(sum(products));
    vectors(0, a.k,
            [&](int64_t i, auto at) { at.put(a.dx + r * a.k + i, mul(at.get(y + i), sub(at.get(dy + i), total))); });
  }
}

}  // namespace pyllm::PYLLM_ISA
