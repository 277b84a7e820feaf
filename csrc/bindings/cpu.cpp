#include "bindings/bindings.h"
#include "core/cpu.h"
#include "core/memory.h"

#include <chrono>
#include <vector>

namespace {

bool signal_pending() {
  py::gil_scoped_acquire hold;
  return PyErr_CheckSignals() != 0;
}

// Bytes per second that the team reads from a buffer far beyond the caches.
double read_bandwidth(double seconds) {
  const size_t bytes = size_t(512) << 20;
  pyllm::Buffer memory(bytes);
  for (size_t i = 0; i < bytes; i += 4096) memory.data()[i] = 1;  // pages exist only once written
  std::atomic<uint64_t> sink{0};
  double done = 0, passed = 0;
  auto begin = std::chrono::steady_clock::now();
  do {
    pyllm::run_team(pyllm::threads(), [&](int worker, int workers, pyllm::Barrier&) {
      pyllm::Share s = pyllm::share((int64_t)(bytes / 512), worker, workers);
      const uint64_t* p = (const uint64_t*)memory.data();
      uint64_t a[8] = {};
      for (int64_t i = s.first; i < s.last; ++i)
        for (int k = 0; k < 64; k += 8)
          for (int j = 0; j < 8; ++j) a[j] += p[i * 64 + k + j];
      for (uint64_t x : a) sink += x;
    });
    done += (double)bytes;
    passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  } while (passed < seconds);
  return done / passed;
}

double compute_rate(int what, double seconds) {
  std::vector<double> rates((size_t)pyllm::threads());
  pyllm::run_team(pyllm::threads(), [&](int worker, int, pyllm::Barrier& barrier) {
    barrier.wait();
    rates[(size_t)worker] = pyllm::kernels().peak(what, seconds);
  });
  double total = 0;
  for (double r : rates) total += r;
  return total;
}

py::dict measure_limits(double seconds) {
  double read, fp32, bf16, int8;
  {
    py::gil_scoped_release release;
    read = read_bandwidth(seconds);
    fp32 = compute_rate(0, seconds), bf16 = compute_rate(1, seconds), int8 = compute_rate(2, seconds);
  }
  py::dict d;
  d["read_GBs"] = read * 1e-9, d["fp32_GFLOPs"] = fp32 * 1e-9, d["bf16_GFLOPs"] = bf16 * 1e-9, d["int8_GOPs"] = int8 * 1e-9;
  return d;
}

}  // namespace

void bind_cpu(py::module_& m) {
  pyllm::interrupted = signal_pending;
  pyllm::kernels();  // an unusable CPU or PYLLM_ISA is said at import
  m.def("cpu_features", [] {
    py::dict d;
    for (const auto& [name, has] : pyllm::cpu_features()) d[name.c_str()] = has;
    return d;
  });
  m.def("isas", [] {
    std::vector<std::string> names;
    for (const pyllm::Kernels* k : pyllm::runnable()) names.push_back(k->name);
    return names;
  }, "Instruction sets this CPU runs, best last");
  m.def("isa", [] { return std::string(pyllm::kernels().name); });
  m.def("set_isa", &pyllm::choose, py::arg("name"));
  m.def("threads", &pyllm::threads);
  m.def("threads_reason", &pyllm::threads_reason);
  m.def("set_threads", &pyllm::set_threads, py::arg("n"));
  m.def("huge_pages", &pyllm::huge_pages);
  m.def("measure_limits", &measure_limits, py::arg("seconds") = 0.2);
}
