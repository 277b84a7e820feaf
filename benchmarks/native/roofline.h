// Per cent of what this machine can do: a kernel's least time, the larger of bytes / bandwidth and operations / peak,
// over the time it took. The limits are measured per instruction set, and again when they are older than a minute.
#pragma once
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "core/cpu.h"
#include "core/limits.h"
#include "core/workers.h"

namespace roofline {

enum Unit { kFp32, kBf16, kInt8 };  // as compute_rate numbers them
constexpr const char* kUnit[] = {"fp32", "bf16", "int8"};

struct Limits {
  double read, rate[3];
};

inline const Limits& limits() {
  using Clock = std::chrono::steady_clock;
  static Limits found;
  static const pyllm::Kernels* of = nullptr;
  static Clock::time_point when;
  const pyllm::Kernels* now = &pyllm::kernels();
  if (of != now || Clock::now() - when > std::chrono::seconds(60)) {
    found = {pyllm::read_bandwidth(0.3),
             {pyllm::compute_rate(0, 0.1), pyllm::compute_rate(1, 0.1), pyllm::compute_rate(2, 0.1)}};
    of = now, when = Clock::now();
    std::fprintf(stderr, "%s, %d threads: read %.1f GB/s, fp32 %.0f GFLOP/s, bf16 %.0f GFLOP/s, int8 %.0f GOP/s\n",
                 now->name, pyllm::threads(), found.read * 1e-9, found.rate[0] * 1e-9, found.rate[1] * 1e-9,
                 found.rate[2] * 1e-9);
  }
  return found;
}

// Runs the benchmark's loop. One iteration does so many operations of a kind and moves so many bytes to or from memory.
template <class F> void measure(benchmark::State& state, double operations, double bytes, Unit unit, F iteration) {
  using Clock = std::chrono::steady_clock;
  const Limits& l = limits();
  const double before = pyllm::read_bandwidth(0.05);  // neighbours take their share from one second to the next
  const auto begin = Clock::now();
  for (auto _ : state) iteration();
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count() / (double)state.iterations();
  const double reading = bytes * 2 / (before + pyllm::read_bandwidth(0.05)), computing = operations / l.rate[unit];
  state.counters["GOP/s"] = operations / seconds * 1e-9;
  state.counters["GB/s"] = bytes / seconds * 1e-9;
  state.counters["%limit"] = 100 * std::max(reading, computing) / seconds;
  state.SetLabel(reading > computing ? "read" : kUnit[unit]);
}

}  // namespace roofline
