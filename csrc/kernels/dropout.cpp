// A number is kept or not by one word of Philox: place i reads word i mod 4 of the block whose counter is i / 4 and the
// stream, under the seed as key. The bits are the same on every instruction set.
#include "core/philox.h"
#include "kernels/training_rows.h"

namespace pyllm::PYLLM_ISA {
namespace {

constexpr int kBlocks = 16;  // side by side, one a lane

// factor or 0 for the 4 kBlocks places from 4 * block on.
void factors(const DropoutArgs& a, uint64_t block, float* out) {
  uint32_t word[4][kBlocks];
  for (int i = 0; i < kBlocks; ++i) {
    const uint64_t at = block + (uint64_t)i;
    const philox_block counter = {{(uint32_t)at, (uint32_t)(at >> 32), (uint32_t)a.stream, (uint32_t)(a.stream >> 32)}};
    const philox_block drawn = philox4x32(counter, (uint32_t)a.seed, (uint32_t)(a.seed >> 32));
    for (int w = 0; w < 4; ++w) word[w][i] = drawn.word[w];
  }
  for (int i = 0; i < kBlocks; ++i)
    for (int w = 0; w < 4; ++w) out[4 * i + w] = word[w][i] >= a.least ? a.factor : 0.0f;
}

}  // namespace

void dropout(const DropoutArgs& a, int worker, int workers) {
  const Share s = vector_share(a.n, worker, workers);
  alignas(64) float factor[4 * kBlocks];
  for (int64_t i = s.first; i < s.last;) {
    const uint64_t place = a.offset + (uint64_t)i;
    const int skip = (int)(place % 4);
    factors(a, place / 4, factor);
    int64_t count = 4 * kBlocks - skip;
    if (count > s.last - i) count = s.last - i;
    for (int64_t j = 0; j < count; j += 16) {
      const int n = lanes_left(count, j);
      store_n(a.y + i + j, mul(load_n(a.x + i + j, n), load_n(factor + skip + j, n)), n);
    }
    i += count;
  }
}

}  // namespace pyllm::PYLLM_ISA
