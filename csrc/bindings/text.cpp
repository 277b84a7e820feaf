#include "bindings/bindings.h"

void bind_text(py::module_&) {}
