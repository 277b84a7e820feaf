#include "bindings/bindings.h"

void bind_cpu(py::module_&) {}
