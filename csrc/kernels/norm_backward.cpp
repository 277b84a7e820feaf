// The way back through norms: x^ = (x - mean) r, r = 1 / sqrt(mean of squares + eps), a = dy * weight, then
// dx = r (a - mean(a) - x^ mean(a x^)), in RMS norm without the means of x and a.
#include "kernels/training_rows.h"

namespace pyllm::PYLLM_ISA {
namespace {

struct Statistics {
  float mean, inverse;
};

// The mean first, then centred squares, as forward.
Statistics statistics(const NormBackwardArgs& a, const float* x) {
  float mean = 0;
  if (a.norm == Norm::Layer) {
    f32v s = set1(0);
    vectors(0, a.k, [&](int64_t i, auto at) { s = add(s, at.get(x + i)); });
    mean = sum(s) / (float)a.k;
  }
  f32v m = set1(mean), squares = set1(0);
  vectors(0, a.k, [&](int64_t i, auto at) {
    const f32v d = at.or_else(sub(at.get(x + i), m), 0);
    squares = fma(d, d, squares);
  });
  return {mean, 1.0f / sqrtf(sum(squares) / (float)a.k + a.eps)};
}

// One row; adds its part to the sums for weight and bias.
void row(const NormBackwardArgs& a, const float* dy, const float* x, float* dx, float* weight_sum, float* bias_sum) {
  const Statistics s = statistics(a, x);
  const f32v m = set1(s.mean), r = set1(s.inverse);
  f32v total = set1(0), products = set1(0);
  vectors(0, a.k, [&](int64_t i, auto at) {
    const f32v g = mul(at.get(dy + i), at.get(a.weight + i)), normed = mul(sub(at.get(x + i), m), r);
    total = add(total, g);
    products = fma(g, normed, products);
  });
  const f32v mean_g = set1(a.norm == Norm::Layer ? sum(total) / (float)a.k : 0.0f);
  const f32v mean_p = set1(sum(products) / (float)a.k);
  vectors(0, a.k, [&](int64_t i, auto at) {
    const f32v d = at.get(dy + i), normed = mul(sub(at.get(x + i), m), r);
    const f32v g = sub(mul(d, at.get(a.weight + i)), mean_g);
    at.put(dx + i, mul(r, sub(g, mul(normed, mean_p))));
    at.put(weight_sum + i, fma(d, normed, at.get(weight_sum + i)));
    if (bias_sum) at.put(bias_sum + i, add(at.get(bias_sum + i), d));
  });
}

}  // namespace

void norm_backward(const NormBackwardArgs& a, int worker, int workers) {
  const Share s = share((a.rows + kSumRows - 1) / kSumRows, worker, workers);
  for (int64_t b = s.first; b < s.last; ++b) {
    float* weight_sum = a.weight_sums + b * a.k;
    float* bias_sum = a.bias_sums ? a.bias_sums + b * a.k : nullptr;
    memset(weight_sum, 0, (size_t)a.k * 4);
    if (bias_sum) memset(bias_sum, 0, (size_t)a.k * 4);
    for (int64_t r = b * kSumRows; r < (b + 1) * kSumRows && r < a.rows; ++r)
      row(a, a.dy + r * a.k, a.x + r * a.k, a.dx + r * a.k, weight_sum, bias_sum);
  }
}

}  // namespace pyllm::PYLLM_ISA
