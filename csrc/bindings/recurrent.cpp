// Recurrent layers over whole sequences, and the way back, on plain numpy arrays.
#include "core/recurrent.h"

#include <algorithm>
#include <vector>

#include "bindings/bindings.h"

namespace {

using pyllm::RecurrentShape;
using Sizes = py::array_t<int64_t, py::array::c_style>;
using Maybe = std::optional<FloatArray>;

// What both ways are asked with.
struct Asked {
  std::string op;
  RecurrentShape shape{};
  int64_t rows = 0, steps = 0;
  bool reversed = false;
  std::vector<int64_t> start{};
  const float* weight = nullptr;

  [[noreturn]] void refuse(const std::string& what) const { throw std::invalid_argument(op + ": " + what); }
  void has_shape(const char* name, const py::array& a, int64_t n, int64_t width) const {
    if (a.ndim() != 2 || a.shape(0) != n || a.shape(1) != width)
      refuse(std::string(name) + " " + shape_of(a) + ", allowed is (" + std::to_string(n) + ", " +
             std::to_string(width) + ")");
  }
  void has_shape(const char* name, const Maybe& a, int64_t n, int64_t width) const {
    if (a) has_shape(name, (const py::array&)*a, n, width);
  }
  // The i-th step of time in the order of forward; -1 before the first and after the last.
  int64_t step(int64_t i) const { return i < 0 || i >= steps ? -1 : reversed ? steps - 1 - i : i; }
  double flops() const { return 2.0 * (double)rows * (double)shape.units * (double)shape.units * shape.gates(); }
};

void take_sizes(Asked& x, const Sizes& sizes) {
  if (sizes.ndim() != 1) x.refuse("sizes " + shape_of(sizes) + ", allowed is (steps,)");
  x.steps = sizes.shape(0);
  x.start.assign(1, 0);
  int64_t before = x.shape.sequences;
  for (int64_t t = 0; t < x.steps; ++t) {
    const int64_t n = sizes.data()[t];
    if (n < 1 || n > before)
      x.refuse("sizes " + std::to_string(n) + " at " + std::to_string(t) + ", allowed are 1 to " +
               std::to_string(before) + ": sequences end and none begins");
    x.start.push_back(x.start.back() + n);
    before = n;
  }
  x.rows = x.start.back();
  x.shape.start = x.start.data();
}

Asked check(const char* op, const std::string& cell, const FloatArray& weight, int64_t sequences, const Sizes& sizes,
            bool reversed, const std::string& type) {
  Asked x{op};
  x.reversed = reversed;
  x.shape.cell = cell_named(op, cell);
  x.shape.type =
      named<pyllm::Type>((x.op + ": type").c_str(), type, {{"F32", pyllm::Type::F32}, {"BF16", pyllm::Type::BF16}});
  const int64_t gates = x.shape.gates();
  if (weight.ndim() != 2 || weight.shape(1) < 1 || weight.shape(0) != gates * weight.shape(1))
    x.refuse("weight " + shape_of(weight) + ", allowed is (" + std::to_string(gates) + " * units, units)");
  x.shape.units = weight.shape(1), x.weight = weight.data();
  if (sequences < 0) x.refuse("sequences " + std::to_string(sequences) + ", allowed are 0 or more");
  x.shape.sequences = sequences;
  take_sizes(x, sizes);
  return x;
}

// Into how many shares a step is cut for each worker: who comes late finds some left, and each has some pairs of
// panels.
int step_shares(int64_t units, int workers) {
  return (int)std::clamp<int64_t>(pyllm::panels(units) / (8 * workers), 1, 4) * workers;
}

// Weights as panels, and the two operands; then f(turn, share, shares) for each of `turns`, one after the other. f with
// turn -1 runs first.
template <class F> void run_steps(Asked& x, bool backward, int64_t turns, const pyllm::Kernels& kernels, F f) {
  RecurrentShape& s = x.shape;
  const int gates = s.gates(), workers = pyllm::team_width(x.flops());
  const int64_t matrix = pyllm::gate_panels(s.type, s.units), numbers = s.units * s.units;
  s.operand_stride = pyllm::operand_stride(s.type, s.units, backward ? gates : 1);
  const int64_t operand = s.operand_stride * s.sequences;
  const Workspace memory((size_t)(gates * matrix + 2 * operand));
  s.weights = memory.data();
  for (int i = 0; i < 2; ++i) s.operand[i] = memory.data() + gates * matrix + i * operand;
  pyllm::run_team(workers, {(int)turns + 1, [&](int step) { return step ? step_shares(s.units, workers) : workers; },
                            [&](int step, int share, int shares, int) {
                              for (int g = 0; step == 0 && g < gates; ++g) {
                                const pyllm::PackArgs pack = {x.weight + g * numbers,
                                                              memory.data() + g * matrix,
                                                              s.units,
                                                              s.units,
                                                              s.units,
                                                              s.type,
                                                              backward};
                                kernels.pack(pack, share, shares);
                              }
                              f(step - 1, share, shares);
                            }});
}

// gates (rows, gates * units) hold the input products of all steps, and become the gates. Gives h (rows, units), LSTM's
// c and GRU's inner products likewise.
py::tuple recurrent_forward(const std::string& cell, const py::array& gates, const FloatArray& weight,
                            const Maybe& inner_bias, const Maybe& first, const Maybe& first_c, int64_t sequences,
                            const Sizes& sizes, bool reversed, const std::string& type) {
  Asked x = check("recurrent_forward", cell, weight, sequences, sizes, reversed, type);
  const int64_t units = x.shape.units;
  const bool lstm = x.shape.cell == pyllm::Cell::LSTM, gru = x.shape.cell == pyllm::Cell::GRU;
  pyllm::RecurrentArgs a{};
  a.gates = in_place("recurrent_forward", "gates", gates);
  x.has_shape("gates", gates, x.rows, units * x.shape.gates());
  x.has_shape("first", first, sequences, units);
  x.has_shape("first_c", first_c, sequences, units);
  if (inner_bias && (inner_bias->ndim() != 1 || inner_bias->shape(0) != units))
    x.refuse("inner_bias " + shape_of(*inner_bias) + ", allowed is (" + std::to_string(units) + ",)");
  const std::vector<py::ssize_t> all = {(py::ssize_t)x.rows, (py::ssize_t)units}, none = {0, 0};
  FloatArray h = empty(all), c = empty(lstm ? all : none), inner = empty(gru ? all : none);
  a.h = h.mutable_data(), a.c = c.mutable_data(), a.inner = inner.mutable_data();
  a.first = data(first), a.first_c = data(first_c), a.inner_bias = data(inner_bias);
  const pyllm::Kernels& kernels = use();
  without_gil([&] {
    run_steps(x, false, x.steps, kernels, [&](int64_t turn, int share, int shares) {
      pyllm::RecurrentArgs own = a;
      own.shape = x.shape, own.shape.turn = turn < 0 ? -1 : (int)(turn & 1);
      own.step = x.step(turn), own.before = x.step(turn - 1);
      kernels.recurrent(own, share, shares);
    });
  });
  return py::make_tuple(h, lstm ? py::object(c) : py::none(), gru ? py::object(inner) : py::none());
}

// dh (rows, units), and LSTM's dc (sequences, units) of the last c. gates become their gradients. Gives the gradients
// of the first h, of LSTM's first c, and what GRU's recurrent products are given (rows, 3 * units).
py::tuple recurrent_backward(const std::string& cell, const FloatArray& dh, const Maybe& dc, const py::array& gates,
                             const FloatArray& weight, const FloatArray& h, const Maybe& c, const Maybe& inner,
                             const Maybe& first, const Maybe& first_c, int64_t sequences, const Sizes& sizes,
                             bool reversed, const std::string& type) {
  Asked x = check("recurrent_backward", cell, weight, sequences, sizes, reversed, type);
  const int64_t units = x.shape.units;
  const bool lstm = x.shape.cell == pyllm::Cell::LSTM, gru = x.shape.cell == pyllm::Cell::GRU;
  pyllm::RecurrentBackwardArgs a{};
  a.gates = in_place("recurrent_backward", "gates", gates);
  x.has_shape("gates", gates, x.rows, units * x.shape.gates());
  x.has_shape("dh", (const py::array&)dh, x.rows, units);
  x.has_shape("h", (const py::array&)h, x.rows, units);
  x.has_shape("c", c, x.rows, units);
  x.has_shape("inner", inner, x.rows, units);
  if (lstm && !c) x.refuse("c is None, lstm needs it");
  if (gru && !inner) x.refuse("inner is None, gru needs it");
  x.has_shape("dc", dc, sequences, units);
  x.has_shape("first", first, sequences, units);
  x.has_shape("first_c", first_c, sequences, units);
  const std::vector<py::ssize_t> all = {(py::ssize_t)x.rows, (py::ssize_t)(3 * units)}, none = {0, 0},
                                 each = {(py::ssize_t)sequences, (py::ssize_t)units};
  FloatArray dfirst = empty(each), carry = empty(lstm || gru ? each : none), hidden = empty(gru ? all : none);
  std::fill_n(dfirst.mutable_data(), dfirst.size(), 0.0f);
  if (lstm && dc) std::copy_n(dc->data(), dc->size(), carry.mutable_data());
  else std::fill_n(carry.mutable_data(), carry.size(), 0.0f);
  a.dh = dh.data(), a.h = h.data(), a.c = data(c), a.inner = data(inner);
  a.first = data(first), a.first_c = data(first_c);
  a.hidden = hidden.mutable_data(), a.carry = carry.mutable_data(), a.dfirst = dfirst.mutable_data();
  const pyllm::Kernels& kernels = use();
  without_gil([&] {
    run_steps(x, true, x.steps ? x.steps + 1 : 0, kernels, [&](int64_t turn, int share, int shares) {
      pyllm::RecurrentBackwardArgs own = a;
      const int64_t i = x.steps - 1 - turn;
      own.shape = x.shape, own.shape.turn = turn < 0 ? -1 : (int)(turn & 1);
      own.step = x.step(i), own.before = x.step(i - 1), own.after = x.step(i + 1);
      kernels.recurrent_backward(own, share, shares);
    });
  });
  return py::make_tuple(dfirst, lstm ? py::object(carry) : py::none(), gru ? py::object(hidden) : py::none());
}

}  // namespace

pyllm::Cell cell_named(const std::string& op, const std::string& name) {
  using pyllm::Cell;
  return named<Cell>((op + ": cell").c_str(), name,
                     {{"tanh", Cell::Tanh}, {"relu", Cell::ReLU}, {"lstm", Cell::LSTM}, {"gru", Cell::GRU}});
}

void bind_recurrent(py::module_& m) {
  m.def("recurrent_forward", &recurrent_forward, py::arg("cell"), py::arg("gates"), py::arg("weight"),
        py::arg("inner_bias"), py::arg("first"), py::arg("first_c"), py::arg("sequences"), py::arg("sizes"),
        py::arg("reversed"), py::arg("type"));
  m.def("recurrent_backward", &recurrent_backward, py::arg("cell"), py::arg("dh"), py::arg("dc"), py::arg("gates"),
        py::arg("weight"), py::arg("h"), py::arg("c"), py::arg("inner"), py::arg("first"), py::arg("first_c"),
        py::arg("sequences"), py::arg("sizes"), py::arg("reversed"), py::arg("type"));
}
