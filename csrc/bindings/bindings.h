// What every binding file shares.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;

void bind_cpu(py::module_& m);
void bind_text(py::module_& m);
void bind_sampling(py::module_& m);
void bind_formats(py::module_& m);
