// A number is kept or not by one word of Philox (core/philox.h). 64 places share 16 blocks, so that words lie in the
// order of the places: place i reads word i / 16 % 4 of the block whose counter is (i / 64 * 16 + i % 16, stream),
// under the seed as key. The bits are the same on every instruction set.
#include "kernels/training_rows.h"

namespace pyllm::PYLLM_ISA {
namespace {

constexpr int kPlaces = 64;

// The words of the places from kPlaces * group on.
void words(const DropoutArgs& a, uint64_t group, uint32_t* out) {
  const uint64_t block = group * 16;  // a multiple of 16: its sums with lanes carry nothing into the high word
  static const int32_t lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  i32v lane;
  memcpy(&lane, lanes, sizeof lane);
  i32v c[4] = {add_i32(set1_i32((int32_t)(uint32_t)block), lane), set1_i32((int32_t)(uint32_t)(block >> 32)),
               set1_i32((int32_t)(uint32_t)a.stream), set1_i32((int32_t)(uint32_t)(a.stream >> 32))};
  uint32_t key0 = (uint32_t)a.seed, key1 = (uint32_t)(a.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const halves p = mul_u32(c[0], 0xD2511F53u), q = mul_u32(c[2], 0xCD9E8D57u);
    c[0] = xor_i32(xor_i32(q.high, c[1]), set1_i32((int32_t)key0));
    c[1] = q.low;
    c[2] = xor_i32(xor_i32(p.high, c[3]), set1_i32((int32_t)key1));
    c[3] = p.low;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  memcpy(out, c, sizeof c);
}

}  // namespace

void dropout(const DropoutArgs& a, int worker, int workers) {
  const Share s = vector_share(a.n, worker, workers);
  const uint32_t least = a.least;
  uint32_t kept;  // the bits of the factor
  memcpy(&kept, &a.factor, 4);
  alignas(64) uint32_t word[kPlaces];
  alignas(64) float factor[kPlaces];
  for (int64_t i = s.first; i < s.last;) {
    const uint64_t place = a.offset + (uint64_t)i;
    const int skip = (int)(place % kPlaces);
    words(a, place / kPlaces, word);
    for (int j = 0; j < kPlaces; ++j) word[j] = word[j] >= least ? kept : 0u;  // no branch: it could not be foretold
    memcpy(factor, word, sizeof word);
    const int64_t count = kPlaces - skip < s.last - i ? kPlaces - skip : s.last - i;
    vectors(0, count,
            [&](int64_t j, auto at) { at.put(a.y + i + j, mul(at.get(a.x + i + j), at.get(factor + skip + j))); });
    i += count;
  }
}

}  // namespace pyllm::PYLLM_ISA
