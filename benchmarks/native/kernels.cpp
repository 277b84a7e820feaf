// Kernels beside the machine's own limits, on every instruction set that the CPU runs: products of every storage type,
// attention, norms, softmax. One kernel is one benchmark named kernel/type/shape/instruction set, so that
//
//   bench_kernels --benchmark_filter='matvec/.*/avx512vnni/' --benchmark_repetitions=5 --benchmark_format=json
//
// picks, repeats and prints as Google Benchmark does. GB/s counts bytes as files have them.
#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/state.h"
#include "engine/weight.h"
#include "roofline.h"

using namespace pyllm;

namespace {

using State = benchmark::State;

constexpr int64_t kCold = int64_t(256) << 20;  // bytes beyond every cache

std::vector<float> random_floats(size_t n) {
  std::mt19937 g(1);
  std::normal_distribution<float> d;
  std::vector<float> x(n);
  for (size_t i = 0; i < n && i < 65536; ++i) x[i] = d(g);
  for (size_t i = 65536; i < n; ++i) x[i] = x[i - 65536];
  return x;
}

// Random blocks with a small scale.
Weight random_weight(Type t, int64_t n, int64_t k) {
  Weight w(t, n, k);
  std::vector<uint8_t> bytes((size_t)(n * file_row_bytes(t, k)));
  std::mt19937 g(2);
  for (uint8_t& b : bytes) b = (uint8_t)(g() & 0x1f);
  w.fill(0, n, bytes.data());
  return w;
}

roofline::Unit unit(Type t) {
  return quantised(t) ? roofline::kInt8 : t == Type::BF16 ? roofline::kBf16 : roofline::kFp32;
}

// One kernel on the team; with a second one after everybody has finished the first.
template <class Args> void run(Kernel<Args> first, Kernel<Args> second, const Args& a) {
  run_team(threads(), [&](int worker, int workers, Barrier& barrier) {
    first(a, worker, workers);
    if (!second) return;
    barrier.wait();
    second(a, worker, workers);
  });
}

// y (rows, n) = x (rows, k) W^T. One row reads its weights cold: copies beyond every cache are used in turn.
void product(State& state, Type t, int64_t rows, int64_t k, int64_t n) {
  const Kernels& kernel = kernels();
  const Weight weight = random_weight(t, n, k);
  const int64_t copies = rows == 1 ? kCold / weight.bytes() + 1 : 1;
  Buffer memory((size_t)(copies * weight.bytes()));
  for (int64_t i = 0; i < copies; ++i)
    std::memcpy(memory.data() + i * weight.bytes(), weight.panels(), (size_t)weight.bytes());
  std::vector<float> x = random_floats((size_t)(rows * k)), y((size_t)(rows * n));
  LinearArgs a{};
  a.x = x.data(), a.rows = rows, a.k = a.x_stride = k, a.terms = 1, a.parts = 1, a.ahead = stream_ahead();
  a.part[0] = {memory.data(), nullptr, y.data(), n, n, t, Epilogue::Store};
  Buffer prepared;
  if (rows > 4) {
    prepared = Buffer((size_t)kernel.prepared_bytes(a));
    a.prepared = prepared.data();
  }
  a.scratch_stride = kernel.linear_scratch(a);
  Buffer scratch((size_t)(a.scratch_stride * threads()));
  a.scratch = scratch.data();
  const double bytes = (double)(n * file_row_bytes(t, k) + 4 * rows * (k + n));
  int64_t turn = 0;
  roofline::measure(state, 2.0 * (double)rows * (double)n * (double)k, bytes, unit(t), [&] {
    a.part[0].panels = memory.data() + turn++ % copies * weight.bytes();
    if (a.prepared) run<LinearArgs>(kernel.prepare, kernel.linear, a);
    else run<LinearArgs>(kernel.linear, nullptr, a);
  });
}

// The last `rows` positions of a sequence of `keys`, 9 query heads in 3 key heads of 64, the cache in this type.
void attention(State& state, Type cache, int64_t rows, int64_t keys) {
  const Kernels& kernel = kernels();
  const int heads = 9, groups = 3, dim = 64;
  const CacheLayout layout = {1, groups, dim, cache};
  // One row reads keys and values cold, as between other layers' work.
  const int64_t bytes = 2 * keys * groups * dim * (cache == Type::F32 ? 4 : 2);
  const int64_t copies = rows == 1 ? kCold / bytes + 1 : 1;
  auto pool = std::make_shared<Pool>(layout, 0);
  std::vector<Sequence> sequences((size_t)copies, Sequence(pool));
  std::vector<std::vector<Row>> row((size_t)copies, std::vector<Row>((size_t)keys));
  std::vector<float> kv = random_floats((size_t)(keys * groups * dim)), q = random_floats((size_t)(rows * heads * dim));
  std::vector<float> out(q.size());
  for (size_t c = 0; c < sequences.size(); ++c) {
    sequences[c].reserve(keys);
    for (int64_t i = 0; i < keys; ++i) row[c][(size_t)i] = {i, sequences[c].table()};
    run<CacheWriteArgs>(kernel.cache_write, nullptr, {kv.data(), kv.data(), row[c].data(), keys, &layout, 0});
  }
  AttentionArgs a{};
  const int32_t segment[2] = {0, (int32_t)rows};
  a.q = q.data(), a.out = out.data(), a.row = row[0].data() + keys - rows, a.rows = rows;
  a.q_stride = a.out_stride = heads * dim, a.cache = &layout, a.heads = heads, a.scale = 0.125f, a.causal = true;
  a.split = rows <= 16 && keys > kChunk;
  a.chunks = a.split ? (keys + kChunk - 1) / kChunk : 1, a.segment = segment, a.segments = 1;
  Buffer partial((size_t)(rows * heads * a.chunks * (16 + dim) * 4));
  a.partial = (float*)partial.data();
  a.scratch_stride = (kernel.attention_scratch(a) + 63) / 64 * 64;
  Buffer scratch((size_t)(a.scratch_stride * threads()));
  a.scratch = scratch.data();
  const double pairs = (double)rows * ((double)keys - (double)(rows - 1) / 2);
  int64_t turn = 0;
  roofline::measure(state, 4.0 * pairs * heads * dim, (double)bytes, unit(cache), [&] {
    a.row = row[(size_t)(turn++ % copies)].data() + keys - rows;
    run<AttentionArgs>(kernel.attention, a.split ? kernel.merge : nullptr, a);
  });
}

// y = f(x) row by row, from memory to memory.
void norm(State& state, Norm which, int64_t rows, int64_t k) {
  std::vector<float> x = random_floats((size_t)(rows * k)), w((size_t)k, 1.0f), y(x.size());
  NormArgs a = {x.data(), w.data(), which == Norm::Layer ? w.data() : nullptr, y.data(), rows, k, 1e-5f, which, false};
  roofline::measure(state, 8.0 * (double)x.size(), 8.0 * (double)x.size(), roofline::kFp32,
                    [&] { run<NormArgs>(kernels().norm, nullptr, a); });
}

void softmax(State& state, int64_t rows, int64_t k) {
  std::vector<float> x = random_floats((size_t)(rows * k)), y(x.size());
  SoftmaxArgs a = {x.data(), y.data(), rows, k};
  roofline::measure(state, 20.0 * (double)x.size(), 8.0 * (double)x.size(), roofline::kFp32,
                    [&] { run<SoftmaxArgs>(kernels().softmax, nullptr, a); });
}

// out = silu(x) * up.
void gate(State& state, int64_t n) {
  std::vector<float> x = random_floats((size_t)n), y(x.size());
  MapArgs a = {x.data(), x.data(), y.data(), n, Act::SiLU, 0};
  roofline::measure(state, 20.0 * (double)n, 8.0 * (double)n, roofline::kFp32,
                    [&] { run<MapArgs>(kernels().map, nullptr, a); });
}

template <class F> void enter(const std::string& name, const Kernels* isa, F f) {
  auto chosen = [isa, f](State& state) {
    choose(isa->name);
    f(state);
  };
  benchmark::RegisterBenchmark((name + "/" + isa->name).c_str(), chosen)->UseRealTime();
}

std::string shape(int64_t rows, int64_t k, int64_t n) {
  return std::to_string(rows) + "x" + std::to_string(n) + "x" + std::to_string(k);
}

void products(const Kernels* isa) {
  auto one = [&](const char* kernel, Type t, int64_t rows, int64_t n, int64_t k) {
    enter(std::string(kernel) + "/" + info(t).name + "/" + shape(rows, k, n), isa,
          [=](State& state) { product(state, t, rows, k, n); });
  };
  for (int i = 0; i < kTypes; ++i) {
    const Type t = (Type)i;
    const int64_t k = info(t).block == 256 ? 768 : 576;
    one("matvec", t, 1, 1536, k);
    one("matvec", t, 1, 11008, 4096);
    one("gemm", t, 512, 1536, k);
  }
  for (Type t : {Type::F32, Type::F16, Type::BF16}) {
    one("gemm", t, 2048, 2048, 2048);
    one("gemm", t, 32, 4600, 1150);
  }
  for (Type t : {Type::Q4_1, Type::Q4_0, Type::Q8_0, Type::Q4_K, Type::Q6_K}) {
    one("gemm", t, 512, 4096, 4096);
    one("gemm", t, 16, 1536, info(t).block == 256 ? 768 : 576);
  }
}

void rest(const Kernels* isa) {
  for (Type t : {Type::BF16, Type::F32}) {
    const std::string name = std::string("attention/") + info(t).name;
    enter(name + "/512of512", isa, [=](State& s) { attention(s, t, 512, 512); });
    enter(name + "/1of4096", isa, [=](State& s) { attention(s, t, 1, 4096); });
  }
  enter("layer_norm/F32/16384x2048", isa, [](State& s) { norm(s, Norm::Layer, 16384, 2048); });
  enter("rms_norm/F32/16384x2048", isa, [](State& s) { norm(s, Norm::RMS, 16384, 2048); });
  enter("softmax/F32/16384x2048", isa, [](State& s) { softmax(s, 16384, 2048); });
  enter("silu_gate/F32/33554432", isa, [](State& s) { gate(s, 33554432); });
}

}  // namespace

int main(int argc, char** argv) {
  for (const Kernels* isa : runnable()) {
    products(isa);
    rest(isa);
  }
  std::vector<char*> arguments(argv, argv + argc);
  char time[] = "--benchmark_min_time=0.1";  // before the caller's own, which then counts
  arguments.insert(arguments.begin() + 1, time);
  int count = argc + 1;
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
