// The contract in portable C++: what every other header must compute, and what runs where no other header fits (SSE on
// old x86-64, NEON on Arm). A vector is four quarters of the compilers' own 16-byte vectors, lane by lane.
// fma rounds twice here, since the baseline CPU has no fused multiply-add; elsewhere it rounds once.
#pragma once

namespace pyllm::PYLLM_ISA {

#define PYLLM_INLINE static inline __attribute__((always_inline))
#define PYLLM_QUARTERS _Pragma("GCC unroll 4") for (int i = 0; i < 4; ++i)

typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));
typedef int16_t i16x8 __attribute__((vector_size(16)));
typedef uint16_t u16x8 __attribute__((vector_size(16)));

struct f32v { f32x4 q[4]; };
struct i32v { i32x4 q[4]; };
struct u8v { u16x8 q[4]; };             // 16 lanes of four bytes
struct s8v { i16x8 even, odd; };        // four signed bytes a0..a3 for every lane: (a0, a2), (a1, a3)
struct pairv { f32x4 lo, hi; };         // two bf16 numbers, the same for every lane

PYLLM_INLINE float f16_to_f32(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023, bits;
  if (exponent == 31) bits = sign | 0x7f800000u | (fraction << 13);
  else if (exponent) bits = sign | ((exponent + 112) << 23) | (fraction << 13);
  else { float f = (float)fraction * 5.9604644775390625e-08f; memcpy(&bits, &f, 4); bits |= sign; }
  float out; memcpy(&out, &bits, 4); return out;
}
// To nearest, ties to even; overflow gives infinity, NaN stays NaN.
PYLLM_INLINE uint16_t f32_to_f16(float f) {
  uint32_t b; memcpy(&b, &f, 4);
  uint32_t sign = (b >> 16) & 0x8000, a = b & 0x7fffffffu;
  if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00);
  if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00);
  if (a < 0x38800000u) {  // subnormal: adding 0.5 leaves the number in the low bits, rounded
    float x; memcpy(&x, &a, 4); x += 0.5f; memcpy(&a, &x, 4);
    return (uint16_t)(sign | (a - 0x3f000000u));
  }
  return (uint16_t)(sign | ((a - 0x38000000u + 0xfff + ((a >> 13) & 1)) >> 13));
}
PYLLM_INLINE float bf16_to_f32(uint16_t h) { uint32_t b = (uint32_t)h << 16; float f; memcpy(&f, &b, 4); return f; }
PYLLM_INLINE uint16_t f32_to_bf16(float f) {
  uint32_t b; memcpy(&b, &f, 4);
  if ((b & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((b >> 16) | 0x40);  // NaN stays NaN
  return (uint16_t)((b + 0x7fffu + ((b >> 16) & 1)) >> 16);
}

PYLLM_INLINE i32x4 lane(int quarter) { return i32x4{0, 1, 2, 3} + 4 * quarter; }
PYLLM_INLINE f32v load(const float* p) { f32v r; memcpy(r.q, p, 64); return r; }
PYLLM_INLINE void store(float* p, f32v a) { memcpy(p, a.q, 64); }
// Past the caches: p lies on a line of 64 bytes. Others see them after stores_past_done.
PYLLM_INLINE void store_past(float* p, f32v a) { store(p, a); }
PYLLM_INLINE void stores_past_done() {}
PYLLM_INLINE f32v load_n(const float* p, int n) {
  if (n >= 16) return load(p);
  float t[16] = {};
  for (int i = 0; i < n; ++i) t[i] = p[i];
  return load(t);
}
PYLLM_INLINE void store_n(float* p, f32v a, int n) {
  if (n >= 16) return store(p, a);
  float t[16];
  store(t, a);
  for (int i = 0; i < n; ++i) p[i] = t[i];
}
PYLLM_INLINE f32v set1(float x) { f32v r; PYLLM_QUARTERS r.q[i] = f32x4{x, x, x, x}; return r; }
PYLLM_INLINE f32v add(f32v a, f32v b) { f32v r; PYLLM_QUARTERS r.q[i] = a.q[i] + b.q[i]; return r; }
PYLLM_INLINE f32v sub(f32v a, f32v b) { f32v r; PYLLM_QUARTERS r.q[i] = a.q[i] - b.q[i]; return r; }
PYLLM_INLINE f32v mul(f32v a, f32v b) { f32v r; PYLLM_QUARTERS r.q[i] = a.q[i] * b.q[i]; return r; }
PYLLM_INLINE f32v div(f32v a, f32v b) { f32v r; PYLLM_QUARTERS r.q[i] = a.q[i] / b.q[i]; return r; }
PYLLM_INLINE f32v fma(f32v a, f32v b, f32v c) { f32v r; PYLLM_QUARTERS r.q[i] = a.q[i] * b.q[i] + c.q[i]; return r; }
// max and min give b where either is NaN.
PYLLM_INLINE f32v max(f32v a, f32v b) { f32v r; PYLLM_QUARTERS r.q[i] = a.q[i] > b.q[i] ? a.q[i] : b.q[i]; return r; }
PYLLM_INLINE f32v min(f32v a, f32v b) { f32v r; PYLLM_QUARTERS r.q[i] = a.q[i] < b.q[i] ? a.q[i] : b.q[i]; return r; }
PYLLM_INLINE f32v abs(f32v a) { f32v r; PYLLM_QUARTERS r.q[i] = (f32x4)((i32x4)a.q[i] & 0x7fffffff); return r; }
PYLLM_INLINE f32v sqrt(f32v a) {
  PYLLM_QUARTERS a.q[i] = f32x4{sqrtf(a.q[i][0]), sqrtf(a.q[i][1]), sqrtf(a.q[i][2]), sqrtf(a.q[i][3])};
  return a;
}
// Lanes of x where a > b, else of y; y where either is NaN.
PYLLM_INLINE f32v where_above(f32v a, f32v b, f32v x, f32v y) {
  f32v r; PYLLM_QUARTERS r.q[i] = a.q[i] > b.q[i] ? x.q[i] : y.q[i]; return r;
}
// Lanes below n from a, the others from b.
PYLLM_INLINE f32v below(int n, f32v a, f32v b) {
  f32v r; PYLLM_QUARTERS r.q[i] = lane(i) < n ? a.q[i] : b.q[i]; return r;
}
// Lane i gives and takes lane i ^ D, for D of 1, 2, 4 or 8.
template <int D> PYLLM_INLINE f32v swap(f32v a) {
  f32v r;
  if constexpr (D == 1) { PYLLM_QUARTERS r.q[i] = f32x4{a.q[i][1], a.q[i][0], a.q[i][3], a.q[i][2]}; }
  else if constexpr (D == 2) { PYLLM_QUARTERS r.q[i] = f32x4{a.q[i][2], a.q[i][3], a.q[i][0], a.q[i][1]}; }
  else { PYLLM_QUARTERS r.q[i] = a.q[i ^ (D / 4)]; }
  return r;
}
// Sums and maxima fold halves: 8+8, 4+4, 2+2, 1+1, the same tree on every instruction set.
PYLLM_INLINE float sum(f32v a) {
  f32x4 q = (a.q[0] + a.q[2]) + (a.q[1] + a.q[3]);
  return (q[0] + q[2]) + (q[1] + q[3]);
}
PYLLM_INLINE float max_of(f32v a) {
  float t[16];
  store(t, a);
  for (int w = 8; w; w >>= 1) for (int i = 0; i < w; ++i) t[i] = t[i] > t[i + w] ? t[i] : t[i + w];
  return t[0];
}
// To nearest, ties to even, for |a| < 2^22: adding 1.5 * 2^23 leaves the integer in the low bits.
PYLLM_INLINE i32v round_i32(f32v a) {
  i32v r; PYLLM_QUARTERS r.q[i] = (i32x4)(a.q[i] + 12582912.0f) - 0x4b400000; return r;
}
PYLLM_INLINE f32v to_f32(i32v a) { f32v r; PYLLM_QUARTERS r.q[i] = __builtin_convertvector(a.q[i], f32x4); return r; }
// 2^a for -126 <= a <= 127.
PYLLM_INLINE f32v pow2(i32v a) { f32v r; PYLLM_QUARTERS r.q[i] = (f32x4)((a.q[i] + 127) << 23); return r; }
PYLLM_INLINE i32v shift_right1(i32v a) { i32v r; PYLLM_QUARTERS r.q[i] = a.q[i] >> 1; return r; }
PYLLM_INLINE i32v add_i32(i32v a, i32v b) { i32v r; PYLLM_QUARTERS r.q[i] = a.q[i] + b.q[i]; return r; }
PYLLM_INLINE i32v sub_i32(i32v a, i32v b) { i32v r; PYLLM_QUARTERS r.q[i] = a.q[i] - b.q[i]; return r; }
PYLLM_INLINE i32v set1_i32(int32_t x) { i32v r; PYLLM_QUARTERS r.q[i] = i32x4{x, x, x, x}; return r; }
PYLLM_INLINE i32v xor_i32(i32v a, i32v b) { i32v r; PYLLM_QUARTERS r.q[i] = a.q[i] ^ b.q[i]; return r; }
// The low and the high halves of the products of 16 unsigned numbers with b.
struct halves { i32v low, high; };
PYLLM_INLINE halves mul_u32(i32v a, uint32_t b) {
  halves r;
  for (int i = 0; i < 16; ++i) {
    const uint64_t p = (uint64_t)(uint32_t)a.q[i / 4][i % 4] * b;
    r.low.q[i / 4][i % 4] = (int32_t)p;
    r.high.q[i / 4][i % 4] = (int32_t)(p >> 32);
  }
  return r;
}
PYLLM_INLINE int32_t sum_i32(i32v a) {
  i32x4 q = a.q[0] + a.q[1] + a.q[2] + a.q[3];
  return q[0] + q[1] + q[2] + q[3];
}
// Lanes must lie in -128..127.
PYLLM_INLINE void store_s8(int8_t* p, i32v a) { for (int i = 0; i < 16; ++i) p[i] = (int8_t)a.q[i / 4][i % 4]; }
template <class F> PYLLM_INLINE f32v lanes(F f) {
  f32v r; PYLLM_QUARTERS r.q[i] = f32x4{f(4 * i), f(4 * i + 1), f(4 * i + 2), f(4 * i + 3)}; return r;
}
PYLLM_INLINE f32v load_s8(const int8_t* p) { return lanes([=](int i) { return (float)p[i]; }); }
PYLLM_INLINE f32v load_u8_f32(const uint8_t* p) { return lanes([=](int i) { return (float)p[i]; }); }
// Four-bit numbers: the low half of each byte, or the high.
template <bool HIGH> PYLLM_INLINE f32v load_u4(const uint8_t* p) {
  return lanes([=](int i) { return (float)(HIGH ? p[i] >> 4 : p[i] & 15); });
}
PYLLM_INLINE f32v load_f16(const uint16_t* p) { return lanes([=](int i) { return f16_to_f32(p[i]); }); }
PYLLM_INLINE f32v load_bf16(const uint16_t* p) { return lanes([=](int i) { return bf16_to_f32(p[i]); }); }
PYLLM_INLINE void store_bf16(uint16_t* p, f32v a) {
  for (int i = 0; i < 16; ++i) p[i] = f32_to_bf16(a.q[i / 4][i % 4]);
}
// The same, where no number is subnormal.
PYLLM_INLINE void store_bf16_normal(uint16_t* p, f32v a) { store_bf16(p, a); }
// Every other number of p.
PYLLM_INLINE void store_bf16_alternate(uint16_t* p, f32v a) {
  for (int i = 0; i < 16; ++i) p[2 * i] = f32_to_bf16(a.q[i / 4][i % 4]);
}
// 16 pairs of bf16: a number of a, then one of b. What is subnormal may become zero, as in dot_bf16.
PYLLM_INLINE void store_bf16_pairs_normal(uint8_t* p, f32v a, f32v b) {
  uint32_t pair[16];
  for (int i = 0; i < 16; ++i)
    pair[i] = f32_to_bf16(a.q[i / 4][i % 4]) | (uint32_t)f32_to_bf16(b.q[i / 4][i % 4]) << 16;
  memcpy(p, pair, 64);
}

PYLLM_INLINE u8v load_u8(const uint8_t* p) { u8v r; memcpy(r.q, p, 64); return r; }
PYLLM_INLINE void store_u8(uint8_t* p, u8v a) { memcpy(p, a.q, 64); }
// 16 pairs of int8, the first numbers times `first`, the others times `second`, as pairs of bf16.
PYLLM_INLINE u8v scale_pairs(const int8_t* p, f32v first, f32v second) {
  uint16_t t[32];
  for (int i = 0; i < 16; ++i) {
    t[2 * i] = f32_to_bf16((float)p[2 * i] * first.q[i / 4][i % 4]);
    t[2 * i + 1] = f32_to_bf16((float)p[2 * i + 1] * second.q[i / 4][i % 4]);
  }
  u8v r; memcpy(r.q, t, 64); return r;
}
PYLLM_INLINE u8v or_u8(u8v a, u8v b) { u8v r; PYLLM_QUARTERS r.q[i] = a.q[i] | b.q[i]; return r; }
// Bytes of a moved by S bits (right if positive, left if negative), then masked; the mask must drop what a neighbouring
// byte moves in.
template <int S> PYLLM_INLINE u8v bits(u8v a, uint8_t mask) {
  u8v r;
  const uint16_t m = (uint16_t)(mask | mask << 8);
  PYLLM_QUARTERS r.q[i] = (S >= 0 ? a.q[i] >> (S & 7) : a.q[i] << (-S & 7)) & m;
  return r;
}
PYLLM_INLINE s8v quad(const int8_t* p) {
  return {i16x8{p[0], p[2], p[0], p[2], p[0], p[2], p[0], p[2]}, i16x8{p[1], p[3], p[1], p[3], p[1], p[3], p[1], p[3]}};
}
PYLLM_INLINE i32x4 add_pairs(i16x8 p) { return ((i32x4)p << 16 >> 16) + ((i32x4)p >> 16); }
// acc + the four products of each lane, exact. NARROW promises codes <= 127: then two products fit 16 bits, else one.
// Other codes are taken less kByteBase.
constexpr int kByteBase = 0;
template <bool NARROW> PYLLM_INLINE i32v dot_u8s8(i32v acc, u8v w, s8v a) {
  PYLLM_QUARTERS {
    i16x8 even = (i16x8)(w.q[i] & 0xff) * a.even, odd = (i16x8)(w.q[i] >> 8) * a.odd;
    acc.q[i] += NARROW ? add_pairs(even + odd) : add_pairs(even) + add_pairs(odd);
  }
  return acc;
}
// Of products with every byte: a quad goes in so many parts, I is which; store_quads writes 16 codes of a row as `quad`
// finds those of a part, 4 bytes of each quad.
constexpr int kQuadParts = 1;
PYLLM_INLINE void store_quads(uint8_t* p, i32v a) { store_s8((int8_t*)p, a); }
template <int I> PYLLM_INLINE u8v quad_part(const uint8_t* p) { return load_u8(p); }
PYLLM_INLINE i32v dot_part(i32v acc, u8v w, s8v a) { return dot_u8s8<false>(acc, w, a); }
PYLLM_INLINE pairv pair(const uint16_t* p) {
  float lo = bf16_to_f32(p[0]), hi = bf16_to_f32(p[1]);
  return {f32x4{lo, lo, lo, lo}, f32x4{hi, hi, hi, hi}};
}
// acc + w[2i] * a.lo + w[2i+1] * a.hi for 16 pairs of bf16.
PYLLM_INLINE f32v dot_bf16(f32v acc, u8v w, pairv a) {
  PYLLM_QUARTERS {
    u32x4 both = (u32x4)w.q[i];
    acc.q[i] = (f32x4)(both & 0xffff0000u) * a.hi + ((f32x4)(both << 16) * a.lo + acc.q[i]);
  }
  return acc;
}
// The first number of each pair kept, the second made zero.
PYLLM_INLINE u8v first_of_pairs(u8v a) { PYLLM_QUARTERS a.q[i] = (u16x8)((u32x4)a.q[i] & 0xffffu); return a; }
PYLLM_INLINE u8v second_of_pairs(u8v a) { PYLLM_QUARTERS a.q[i] = (u16x8)((u32x4)a.q[i] & 0xffff0000u); return a; }
// Keeps a value in a register: GCC otherwise reads it from memory again for every use.
PYLLM_INLINE void pin(f32v&) {}
PYLLM_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
// Into the second-level cache, which waits for more lines at once than the first.
PYLLM_INLINE void prefetch_far(const void* p) { __builtin_prefetch(p, 0, 2); }

// The largest register tiles: 16 registers of 4 lanes hold two rows' sums and a weight. Larger ones cost minutes of
// compilation and gain nothing.
constexpr int kTileRows = 2, kTileSums = 2, kIntRows = 2, kIntPanels = 1, kDirectRows = 2;

// out (16, 16): out[16 j + i] = x[i * stride + j].
PYLLM_INLINE void transpose16(const float* x, int64_t stride, float* out) {
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) out[16 * j + i] = x[i * stride + j];
}

}  // namespace pyllm::PYLLM_ISA
