// Storage types, and how each lies in a panel. Plain C++ with C headers only: kernels of every instruction set include
// it.
//
// A weight of N output features and K inputs is stored as ceil(N/16) panels. A panel holds 16 features side by side, so
// that one vector lane is one output feature: no horizontal sums, contiguous stores, one layout for 1 row or 512.
// Within a panel K runs in blocks of `block` inputs, `panel_bytes` each:
//
//   f32         16 floats                        bf16  16 pairs of consecutive inputs      f16  16 halves
//   quantised   codes of all inputs, then scales (and minima), as PanelLayout says
//   int8        quads of transformed inputs (kernels/panels.h) as bytes (below), then 16 floats, the features' scales
//
// Quantised codes are kept unsigned. A vector of 64 code bytes is 16 features x 4 consecutive inputs (a quad), the
// operand shape of vpdpbusd. A group of 32 inputs is 8 quads:
//   nibbles   64-byte vector j holds quad j in the low and quad j+4 in the high halves (j = 0..3)
//   2 bits    vector j holds quads j, j+2, j+4, j+6 from the low bits up (j = 0, 1)
//   1 bit     one vector, bit q belongs to quad q
//   bytes     vector q is quad q
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace pyllm {

enum class Type : uint8_t { F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Int8 };
constexpr int kTypes = 14;
constexpr int kPanel = 16;  // features per panel: one AVX-512 register of floats

struct TypeInfo {
  const char* name;
  int block;        // inputs per block, in the file and in the panel
  int file_bytes;   // one block of one feature in a file
  int panel_bytes;  // one block of 16 features in a panel
  int sub;          // inputs that share a scale (0: not quantised)
  bool minimum;     // value = scale * code - minimum, else value = scale * (code - offset)
  int offset;
};

constexpr TypeInfo kTypeInfo[kTypes] = {
    {"F32", 1, 4, 64, 0, false, 0},          {"F16", 1, 2, 32, 0, false, 0},
    {"BF16", 2, 4, 64, 0, false, 0},         {"Q4_0", 32, 18, 288, 32, false, 8},
    {"Q4_1", 32, 20, 320, 32, true, 0},      {"Q5_0", 32, 22, 352, 32, false, 16},
    {"Q5_1", 32, 24, 384, 32, true, 0},      {"Q8_0", 32, 34, 544, 32, false, 128},
    {"Q2_K", 256, 84, 1344, 16, true, 0},    {"Q3_K", 256, 110, 1824, 16, false, 4},
    {"Q4_K", 256, 144, 2368, 32, true, 0},   {"Q5_K", 256, 176, 2880, 32, true, 0},
    {"Q6_K", 256, 210, 3360, 16, false, 32}, {"INT8", 64, 0, 1024, 0, false, 128},
};

constexpr const TypeInfo& info(Type t) { return kTypeInfo[static_cast<int>(t)]; }
constexpr bool quantised(Type t) { return info(t).sub != 0; }  // in blocks, as files store it
constexpr bool floating(Type t) { return t == Type::F32 || t == Type::F16 || t == Type::BF16; }
// Inputs of an Int8 product: 255 * 127 times as many fit 32 bits.
constexpr int64_t kMostInt8 = 65536;

// Where the parts of a quantised panel block begin, in bytes from its start. -1: absent.
struct PanelLayout {
  int nibbles, twos, ones, bytes;  // code planes
  int sub_scales, sub_minima;      // 16 bytes per sub-block: int8 or uint8 factors of the k-types
  int scale, minimum;              // 16 halves
};

constexpr PanelLayout layout(Type t) {
  switch (t) {
    case Type::Q4_0: return {0, -1, -1, -1, -1, -1, 256, -1};
    case Type::Q4_1: return {0, -1, -1, -1, -1, -1, 256, 288};
    case Type::Q5_0: return {0, -1, 256, -1, -1, -1, 320, -1};
    case Type::Q5_1: return {0, -1, 256, -1, -1, -1, 320, 352};
    case Type::Q8_0: return {-1, -1, -1, 0, -1, -1, 512, -1};
    case Type::Q2_K: return {-1, 0, -1, -1, 1024, 1024, 1280, 1312};  // scale in the low nibble, minimum in the high
    case Type::Q3_K: return {-1, 0, 1024, -1, 1536, -1, 1792, -1};
    case Type::Q4_K: return {0, -1, -1, -1, 2048, 2176, 2304, 2336};
    case Type::Q5_K: return {0, -1, 2048, -1, 2560, 2688, 2816, 2848};
    case Type::Q6_K: return {0, 2048, -1, -1, 3072, -1, 3328, -1};
    default: return {-1, -1, -1, -1, -1, -1, -1, -1};
  }
}

inline int64_t blocks(Type t, int64_t k) { return (k + info(t).block - 1) / info(t).block; }
inline int64_t panel_bytes(Type t, int64_t k) {
  return blocks(t, k) * info(t).panel_bytes + (t == Type::Int8 ? 64 : 0);
}
inline int64_t panels(int64_t n) { return (n + kPanel - 1) / kPanel; }
inline int64_t file_row_bytes(Type t, int64_t k) { return t == Type::BF16 ? 2 * k : blocks(t, k) * info(t).file_bytes; }

}  // namespace pyllm
