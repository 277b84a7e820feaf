#include "kernels/prepare.h"

#include "kernels/lanes.h"

namespace pyllm::PYLLM_ISA {

// Rows are an odd number of lines apart: 4 KiB apart, those of a tile would share a cache set.
PreparedLayout prepared_layout(const LinearArgs& a) {
  const int64_t size[kForms] = {(a.k + 31) / 32 * 64, (a.k + 1) / 2 * 4, a.k * 4,
                                int8_row_bytes(a.k) + (int64_t)sizeof(Int8Row)};
  PreparedLayout l{{-1, -1, -1, -1}, {}, 0};
  bool needed[kForms] = {};
  for (const LinearArgs* each = &a; each; each = each == &a ? a.beside : nullptr)
    for (int i = 0; i < each->parts; ++i) needed[form_of(each->part[i].type)] = true;
  for (int f = 0; f < kForms; ++f) {
    if (!needed[f]) continue;
    l.offset[f] = l.bytes;
    l.stride[f] = ((size[f] + 63) / 64 | 1) * 64;
    l.bytes += a.rows * (f == kInt8 ? a.terms : 1) * l.stride[f];
  }
  return l;
}

// The mean is subtracted before squares are summed: E[x^2] - E[x]^2 would cancel.
void normalise(const float* x, const float* weight, const float* bias, float eps, Norm norm, int64_t k, float* y,
               bool accumulate) {
  float mean = 0;
  if (norm == Norm::Layer) {
    f32v s = set1(0);
    vectors(0, k, [&](int64_t i, auto at) { s = add(s, at.get(x + i)); });
    mean = sum(s) / (float)k;
  }
  f32v m = set1(mean), squares = set1(0);
  vectors(0, k, [&](int64_t i, auto at) {
    const f32v d = at.or_else(sub(at.get(x + i), m), 0);
    squares = fma(d, d, squares);
  });
  const f32v r = set1(1.0f / sqrtf(sum(squares) / (float)k + eps));
  vectors(0, k, [&](int64_t i, auto at) {
    f32v v = mul(sub(at.get(x + i), m), r);
    if (weight) v = mul(v, at.get(weight + i));
    if (bias) v = add(v, at.get(bias + i));
    at.put(y + i, accumulate ? add(at.get(y + i), v) : v);
  });
}

namespace {

// 16 codes and their sum.
PYLLM_INLINE f32v quantise16(f32v v, f32v inverse, int8_t* code, int32_t* total) {
  i32v q = round_i32(mul(v, inverse));
  store_s8(code, q);
  *total = sum_i32(q);
  return to_f32(q);
}

// The scale that makes `top`, the largest of |x|, 127, and its inverse; of numbers that are not all finite NaN.
struct Scale {
  float scale, inverse;
  Scale(float top, bool finite) : scale(top / 127.0f), inverse(127.0f / top) {
    if (!finite || !(top <= 3.0e38f)) {  // every product says so
      scale = __builtin_nanf("");
      inverse = 0;
    } else if (!(inverse <= 3.0e38f)) {
      scale = inverse = 0;  // nothing but zeros, or below 4e-37, where the inverse overflows: counts as zero
    }
  }
};

// x of k numbers (readable up to a multiple of 32) in int8; leaves in x what the codes do not hold when `remainder`.
void quantise_row(float* x, int64_t k, bool remainder, Int8Block* out) {
  for (int64_t g = 0; g * 32 < k; ++g) {
    float* p = x + g * 32;
    Int8Block& o = out[g];
    f32v a = load(p), b = load(p + 16);
    float top = max_of(max(abs(a), abs(b)));
    const Scale s(top, sum(add(sub(a, a), sub(b, b))) == 0);  // max loses NaN, x - x does not
    if (s.scale != s.scale) a = b = set1(0);
    const float scale = s.scale;
    f32v qa = quantise16(a, set1(s.inverse), o.code, &o.sum16[0]);
    f32v qb = quantise16(b, set1(s.inverse), o.code + 16, &o.sum16[1]);
    o.scale = scale;
    o.sum32 = o.sum16[0] + o.sum16[1];
    o.low16[0] = scale * (float)o.sum16[0], o.low16[1] = scale * (float)o.sum16[1];
    o.low32 = scale * (float)o.sum32;
    if (remainder) {
      store(p, sub(a, mul(qa, set1(scale))));
      store(p + 16, sub(b, mul(qb, set1(scale))));
    }
  }
}

// x of k numbers in int8 with one scale, transformed, zeros where they have ended; mixed: int8_codes(k) floats of
// scratch.
void quantise_whole(const float* x, int64_t k, float* mixed, uint8_t* code) {
  const int64_t n = int8_codes(k);
  f32v top = set1(0), odd = set1(0);
  for (int64_t i = 0; i < n; i += 64) {
    f32v v[4];
    unroll<4>([&](auto j) {
      const int64_t left = k - i - j * 16;
      v[j] = left >= 16 ? load(x + i + j * 16) : left > 0 ? load_n(x + i + j * 16, (int)left) : set1(0);
    });
    mix(v);
    unroll<4>([&](auto j) {
      top = max(top, abs(v[j])), odd = add(odd, sub(v[j], v[j]));  // max loses NaN, x - x does not
      store(mixed + i + j * 16, v[j]);
    });
  }
  const Scale s(max_of(top), sum(odd) == 0);
  i32v total = set1_i32(0);
  for (int64_t i = 0; i < n; i += 16) {
    const i32v q = round_i32(mul(s.inverse == 0 ? set1(0) : load(mixed + i), set1(s.inverse)));
    store_quads(code + i * kQuadParts, q);
    total = add_i32(total, q);
  }
  const Int8Row end = {s.scale, sum_i32(total)};
  memcpy(code + int8_row_bytes(k), &end, sizeof(end));
}

void to_bf16(const float* x, int64_t k, uint16_t* out) {
  int64_t i = 0;
  for (; i + 16 <= k; i += 16) store_bf16(out + i, load(x + i));
  if (i == k) return;
  alignas(64) uint16_t half[16];
  const int n = (int)(k - i);
  store_bf16(half, load_n(x + i, n));
  memcpy(out + i, half, (size_t)(n + (n & 1)) * 2);  // an odd k has its pair filled with zero
}

}  // namespace

void prepare_row(const LinearArgs& a, const PreparedLayout& l, int64_t row, float* normed, uint8_t* prepared) {
  const float* x = a.x + (a.gather ? a.gather[row] : row) * a.x_stride;
  if (a.norm != Norm::None) {
    normalise(x, a.norm_weight, a.norm_bias, a.eps, a.norm, a.k, normed);
    x = normed;
  }
  uint8_t* at[kForms];
  for (int f = 0; f < kForms; ++f) at[f] = prepared + l.offset[f] + row * l.stride[f];
  if (l.offset[kBF16] >= 0) to_bf16(x, a.k, (uint16_t*)at[kBF16]);
  if (l.offset[kF32] >= 0) memcpy(at[kF32], x, (size_t)a.k * 4);
  if (l.offset[kWhole] >= 0) quantise_whole(x, a.k, normed + int8_codes(a.k), at[kWhole]);
  if (l.offset[kInt8] < 0) return;
  if (x != normed) memcpy(normed, x, (size_t)a.k * 4);
  for (int64_t i = a.k; i % 32; ++i) normed[i] = 0;
  for (int t = 0; t < a.terms; ++t)
    quantise_row(normed, a.k, t + 1 < a.terms,
                 (Int8Block*)(prepared + l.offset[kInt8] + (row * a.terms + t) * l.stride[kInt8]));
}

// 16 inputs at a time of all the rows given, so that whole lines are read and written; what comes next is fetched while
// these are turned. Floats and bf16 only: a gradient of weights sums over tokens, and neither operand is quantised.
void prepare_columns(const LinearArgs& a, const PreparedLayout& l, int64_t first, int64_t last, uint8_t* prepared) {
  alignas(64) float block[16][16];
  for (int64_t i = 0; i < a.k; i += 16) {
    const int n = a.k - i < 16 ? (int)(a.k - i) : 16;
    for (int64_t row = first; row < last; row += 16) {
      const int rows = last - row < 16 ? (int)(last - row) : 16;
      const float* x = a.x + i * a.x_stride + row;
      for (int64_t j = 16; j < 32 && i + j < a.k; ++j) prefetch(x + j * a.x_stride);
      transpose(x, a.x_stride, n, rows, block);
      for (int r = 0; r < rows; ++r) {
        if (l.offset[kF32] >= 0)
          store_n((float*)(prepared + l.offset[kF32] + (row + r) * l.stride[kF32]) + i, load(block[r]), n);
        if (l.offset[kBF16] < 0) continue;
        uint16_t* out = (uint16_t*)(prepared + l.offset[kBF16] + (row + r) * l.stride[kBF16]) + i;
        alignas(64) uint16_t half[16];
        store_bf16(half, load(block[r]));
        memcpy(out, half, (size_t)(n + (n & 1)) * 2);
      }
    }
  }
}

}  // namespace pyllm::PYLLM_ISA
