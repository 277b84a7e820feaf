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

// R rows `stride` bytes apart, behind as few pointers as x86 allows: it adds an index once or twice for free, and
// twelve pointers would not fit its registers beside the panels'.
template <int R> struct Rows {
  const uint8_t* base[(R + 2) / 3];
  int64_t stride;
  PYLLM_INLINE Rows of(const uint8_t* first, int64_t stride) {
    Rows x;
    unroll<(R + 2) / 3>([&](auto i) { x.base[i] = first + 3 * i * stride; });
    x.stride = stride;
    return x;
  }
  template <int I> __attribute__((always_inline)) const uint8_t* at() const { return base[I / 3] + (I % 3) * stride; }
  __attribute__((always_inline)) void advance(int64_t bytes) {
    unroll<(R + 2) / 3>([&](auto i) {
      base[i] += bytes;
      pin_pointer(base[i]);
    });
  }
};

// f(Tag<T>) for a quantised type that is known only at run time.
template <Type T> struct Tag {
  static constexpr Type type = T;
};
template <class F> auto visit(Type t, F f) {
  switch (t) {
    case Type::Q4_0: return f(Tag<Type::Q4_0>{});
    case Type::Q4_1: return f(Tag<Type::Q4_1>{});
    case Type::Q5_0: return f(Tag<Type::Q5_0>{});
    case Type::Q5_1: return f(Tag<Type::Q5_1>{});
    case Type::Q8_0: return f(Tag<Type::Q8_0>{});
    case Type::Q2_K: return f(Tag<Type::Q2_K>{});
    case Type::Q3_K: return f(Tag<Type::Q3_K>{});
    case Type::Q4_K: return f(Tag<Type::Q4_K>{});
    case Type::Q5_K: return f(Tag<Type::Q5_K>{});
    default: return f(Tag<Type::Q6_K>{});
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

// 32 activations in int8: codes with one scale, and the sums of the codes of the group and of its halves, as integers
// (for types with an offset) and times the scale (for types with a minimum). One cache line, so that a product follows
// one pointer a row.
struct Int8Block {
  int8_t code[32];
  float scale, low32, low16[2];
  int32_t sum32, sum16[2], unused;
};
static_assert(sizeof(Int8Block) == 64);

// A row in int8 with one scale: codes up to a multiple of 64 as store_quads writes them, zeros where x has ended, then
// this.
struct Int8Row {
  float scale;
  int32_t sum;  // of the codes
};
constexpr int64_t int8_codes(int64_t k) { return (k + 63) / 64 * 64; }
constexpr int64_t int8_row_bytes(int64_t k) { return int8_codes(k) * kQuadParts; }

// Hadamard's transform of 64 numbers, in place: y = H x with H of 1 and -1, so H y = 64 x. Rows and features of Int8
// are both transformed before they become codes: their products stay, up to a factor of 64, but an outlier is spread
// over its block, and one scale suits all numbers. Ashkboos et al. 2024, arXiv:2404.00456. Six stages of sums and
// differences: numbers 1, 2, 4, 8 apart lie within a vector, 16 and 32 apart in two.
template <int D> PYLLM_INLINE void mix_within(f32v (&v)[4]) {
  alignas(64) static constexpr auto kSign = [] {
    struct {
      float lane[16];
    } s = {};
    for (int i = 0; i < 16; ++i) s.lane[i] = i & D ? -1.0f : 1.0f;
    return s;
  }();
  unroll<4>([&](auto i) { v[i] = fma(v[i], load(kSign.lane), swap<D>(v[i])); });
}
PYLLM_INLINE void mix(f32v (&v)[4]) {
  mix_within<1>(v), mix_within<2>(v), mix_within<4>(v), mix_within<8>(v);
  const f32v a = add(v[0], v[1]), b = sub(v[0], v[1]), c = add(v[2], v[3]), d = sub(v[2], v[3]);
  v[0] = add(a, c), v[1] = add(b, d), v[2] = sub(a, c), v[3] = sub(b, d);
}
PYLLM_INLINE void mix(float* x) {
  f32v v[4];
  unroll<4>([&](auto i) { v[i] = load(x + i * 16); });
  mix(v);
  unroll<4>([&](auto i) { store(x + i * 16, v[i]); });
}
constexpr float kMixed = 1.0f / 64;

// out[j][i] = x[i * stride + j] for i < rows, j < columns, at most 16 each; zero elsewhere.
PYLLM_INLINE void transpose(const float* x, int64_t stride, int rows, int columns, float (&out)[16][16]) {
  if (rows == 16 && columns == 16) return transpose16(x, stride, out[0]);
  memset(out, 0, sizeof(out));
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < columns; ++j) out[j][i] = x[i * stride + j];
}

}  // namespace
}  // namespace pyllm::PYLLM_ISA
