// The contract in AVX-512 F/BW/DQ/VL, one register per vector; VNNI and BF16 where the build has them.
#pragma once
#include <immintrin.h>

namespace pyllm::PYLLM_ISA {

#define PYLLM_INLINE static inline __attribute__((always_inline))

using f32v = __m512;
using i32v = __m512i;
struct u8v { __m512i v; };
struct s8v { __m512i v; };
struct pairv { __m512i v; };

PYLLM_INLINE uint16_t f32_to_f16(float f) {
  return (uint16_t)_mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(f), _MM_FROUND_TO_NEAREST_INT), 0);
}
PYLLM_INLINE float bf16_to_f32(uint16_t h) { uint32_t b = (uint32_t)h << 16; float f; memcpy(&f, &b, 4); return f; }
PYLLM_INLINE uint16_t f32_to_bf16(float f) {
  uint32_t b; memcpy(&b, &f, 4);
  if ((b & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((b >> 16) | 0x40);
  return (uint16_t)((b + 0x7fffu + ((b >> 16) & 1)) >> 16);
}
PYLLM_INLINE float f16_to_f32(uint16_t h) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h))); }
PYLLM_INLINE __mmask16 first(int n) { return (__mmask16)_bzhi_u32(0xffffu, (unsigned)n); }

PYLLM_INLINE f32v load(const float* p) { return _mm512_loadu_ps(p); }
PYLLM_INLINE void store(float* p, f32v a) { _mm512_storeu_ps(p, a); }
PYLLM_INLINE void store_past(float* p, f32v a) { _mm512_stream_ps(p, a); }
PYLLM_INLINE void stores_past_done() { _mm_sfence(); }
PYLLM_INLINE f32v load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
PYLLM_INLINE void store_n(float* p, f32v a, int n) { _mm512_mask_storeu_ps(p, first(n), a); }
PYLLM_INLINE f32v set1(float x) { return _mm512_set1_ps(x); }
PYLLM_INLINE f32v add(f32v a, f32v b) { return _mm512_add_ps(a, b); }
PYLLM_INLINE f32v sub(f32v a, f32v b) { return _mm512_sub_ps(a, b); }
PYLLM_INLINE f32v mul(f32v a, f32v b) { return _mm512_mul_ps(a, b); }
PYLLM_INLINE f32v div(f32v a, f32v b) { return _mm512_div_ps(a, b); }
PYLLM_INLINE f32v fma(f32v a, f32v b, f32v c) { return _mm512_fmadd_ps(a, b, c); }
PYLLM_INLINE f32v max(f32v a, f32v b) { return _mm512_max_ps(a, b); }
PYLLM_INLINE f32v min(f32v a, f32v b) { return _mm512_min_ps(a, b); }
PYLLM_INLINE f32v abs(f32v a) { return _mm512_abs_ps(a); }
PYLLM_INLINE f32v sqrt(f32v a) { return _mm512_sqrt_ps(a); }
PYLLM_INLINE f32v where_above(f32v a, f32v b, f32v x, f32v y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x);
}
PYLLM_INLINE f32v below(int n, f32v a, f32v b) { return _mm512_mask_blend_ps(first(n < 0 ? 0 : n), b, a); }
template <int D> PYLLM_INLINE f32v swap(f32v a) {
  if constexpr (D <= 2) return _mm512_permute_ps(a, D == 1 ? 0xb1 : 0x4e);
  else return _mm512_shuffle_f32x4(a, a, D == 4 ? 0xb1 : 0x4e);
}
PYLLM_INLINE __m256 high(f32v a) { return _mm512_extractf32x8_ps(a, 1); }
PYLLM_INLINE float sum(f32v a) {
  __m256 e = _mm256_add_ps(_mm512_castps512_ps256(a), high(a));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
PYLLM_INLINE float max_of(f32v a) {
  __m256 e = _mm256_max_ps(_mm512_castps512_ps256(a), high(a));
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
PYLLM_INLINE i32v round_i32(f32v a) { return _mm512_cvtps_epi32(a); }
PYLLM_INLINE f32v to_f32(i32v a) { return _mm512_cvtepi32_ps(a); }
PYLLM_INLINE f32v pow2(i32v a) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(a, _mm512_set1_epi32(127)), 23));
}
PYLLM_INLINE i32v shift_right1(i32v a) { return _mm512_srai_epi32(a, 1); }
PYLLM_INLINE i32v add_i32(i32v a, i32v b) { return _mm512_add_epi32(a, b); }
PYLLM_INLINE i32v sub_i32(i32v a, i32v b) { return _mm512_sub_epi32(a, b); }
PYLLM_INLINE i32v set1_i32(int32_t x) { return _mm512_set1_epi32(x); }
PYLLM_INLINE i32v xor_i32(i32v a, i32v b) { return _mm512_xor_si512(a, b); }
struct halves { i32v low, high; };
PYLLM_INLINE halves mul_u32(i32v a, uint32_t b) {
  __m512i all = _mm512_set1_epi32((int)b);
  __m512i even = _mm512_mul_epu32(a, all), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), all);
  return {_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32)),
          _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd)};
}
PYLLM_INLINE int32_t sum_i32(i32v a) { return _mm512_reduce_add_epi32(a); }
PYLLM_INLINE void store_s8(int8_t* p, i32v a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(a)); }
PYLLM_INLINE f32v load_s8(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
PYLLM_INLINE f32v load_u8_f32(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
template <bool HIGH> PYLLM_INLINE f32v load_u4(const uint8_t* p) {
  __m512i w = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
  return _mm512_cvtepi32_ps(HIGH ? _mm512_srli_epi32(w, 4) : _mm512_and_si512(w, _mm512_set1_epi32(15)));
}
PYLLM_INLINE f32v load_f16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
PYLLM_INLINE f32v load_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
// Integer arithmetic and not vcvtneps2bf16, which flushes subnormals: a number must round alike on every CPU.
PYLLM_INLINE __m512i round_bf16(f32v a) {
  __m512i b = _mm512_castps_si512(a), one = _mm512_set1_epi32(1);
  __m512i up = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), _mm512_and_si512(_mm512_srli_epi32(b, 16), one));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(b, up), 16);
  __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(0x40));
  return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), rounded, quiet);
}
PYLLM_INLINE void store_bf16(uint16_t* p, f32v a) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(round_bf16(a)));
}
// For zeros and normal numbers that round to normal ones, where the CPU's own conversion rounds alike.
PYLLM_INLINE void store_bf16_normal(uint16_t* p, f32v a) {
#if defined(PYLLM_VNNI_BF16)
  _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(a));
#else
  store_bf16(p, a);
#endif
}
// Every other number of p: only those bytes are written, since the others may be another worker's.
PYLLM_INLINE void store_bf16_alternate(uint16_t* p, f32v a) {
  _mm512_mask_storeu_epi16(p, 0x55555555u, round_bf16(a));
}
PYLLM_INLINE void store_bf16_pairs_normal(uint8_t* p, f32v a, f32v b) {
#if defined(PYLLM_VNNI_BF16)
  __m512i lo = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(a));
  __m512i hi = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(b));
#else
  __m512i lo = round_bf16(a), hi = round_bf16(b);
#endif
  _mm512_storeu_si512(p, _mm512_or_si512(lo, _mm512_slli_epi32(hi, 16)));
}

PYLLM_INLINE u8v load_u8(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
PYLLM_INLINE void store_u8(uint8_t* p, u8v a) { _mm512_storeu_si512(p, a.v); }
PYLLM_INLINE u8v scale_pairs(const int8_t* p, f32v first, f32v second) {
  __m512i w = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p));
  __m512i lo = round_bf16(mul(to_f32(_mm512_srai_epi32(_mm512_slli_epi32(w, 16), 16)), first));
  __m512i hi = round_bf16(mul(to_f32(_mm512_srai_epi32(w, 16)), second));
  return {_mm512_or_si512(lo, _mm512_slli_epi32(hi, 16))};
}
PYLLM_INLINE u8v or_u8(u8v a, u8v b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int S> PYLLM_INLINE u8v bits(u8v a, uint8_t mask) {
  __m512i m = _mm512_set1_epi8((char)mask);
  if constexpr (S > 0) return {_mm512_and_si512(_mm512_srli_epi16(a.v, S), m)};
  else if constexpr (S < 0) return {_mm512_and_si512(_mm512_slli_epi16(a.v, -S), m)};
  else return {_mm512_and_si512(a.v, m)};
}
#if defined(PYLLM_VNNI_BF16)
PYLLM_INLINE s8v quad(const int8_t* p) { int32_t q; memcpy(&q, p, 4); return {_mm512_set1_epi32(q)}; }
// Written out, since GCC copies the sums of the intrinsic from register to register.
template <bool NARROW> PYLLM_INLINE i32v dot_u8s8(i32v acc, u8v w, s8v a) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w.v), "v"(a.v));
  return acc;
}
PYLLM_INLINE pairv pair(const uint16_t* p) { int32_t q; memcpy(&q, p, 4); return {_mm512_set1_epi32(q)}; }
PYLLM_INLINE f32v dot_bf16(f32v acc, u8v w, pairv a) { return _mm512_dpbf16_ps(acc, (__m512bh)w.v, (__m512bh)a.v); }
#else
PYLLM_INLINE s8v quad(const int8_t* p) { int32_t q; memcpy(&q, p, 4); return {_mm512_set1_epi32(q)}; }
// vpmaddubsw adds two products in 16 bits: 2 * 127 * 127 fits, 2 * 255 * 127 would saturate, so wide codes go as
// 16-bit numbers, even and odd bytes apart.
template <bool NARROW> PYLLM_INLINE i32v dot_u8s8(i32v acc, u8v w, s8v a) {
  if constexpr (NARROW) {
    __m512i pairs = _mm512_maddubs_epi16(w.v, a.v);
    return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
  } else {
    __m512i even = _mm512_madd_epi16(_mm512_and_si512(w.v, _mm512_set1_epi16(0xff)),
                                     _mm512_srai_epi16(_mm512_slli_epi16(a.v, 8), 8));
    __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(w.v, 8), _mm512_srai_epi16(a.v, 8));
    return _mm512_add_epi32(acc, _mm512_add_epi32(even, odd));
  }
}
PYLLM_INLINE pairv pair(const uint16_t* p) { int32_t q; memcpy(&q, p, 4); return {_mm512_set1_epi32(q)}; }
PYLLM_INLINE f32v dot_bf16(f32v acc, u8v w, pairv a) {
  __m512i top = _mm512_set1_epi32((int)0xffff0000);
  acc = fma(_mm512_castsi512_ps(_mm512_slli_epi32(w.v, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(a.v, 16)), acc);
  return fma(_mm512_castsi512_ps(_mm512_and_si512(w.v, top)), _mm512_castsi512_ps(_mm512_and_si512(a.v, top)), acc);
}
#endif
constexpr int kByteBase = 0, kQuadParts = 1;
PYLLM_INLINE void store_quads(uint8_t* p, i32v a) { store_s8((int8_t*)p, a); }
template <int I> PYLLM_INLINE u8v quad_part(const uint8_t* p) { return load_u8(p); }
PYLLM_INLINE i32v dot_part(i32v acc, u8v w, s8v a) { return dot_u8s8<false>(acc, w, a); }
PYLLM_INLINE u8v first_of_pairs(u8v a) { return {_mm512_and_si512(a.v, _mm512_set1_epi32(0xffff))}; }
PYLLM_INLINE u8v second_of_pairs(u8v a) { return {_mm512_andnot_si512(_mm512_set1_epi32(0xffff), a.v)}; }
PYLLM_INLINE void pin(f32v& a) { asm("" : "+v"(a)); }
PYLLM_INLINE void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
PYLLM_INLINE void prefetch_far(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T1); }

// 32 registers: 12 x 2 float accumulators + 2 weights; with int8, 6 x 2 integer beside 6 x 2 float accumulators.
constexpr int kTileRows = 12, kTileSums = 24, kIntRows = 6, kIntPanels = 2, kDirectRows = 8;

PYLLM_INLINE void transpose16(const float* x, int64_t stride, float* out) {
  __m512 r[16], t[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(x + i * stride);
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44), r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44), r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88), t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_ps(out + 16 * i, _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88));
    _mm512_storeu_ps(out + 16 * (i + 8), _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd));
    _mm512_storeu_ps(out + 16 * (i + 4), _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88));
    _mm512_storeu_ps(out + 16 * (i + 12), _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd));
  }
}

}  // namespace pyllm::PYLLM_ISA
