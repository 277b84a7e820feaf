// What every binding file shares.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

#include "core/memory.h"
#include "core/recurrent.h"
#include "core/workers.h"

namespace py = pybind11;

void bind_cpu(py::module_& m);
void bind_decoding(py::module_& m);
void bind_engine(py::module_& m);
void bind_formats(py::module_& m);
void bind_ops(py::module_& m);
void bind_recurrent(py::module_& m);
void bind_sampling(py::module_& m);
void bind_text(py::module_& m);
void bind_training_attention(py::module_& m);
void bind_training_rows(py::module_& m);
void bind_train(py::module_& m);

using FloatArray = py::array_t<float, py::array::c_style>;

// The active kernels; last_kernel_isa() says from then on that they ran.
const pyllm::Kernels& use();

// The value of a name; std::invalid_argument that lists what is known.
template <class E>
E named(const char* what, const std::string& name, std::initializer_list<std::pair<const char*, E>> all) {
  std::string known;
  for (const auto& [n, e] : all) {
    if (name == n) return e;
    known += (known.empty() ? "" : ", ") + std::string(n);
  }
  throw std::invalid_argument(std::string(what) + ": '" + name + "' is not known; known are " + known);
}

pyllm::Act act_named(const std::string& name);
pyllm::Cell cell_named(const std::string& op, const std::string& name);

inline std::string shape_of(const py::array& a) {
  std::string text = "(";
  for (py::ssize_t i = 0; i < a.ndim(); ++i) text += (i ? ", " : "") + std::to_string(a.shape(i));
  return text + (a.ndim() == 1 ? ",)" : ")");
}

// Raises ValueError for a p outside of [0, 1).
inline pyllm::Draw draw_of(const std::string& op, double p, uint64_t seed, uint64_t stream, uint64_t offset) {
  if (!(p >= 0 && p < 1))
    throw std::invalid_argument(op + ": p " + std::to_string(p) + ", allowed are 0 up to, but not with, 1");
  const auto least = (uint32_t)std::min(std::nearbyint(p * 0x1p32), 0x1p32 - 1);
  return {seed, stream, offset, least, (float)(1 / (1 - p))};
}

inline const float* data(const std::optional<FloatArray>& a) { return a ? a->data() : nullptr; }

// Numbers that are float32 or bf16, the latter as uint16.
using Halves = py::array_t<uint16_t, py::array::c_style>;
struct Numbers {
  const void* data;
  bool half;
};
inline Numbers numbers(const char* op, const char* name, const py::array& a) {
  const bool half = py::isinstance<Halves>(a);
  if (!half && !py::isinstance<FloatArray>(a))
    throw py::type_error(std::string(op) + ": " + name + " is " + py::str(a.dtype()).cast<std::string>() +
                         ", allowed are float32 and uint16 (bf16) in C order");
  return {a.data(), half};
}

// Numbers, not set, from a line of 64 bytes on, which numpy's own begin 16 bytes after: there every second vector would
// lie on two lines. From the common heap, so that what is freed comes back.
FloatArray empty(const std::vector<py::ssize_t>& shape);
inline FloatArray like(const FloatArray& x) { return empty(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim())); }

// The numbers of an array that is changed in place. Nothing is converted: a copy would be changed in its stead.
inline float* in_place(const char* op, const char* name, const py::array& a) {
  const std::string where = std::string(op) + ": " + name;
  if (!py::isinstance<py::array_t<float>>(a))
    throw py::type_error(where + " is " + py::str(a.dtype()).cast<std::string>() + ", allowed is float32");
  if (!(a.flags() & py::array::c_style)) throw std::invalid_argument(where + " is not C-contiguous, which it must be");
  if (!a.writeable()) throw std::invalid_argument(where + " is read-only, it must be writeable");
  return (float*)const_cast<void*>(a.data());
}

// Memory of one call; the calling thread keeps it for the next one, since fresh pages took a quarter of a product's
// time.
class Workspace {
 public:
  explicit Workspace(size_t bytes) {
    static thread_local pyllm::Buffer kept;
    pyllm::Buffer& buffer = bytes > kKept ? own_ : kept;
    if (buffer.size() < bytes) buffer = pyllm::Buffer(bytes);
    data_ = buffer.data();
  }
  uint8_t* data() const { return data_; }

 private:
  static constexpr size_t kKept = size_t(64) << 20;
  pyllm::Buffer own_;
  uint8_t* data_;
};

// Runs f without the GIL; an interrupt becomes the exception that Python's signal handler raised.
template <class F> auto without_gil(F f) {
  try {
    py::gil_scoped_release release;
    return f();
  } catch (const pyllm::Interrupted&) {
  }
  throw py::error_already_set();
}
