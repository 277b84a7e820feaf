// Kernels on plain numpy arrays: shapes are checked here and in pyllm/ops, then the kernel is trusted.
#include <algorithm>
#include <variant>

#include "bindings/bindings.h"
#include "core/cpu.h"
#include "engine/state.h"
#include "engine/weight.h"

using pyllm::Weight;

namespace {

std::string last_isa;  // written and read under the GIL

}  // namespace

const pyllm::Kernels& use() {
  const pyllm::Kernels& k = pyllm::kernels();
  last_isa = k.name;
  return k;
}

pyllm::Act act_named(const std::string& name) {
  using pyllm::Act;
  return named<Act>("activation", name,
                    {{"none", Act::None},
                     {"silu", Act::SiLU},
                     {"gelu", Act::GELU},
                     {"gelu_tanh", Act::GELUTanh},
                     {"softcap", Act::Softcap},
                     {"relu", Act::ReLU},
                     {"tanh", Act::Tanh},
                     {"sigmoid", Act::Sigmoid}});
}

FloatArray empty(const std::vector<py::ssize_t>& shape) {
  constexpr size_t kLine = 64;
  size_t bytes = sizeof(float);
  for (const py::ssize_t n : shape)
    if (n < 0 || __builtin_mul_overflow(bytes, (size_t)n, &bytes))
      throw std::invalid_argument("empty: a dimension of " + std::to_string(n) + " is negative or too large");
  void* all = bytes + kLine < bytes ? nullptr : std::malloc(bytes + kLine);
  if (!all) throw std::bad_alloc();
  const py::capsule owner(all, [](void* p) { std::free(p); });
  pyllm::prefer_huge(all, bytes);
  return FloatArray(shape, (float*)(((uintptr_t)all + kLine - 1) / kLine * kLine), owner);
}

namespace {

// Rows are made ready so many bytes at a time: they stay in the third-level cache, and in memory that is used again.
constexpr int64_t kPrepared = int64_t(16) << 20;

double flops_of(const pyllm::LinearArgs& a) {
  double flops = 0;
  for (int p = 0; p < a.parts; ++p) flops += 2.0 * (double)a.rows * (double)a.k * (double)a.part[p].n;
  return flops;
}

// x is made ready, then all products are made, two steps of the team; before them those of `low`, where it is given.
void run_rows(const pyllm::Kernels& k, pyllm::LinearArgs& a, pyllm::LinearArgs* low) {
  const double flops = flops_of(a) + (low ? flops_of(*low) : 0);
  a.ahead = pyllm::stream_ahead();
  without_gil([&] {
    const int width = a.workers = pyllm::team_width(flops);
    const int64_t shared = a.rows > 1 || a.transposed || low ? k.prepared_bytes(a) : 0;
    a.prepared = shared ? (uint8_t*)64 : nullptr;  // to learn the scratch that is left
    a.scratch_stride = k.linear_scratch(a);
    const Workspace memory((size_t)(shared + a.scratch_stride * width));
    a.prepared = shared ? memory.data() : nullptr;
    a.scratch = memory.data() + shared;
    if (low) {  // floats, which take no more scratch
      low->ahead = a.ahead, low->workers = width;
      low->prepared = a.prepared, low->scratch = a.scratch, low->scratch_stride = a.scratch_stride;
    }
    const int steps = (shared ? 1 : 0) + (low ? 1 : 0) + 1;
    pyllm::run_team(width, {steps, [&](int) { return width * pyllm::slices(flops); },
                            [&](int step, int share, int shares, int worker) {
                              const bool first = shared && step == 0, mine = first || step == steps - 1;
                              pyllm::run_share(first ? k.prepare : k.linear, mine ? a : *low, share, shares, worker);
                            }});
  });
}

// Products whose weights share x, and before them those of `low`, which share it too and which parts read as their low.
void run_linear(const pyllm::Kernels& k, const pyllm::LinearArgs& a, const pyllm::LinearArgs* low = nullptr) {
  pyllm::LinearArgs all = a;
  all.beside = low;
  const int64_t bytes = a.rows ? k.prepared_bytes(all) / a.rows : 0;
  const int64_t most = bytes * a.rows <= kPrepared ? a.rows : std::max<int64_t>(kPrepared / bytes / 48 * 48, 48);
  for (int64_t first = 0; first < a.rows; first += most) {
    pyllm::LinearArgs some = a, before = low ? *low : a;
    for (pyllm::LinearArgs* each : {&some, &before}) {
      each->rows = std::min(most, a.rows - first);
      each->x += a.transposed ? first : first * a.x_stride;
      for (int p = 0; p < each->parts; ++p) {
        each->part[p].out += first * each->part[p].out_stride;
        if (each->part[p].low) each->part[p].low += first * each->part[p].rank;
        if (each->part[p].residual) each->part[p].residual += first * each->part[p].out_stride;
      }
    }
    if (low) some.beside = &before, before.beside = &some;
    run_rows(k, some, low ? &before : nullptr);
  }
}

using Rows = py::array_t<float, 0>;  // a slice of columns too, as it lies

pyllm::LinearArgs linear_args(Rows& x, const Weight& w, bool transposed) {
  const int64_t found = x.ndim() == 2 ? x.shape(!transposed) : -1;
  if (found != w.k())
    throw std::invalid_argument("linear: x has " + std::to_string(found) + " inputs, W " + std::to_string(w.k()));
  if (x.strides(1) != 4 || x.strides(0) < x.shape(1) * 4 || x.strides(0) % 4) x = FloatArray::ensure(x);
  pyllm::LinearArgs a{};
  a.x = x.data(), a.rows = x.shape(transposed), a.k = w.k(), a.x_stride = x.strides(0) / 4, a.terms = 1;
  a.transposed = transposed;
  return a;
}

void add_part(pyllm::LinearArgs& a, const Weight& w, const std::optional<FloatArray>& bias, float* out, bool add) {
  const auto epilogue = add ? pyllm::Epilogue::Add : pyllm::Epilogue::Store;
  a.part[a.parts++] = {w.panels(), data(bias), out,     w.n(),   w.n(), w.type(),
                       epilogue,   nullptr,    nullptr, nullptr, 0,     nullptr};
}

// Where a product goes: into the array given, which must hold as many numbers, or a new one.
py::object place(const pyllm::LinearArgs& a, const Weight& w, const py::object& into) {
  if (into.is_none()) return empty({(py::ssize_t)a.rows, (py::ssize_t)w.n()});
  in_place("linear", "into", into);
  if (py::cast<py::array>(into).size() != a.rows * w.n())
    throw std::invalid_argument("linear: into has not the " + std::to_string(a.rows * w.n()) +
                                " numbers of the result");
  return into;
}

// y (rows, n) = x (rows, k) W^T + bias; transposed: x is (k, rows). With `into` y is written there, or added to it.
py::object linear(Rows x, const Weight& w, const std::optional<FloatArray>& bias, bool high, const py::object& into,
                  bool add, bool transposed) {
  pyllm::LinearArgs a = linear_args(x, w, transposed);
  if (transposed && !pyllm::floating(w.type())) throw std::invalid_argument("linear: x is transposed, W quantised");
  py::object y = place(a, w, into);
  a.terms = high ? 2 : 1;
  add_part(a, w, bias, in_place("linear", "into", y), add);
  run_linear(use(), a);
  return y;
}

// Of a product, what is added to it: h B^T. h: (rows, rank), or A (rank, k), so that h = x A^T.
using Low = std::pair<std::variant<const Weight*, FloatArray>, const Weight*>;

// Makes a part read h; gives h. before: the products that run first, where h is to be made.
FloatArray add_low(const pyllm::LinearArgs& a, pyllm::LinearPart& part, const Low& low, pyllm::LinearArgs& before) {
  const Weight& b = *low.second;
  const auto* down = std::get_if<const Weight*>(&low.first);
  FloatArray h = down ? empty({(py::ssize_t)a.rows, (py::ssize_t)(*down)->n()}) : std::get<FloatArray>(low.first);
  if (b.type() != pyllm::Type::F32 || b.n() != part.n || h.ndim() != 2 || h.shape(0) != a.rows || h.shape(1) != b.k() ||
      (down && (!pyllm::floating((*down)->type()) || (*down)->k() != a.k)))
    throw std::invalid_argument("linears: h " + shape_of(h) + " and B (" + std::to_string(b.n()) + ", " +
                                std::to_string(b.k()) + ") of a product (" + std::to_string(a.rows) + ", " +
                                std::to_string(part.n) + "): allowed are (rows, r) or floats (r, inputs), F32 (n, r)");
  if (down) add_part(before, **down, std::nullopt, h.mutable_data(), false);
  part.low = h.data(), part.low_panels = b.panels(), part.rank = b.k();
  return h;
}

// The same for one to three weights that share x, each with a bias or None: act(y), or residual + y. Gives all y and,
// of those with a low, h.
py::tuple linears(Rows x, const std::vector<const Weight*>& weights,
                  const std::vector<std::optional<FloatArray>>& biases, bool high, const py::object& into,
                  const std::optional<FloatArray>& residual, const std::vector<std::optional<Low>>& lows,
                  const std::string& act) {
  const size_t n = weights.size();
  if (!n || n > pyllm::kParts || biases.size() != n || (!lows.empty() && lows.size() != n))
    throw std::invalid_argument("linears: " + std::to_string(n) + " weights, " + std::to_string(biases.size()) +
                                " biases; 1 to 3 weights, a bias or None for each");
  pyllm::LinearArgs a = linear_args(x, *weights[0], false);
  a.terms = high ? 2 : 1, a.act = act_named(act);
  if (residual && (n > 1 || residual->size() != a.rows * weights[0]->n() || a.act != pyllm::Act::None))
    throw std::invalid_argument("linears: a residual " + shape_of(*residual) +
                                ", allowed is one of a single product's (" + std::to_string(a.rows) + ", " +
                                std::to_string(weights[0]->n()) + "), not activated");
  pyllm::LinearArgs before = a;
  py::list y, h;
  for (size_t i = 0; i < n; ++i) {
    const Weight& w = *weights[i];
    if (w.k() != a.k) throw std::invalid_argument("linears: the weights have different inputs");
    const py::object one = place(a, w, into.is_none() ? py::object(py::none()) : py::object(into[py::int_(i)]));
    add_part(a, w, biases[i], in_place("linears", "into", one), residual.has_value());
    a.part[i].residual = data(residual);
    if (a.act != pyllm::Act::None) a.part[i].epilogue = pyllm::Epilogue::Activate;
    y.append(one);
    if (!lows.empty() && lows[i]) h.append(add_low(a, a.part[i], *lows[i], before));
    else h.append(py::none());
  }
  run_linear(use(), a, before.parts ? &before : nullptr);
  return py::make_tuple(y, h);
}

// y = norm(x), or residual + norm(x).
FloatArray norm(const FloatArray& x, const FloatArray& weight, const std::optional<FloatArray>& bias, float eps,
                bool layer, const std::optional<FloatArray>& residual) {
  FloatArray y = like(x);
  if (residual) std::copy(residual->data(), residual->data() + residual->size(), y.mutable_data());
  const int64_t k = x.shape(x.ndim() - 1);
  pyllm::NormArgs a = {x.data(),
                       weight.data(),
                       data(bias),
                       y.mutable_data(),
                       k ? x.size() / k : 0,
                       k,
                       eps,
                       layer ? pyllm::Norm::Layer : pyllm::Norm::RMS,
                       residual.has_value()};
  const pyllm::Kernels& kernels = use();
  without_gil([&] { pyllm::run_kernel(kernels.norm, a, 4.0 * (double)x.size()); });
  return y;
}

// y = act(x) * up; x and up float32, or both bf16.
FloatArray map(const py::array& x, const std::optional<py::array>& up, const std::string& act, float cap) {
  FloatArray y = empty(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
  const Numbers of = numbers("map", "x", x), other = up ? numbers("map", "up", *up) : of;
  if (other.half != of.half || (up && up->size() != x.size()))
    throw std::invalid_argument("map: x " + shape_of(x) + " and up " + shape_of(*up) + " differ in size or type");
  pyllm::MapArgs a = {
      of.data, up ? other.data : nullptr, y.mutable_data(), x.size(), act_named(act), cap, of.half, nullptr, nullptr};
  const pyllm::Kernels& kernels = use();
  without_gil([&] { pyllm::run_kernel(kernels.map, a, 10.0 * (double)x.size()); });
  return y;
}

// (y, x, up): y = act(x) * up of an x and up rounded to bf16, which come with it.
py::tuple map_halves(const FloatArray& x, const std::optional<FloatArray>& up, const std::string& act, bool wanted) {
  if (up && up->size() != x.size())
    throw std::invalid_argument("map_halves: x " + shape_of(x) + " and up " + shape_of(*up) + " differ");
  const std::vector<py::ssize_t> shape(x.shape(), x.shape() + x.ndim());
  Halves kept(shape), kept_up(up ? shape : std::vector<py::ssize_t>{0});
  FloatArray y = empty(wanted ? shape : std::vector<py::ssize_t>{0});
  pyllm::MapArgs a = {x.data(),
                      data(up),
                      wanted ? y.mutable_data() : nullptr,
                      x.size(),
                      act_named(act),
                      0,
                      false,
                      kept.mutable_data(),
                      kept_up.mutable_data()};
  const pyllm::Kernels& kernels = use();
  without_gil([&] { pyllm::run_kernel(kernels.map, a, 10.0 * (double)x.size()); });
  return py::make_tuple(wanted ? py::object(y) : py::none(), kept, up ? py::object(kept_up) : py::none());
}

FloatArray softmax(const FloatArray& x) {
  FloatArray y = like(x);
  const int64_t k = x.shape(x.ndim() - 1);
  pyllm::SoftmaxArgs a = {x.data(), y.mutable_data(), k ? x.size() / k : 0, k};
  const pyllm::Kernels& kernels = use();
  without_gil([&] { pyllm::run_kernel(kernels.softmax, a, 10.0 * (double)x.size()); });
  return y;
}

// x (rows, heads, dim), table (positions, 2, dim).
FloatArray rotary(const FloatArray& x, const FloatArray& table,
                  const py::array_t<int64_t, py::array::c_style>& position) {
  FloatArray y = like(x);
  for (py::ssize_t i = 0; i < position.size(); ++i)
    if (position.data()[i] < 0 || position.data()[i] >= table.shape(0))
      throw std::invalid_argument("rotary: position " + std::to_string(position.data()[i]) + ", the table has " +
                                  std::to_string(table.shape(0)));
  pyllm::RotaryArgs a = {x.data(), table.data(), position.data(), y.mutable_data(), x.shape(0), x.shape(1), x.shape(2)};
  const pyllm::Kernels& kernels = use();
  without_gil([&] { pyllm::run_kernel(kernels.rotary, a, 4.0 * (double)x.size()); });
  return y;
}

// One sequence: q (queries, heads * dim), k and v (keys, kv_heads * dim). Query i stands at position keys - queries +
// i.
FloatArray attention(const FloatArray& q, const FloatArray& key, const FloatArray& value, int heads, int kv_heads,
                     int dim, float scale, bool causal, int64_t window, float softcap, const std::string& cache) {
  const pyllm::Kernels& kernels = use();
  const int64_t rows = q.shape(0), keys = key.shape(0);
  FloatArray y = like(q);
  float* out = y.mutable_data();
  without_gil([&] {
    pyllm::CacheLayout layout = {1, kv_heads, dim, pyllm::type_named(cache)};
    pyllm::Sequence sequence(std::make_shared<pyllm::Pool>(layout.page_bytes(), 0));
    sequence.reserve(keys);
    std::vector<pyllm::Row> row((size_t)keys), query((size_t)rows);
    for (int64_t i = 0; i < keys; ++i) row[(size_t)i] = {i, sequence.table()};
    for (int64_t i = 0; i < rows; ++i) query[(size_t)i] = {keys - rows + i, sequence.table()};
    pyllm::CacheWriteArgs w = {key.data(), value.data(), row.data(), keys, &layout, 0};
    pyllm::run_kernel(kernels.cache_write, w, (double)keys * kv_heads * dim * 4);
    pyllm::AttentionArgs a{};
    const int32_t segment[2] = {0, (int32_t)rows};
    const double flops = 4.0 * (double)rows * (double)keys * heads * dim;
    const int width = pyllm::team_width(flops);
    a.q = q.data(), a.out = out, a.row = query.data(), a.rows = rows, a.q_stride = a.out_stride = (int64_t)heads * dim;
    a.cache = &layout, a.heads = heads, a.scale = scale, a.softcap = softcap, a.causal = causal, a.length = keys;
    a.window = window, a.chunks = 1;
    a.segment = segment, a.segments = 1;
    const int64_t slots = rows * heads * (16 + pyllm::panels(dim) * 16) * 4;
    a.scratch_stride = (kernels.attention_scratch(a) + 63) / 64 * 64;
    const Workspace memory((size_t)(slots + a.scratch_stride * width));
    a.partial = (float*)memory.data();
    a.scratch = memory.data() + slots;
    pyllm::run_kernel(kernels.attention, a, flops);
  });
  return y;
}

// q (rows, heads, dim) and k (rows, key heads, dim): each head over its root mean square, times its weight, turned.
std::pair<FloatArray, FloatArray> heads(const FloatArray& q, const FloatArray& k, const FloatArray& q_weight,
                                        const FloatArray& k_weight, float eps, const FloatArray& table) {
  FloatArray turned_q = like(q), turned_k = like(k);
  std::copy(q.data(), q.data() + q.size(), turned_q.mutable_data());
  std::copy(k.data(), k.data() + k.size(), turned_k.mutable_data());
  const int64_t rows = q.shape(0);
  pyllm::HeadsArgs a = {turned_q.mutable_data(),
                        turned_k.mutable_data(),
                        q_weight.data(),
                        k_weight.data(),
                        eps,
                        nullptr,
                        rows,
                        q.shape(1),
                        table.data(),
                        nullptr,
                        0};
  const pyllm::Kernels& kernels = use();
  without_gil([&] {
    pyllm::CacheLayout layout = {1, (int)k.shape(1), (int)k.shape(2), pyllm::Type::F32};
    pyllm::Sequence sequence(std::make_shared<pyllm::Pool>(layout.page_bytes(), 0));
    sequence.reserve(rows);
    std::vector<pyllm::Row> row;
    for (int64_t i = 0; i < rows; ++i) row.push_back({i, sequence.table()});
    a.row = row.data(), a.cache = &layout;
    pyllm::run_kernel(kernels.heads, a, 10.0 * (double)(q.size() + k.size()));
  });
  return {turned_q, turned_k};
}

FloatArray embedding(const py::array_t<int32_t, py::array::c_style>& ids, const Weight& w) {
  for (py::ssize_t i = 0; i < ids.size(); ++i)
    if (ids.data()[i] < 0 || ids.data()[i] >= w.n())
      throw std::out_of_range("embedding: id " + std::to_string(ids.data()[i]) + " at " + std::to_string(i) +
                              ", allowed are 0 to " + std::to_string(w.n() - 1));
  FloatArray y = empty({ids.size(), (py::ssize_t)w.k()});
  pyllm::EmbeddingArgs a = {ids.data(), nullptr, w.panels(), nullptr,  y.mutable_data(),
                            ids.size(), w.k(),   w.k(),      w.type(), 1};
  const pyllm::Kernels& kernels = use();
  without_gil([&] { pyllm::run_kernel(kernels.embedding, a, 20.0 * (double)ids.size() * (double)w.k()); });
  return y;
}

}  // namespace

void bind_ops(py::module_& m) {
  m.def("linear", &linear, py::arg("x"), py::arg("weight"), py::arg("bias") = py::none(), py::arg("high") = false,
        py::arg("into") = py::none(), py::arg("add") = false, py::arg("transposed") = false);
  m.def("linears", &linears, py::arg("x"), py::arg("weights"), py::arg("biases"), py::arg("high") = false,
        py::arg("into") = py::none(), py::arg("residual") = py::none(), py::arg("lows") = py::list(),
        py::arg("act") = "none");
  m.def("empty", &empty, "A float32 array that is not set and begins on a line of 64 bytes");
  m.def("keep_freed", &pyllm::keep_freed, "Keeps freed memory for what comes next");
  m.def("norm", &norm, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("eps"), py::arg("layer"),
        py::arg("residual") = py::none());
  m.def("map", &map, py::arg("x"), py::arg("up"), py::arg("act"), py::arg("cap") = 0.0f);
  m.def("map_halves", &map_halves, py::arg("x"), py::arg("up"), py::arg("act"), py::arg("wanted") = true);
  m.def("softmax", &softmax, py::arg("x"));
  m.def("rotary", &rotary, py::arg("x"), py::arg("table"), py::arg("position"));
  m.def("attention", &attention);
  m.def("heads", &heads, py::arg("q"), py::arg("k"), py::arg("q_weight"), py::arg("k_weight"), py::arg("eps"),
        py::arg("table"));
  m.def("embedding", &embedding, py::arg("ids"), py::arg("weight"));
  m.def("last_kernel_isa", [] { return last_isa; }, "Instruction set that the last of these functions ran on");
}
