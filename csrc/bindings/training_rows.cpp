// Kernels of training that work row by row, on plain numpy arrays: the way back, the loss, dropout, the optimisers.
#include <vector>

#include "bindings/bindings.h"

namespace {

using Ids = py::array_t<int32_t, py::array::c_style>;
using Targets = py::array_t<int64_t, py::array::c_style>;

void same_shape(const char* op, const char* name, const py::array& a, const char* other, const py::array& b) {
  if (a.ndim() != b.ndim() || !std::equal(a.shape(), a.shape() + a.ndim(), b.shape()))
    throw std::invalid_argument(std::string(op) + ": " + name + " " + shape_of(a) + " and " + other + " " +
                                shape_of(b) + " differ");
}

// Numbers of a row: the last dimension.
int64_t width(const char* op, const char* name, const py::array& a) {
  if (a.ndim() < 1)
    throw std::invalid_argument(std::string(op) + ": " + name + " (), at least one dimension is needed");
  return a.shape(a.ndim() - 1);
}

void has_width(const char* op, const char* name, const py::array& a, int64_t k) {
  if (a.ndim() != 1 || a.shape(0) != k)
    throw std::invalid_argument(std::string(op) + ": " + name + " " + shape_of(a) + ", allowed is (" +
                                std::to_string(k) + ",)");
}

void same_size(const char* op, const char* name, const py::array& a, const char* other, const py::array& b) {
  if (a.size() != b.size())
    throw std::invalid_argument(std::string(op) + ": " + name + " has " + std::to_string(a.size()) + " numbers, " +
                                other + " " + std::to_string(b.size()));
}

// What is changed must share no memory with what else is read or changed.
void apart(const char* op, const char* name, const py::array& a, const char* other, const py::array& b) {
  const char *p = (const char*)a.data(), *q = (const char*)b.data();
  if (p < q + b.nbytes() && q < p + a.nbytes())
    throw std::invalid_argument(std::string(op) + ": " + name + " and " + other + " share memory");
}

// Sums over the rows of x (rows, k) into out (k).
void sum_rows(const pyllm::Kernels& kernels, const float* x, int64_t rows, int64_t k, float* out) {
  pyllm::ColumnSumsArgs a = {x, out, rows, k};
  pyllm::run_kernel(kernels.column_sums, a, 2.0 * (double)rows * (double)k);
}

py::tuple norm_backward(const FloatArray& dy, const FloatArray& x, const FloatArray& weight, bool bias_wanted,
                        float eps, bool layer) {
  const char* op = "norm_backward";
  const int64_t k = width(op, "x", x), rows = k ? x.size() / k : 0,
                blocks = (rows + pyllm::kSumRows - 1) / pyllm::kSumRows;
  same_shape(op, "dy", dy, "x", x);
  has_width(op, "weight", weight, k);
  FloatArray dx = like(x), dweight(k), dbias(bias_wanted ? k : 0);
  pyllm::NormBackwardArgs a = {dy.data(),     x.data(),
                               weight.data(), dx.mutable_data(),
                               nullptr,       nullptr,
                               rows,          k,
                               eps,           layer ? pyllm::Norm::Layer : pyllm::Norm::RMS};
  float *weight_out = dweight.mutable_data(), *bias_out = dbias.mutable_data();
  const pyllm::Kernels& kernels = use();
  without_gil([&] {
    const Workspace memory((size_t)(blocks * k * (bias_wanted ? 2 : 1)) * sizeof(float));
    a.weight_sums = (float*)memory.data();
    a.bias_sums = bias_wanted ? a.weight_sums + blocks * k : nullptr;
    pyllm::run_kernel(kernels.norm_backward, a, 15.0 * (double)x.size());
    sum_rows(kernels, a.weight_sums, blocks, k, weight_out);
    if (bias_wanted) sum_rows(kernels, a.bias_sums, blocks, k, bias_out);
  });
  return py::make_tuple(dx, dweight, bias_wanted ? py::object(dbias) : py::none());
}

// x and up float32, or both bf16.
py::tuple map_backward(const FloatArray& dy, const py::array& x, const std::optional<py::array>& up,
                       const std::string& act, float cap) {
  const char* op = "map_backward";
  const Numbers of = numbers(op, "x", x), other = up ? numbers(op, "up", *up) : of;
  if (of.half != other.half) throw py::type_error("map_backward: x and up differ in their types");
  same_shape(op, "dy", dy, "x", x);
  if (up) same_shape(op, "up", *up, "x", x);
  const pyllm::Act f = act_named(act);
  if (f == pyllm::Act::Softcap && !(cap > 0))
    throw std::invalid_argument("map_backward: cap " + std::to_string(cap) + ", allowed is a number above 0");
  FloatArray dx = like(dy), dup = up ? like(dy) : FloatArray(0);
  pyllm::MapBackwardArgs a = {dy.data(),
                              of.data,
                              up ? other.data : nullptr,
                              dx.mutable_data(),
                              up ? dup.mutable_data() : nullptr,
                              (int64_t)x.size(),
                              f,
                              cap,
                              of.half};
  const pyllm::Kernels& kernels = use();
  without_gil([&] { pyllm::run_kernel(kernels.map_backward, a, 20.0 * (double)x.size()); });
  return py::make_tuple(dx, up ? py::object(dup) : py::none());
}

FloatArray softmax_backward(const FloatArray& dy, const FloatArray& y) {
  const int64_t k = width("softmax_backward", "y", y);
  same_shape("softmax_backward", "dy", dy, "y", y);
  FloatArray dx = like(y);
  pyllm::SoftmaxBackwardArgs a = {dy.data(), y.data(), dx.mutable_data(), k ? y.size() / k : 0, k};
  const pyllm::Kernels& kernels = use();
  without_gil([&] { pyllm::run_kernel(kernels.softmax_backward, a, 5.0 * (double)y.size()); });
  return dx;
}

FloatArray column_sums(const FloatArray& x) {
  const int64_t k = width("column_sums", "x", x);
  FloatArray y(k);
  float* out = y.mutable_data();
  const pyllm::Kernels& kernels = use();
  without_gil([&] { sum_rows(kernels, x.data(), k ? x.size() / k : 0, k, out); });
  return y;
}

// h^T x (r, k) of h (rows, r) and x (rows, k), across: its transpose; written to `into`, or added to it.
void outer(const FloatArray& h, const FloatArray& x, const py::array& into, bool add, bool across) {
  const char* op = "outer";
  float* out = in_place(op, "into", into);
  if (h.ndim() != 2 || x.ndim() != 2 || h.shape(0) != x.shape(0) || into.size() != h.shape(1) * x.shape(1))
    throw std::invalid_argument("outer: h " + shape_of(h) + ", x " + shape_of(x) + " and into " + shape_of(into) +
                                ", allowed are (rows, r), (rows, k), (r, k)");
  apart(op, "into", into, "h", h);
  apart(op, "into", into, "x", x);
  pyllm::OuterArgs a = {h.data(), x.data(), out, h.shape(0), h.shape(1), x.shape(1), add, across};
  const pyllm::Kernels& kernels = use();
  without_gil([&] { pyllm::run_kernel(kernels.outer, a, 2.0 * (double)x.size() * (double)a.r, add); });
}

// into (vocabulary, d) += the rows of dy (..., d) at ids (...).
void embedding_backward(const FloatArray& dy, const Ids& ids, const py::array& into) {
  const char* op = "embedding_backward";
  float* out = in_place(op, "into", into);
  if (into.ndim() != 2)
    throw std::invalid_argument("embedding_backward: into " + shape_of(into) + ", allowed is (vocabulary, d)");
  const int64_t vocabulary = into.shape(0), d = into.shape(1), rows = ids.size();
  if (width(op, "dy", dy) != d || dy.size() != rows * d)
    throw std::invalid_argument("embedding_backward: dy " + shape_of(dy) + ", ids " + shape_of(ids) + " and into " +
                                shape_of(into) + ", a row of dy for each id is needed");
  apart(op, "into", into, "dy", dy);
  for (int64_t i = 0; i < rows; ++i)
    if (ids.data()[i] < 0 || ids.data()[i] >= vocabulary)
      throw std::out_of_range("embedding_backward: id " + std::to_string(ids.data()[i]) + " at " + std::to_string(i) +
                              ", allowed are 0 to " + std::to_string(vocabulary - 1));
  pyllm::EmbeddingBackwardArgs a = {dy.data(), ids.data(), out, rows, d};
  const pyllm::Kernels& kernels = use();
  without_gil([&] { pyllm::run_kernel(kernels.embedding_backward, a, 2.0 * (double)dy.size(), pyllm::kWhole); });
}

FloatArray run_cross_entropy(const char* op, float* logits, const py::array& shape, const Targets& targets,
                             const std::optional<FloatArray>& weights, float smoothing, float scale, bool gradient) {
  if (shape.ndim() != 2 || shape.shape(1) < 1)
    throw std::invalid_argument(std::string(op) + ": logits " + shape_of(shape) + ", allowed is (rows, vocabulary)");
  const int64_t rows = shape.shape(0), k = shape.shape(1);
  has_width(op, "targets", targets, rows);
  if (weights) has_width(op, "weights", *weights, rows);
  if (!(smoothing >= 0 && smoothing <= 1))
    throw std::invalid_argument(std::string(op) + ": smoothing " + std::to_string(smoothing) + ", allowed are 0 to 1");
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t target = targets.data()[r];
    if ((target < 0 || target >= k) && target != pyllm::kIgnored)
      throw std::out_of_range(std::string(op) + ": target " + std::to_string(target) + " at " + std::to_string(r) +
                              ", allowed are 0 to " + std::to_string(k - 1) + ", or -100");
  }
  FloatArray losses(rows);
  pyllm::CrossEntropyArgs a = {logits,    targets.data(), data(weights), losses.mutable_data(), rows, k,
                               smoothing, scale,          gradient};
  const pyllm::Kernels& kernels = use();
  const double flops = 40.0 * (double)rows * (double)k;
  without_gil([&] { pyllm::run_kernel(kernels.cross_entropy, a, flops, gradient); });
  return losses;
}

FloatArray cross_entropy(const py::array& logits, const Targets& targets, const std::optional<FloatArray>& weights,
                         float smoothing, float scale) {
  float* x = in_place("cross_entropy", "logits", logits);
  if (weights) apart("cross_entropy", "logits", logits, "weights", *weights);
  apart("cross_entropy", "logits", logits, "targets", targets);
  return run_cross_entropy("cross_entropy", x, logits, targets, weights, smoothing, scale, true);
}

FloatArray cross_entropy_losses(const FloatArray& logits, const Targets& targets, float smoothing) {
  return run_cross_entropy("cross_entropy_losses", const_cast<float*>(logits.data()), logits, targets, std::nullopt,
                           smoothing, 1, false);
}

FloatArray dropout(const FloatArray& x, double p, uint64_t seed, uint64_t stream, uint64_t offset) {
  FloatArray y = like(x);
  pyllm::DropoutArgs a = {x.data(), y.mutable_data(), x.size(), draw_of("dropout", p, seed, stream, offset)};
  const pyllm::Kernels& kernels = use();
  without_gil([&] { pyllm::run_kernel(kernels.dropout, a, 30.0 * (double)x.size()); });
  return y;
}

double sum_of_squares(const FloatArray& x) {
  const size_t blocks = (size_t)((x.size() + pyllm::kSumBlock - 1) / pyllm::kSumBlock);
  std::vector<double> partial(blocks);
  pyllm::SquaresArgs a = {x.data(), partial.data(), x.size()};
  const pyllm::Kernels& kernels = use();
  without_gil([&] { pyllm::run_kernel(kernels.squares, a, 3.0 * (double)x.size()); });
  double total = 0;
  for (double each : partial) total += each;
  return total;
}

void adamw(const py::array& p, const FloatArray& g, const py::array& m, const py::array& v, double lr, double beta1,
           double beta2, double eps, double weight_decay, int64_t step, double scale) {
  const char* op = "adamw";
  float *p_data = in_place(op, "p", p), *m_data = in_place(op, "m", m), *v_data = in_place(op, "v", v);
  same_size(op, "g", g, "p", p), same_size(op, "m", m, "p", p), same_size(op, "v", v, "p", p);
  apart(op, "p", p, "g", g), apart(op, "m", m, "g", g), apart(op, "v", v, "g", g);
  apart(op, "p", p, "m", m), apart(op, "p", p, "v", v), apart(op, "m", m, "v", v);
  if (step < 1) throw std::invalid_argument("adamw: step " + std::to_string(step) + ", allowed is 1 or more");
  for (double beta : {beta1, beta2})
    if (!(beta >= 0 && beta < 1))
      throw std::invalid_argument("adamw: beta " + std::to_string(beta) + ", allowed are 0 up to, but not with, 1");
  pyllm::AdamWArgs a{};
  a.p = p_data, a.g = g.data(), a.m = m_data, a.v = v_data, a.n = p.size(), a.scale = (float)scale;
  a.keep = (float)(1 - lr * weight_decay), a.beta2 = (float)beta2;
  a.rest1 = (float)(1 - beta1), a.rest2 = (float)(1 - beta2), a.eps = (float)eps;
  a.root = (float)(1 / std::sqrt(1 - std::pow(beta2, (double)step)));
  a.step_size = (float)(lr / (1 - std::pow(beta1, (double)step)));
  const pyllm::Kernels& kernels = use();
  without_gil([&] { pyllm::run_kernel(kernels.adamw, a, 20.0 * (double)a.n, pyllm::kWhole); });
}

void sgd(const py::array& p, const FloatArray& g, const std::optional<py::array>& m, double lr, double momentum,
         double weight_decay, bool nesterov, double scale, bool first) {
  const char* op = "sgd";
  pyllm::SGDArgs a{};
  a.p = in_place(op, "p", p), a.g = g.data(), a.n = p.size();
  same_size(op, "g", g, "p", p);
  apart(op, "p", p, "g", g);
  if (m) {
    a.m = in_place(op, "m", *m);
    same_size(op, "m", *m, "p", p);
    apart(op, "m", *m, "g", g), apart(op, "p", p, "m", *m);
  } else if (momentum != 0 || nesterov) {
    throw std::invalid_argument("sgd: m is None, momentum needs an array of " + std::to_string(a.n) + " numbers");
  }
  a.lr = (float)lr, a.momentum = (float)momentum, a.weight_decay = (float)weight_decay, a.scale = (float)scale;
  a.nesterov = nesterov, a.first = first;
  const pyllm::Kernels& kernels = use();
  without_gil([&] { pyllm::run_kernel(kernels.sgd, a, 8.0 * (double)a.n, pyllm::kWhole); });
}

void axpy(const FloatArray& x, double factor, const py::array& into) {
  pyllm::AxpyArgs a = {x.data(), in_place("axpy", "into", into), into.size(), (float)factor};
  same_size("axpy", "x", x, "into", into);
  apart("axpy", "into", into, "x", x);
  const pyllm::Kernels& kernels = use();
  without_gil([&] { pyllm::run_kernel(kernels.axpy, a, 2.0 * (double)a.n, pyllm::kWhole); });
}

}  // namespace

void bind_training_rows(py::module_& m) {
  m.def("norm_backward", &norm_backward, py::arg("dy"), py::arg("x"), py::arg("weight"), py::arg("bias_wanted"),
        py::arg("eps"), py::arg("layer"));
  m.def("map_backward", &map_backward, py::arg("dy"), py::arg("x"), py::arg("up"), py::arg("act"),
        py::arg("cap") = 0.0f);
  m.def("softmax_backward", &softmax_backward, py::arg("dy"), py::arg("y"));
  m.def("outer", &outer, py::arg("h"), py::arg("x"), py::arg("into"), py::arg("add") = false,
        py::arg("across") = false);
  m.def("column_sums", &column_sums, py::arg("x"));
  m.def("embedding_backward", &embedding_backward, py::arg("dy"), py::arg("ids"), py::arg("into"));
  m.def("cross_entropy", &cross_entropy, py::arg("logits"), py::arg("targets"), py::arg("weights") = py::none(),
        py::arg("smoothing") = 0.0f, py::arg("scale") = 1.0f);
  m.def("cross_entropy_losses", &cross_entropy_losses, py::arg("logits"), py::arg("targets"),
        py::arg("smoothing") = 0.0f);
  m.def("dropout", &dropout, py::arg("x"), py::arg("p"), py::arg("seed"), py::arg("stream"), py::arg("offset") = 0);
  m.def("sum_of_squares", &sum_of_squares, py::arg("x"));
  m.def("adamw", &adamw, py::arg("p"), py::arg("g"), py::arg("m"), py::arg("v"), py::arg("lr"), py::arg("beta1"),
        py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"), py::arg("step"), py::arg("scale") = 1.0);
  m.def("sgd", &sgd, py::arg("p"), py::arg("g"), py::arg("m"), py::arg("lr"), py::arg("momentum") = 0.0,
        py::arg("weight_decay") = 0.0, py::arg("nesterov") = false, py::arg("scale") = 1.0, py::arg("first") = false);
  m.def("axpy", &axpy, py::arg("x"), py::arg("a"), py::arg("into"));
}
