// What this core can do at most: independent products in registers, nothing else. The denominators of benchmarks.
#include <time.h>

#include "kernels/rows.h"
#include "kernels/tiles.h"

namespace pyllm::PYLLM_ISA {
namespace {

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

constexpr int kChains = kTileRows >= 12  ? 20
                        : kTileRows >= 6 ? 6
                                         : 3;  // enough to hide latency, few enough for registers
constexpr int kSteps = 4000;

// start(i) differs by chain, or the compiler would compute one chain for all.
template <class Start, class F> double rate(double seconds, double per_product, Start start, F product) {
  using Acc = decltype(start(0));
  Acc acc[kChains];
  unroll<kChains>([&](auto i) { acc[i] = start(i); });
  double begin = now(), done = 0, passed = 0;
  do {
    for (int s = 0; s < kSteps; ++s) {
      __asm__ volatile("" ::: "memory");  // operands are read anew, or products that never change would leave the loop
      unroll<kChains>([&](auto i) { acc[i] = product(acc[i], 4 * i); });
    }
    done += (double)kSteps * kChains * per_product;
    passed = now() - begin;
  } while (passed < seconds);
  volatile uint8_t sink[sizeof(Acc)];
  unroll<kChains>([&](auto i) {
    const Acc last = acc[i];  // a copy: the sums themselves must never need an address, or they leave the registers
    uint8_t bytes[sizeof(Acc)];
    memcpy(bytes, &last, sizeof(Acc));
    for (size_t b = 0; b < sizeof(Acc); b += 64) sink[b] = bytes[b];
  });
  return done / passed;
}

// bf16 where whole products go through matrix tiles: products of operands that stay in the first-level cache.
double matrix_rate(double seconds) {
  constexpr int64_t kInputs = 128;
  alignas(64) static const uint8_t rows[kMaxRows * kInputs * 2] = {}, panels[2][kInputs * 32] = {};
  alignas(64) float out[kMaxRows * 32];
  Matrix matrix;
  TileArgs a = {};
  a.rows = rows, a.row_stride = kInputs * 2, a.panel[0] = panels[0], a.panel[1] = panels[1];
  a.k = kInputs, a.out = out, a.out_stride = 32, a.matrix = &matrix;
  const double begin = now();
  double done = 0, passed = 0;
  do {
    for (int s = 0; s < 400; ++s) product(Type::BF16, {kMaxRows, 2}, a);
    done += 400.0 * kMaxRows * 32 * 2 * kInputs;
    passed = now() - begin;
  } while (passed < seconds);
  return done / passed;
}

}  // namespace

double peak(int what, double seconds) {
  volatile uint8_t one = 1;  // the compiler must not know the numbers, or it computes the sums itself
  alignas(64) uint8_t ones[64 + 4 * kChains];
  for (uint8_t& each : ones) each = one;
  u8v w = load_u8(ones);
  if (what == 0) {
    f32v x = set1(0.999f), y = set1(1e-6f);
    return rate(seconds, 32, [](int i) { return set1((float)i); }, [&](f32v a, int) { return fma(a, x, y); });
  }
  if (what == 1 && on_matrix(Type::BF16)) return matrix_rate(seconds);
  if (what == 1)
    return rate(
        seconds, 64, [](int i) { return set1((float)i); },
        [&](f32v a, int i) { return dot_bf16(a, w, pair((const uint16_t*)(ones + i))); });
  return rate(
      seconds, 128, [](int i) { return set1_i32(i); },
      [&](i32v a, int i) { return dot_u8s8<true>(a, w, quad((const int8_t*)ones + i)); });
}

}  // namespace pyllm::PYLLM_ISA
