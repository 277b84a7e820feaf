// What every binding file shares.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/workers.h"

namespace py = pybind11;

void bind_cpu(py::module_& m);
void bind_engine(py::module_& m);
void bind_formats(py::module_& m);
void bind_ops(py::module_& m);
void bind_sampling(py::module_& m);
void bind_text(py::module_& m);
void bind_train(py::module_& m);

using FloatArray = py::array_t<float, py::array::c_style>;

// Runs f without the GIL; an interrupt becomes the exception that Python's signal handler raised.
template <class F> auto without_gil(F f) {
  try {
    py::gil_scoped_release release;
    return f();
  } catch (const pyllm::Interrupted&) {
  }
  throw py::error_already_set();
}
