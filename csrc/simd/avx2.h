// The contract in AVX2 + FMA + F16C: a vector is two registers.
#pragma once
#include <immintrin.h>

namespace pyllm::PYLLM_ISA {

#define PYLLM_INLINE static inline __attribute__((always_inline))

struct f32v { __m256 lo, hi; };
struct i32v { __m256i lo, hi; };
struct u8v { __m256i lo, hi; };
struct s8v { __m256i v; };
struct pairv { __m256i v; };

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

PYLLM_INLINE __m256i lanes_below(int n, int from) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n - from), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
PYLLM_INLINE f32v load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
PYLLM_INLINE void store(float* p, f32v a) { _mm256_storeu_ps(p, a.lo); _mm256_storeu_ps(p + 8, a.hi); }
PYLLM_INLINE void store_past(float* p, f32v a) { store(p, a); }
PYLLM_INLINE void stores_past_done() {}
PYLLM_INLINE f32v load_n(const float* p, int n) {
  return {_mm256_maskload_ps(p, lanes_below(n, 0)), _mm256_maskload_ps(p + 8, lanes_below(n, 8))};
}
PYLLM_INLINE void store_n(float* p, f32v a, int n) {
  _mm256_maskstore_ps(p, lanes_below(n, 0), a.lo);
  _mm256_maskstore_ps(p + 8, lanes_below(n, 8), a.hi);
}
PYLLM_INLINE f32v set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
PYLLM_INLINE f32v add(f32v a, f32v b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
PYLLM_INLINE f32v sub(f32v a, f32v b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
PYLLM_INLINE f32v mul(f32v a, f32v b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
PYLLM_INLINE f32v div(f32v a, f32v b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
PYLLM_INLINE f32v fma(f32v a, f32v b, f32v c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
PYLLM_INLINE f32v max(f32v a, f32v b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
PYLLM_INLINE f32v min(f32v a, f32v b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
PYLLM_INLINE f32v abs(f32v a) {
  __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return {_mm256_and_ps(a.lo, m), _mm256_and_ps(a.hi, m)};
}
PYLLM_INLINE f32v sqrt(f32v a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
PYLLM_INLINE f32v where_above(f32v a, f32v b, f32v x, f32v y) {
  return {_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ)),
          _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ))};
}
PYLLM_INLINE f32v below(int n, f32v a, f32v b) {
  return {_mm256_blendv_ps(b.lo, a.lo, _mm256_castsi256_ps(lanes_below(n, 0))),
          _mm256_blendv_ps(b.hi, a.hi, _mm256_castsi256_ps(lanes_below(n, 8)))};
}
template <int D> PYLLM_INLINE f32v swap(f32v a) {
  constexpr int kOrder = D == 1 ? 0xb1 : 0x4e;
  if constexpr (D <= 2) return {_mm256_permute_ps(a.lo, kOrder), _mm256_permute_ps(a.hi, kOrder)};
  else if constexpr (D == 4) return {_mm256_permute2f128_ps(a.lo, a.lo, 1), _mm256_permute2f128_ps(a.hi, a.hi, 1)};
  else return {a.hi, a.lo};
}
PYLLM_INLINE float sum(f32v a) {
  __m256 e = _mm256_add_ps(a.lo, a.hi);
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
PYLLM_INLINE float max_of(f32v a) {
  __m256 e = _mm256_max_ps(a.lo, a.hi);
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
PYLLM_INLINE i32v round_i32(f32v a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
PYLLM_INLINE f32v to_f32(i32v a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
PYLLM_INLINE __m256 pow2_half(__m256i a) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(a, _mm256_set1_epi32(127)), 23));
}
PYLLM_INLINE f32v pow2(i32v a) { return {pow2_half(a.lo), pow2_half(a.hi)}; }
PYLLM_INLINE i32v shift_right1(i32v a) { return {_mm256_srai_epi32(a.lo, 1), _mm256_srai_epi32(a.hi, 1)}; }
PYLLM_INLINE i32v add_i32(i32v a, i32v b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
PYLLM_INLINE i32v sub_i32(i32v a, i32v b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
PYLLM_INLINE i32v set1_i32(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
PYLLM_INLINE i32v xor_i32(i32v a, i32v b) { return {_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)}; }
struct halves { i32v low, high; };
PYLLM_INLINE void mul_u32_half(__m256i a, __m256i b, __m256i& low, __m256i& high) {
  __m256i even = _mm256_mul_epu32(a, b), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), b);
  low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}
PYLLM_INLINE halves mul_u32(i32v a, uint32_t b) {
  halves r;
  __m256i all = _mm256_set1_epi32((int)b);
  mul_u32_half(a.lo, all, r.low.lo, r.high.lo);
  mul_u32_half(a.hi, all, r.low.hi, r.high.hi);
  return r;
}
PYLLM_INLINE int32_t sum_i32(i32v a) {
  int32_t v[8], s = 0;
  _mm256_storeu_si256((__m256i*)v, _mm256_add_epi32(a.lo, a.hi));
  for (int i = 0; i < 8; ++i) s += v[i];
  return s;
}
PYLLM_INLINE void store_s8(int8_t* p, i32v a) {
  __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
  _mm_storeu_si128((__m128i*)p, _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}
PYLLM_INLINE f32v load_s8(const int8_t* p) {
  __m128i b = _mm_loadu_si128((const __m128i*)p);
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(b, 8)))};
}
PYLLM_INLINE f32v load_u8_f32(const uint8_t* p) {
  __m128i b = _mm_loadu_si128((const __m128i*)p);
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(b, 8)))};
}
template <bool HIGH> PYLLM_INLINE __m256 u4_half(__m128i b) {
  __m256i w = _mm256_cvtepu8_epi32(b);
  return _mm256_cvtepi32_ps(HIGH ? _mm256_srli_epi32(w, 4) : _mm256_and_si256(w, _mm256_set1_epi32(15)));
}
template <bool HIGH> PYLLM_INLINE f32v load_u4(const uint8_t* p) {
  __m128i b = _mm_loadu_si128((const __m128i*)p);
  return {u4_half<HIGH>(b), u4_half<HIGH>(_mm_srli_si128(b, 8))};
}
PYLLM_INLINE f32v load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
PYLLM_INLINE __m256 bf16_half(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
PYLLM_INLINE f32v load_bf16(const uint16_t* p) { return {bf16_half(p), bf16_half(p + 8)}; }
PYLLM_INLINE __m256i round_bf16(__m256 a) {
  __m256i b = _mm256_castps_si256(a), h = _mm256_srli_epi32(b, 16);
  __m256i up = _mm256_add_epi32(_mm256_set1_epi32(0x7fff), _mm256_and_si256(h, _mm256_set1_epi32(1)));
  __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(b, up), 16);
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, _mm256_or_si256(h, _mm256_set1_epi32(0x40)), nan);
}
PYLLM_INLINE void store_bf16(uint16_t* p, f32v a) {
  __m256i w = _mm256_packus_epi32(round_bf16(a.lo), round_bf16(a.hi));
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(w, 0xd8));
}
PYLLM_INLINE void store_bf16_normal(uint16_t* p, f32v a) { store_bf16(p, a); }
PYLLM_INLINE void store_bf16_alternate(uint16_t* p, f32v a) {
  uint16_t half[16];
  store_bf16(half, a);
  for (int i = 0; i < 16; ++i) p[2 * i] = half[i];
}
PYLLM_INLINE __m256i pairs_half(__m256 a, __m256 b) {
  return _mm256_or_si256(round_bf16(a), _mm256_slli_epi32(round_bf16(b), 16));
}
PYLLM_INLINE void store_bf16_pairs_normal(uint8_t* p, f32v a, f32v b) {
  _mm256_storeu_si256((__m256i*)p, pairs_half(a.lo, b.lo));
  _mm256_storeu_si256((__m256i*)(p + 32), pairs_half(a.hi, b.hi));
}

PYLLM_INLINE u8v load_u8(const uint8_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
}
PYLLM_INLINE void store_u8(uint8_t* p, u8v a) {
  _mm256_storeu_si256((__m256i*)p, a.lo);
  _mm256_storeu_si256((__m256i*)(p + 32), a.hi);
}
PYLLM_INLINE __m256i scale_pairs_half(const int8_t* p, __m256 first, __m256 second) {
  __m256i w = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p));
  __m256 lo = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(w, 16), 16));
  __m256 hi = _mm256_cvtepi32_ps(_mm256_srai_epi32(w, 16));
  return _mm256_or_si256(round_bf16(_mm256_mul_ps(lo, first)),
                         _mm256_slli_epi32(round_bf16(_mm256_mul_ps(hi, second)), 16));
}
PYLLM_INLINE u8v scale_pairs(const int8_t* p, f32v first, f32v second) {
  return {scale_pairs_half(p, first.lo, second.lo), scale_pairs_half(p + 16, first.hi, second.hi)};
}
PYLLM_INLINE u8v or_u8(u8v a, u8v b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
template <int S> PYLLM_INLINE __m256i bits_half(__m256i a, __m256i m) {
  if constexpr (S > 0) return _mm256_and_si256(_mm256_srli_epi16(a, S), m);
  else if constexpr (S < 0) return _mm256_and_si256(_mm256_slli_epi16(a, -S), m);
  else return _mm256_and_si256(a, m);
}
template <int S> PYLLM_INLINE u8v bits(u8v a, uint8_t mask) {
  __m256i m = _mm256_set1_epi8((char)mask);
  return {bits_half<S>(a.lo, m), bits_half<S>(a.hi, m)};
}
PYLLM_INLINE s8v quad(const int8_t* p) { int32_t q; memcpy(&q, p, 4); return {_mm256_set1_epi32(q)}; }
// vpmaddubsw adds two products in 16 bits: 2 * 127 * 127 fits, 2 * 255 * 127 would saturate. So bytes of all values are
// taken less kByteBase, and their signs go to the row's codes: 2 * 128 * 127 fits.
constexpr int kByteBase = 128;
template <bool NARROW> PYLLM_INLINE __m256i dot_half(__m256i acc, __m256i w, __m256i a) {
  if constexpr (!NARROW) {
    w = _mm256_xor_si256(w, _mm256_set1_epi8((char)kByteBase));
    a = _mm256_sign_epi8(a, w), w = _mm256_abs_epi8(w);
  }
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
}
template <bool NARROW> PYLLM_INLINE i32v dot_u8s8(i32v acc, u8v w, s8v a) {
  return {dot_half<NARROW>(acc.lo, w.lo, a.v), dot_half<NARROW>(acc.hi, w.hi, a.v)};
}
// Codes of rows that meet every byte go as 16-bit numbers, bytes 0 and 2 of a quad before 1 and 3: vpmaddwd holds the
// sum of any two products, and no sign has to be moved from code to code.
constexpr int kQuadParts = 2;
PYLLM_INLINE void store_quads(uint8_t* p, i32v a) {
  __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
  _mm256_storeu_si256((__m256i*)p, _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(w, 0xd8), 0xd8));
}
template <int I> PYLLM_INLINE u8v quad_part(const uint8_t* p) {
  const u8v w = load_u8(p);
  const __m256i m = _mm256_set1_epi16(0xff);
  if constexpr (I == 0) return {_mm256_and_si256(w.lo, m), _mm256_and_si256(w.hi, m)};
  else return {_mm256_srli_epi16(w.lo, 8), _mm256_srli_epi16(w.hi, 8)};
}
// Pinned, since GCC otherwise adds the products of both parts first, which leaves no register for the sums.
PYLLM_INLINE i32v dot_part(i32v acc, u8v w, s8v a) {
  acc.lo = _mm256_add_epi32(acc.lo, _mm256_madd_epi16(w.lo, a.v));
  acc.hi = _mm256_add_epi32(acc.hi, _mm256_madd_epi16(w.hi, a.v));
  asm("" : "+x"(acc.lo), "+x"(acc.hi));
  return acc;
}
PYLLM_INLINE pairv pair(const uint16_t* p) { int32_t q; memcpy(&q, p, 4); return {_mm256_set1_epi32(q)}; }
PYLLM_INLINE __m256 dot_bf16_half(__m256 acc, __m256i w, __m256i a) {
  __m256i top = _mm256_set1_epi32((int)0xffff0000);
  acc = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(w, 16)),
                        _mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), acc);
  return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(w, top)),
                         _mm256_castsi256_ps(_mm256_and_si256(a, top)), acc);
}
PYLLM_INLINE f32v dot_bf16(f32v acc, u8v w, pairv a) {
  return {dot_bf16_half(acc.lo, w.lo, a.v), dot_bf16_half(acc.hi, w.hi, a.v)};
}
PYLLM_INLINE u8v first_of_pairs(u8v a) {
  __m256i m = _mm256_set1_epi32(0xffff);
  return {_mm256_and_si256(a.lo, m), _mm256_and_si256(a.hi, m)};
}
PYLLM_INLINE u8v second_of_pairs(u8v a) {
  __m256i m = _mm256_set1_epi32(0xffff);
  return {_mm256_andnot_si256(m, a.lo), _mm256_andnot_si256(m, a.hi)};
}
PYLLM_INLINE void pin(f32v& a) { asm("" : "+x"(a.lo), "+x"(a.hi)); }
PYLLM_INLINE void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
PYLLM_INLINE void prefetch_far(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T1); }

// 16 registers of 8: 6 rows x 2 halves of accumulators, 2 of weights, 1 broadcast; int8 keeps its sums in 4 x 2.
constexpr int kTileRows = 6, kTileSums = 6, kIntRows = 4, kIntPanels = 1, kDirectRows = 4;

PYLLM_INLINE void transpose8(const float* x, int64_t stride, float* out) {
  __m256 r[8], t[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(x + i * stride);
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]), t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44), r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44), r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(out + 16 * i, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(out + 16 * (i + 4), _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}
PYLLM_INLINE void transpose16(const float* x, int64_t stride, float* out) {
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j) transpose8(x + 8 * i * stride + 8 * j, stride, out + 128 * j + 8 * i);
}

}  // namespace pyllm::PYLLM_ISA
