// What dropout keeps. A number is kept or not by one word of Philox (core/philox.h). 64 places share 16 blocks, so that
// words lie in the order of the places: place i reads word i / 16 % 4 of the block whose counter is
// (i / 64 * 16 + i % 16, stream), under the seed as key. The bits are the same on every instruction set.
#pragma once
#include "core/kernels.h"
#include "simd/vec.h"

namespace pyllm::PYLLM_ISA {

namespace {  // of each file its own: no symbol may leave for the linker to choose among

constexpr int kPlaces = 64;

// Of the places from kPlaces * group on: draw.factor for those that are kept, 0 for the others.
PYLLM_INLINE void factors(const Draw& draw, uint64_t group, float* out) {
  const uint64_t block = group * 16;  // a multiple of 16: its sums with lanes carry nothing into the high word
  static const int32_t lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  i32v lane;
  memcpy(&lane, lanes, sizeof lane);
  i32v c[4] = {add_i32(set1_i32((int32_t)(uint32_t)block), lane), set1_i32((int32_t)(uint32_t)(block >> 32)),
               set1_i32((int32_t)(uint32_t)draw.stream), set1_i32((int32_t)(uint32_t)(draw.stream >> 32))};
  uint32_t key0 = (uint32_t)draw.seed, key1 = (uint32_t)(draw.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const halves p = mul_u32(c[0], 0xD2511F53u), q = mul_u32(c[2], 0xCD9E8D57u);
    c[0] = xor_i32(xor_i32(q.high, c[1]), set1_i32((int32_t)key0));
    c[1] = q.low;
    c[2] = xor_i32(xor_i32(p.high, c[3]), set1_i32((int32_t)key1));
    c[3] = p.low;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  alignas(64) uint32_t word[kPlaces];
  memcpy(word, c, sizeof c);
  const uint32_t least = draw.least;
  uint32_t kept;  // the bits of the factor
  memcpy(&kept, &draw.factor, 4);
  for (int j = 0; j < kPlaces; ++j) word[j] = word[j] >= least ? kept : 0u;  // no branch: it could not be foretold
  memcpy(out, word, sizeof word);
}

// Of 64 keys from `key` on, a multiple of 64, for the weights of a row and a head.
PYLLM_INLINE void factors_of_keys(const WeightDropout& d, int64_t row, int64_t head, int64_t key, float* out) {
  const uint64_t line = (uint64_t)(row * d.heads + head);
  factors(d.draw, (d.draw.offset + line * (uint64_t)d.keys + (uint64_t)key) / kPlaces, out);
}

}  // namespace

}  // namespace pyllm::PYLLM_ISA
