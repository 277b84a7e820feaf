// The contract in plain loops: what every other header must compute, and what runs where no other header fits.
// fma rounds twice here, since the baseline CPU has no fused multiply-add; elsewhere it rounds once.
#pragma once

namespace pyllm::PYLLM_ISA {

#define PYLLM_INLINE static inline __attribute__((always_inline))
#define PYLLM_LANES for (int i = 0; i < 16; ++i)

struct f32v { float v[16]; };
struct i32v { int32_t v[16]; };
struct u8v { uint8_t v[64]; };       // 16 lanes of four bytes
struct s8v { int8_t v[4]; };         // four signed bytes, the same for every lane
struct pairv { float lo, hi; };      // two bf16 numbers, the same for every lane

PYLLM_INLINE float f16_to_f32(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023, bits;
  if (exponent == 31) bits = sign | 0x7f800000u | (fraction << 13);
  else if (exponent) bits = sign | ((exponent + 112) << 23) | (fraction << 13);
  else { float f = (float)fraction * 5.9604644775390625e-08f; memcpy(&bits, &f, 4); bits |= sign; }
  float out; memcpy(&out, &bits, 4); return out;
}
PYLLM_INLINE float bf16_to_f32(uint16_t h) { uint32_t b = (uint32_t)h << 16; float f; memcpy(&f, &b, 4); return f; }
PYLLM_INLINE uint16_t f32_to_bf16(float f) {
  uint32_t b; memcpy(&b, &f, 4);
  if ((b & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((b >> 16) | 0x40);  // NaN stays NaN
  return (uint16_t)((b + 0x7fffu + ((b >> 16) & 1)) >> 16);
}

PYLLM_INLINE f32v load(const float* p) { f32v r; memcpy(r.v, p, 64); return r; }
PYLLM_INLINE void store(float* p, f32v a) { memcpy(p, a.v, 64); }
PYLLM_INLINE f32v load_n(const float* p, int n) { f32v r; PYLLM_LANES r.v[i] = i < n ? p[i] : 0.0f; return r; }
PYLLM_INLINE void store_n(float* p, f32v a, int n) { for (int i = 0; i < n; ++i) p[i] = a.v[i]; }
PYLLM_INLINE f32v set1(float x) { f32v r; PYLLM_LANES r.v[i] = x; return r; }
PYLLM_INLINE f32v add(f32v a, f32v b) { f32v r; PYLLM_LANES r.v[i] = a.v[i] + b.v[i]; return r; }
PYLLM_INLINE f32v sub(f32v a, f32v b) { f32v r; PYLLM_LANES r.v[i] = a.v[i] - b.v[i]; return r; }
PYLLM_INLINE f32v mul(f32v a, f32v b) { f32v r; PYLLM_LANES r.v[i] = a.v[i] * b.v[i]; return r; }
PYLLM_INLINE f32v div(f32v a, f32v b) { f32v r; PYLLM_LANES r.v[i] = a.v[i] / b.v[i]; return r; }
PYLLM_INLINE f32v fma(f32v a, f32v b, f32v c) { f32v r; PYLLM_LANES r.v[i] = a.v[i] * b.v[i] + c.v[i]; return r; }
// max and min give b where either is NaN.
PYLLM_INLINE f32v max(f32v a, f32v b) { f32v r; PYLLM_LANES r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return r; }
PYLLM_INLINE f32v min(f32v a, f32v b) { f32v r; PYLLM_LANES r.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return r; }
PYLLM_INLINE f32v abs(f32v a) { f32v r; PYLLM_LANES r.v[i] = __builtin_fabsf(a.v[i]); return r; }
// Lanes below n from a, the others from b.
PYLLM_INLINE f32v below(int n, f32v a, f32v b) { f32v r; PYLLM_LANES r.v[i] = i < n ? a.v[i] : b.v[i]; return r; }
PYLLM_INLINE f32v swap_pairs(f32v a) { f32v r; PYLLM_LANES r.v[i] = a.v[i ^ 1]; return r; }
// Sums and maxima fold halves: 8+8, 4+4, 2+2, 1+1, the same tree on every instruction set.
PYLLM_INLINE float sum(f32v a) {
  for (int w = 8; w; w >>= 1) for (int i = 0; i < w; ++i) a.v[i] = a.v[i] + a.v[i + w];
  return a.v[0];
}
PYLLM_INLINE float max_of(f32v a) {
  for (int w = 8; w; w >>= 1) for (int i = 0; i < w; ++i) a.v[i] = a.v[i] > a.v[i + w] ? a.v[i] : a.v[i + w];
  return a.v[0];
}
PYLLM_INLINE i32v round_i32(f32v a) { i32v r; PYLLM_LANES r.v[i] = (int32_t)__builtin_rintf(a.v[i]); return r; }
PYLLM_INLINE f32v to_f32(i32v a) { f32v r; PYLLM_LANES r.v[i] = (float)a.v[i]; return r; }
// 2^a for -126 <= a <= 127.
PYLLM_INLINE f32v pow2(i32v a) {
  f32v r; PYLLM_LANES { uint32_t b = (uint32_t)(a.v[i] + 127) << 23; memcpy(&r.v[i], &b, 4); } return r;
}
PYLLM_INLINE i32v shift_right1(i32v a) { i32v r; PYLLM_LANES r.v[i] = a.v[i] >> 1; return r; }
PYLLM_INLINE i32v sub_i32(i32v a, i32v b) { i32v r; PYLLM_LANES r.v[i] = a.v[i] - b.v[i]; return r; }
PYLLM_INLINE i32v set1_i32(int32_t x) { i32v r; PYLLM_LANES r.v[i] = x; return r; }
PYLLM_INLINE int32_t sum_i32(i32v a) { int32_t s = 0; PYLLM_LANES s += a.v[i]; return s; }
// Lanes must lie in -128..127.
PYLLM_INLINE void store_s8(int8_t* p, i32v a) { PYLLM_LANES p[i] = (int8_t)a.v[i]; }
PYLLM_INLINE f32v load_s8(const int8_t* p) { f32v r; PYLLM_LANES r.v[i] = (float)p[i]; return r; }
PYLLM_INLINE f32v load_u8_f32(const uint8_t* p) { f32v r; PYLLM_LANES r.v[i] = (float)p[i]; return r; }
// Four-bit numbers: the low half of each byte, or the high.
template <bool HIGH> PYLLM_INLINE f32v load_u4(const uint8_t* p) {
  f32v r; PYLLM_LANES r.v[i] = (float)(HIGH ? p[i] >> 4 : p[i] & 15); return r;
}
PYLLM_INLINE f32v load_f16(const uint16_t* p) { f32v r; PYLLM_LANES r.v[i] = f16_to_f32(p[i]); return r; }
PYLLM_INLINE f32v load_bf16(const uint16_t* p) { f32v r; PYLLM_LANES r.v[i] = bf16_to_f32(p[i]); return r; }
PYLLM_INLINE void store_bf16(uint16_t* p, f32v a) { PYLLM_LANES p[i] = f32_to_bf16(a.v[i]); }

PYLLM_INLINE u8v load_u8(const uint8_t* p) { u8v r; memcpy(r.v, p, 64); return r; }
PYLLM_INLINE void store_u8(uint8_t* p, u8v a) { memcpy(p, a.v, 64); }
PYLLM_INLINE u8v or_u8(u8v a, u8v b) { u8v r; for (int i = 0; i < 64; ++i) r.v[i] = a.v[i] | b.v[i]; return r; }
// Bytes of a moved by S bits (right if positive, left if negative), then masked.
template <int S> PYLLM_INLINE u8v bits(u8v a, uint8_t mask) {
  u8v r;
  for (int i = 0; i < 64; ++i) r.v[i] = (uint8_t)((S >= 0 ? a.v[i] >> (S & 7) : a.v[i] << (-S & 7)) & mask);
  return r;
}
PYLLM_INLINE s8v quad(const int8_t* p) { s8v r; memcpy(r.v, p, 4); return r; }
// acc + the four products of each lane, exact. NARROW promises codes <= 127.
template <bool NARROW> PYLLM_INLINE i32v dot_u8s8(i32v acc, u8v w, s8v a) {
  PYLLM_LANES for (int j = 0; j < 4; ++j) acc.v[i] += (int32_t)w.v[4 * i + j] * a.v[j];
  return acc;
}
PYLLM_INLINE pairv pair(const uint16_t* p) { return {bf16_to_f32(p[0]), bf16_to_f32(p[1])}; }
// acc + w[2i] * a.lo + w[2i+1] * a.hi for 16 pairs of bf16.
PYLLM_INLINE f32v dot_bf16(f32v acc, u8v w, pairv a) {
  PYLLM_LANES {
    uint16_t h[2]; memcpy(h, w.v + 4 * i, 4);
    acc.v[i] = bf16_to_f32(h[1]) * a.hi + (bf16_to_f32(h[0]) * a.lo + acc.v[i]);
  }
  return acc;
}
// The first number of each pair kept, the second made zero.
PYLLM_INLINE u8v first_of_pairs(u8v a) { PYLLM_LANES a.v[4 * i + 2] = a.v[4 * i + 3] = 0; return a; }
// Keeps a value in a register: GCC otherwise reads it from memory again for every use.
PYLLM_INLINE void pin(f32v&) {}
PYLLM_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

// The largest register tiles. Small ones here: plain loops gain nothing from more, and cost minutes of compilation.
constexpr int kTileRows = 4, kTilePanels = 1, kIntRows = 2, kIntPanels = 1, kDirectRows = 2, kDirectPanels = 1;

}  // namespace pyllm::PYLLM_ISA
