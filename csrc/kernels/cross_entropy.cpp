// loss = log sum exp(x) - (1 - e) x[target] - e mean(x), e the label smoothing; its gradient is
// softmax(x) - (1 - e) onehot - e / k. Two walks over a row: one for maximum and sum, one that overwrites it.
#include "kernels/training_rows.h"
#include "simd/math.h"

namespace pyllm::PYLLM_ISA {
namespace {

struct Sums {
  float top;
  double total, plain;  // of exp(x - top), of x
};

// Blocks of kSumBlock numbers stay in the first-level cache between looking for the maximum and summing. The sum so far
// is rescaled where a block holds a larger maximum. `plain` only where it is wanted.
Sums sums(const float* x, int64_t k, bool wanted) {
  Sums s = {-INFINITY, 0, 0};
  for (int64_t first = 0; first < k; first += kSumBlock) {
    const int64_t last = first + kSumBlock < k ? first + kSumBlock : k;
    f32v top = set1(s.top), total = set1(0), plain = set1(0);
    vectors(first, last, [&](int64_t i, auto at) { top = max(top, at.or_else(at.get(x + i), -INFINITY)); });
    const float old = s.top;
    s.top = max_of(top);
    const f32v shift = set1(s.top == -INFINITY ? 0.0f : s.top);  // where all is masked so far, the sum stays 0
    vectors(first, last, [&](int64_t i, auto at) {
      const f32v v = at.get(x + i);
      total = add(total, at.or_else(exp(sub(v, shift)), 0));
      if (wanted) plain = add(plain, v);
    });
    if (s.top > old) s.total *= ::exp((double)old - (double)s.top);
    s.total += (double)sum(total);
    s.plain += (double)sum(plain);
  }
  return s;
}

}  // namespace

void cross_entropy(const CrossEntropyArgs& a, int worker, int workers) {
  const Share share_of_rows = share(a.rows, worker, workers);
  const double e = (double)a.smoothing;
  for (int64_t r = share_of_rows.first; r < share_of_rows.last; ++r) {
    float* x = a.logits + r * a.k;
    const int64_t target = a.targets[r];
    if (target == kIgnored) {
      a.losses[r] = 0;
      if (a.gradient) memset(x, 0, (size_t)a.k * 4);
      continue;
    }
    const Sums s = sums(x, a.k, e > 0);
    double loss = (double)s.top + ::log(s.total) - (1 - e) * (double)x[target];
    if (e > 0) loss -= e * s.plain / (double)a.k;
    a.losses[r] = (float)loss;
    if (!a.gradient) continue;
    const double g = (double)a.scale * (a.weights ? (double)a.weights[r] : 1.0);
    const f32v top = set1(s.top), factor = set1((float)(g / s.total)), shared = set1((float)(g * e / (double)a.k));
    const float at_target =
        (float)(g * (::exp((double)x[target] - (double)s.top) / s.total - (1 - e) - e / (double)a.k));
    vectors(0, a.k, [&](int64_t i, auto at) { at.put(x + i, sub(mul(exp(sub(at.get(x + i), top)), factor), shared)); });
    x[target] = at_target;
  }
}

}  // namespace pyllm::PYLLM_ISA
