#include "kernels/prepare.h"

namespace pyllm::PYLLM_ISA {

PreparedLayout prepared_layout(const LinearArgs& a) {
  bool need[kForms] = {};
  for (int i = 0; i < a.parts; ++i) need[form_of(a.part[i].type)] = true;
  int64_t size[kForms] = {Int8Row::bytes(a.k) * a.terms, ((a.k + 1) / 2 * 4 + 63) / 64 * 64, (a.k * 4 + 63) / 64 * 64};
  PreparedLayout l{{-1, -1, -1}, Int8Row::bytes(a.k), 0};
  for (int f = 0; f < kForms; ++f)
    if (need[f]) {
      l.offset[f] = l.bytes;
      l.bytes += size[f];
    }
  return l;
}

// The mean is subtracted before squares are summed: E[x^2] - E[x]^2 would cancel.
void normalise(const float* x, const float* weight, const float* bias, float eps, Norm norm, int64_t k, float* y) {
  float mean = 0;
  if (norm == Norm::Layer) {
    f32v s = set1(0);
    for (int64_t i = 0; i < k; i += 16) s = add(s, load_n(x + i, k - i < 16 ? (int)(k - i) : 16));
    mean = sum(s) / (float)k;
  }
  f32v m = set1(mean), squares = set1(0);
  for (int64_t i = 0; i < k; i += 16) {
    int n = k - i < 16 ? (int)(k - i) : 16;
    f32v d = below(n, sub(load_n(x + i, n), m), set1(0));
    squares = fma(d, d, squares);
  }
  f32v r = set1(1.0f / sqrtf(sum(squares) / (float)k + eps));
  for (int64_t i = 0; i < k; i += 16) {
    int n = k - i < 16 ? (int)(k - i) : 16;
    f32v v = mul(sub(load_n(x + i, n), m), r);
    if (weight) v = mul(v, load_n(weight + i, n));
    if (bias) v = add(v, load_n(bias + i, n));
    store_n(y + i, v, n);
  }
}

namespace {

struct Int8Out {
  int8_t* code;
  float* scale;
  int32_t *sum32, *sum16;
  float *low32, *low16;
};

// 16 codes and their sum. An all-zero group has inverse scale 0, so its codes are 0.
PYLLM_INLINE f32v quantise16(f32v v, f32v inverse, int8_t* code, int32_t* total) {
  i32v q = round_i32(mul(v, inverse));
  store_s8(code, q);
  *total = sum_i32(q);
  return to_f32(q);
}

// x of k numbers (readable up to a multiple of 32) in int8; leaves in x what the codes do not hold when `remainder`.
void quantise_row(float* x, int64_t k, bool remainder, const Int8Out& o) {
  for (int64_t g = 0; g * 32 < k; ++g) {
    float* p = x + g * 32;
    f32v a = load(p), b = load(p + 16);
    float top = max_of(max(abs(a), abs(b)));
    float scale = top / 127.0f;
    f32v inverse = set1(scale > 0 ? 127.0f / top : 0.0f);
    bool finite = sum(add(sub(a, a), sub(b, b))) == 0;  // max loses NaN, x - x does not
    if (!finite || !(top <= 3.0e38f)) {                 // the group's scale says so, and every product with it
      scale = __builtin_nanf("");
      inverse = set1(0);
      a = b = set1(0);
    } else if (scale > 0 && !(127.0f / top <= 3.0e38f)) {
      scale = 0, inverse = set1(0);  // below 4e-37 the inverse overflows; such a group counts as zero
    }
    int32_t s0, s1;
    f32v qa = quantise16(a, inverse, o.code + g * 32, &s0), qb = quantise16(b, inverse, o.code + g * 32 + 16, &s1);
    o.scale[g] = scale;
    o.sum16[2 * g] = s0, o.sum16[2 * g + 1] = s1, o.sum32[g] = s0 + s1;
    o.low16[2 * g] = scale * (float)s0, o.low16[2 * g + 1] = scale * (float)s1;
    o.low32[g] = scale * (float)(s0 + s1);
    if (remainder) {
      store(p, sub(a, mul(qa, set1(scale))));
      store(p + 16, sub(b, mul(qb, set1(scale))));
    }
  }
}

void to_bf16(const float* x, int64_t k, uint16_t* out) {
  for (int64_t i = 0; i < k; i += 16) {
    alignas(64) uint16_t half[16];
    int n = k - i < 16 ? (int)(k - i) : 16;
    store_bf16(half, load_n(x + i, n));
    memcpy(out + i, half, (size_t)(n + (n & 1)) * 2);  // an odd k has its pair filled with zero
  }
}

}  // namespace

void prepare_row(const LinearArgs& a, const PreparedLayout& l, int64_t row, float* normed, uint8_t* out) {
  const float* x = a.x + (a.gather ? a.gather[row] : row) * a.x_stride;
  if (a.norm == Norm::None) memcpy(normed, x, (size_t)a.k * 4);
  else normalise(x, a.norm_weight, a.norm_bias, a.eps, a.norm, a.k, normed);
  if (l.offset[kBF16] >= 0) to_bf16(normed, a.k, (uint16_t*)(out + l.offset[kBF16]));
  if (l.offset[kF32] >= 0) memcpy(out + l.offset[kF32], normed, (size_t)a.k * 4);
  if (l.offset[kInt8] >= 0) {
    for (int64_t i = a.k; i < Int8Row::padded(a.k); ++i) normed[i] = 0;
    for (int t = 0; t < a.terms; ++t) {
      Int8Row r = Int8Row::at(out + l.offset[kInt8] + t * l.int8_stride, a.k);
      quantise_row(normed, a.k, t + 1 < a.terms,
                   {(int8_t*)r.code, (float*)r.scale, (int32_t*)r.sum32, (int32_t*)r.sum16, (float*)r.low32,
                    (float*)r.low16});
    }
  }
}

}  // namespace pyllm::PYLLM_ISA
