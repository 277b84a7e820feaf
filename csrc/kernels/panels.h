// Reading quantised panels: one group of 32 inputs x 16 features at a time, codes as bytes, scales as floats.
#pragma once
#include "core/kernels.h"
#include "simd/vec.h"

namespace pyllm::PYLLM_ISA {
namespace {

// Calls f with the numbers 0..N-1, as types, so that they are constants inside f.
template <int I> struct Number {
  constexpr operator int() const { return I; }
};
template <int N, class F> PYLLM_INLINE void unroll(F f) {
  if constexpr (N > 0) {
    unroll<N - 1>(f);
    f(Number<N - 1>{});
  }
}

// A group of a panel as the file's type stores it. group = block * (block / 32) + s.
template <Type T> struct PanelGroup {
  static constexpr PanelLayout kLayout = layout(T);
  static constexpr int kSub = info(T).sub, kOffset = info(T).offset, kPerBlock = info(T).block / 32;
  static constexpr bool kMinimum = info(T).minimum, kNarrow = T != Type::Q8_0;
  static constexpr int kBytes = info(T).panel_bytes / kPerBlock;  // mean distance of groups, for prefetching

  const uint8_t* block;
  int s;

  PYLLM_INLINE PanelGroup at(const uint8_t* panel, int64_t g) {
    return {panel + g / kPerBlock * info(T).panel_bytes, (int)(g % kPerBlock)};
  }
  template <int Q> __attribute__((always_inline)) u8v code() const {
    if constexpr (kLayout.bytes >= 0) {
      return load_u8(block + kLayout.bytes + s * 512 + Q * 64);
    } else if constexpr (kLayout.nibbles >= 0) {
      u8v v = load_u8(block + kLayout.nibbles + s * 256 + (Q & 3) * 64);
      u8v c = bits<(Q < 4 ? 0 : 4)>(v, 15);
      if constexpr (kLayout.ones >= 0) c = or_u8(c, bits<Q - 4>(load_u8(block + kLayout.ones + s * 64), 16));
      if constexpr (kLayout.twos >= 0)
        c = or_u8(c, bits<2 * (Q >> 1) - 4>(load_u8(block + kLayout.twos + s * 128 + (Q & 1) * 64), 0x30));
      return c;
    } else {
      u8v c = bits<2 * (Q >> 1)>(load_u8(block + kLayout.twos + s * 128 + (Q & 1) * 64), 3);
      if constexpr (kLayout.ones >= 0) c = or_u8(c, bits<Q - 2>(load_u8(block + kLayout.ones + s * 64), 4));
      return c;
    }
  }
  // h: which half of the group, for types with a scale per 16 inputs.
  __attribute__((always_inline)) f32v scale(int h) const {
    f32v d = load_f16((const uint16_t*)(block + kLayout.scale));
    const uint8_t* p = block + kLayout.sub_scales + 16 * (s * (32 / kSub) + h);
    if constexpr (T == Type::Q2_K) return mul(d, load_u4<false>(p));
    else if constexpr (T == Type::Q3_K || T == Type::Q6_K) return mul(d, load_s8((const int8_t*)p));
    else if constexpr (T == Type::Q4_K || T == Type::Q5_K) return mul(d, load_u8_f32(p));
    else return d;
  }
  // What is subtracted, as a negative number: value = scale * code + minimum.
  __attribute__((always_inline)) f32v minimum(int h) const {
    f32v m = load_f16((const uint16_t*)(block + kLayout.minimum));
    const uint8_t* p = block + kLayout.sub_minima + 16 * (s * (32 / kSub) + h);
    if constexpr (T == Type::Q2_K) return mul(set1(-1.0f), mul(m, load_u4<true>(p)));
    else if constexpr (T == Type::Q4_K || T == Type::Q5_K) return mul(set1(-1.0f), mul(m, load_u8_f32(p)));
    else return m;  // Q4_1 and Q5_1 store the minimum itself
  }
};

// The same group after expansion to bytes and floats, for work on many rows. Layout of an expanded panel:
// codes (groups, 8, 64), scales (groups * 32/sub, 16) floats, minima likewise.
template <int SUB, bool MINIMUM, int OFFSET, bool NARROW> struct ExpandedGroup {
  static constexpr int kSub = SUB, kOffset = OFFSET;
  static constexpr bool kMinimum = MINIMUM, kNarrow = NARROW;
  const uint8_t* codes;
  const float *scales, *minima;
  PYLLM_INLINE ExpandedGroup at(const uint8_t* panel, int64_t g, int64_t groups) {
    const float* scales = (const float*)(panel + groups * 512);
    return {panel + g * 512, scales + g * (32 / SUB) * 16, scales + (groups + g) * (32 / SUB) * 16};
  }
  template <int Q> __attribute__((always_inline)) u8v code() const { return load_u8(codes + Q * 64); }
  __attribute__((always_inline)) f32v scale(int h) const { return load(scales + 16 * h); }
  __attribute__((always_inline)) f32v minimum(int h) const { return load(minima + 16 * h); }
};

constexpr int64_t expanded_bytes(Type t, int64_t k) {
  int64_t groups = (k + 31) / 32;
  return groups * (512 + 64 * (32 / info(t).sub) * (info(t).minimum ? 2 : 1));
}

// An activation row in int8: codes with one scale per 32, and per sub-block of 32 and of 16 the sum of the codes, as an
// integer (for types with an offset) and times the scale (for types with a minimum).
struct Int8Row {
  const int8_t* code;
  const float* scale;
  const int32_t *sum32, *sum16;
  const float *low32, *low16;
  static int64_t padded(int64_t k) { return (k + 63) / 64 * 64; }
  static int64_t bytes(int64_t k) {
    int64_t g = padded(k) / 32, lines = (padded(k) + g * 28 + 63) / 64;
    return (lines | 1) * 64;  // an odd number of lines, or rows 4 KiB apart would share cache sets
  }
  static Int8Row at(const uint8_t* p, int64_t k) {
    int64_t g = padded(k) / 32;
    const float* scale = (const float*)(p + padded(k));
    return {(const int8_t*)p, scale,        (const int32_t*)(scale + g), (const int32_t*)(scale + 3 * g),
            scale + 2 * g,    scale + 5 * g};
  }
};

}  // namespace
}  // namespace pyllm::PYLLM_ISA
