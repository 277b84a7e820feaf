#include "bindings/bindings.h"

void bind_sampling(py::module_&) {}
