// Steps of optimisers, each in one walk over its arrays, in place. They copy their arguments, which no store can then
// change: else all would be read again for every vector.
#include "kernels/training_rows.h"

namespace pyllm::PYLLM_ISA {

// m += (1 - b1)(g - m), v = b2 v + (1 - b2) g^2, p = keep p - step m / (sqrt(v) root + eps): Loshchilov, Hutter,
// arXiv:1711.05101, algorithm 2.
void adamw(const AdamWArgs& args, int worker, int workers) {
  const AdamWArgs a = args;
  const Share s = vector_share(a.n, worker, workers);
  vectors(s.first, s.last, [&](int64_t i, auto at) {
    const f32v g = mul(at.get(a.g + i), set1(a.scale)), old = at.get(a.m + i);
    const f32v m = fma(set1(a.rest1), sub(g, old), old);
    const f32v v = fma(mul(set1(a.rest2), g), g, mul(set1(a.beta2), at.get(a.v + i)));
    const f32v step = div(mul(set1(a.step_size), m), fma(sqrt(v), set1(a.root), set1(a.eps)));
    at.put(a.p + i, sub(mul(at.get(a.p + i), set1(a.keep)), step));
    at.put(a.m + i, m);
    at.put(a.v + i, v);
  });
}

// g += decay p; m = momentum m + g, at first g; p -= lr m, with Nesterov's rule lr (g + momentum m).
void sgd(const SGDArgs& args, int worker, int workers) {
  const SGDArgs a = args;
  const Share s = vector_share(a.n, worker, workers);
  vectors(s.first, s.last, [&](int64_t i, auto at) {
    const f32v p = at.get(a.p + i);
    f32v g = fma(set1(a.weight_decay), p, mul(at.get(a.g + i), set1(a.scale)));
    if (a.m) {
      const f32v m = a.first ? g : fma(set1(a.momentum), at.get(a.m + i), g);
      at.put(a.m + i, m);
      g = a.nesterov ? fma(set1(a.momentum), m, g) : m;
    }
    at.put(a.p + i, sub(p, mul(set1(a.lr), g)));
  });
}

void axpy(const AxpyArgs& args, int worker, int workers) {
  const AxpyArgs a = args;
  const Share s = vector_share(a.n, worker, workers);
  vectors(s.first, s.last,
          [&](int64_t i, auto at) { at.put(a.into + i, fma(set1(a.a), at.get(a.x + i), at.get(a.into + i))); });
}

}  // namespace pyllm::PYLLM_ISA
