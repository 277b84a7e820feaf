// Kernels against this machine's limits measured in the same minute: matmul, attention, layer norm, on every
// instruction set that the CPU runs. Per cent of the limit: the larger of bytes / bandwidth and operations / peak, over
// the time.
//
//   bench_kernels [--json] [--isa NAME] [--seconds PER_CASE]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/cpu.h"
#include "core/limits.h"
#include "core/workers.h"
#include "engine/state.h"
#include "engine/weight.h"

using namespace pyllm;

namespace {

using Clock = std::chrono::steady_clock;

struct Limits {
  double read, rate[3];
};
struct Result {
  std::string name;
  double seconds, flops, bytes;
  int peak;
};  // peak: 0 fp32, 1 bf16, 2 int8

// Median over repetitions that fill `budget` seconds, after one call to warm up.
template <class F> double median(double budget, F f) {
  f(0);
  std::vector<double> times;
  double total = 0;
  for (int i = 1; total < budget || times.size() < 3; ++i) {
    auto begin = Clock::now();
    f(i);
    times.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
    total += times.back();
  }
  std::nth_element(times.begin(), times.begin() + (long)times.size() / 2, times.end());
  return times[times.size() / 2];
}

std::vector<float> random_floats(size_t n) {
  std::mt19937 g(1);
  std::normal_distribution<float> d;
  std::vector<float> x(n);
  for (float& v : x) v = d(g);
  return x;
}

// Random blocks with a small scale: 0x2000 in f16 is 2^-7.
std::unique_ptr<Weight> random_weight(Type t, int64_t n, int64_t k) {
  auto w = std::make_unique<Weight>(t, n, k);
  std::vector<uint8_t> bytes((size_t)(16 * file_row_bytes(t, k)));
  std::mt19937 g(2);
  for (uint8_t& b : bytes) b = (uint8_t)(g() & 0x1f);
  for (int64_t row = 0; row < n; row += 16) w->fill(row, std::min<int64_t>(16, n - row), bytes.data());
  return w;
}

// One row reads its weights cold: copies beyond every cache are used in turn.
Result matmul(Type t, int64_t rows, int64_t n, int64_t k, double budget) {
  const Kernels& kernel = kernels();
  std::vector<std::unique_ptr<Weight>> copies;
  int64_t bytes = 0;
  do {
    copies.push_back(random_weight(t, n, k));
    bytes += copies.back()->bytes();
  } while (rows == 1 && bytes < (int64_t(256) << 20));
  std::vector<float> x = random_floats((size_t)(rows * k)), y((size_t)(rows * n));
  LinearArgs a{};
  a.x = x.data(), a.rows = rows, a.k = a.x_stride = k, a.terms = 1, a.parts = 1;
  Buffer prepared((size_t)1);
  auto bind = [&](int i) {
    a.part[0] = {copies[(size_t)i % copies.size()]->panels(), nullptr, y.data(), n, n, t, Epilogue::Store};
  };
  bind(0);
  if (rows > 4) {
    prepared = Buffer((size_t)kernel.prepared_bytes(a));
    a.prepared = prepared.data();
  }
  a.scratch_stride = kernel.linear_scratch(a);
  Buffer scratch((size_t)(a.scratch_stride * threads()));
  a.scratch = scratch.data();
  double s = median(budget, [&](int i) {
    bind(i);
    run_team(threads(), [&](int worker, int workers, Barrier& barrier) {
      if (a.prepared) {
        kernel.prepare(a, worker, workers);
        barrier.wait();
      }
      kernel.linear(a, worker, workers);
    });
  });
  std::string name = std::string("matmul ") + info(t).name + " " + std::to_string(rows) + "x" + std::to_string(k) +
                     "x" + std::to_string(n);
  return {name, s, 2.0 * (double)rows * (double)n * (double)k, (double)copies[0]->bytes(),
          quantised(t)      ? 2
          : t == Type::BF16 ? 1
                            : 0};
}

// The last `rows` positions of a sequence of `keys`, 9 query heads in 3 key heads of 64, bf16 cache.
Result attention(int64_t rows, int64_t keys, double budget) {
  const Kernels& kernel = kernels();
  const int heads = 9, groups = 3, dim = 64;
  CacheLayout layout = {1, groups, dim, Type::BF16};
  Sequence sequence(std::make_shared<Pool>(layout, 0));
  sequence.reserve(keys);
  std::vector<Row> row((size_t)keys);
  for (int64_t i = 0; i < keys; ++i) row[(size_t)i] = {i, sequence.table()};
  std::vector<float> kv = random_floats((size_t)(keys * groups * dim)), q = random_floats((size_t)(rows * heads * dim));
  std::vector<float> out(q.size());
  kernel.cache_write({kv.data(), kv.data(), row.data(), keys, &layout, 0}, 0, 1);
  AttentionArgs a{};
  const int32_t segment[2] = {0, (int32_t)rows};
  a.q = q.data(), a.out = out.data(), a.row = row.data() + keys - rows, a.rows = rows;
  a.q_stride = a.out_stride = heads * dim, a.cache = &layout, a.heads = heads, a.scale = 0.125f, a.causal = true;
  a.split = rows <= 16 && keys > kChunk;
  a.chunks = a.split ? (keys + kChunk - 1) / kChunk : 1, a.segment = segment, a.segments = 1;
  Buffer partial((size_t)(rows * heads * a.chunks * (16 + dim) * 4));
  a.partial = (float*)partial.data();
  a.scratch_stride = (kernel.attention_scratch(a) + 63) / 64 * 64;
  Buffer scratch((size_t)(a.scratch_stride * threads()));
  a.scratch = scratch.data();
  double s = median(budget, [&](int) {
    run_team(threads(), [&](int worker, int workers, Barrier& barrier) {
      kernel.attention(a, worker, workers);
      if (!a.split) return;
      barrier.wait();
      kernel.merge(a, worker, workers);
    });
  });
  double pairs = (double)rows * ((double)keys - (double)(rows - 1) / 2);
  return {"attention bf16 " + std::to_string(rows) + " of " + std::to_string(keys), s, 4.0 * pairs * heads * dim,
          2.0 * (double)keys * groups * dim * 2, 1};
}

Result layer_norm(int64_t rows, int64_t k, double budget) {
  std::vector<float> x = random_floats((size_t)(rows * k)), w((size_t)k, 1.0f), y(x.size());
  NormArgs a = {x.data(), w.data(), w.data(), y.data(), rows, k, 1e-5f, Norm::Layer};
  double s = median(budget, [&](int) {
    run_team(threads(), [&](int worker, int workers, Barrier&) { kernels().norm(a, worker, workers); });
  });
  return {"layer_norm " + std::to_string(rows) + "x" + std::to_string(k), s, 8.0 * (double)x.size(),
          8.0 * (double)x.size(), 0};
}

void report(const std::string& isa, const Result& r, const Limits& l, bool json) {
  double floor = std::max(r.bytes / l.read, r.flops / l.rate[r.peak]);
  double percent = 100 * floor / r.seconds;
  const char* bound = r.bytes / l.read > r.flops / l.rate[r.peak] ? "read" : "compute";
  if (json)
    std::printf(
        "{\"isa\": \"%s\", \"case\": \"%s\", \"us\": %.1f, \"GFLOPs\": %.1f, \"GBs\": %.1f, \"bound\": \"%s\", "
        "\"percent_of_limit\": %.1f}\n",
        isa.c_str(), r.name.c_str(), r.seconds * 1e6, r.flops / r.seconds * 1e-9, r.bytes / r.seconds * 1e-9, bound,
        percent);
  else
    std::printf("%-11s %-30s %10.1f us %8.1f GFLOP/s %7.1f GB/s %8s %5.0f %%\n", isa.c_str(), r.name.c_str(),
                r.seconds * 1e6, r.flops / r.seconds * 1e-9, r.bytes / r.seconds * 1e-9, bound, percent);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  bool json = false;
  std::string only;
  double budget = 0.12;
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--json")) json = true;
    else if (!std::strcmp(argv[i], "--isa") && i + 1 < argc) only = argv[++i];
    else if (!std::strcmp(argv[i], "--seconds") && i + 1 < argc) budget = std::atof(argv[++i]);
    else return std::fprintf(stderr, "usage: bench_kernels [--json] [--isa NAME] [--seconds PER_CASE]\n"), 2;
  }
  bool known = only.empty();
  for (const Kernels* k : runnable()) known = known || only == k->name;
  if (!known) return std::fprintf(stderr, "bench_kernels: this CPU does not run '%s'\n", only.c_str()), 2;
  for (const Kernels* k : runnable()) {
    if (!only.empty() && only != k->name) continue;
    choose(k->name);
    Limits l = {read_bandwidth(0.3), {compute_rate(0, 0.1), compute_rate(1, 0.1), compute_rate(2, 0.1)}};
    if (!json)
      std::printf("%s, %d threads: read %.1f GB/s, fp32 %.0f GFLOP/s, bf16 %.0f GFLOP/s, int8 %.0f GOP/s\n", k->name,
                  threads(), l.read * 1e-9, l.rate[0] * 1e-9, l.rate[1] * 1e-9, l.rate[2] * 1e-9);
    for (Type t : {Type::Q4_1, Type::Q8_0, Type::Q4_K, Type::BF16, Type::F32}) {
      report(k->name, matmul(t, 1, 1536, t == Type::Q4_K ? 768 : 576, budget), l, json);
      report(k->name, matmul(t, 256, 1536, t == Type::Q4_K ? 768 : 576, budget), l, json);
    }
    report(k->name, matmul(Type::F32, 1024, 1024, 1024, budget), l, json);
    report(k->name, matmul(Type::BF16, 1024, 1024, 1024, budget), l, json);
    report(k->name, attention(512, 512, budget), l, json);
    report(k->name, attention(1, 4096, budget), l, json);
    report(k->name, layer_norm(512, 768, budget), l, json);
  }
  return 0;
}
