#include "core/limits.h"

#include <atomic>
#include <chrono>
#include <vector>

#include "core/cpu.h"
#include "core/memory.h"
#include "core/workers.h"

namespace pyllm {

double read_bandwidth(double seconds) {
  const size_t bytes = size_t(512) << 20;
  Buffer memory(bytes);
  for (size_t i = 0; i < bytes; i += 4096) memory.data()[i] = 1;  // pages exist only once written
  std::atomic<uint64_t> sink{0};
  double done = 0, passed = 0;
  auto begin = std::chrono::steady_clock::now();
  do {
    const auto read = [&](int, int piece, int pieces, int) {
      Share s = share((int64_t)(bytes / 512), piece, pieces);
      const uint64_t* p = (const uint64_t*)memory.data();
      uint64_t a[8] = {};
      for (int64_t i = s.first; i < s.last; ++i)
        for (int k = 0; k < 64; k += 8)
          for (int j = 0; j < 8; ++j) a[j] += p[i * 64 + k + j];
      for (uint64_t x : a) sink += x;
    };
    run_team(threads(), {1, [](int) { return threads(); }, read});
    done += (double)bytes;
    passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  } while (passed < seconds);
  return done / passed;
}

double compute_rate(int what, double seconds) {
  const int n = threads();
  std::vector<double> rates((size_t)n);
  run_team(n, {1, [n](int) { return n; },
               [&](int, int share, int, int) { rates[(size_t)share] = kernels().peak(what, seconds); }});
  double total = 0;
  for (double r : rates) total += r;
  return total;
}

}  // namespace pyllm
