// The table of contents of pyllm._core; one file per group.
#include "bindings/bindings.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "C++ core of pyllm: private, used through the Python packages above it";
  bind_cpu(m);
  bind_ops(m);
  bind_training_rows(m);
  bind_training_attention(m);
  bind_recurrent(m);
  bind_engine(m);
  bind_sampling(m);
  bind_decoding(m);
  bind_text(m);
  bind_train(m);
  bind_formats(m);
}
