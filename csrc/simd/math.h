// Elementary functions, once, on the vector contract: their accuracy belongs to the project, not to the machine.
#pragma once
#include "simd/vec.h"

namespace pyllm::PYLLM_ISA {

// e^(x - k ln 2) - 1, |x - k ln 2| <= ln 2 / 2: a Taylor polynomial of degree 7.
PYLLM_INLINE f32v expm1_near_zero(f32v x, f32v k) {
  f32v r = fma(k, set1(-0.693359375f), x);  // ln 2 = 0.693359375 - 2.12194440e-4: the first product is exact
  r = fma(k, set1(2.12194440e-4f), r);
  f32v p = set1(1.0f / 5040);
  p = fma(p, r, set1(1.0f / 720));
  p = fma(p, r, set1(1.0f / 120));
  p = fma(p, r, set1(1.0f / 24));
  p = fma(p, r, set1(1.0f / 6));
  p = fma(p, r, set1(0.5f));
  return fma(p, mul(r, r), r);
}

// e^x: x = n ln 2 + r, |r| <= ln 2 / 2, the polynomial in r (error 6e-9 relative, below half an ulp), and 2^n in two
// factors, so that results down to the subnormals and up to infinity come out right. NaN stays NaN.
PYLLM_INLINE f32v exp_near_zero(f32v x, f32v k) { return add(expm1_near_zero(x, k), set1(1.0f)); }
PYLLM_INLINE f32v exp(f32v x) {
  x = min(set1(89.0f), max(set1(-104.0f), x));
  i32v n = round_i32(mul(x, set1(1.44269504088896f)));
  i32v half = shift_right1(n);
  return mul(mul(exp_near_zero(x, to_f32(n)), pow2(half)), pow2(sub_i32(n, half)));
}

// e^x for x <= 0, at least 2^-126, so that no result is subnormal: softmax's, where less would not be seen.
PYLLM_INLINE f32v exp_to_one(f32v x) {
  x = max(set1(-87.0f), x);
  i32v n = round_i32(mul(x, set1(1.44269504088896f)));
  return mul(exp_near_zero(x, to_f32(n)), pow2(n));
}

PYLLM_INLINE f32v sigmoid(f32v x) { return div(set1(1.0f), add(set1(1.0f), exp(sub(set1(0.0f), x)))); }
PYLLM_INLINE f32v silu(f32v x) { return div(x, add(set1(1.0f), exp(sub(set1(0.0f), x)))); }

// tanh x = e / (e + 2), e = exp(2x) - 1 = 2^n (exp(r) - 1) + (2^n - 1), which cancels nowhere: small x keep digits.
// Beyond 20 it is 1 in float32. NaN stays NaN.
PYLLM_INLINE f32v tanh(f32v x) {
  f32v y = min(set1(40.0f), max(set1(-40.0f), add(x, x)));
  i32v n = round_i32(mul(y, set1(1.44269504088896f)));
  f32v scale = pow2(n);
  f32v e = fma(expm1_near_zero(y, to_f32(n)), scale, sub(scale, set1(1.0f)));
  return div(e, add(e, set1(2.0f)));
}

// cap tanh(x / cap): x while it is small, never beyond +-cap.
PYLLM_INLINE f32v softcap(f32v x, float cap) { return mul(set1(cap), tanh(div(x, set1(cap)))); }

// GELU by tanh: x/2 (1 + tanh u) = x sigmoid(2u), which has no cancellation. u = sqrt(2/pi) (x + 0.044715 x^3).
PYLLM_INLINE f32v gelu_tanh(f32v x) {
  f32v u = mul(x, fma(mul(x, x), set1(0.044715f), set1(1.0f)));
  f32v e = exp(mul(u, set1(-1.5957691216057308f)));
  return div(x, add(set1(1.0f), e));
}

// GELU by erf: x Phi(x). For z = |x| / sqrt(2), erfc(z) = t exp(-z^2 + P(t)), t = 1 / (1 + z/2), P fitted on Chebyshev
// nodes (relative error of erfc below 1e-7 for z <= 10); Phi of a negative x is erfc/2, of a positive 1 - erfc/2.
PYLLM_INLINE f32v half_erfc(f32v x) {  // 1 - Phi(|x|)
  f32v z = mul(abs(x), set1(0.70710678118654752f));
  f32v t = div(set1(1.0f), fma(z, set1(0.5f), set1(1.0f)));
  f32v p = set1(1.449302139e-01f);
  p = fma(p, t, set1(-6.808271789e-01f));
  p = fma(p, t, set1(1.156733760e+00f));
  p = fma(p, t, set1(-6.962519026e-01f));
  p = fma(p, t, set1(-8.028042906e-02f));
  p = fma(p, t, set1(1.267584687e-03f));
  p = fma(p, t, set1(3.460280058e-02f));
  p = fma(p, t, set1(3.866404120e-01f));
  p = fma(p, t, set1(9.986327834e-01f));
  p = fma(p, t, set1(-1.265447997e+00f));
  return mul(mul(set1(0.5f), t), exp(sub(p, mul(z, z))));
}
PYLLM_INLINE f32v gelu(f32v x) {
  f32v a = mul(abs(x), half_erfc(x));              // |x| (1 - Phi(|x|))
  return sub(max(set1(0.0f), x), a);               // x Phi(x) = max(x, 0) - |x| (1 - Phi(|x|))
}

// The same within 3e-7 |x|, where the small numbers of the tail need no digits of their own, at a third of the price:
// x/2 (1 + erf(x / sqrt(2))), erf(x / sqrt(2)) = x P(x^2) up to 5 and from there on what it is at 5. P fitted on
// Chebyshev nodes, in 2/25 x^2 - 1.
PYLLM_INLINE f32v gelu_brief(f32v x) {
  const f32v y = min(set1(5.0f), max(set1(-5.0f), x)), t = fma(mul(y, y), set1(0.08f), set1(-1.0f));
  f32v p = set1(1.179150771e-03f);
  p = fma(p, t, set1(-3.212049371e-03f));
  p = fma(p, t, set1(3.555071075e-03f));
  p = fma(p, t, set1(-5.408992525e-03f));
  p = fma(p, t, set1(1.270466112e-02f));
  p = fma(p, t, set1(-2.229310013e-02f));
  p = fma(p, t, set1(3.286079317e-02f));
  p = fma(p, t, set1(-4.655175284e-02f));
  p = fma(p, t, set1(6.287211925e-02f));
  p = fma(p, t, set1(-8.088286221e-02f));
  p = fma(p, t, set1(1.030419990e-01f));
  p = fma(p, t, set1(-1.405926645e-01f));
  p = fma(p, t, set1(2.827275693e-01f));
  const f32v half = mul(set1(0.5f), x);
  return fma(half, mul(y, p), half);
}

PYLLM_INLINE f32v relu(f32v x) { return max(set1(0.0f), x); }

// Derivatives. Beyond `end` they are within 2^-117 of their limits, and x stops there: a product with it stays finite.
PYLLM_INLINE f32v within(f32v x, float end) { return min(set1(end), max(set1(-end), x)); }
// s = sigmoid(x) and 1 - s, both to all digits, for |x| <= 88.
struct sigmoids { f32v s, rest; };
PYLLM_INLINE sigmoids sigmoid_both(f32v x) {
  f32v e = exp(sub(set1(0.0f), within(x, 88.0f)));
  f32v s = div(set1(1.0f), add(set1(1.0f), e));
  return {s, mul(e, s)};
}
PYLLM_INLINE f32v sigmoid_slope(f32v x) { sigmoids g = sigmoid_both(x); return mul(g.s, g.rest); }
// s + x s (1 - s).
PYLLM_INLINE f32v silu_slope(f32v x) {
  x = within(x, 88.0f);
  sigmoids g = sigmoid_both(x);
  return fma(mul(x, g.s), g.rest, g.s);
}
// 1 - tanh^2 = 4 s (1 - s) of 2x: no cancellation.
PYLLM_INLINE f32v tanh_slope(f32v x) { return mul(set1(4.0f), sigmoid_slope(add(x, x))); }
PYLLM_INLINE f32v softcap_slope(f32v x, float cap) { return tanh_slope(div(x, set1(cap))); }
PYLLM_INLINE f32v relu_slope(f32v x) { return where_above(x, set1(0.0f), set1(1.0f), set1(0.0f)); }
// s + x s (1 - s) d(2u)/dx, s = sigmoid(2u), d(2u)/dx = 2 sqrt(2/pi) (1 + 3 * 0.044715 x^2).
PYLLM_INLINE f32v gelu_tanh_slope(f32v x) {
  x = within(x, 10.0f);
  f32v square = mul(x, x);
  sigmoids g = sigmoid_both(mul(mul(x, fma(square, set1(0.044715f), set1(1.0f))), set1(1.5957691216057308f)));
  f32v inner = mul(set1(1.5957691216057308f), fma(square, set1(0.134145f), set1(1.0f)));
  return fma(mul(mul(x, inner), g.s), g.rest, g.s);
}
// Phi(x) + x phi(x).
PYLLM_INLINE f32v gelu_slope(f32v x) {
  x = within(x, 14.0f);
  f32v h = half_erfc(x);
  f32v phi = mul(set1(0.3989422804014327f), exp(mul(mul(x, x), set1(-0.5f))));
  return fma(x, phi, where_above(x, set1(0.0f), sub(set1(1.0f), h), h));
}

}  // namespace pyllm::PYLLM_ISA
