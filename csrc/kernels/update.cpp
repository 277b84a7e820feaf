// Steps of optimisers, each in one walk over its arrays, in place.
#include "kernels/training_rows.h"

namespace pyllm::PYLLM_ISA {

// m += (1 - b1)(g - m), v = b2 v + (1 - b2) g^2, p = keep p - step m / (sqrt(v) root + eps): Loshchilov, Hutter,
// arXiv:1711.05101, algorithm 2.
void adamw(const AdamWArgs& a, int worker, int workers) {
  const Share s = vector_share(a.n, worker, workers);
  for (int64_t i = s.first; i < s.last; i += 16) {
    const int n = lanes_left(s.last, i);
    const f32v g = mul(load_n(a.g + i, n), set1(a.scale)), old = load_n(a.m + i, n);
    const f32v m = fma(set1(a.rest1), sub(g, old), old);
    const f32v v = fma(mul(set1(a.rest2), g), g, mul(set1(a.beta2), load_n(a.v + i, n)));
    const f32v step = div(mul(set1(a.step_size), m), fma(sqrt(v), set1(a.root), set1(a.eps)));
    store_n(a.p + i, sub(mul(load_n(a.p + i, n), set1(a.keep)), step), n);
    store_n(a.m + i, m, n);
    store_n(a.v + i, v, n);
  }
}

// g += decay p; m = momentum m + g, at first g; p -= lr m, with Nesterov's rule lr (g + momentum m).
void sgd(const SGDArgs& a, int worker, int workers) {
  const Share s = vector_share(a.n, worker, workers);
  for (int64_t i = s.first; i < s.last; i += 16) {
    const int n = lanes_left(s.last, i);
    const f32v p = load_n(a.p + i, n);
    f32v g = fma(set1(a.weight_decay), p, mul(load_n(a.g + i, n), set1(a.scale)));
    if (a.m) {
      const f32v m = a.first ? g : fma(set1(a.momentum), load_n(a.m + i, n), g);
      store_n(a.m + i, m, n);
      g = a.nesterov ? fma(set1(a.momentum), m, g) : m;
    }
    store_n(a.p + i, sub(p, mul(set1(a.lr), g)), n);
  }
}

void axpy(const AxpyArgs& a, int worker, int workers) {
  const Share s = vector_share(a.n, worker, workers);
  for (int64_t i = s.first; i < s.last; i += 16) {
    const int n = lanes_left(s.last, i);
    store_n(a.into + i, fma(set1(a.a), load_n(a.x + i, n), load_n(a.into + i, n)), n);
  }
}

}  // namespace pyllm::PYLLM_ISA
