#include "bindings/bindings.h"
#include "core/cpu.h"
#include "core/limits.h"
#include "core/memory.h"

namespace {

bool signal_pending() {
  py::gil_scoped_acquire hold;
  return PyErr_CheckSignals() != 0;
}

py::dict measure_limits(double seconds) {
  double read, fp32, bf16, int8;
  {
    py::gil_scoped_release release;
    read = pyllm::read_bandwidth(seconds);
    fp32 = pyllm::compute_rate(0, seconds), bf16 = pyllm::compute_rate(1, seconds),
    int8 = pyllm::compute_rate(2, seconds);
  }
  py::dict d;
  d["read_GBs"] = read * 1e-9, d["fp32_GFLOPs"] = fp32 * 1e-9, d["bf16_GFLOPs"] = bf16 * 1e-9,
  d["int8_GOPs"] = int8 * 1e-9;
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
  m.def(
      "isas",
      [] {
        std::vector<std::string> names;
        for (const pyllm::Kernels* k : pyllm::runnable()) names.push_back(k->name);
        return names;
      },
      "Instruction sets this CPU runs, best last");
  m.def("quick_pairs", &pyllm::quick_pairs);
  m.def("isa", [] { return std::string(pyllm::kernels().name); });
  m.def("set_isa", &pyllm::choose, py::arg("name"));
  m.def("threads", &pyllm::threads);
  m.def("threads_reason", &pyllm::threads_reason);
  m.def("set_threads", &pyllm::set_threads, py::arg("n"));
  m.def("huge_pages", &pyllm::huge_pages);
  m.def("measure_limits", &measure_limits, py::arg("seconds") = 0.2);
}
