// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): a random number as a function of
// what it is for. Nothing is stored, so a draw never depends on the draws before it. C only: kernels include this too.
#pragma once
#include <stdint.h>

typedef struct {
  uint32_t word[4];
} philox_block;

// Ten rounds over a 128-bit counter under a 64-bit key.
static inline philox_block philox4x32(philox_block counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = (uint64_t)0xD2511F53u * counter.word[0];
    const uint64_t b = (uint64_t)0xCD9E8D57u * counter.word[2];
    const philox_block next = {{(uint32_t)(b >> 32) ^ counter.word[1] ^ key0, (uint32_t)b,
                                (uint32_t)(a >> 32) ^ counter.word[3] ^ key1, (uint32_t)a}};
    counter = next;
    key0 += 0x9E3779B9u;  // the golden ratio
    key1 += 0xBB67AE85u;  // sqrt(3) - 1
  }
  return counter;
}

// A number in [0, 1) with 53 random bits, for one position of one stream of a seed.
static inline double philox_uniform(uint64_t seed, uint64_t stream, uint64_t position) {
  const philox_block counter = {
      {(uint32_t)position, (uint32_t)(position >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)}};
  const philox_block r = philox4x32(counter, (uint32_t)seed, (uint32_t)(seed >> 32));
  return (double)((((uint64_t)r.word[0] << 32) | r.word[1]) >> 11) * 0x1p-53;
}
