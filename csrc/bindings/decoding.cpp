// Steps of decoding on plain numpy arrays: attention of one token a beam, and the choice of the beams that go on.
#include <algorithm>

#include "bindings/bindings.h"
#include "engine/beams.h"

namespace {

using Places = py::array_t<int32_t, py::array::c_style>;
using Ids = py::array_t<int64_t, py::array::c_style>;
using Row = py::array_t<float, py::array::c_style>;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("step_attention: " + what); }

void has_shape(const char* name, const py::array& a, std::initializer_list<int64_t> shape) {
  std::string allowed;
  bool same = a.ndim() == (py::ssize_t)shape.size();
  py::ssize_t i = 0;
  for (const int64_t n : shape) {
    same = same && a.shape(i++) == n;
    allowed += (allowed.empty() ? "" : ", ") + std::to_string(n);
  }
  if (!same) refuse(std::string(name) + " " + shape_of(a) + ", allowed is (" + allowed + ")");
}

// What every row sees lies within `places` places. `where` is (rows, capacity) places, or (rows,) the first of a run.
void check_places(const Places& where, const Places& count, int64_t rows, int64_t places) {
  const bool run = where.ndim() == 1;
  if (where.ndim() < 1 || where.ndim() > 2 || where.shape(0) != rows)
    refuse("places " + shape_of(where) + " for " + std::to_string(rows) + " rows");
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t n = count.at(r), most = run ? places : where.shape(1);
    if (n < 1 || n > most)
      refuse("row " + std::to_string(r) + " sees " + std::to_string(n) + " keys, allowed are 1 to " +
             std::to_string(most));
    const auto inside = [&](int64_t at, int64_t last) {
      if (at < 0 || last >= places)
        refuse("row " + std::to_string(r) + " sees place " + std::to_string(at < 0 ? at : last) + ", there are " +
               std::to_string(places));
    };
    if (run) {
      inside(where.at(r), where.at(r) + n - 1);
      continue;
    }
    const int32_t* own = where.data(r, 0);
    inside(*std::min_element(own, own + n), *std::max_element(own, own + n));
  }
}

py::object step_attention(const FloatArray& q, const py::array& keys, const py::array& values, const Places& where,
                          const Places& count, int heads, float scale, const std::optional<FloatArray>& bias,
                          bool weights) {
  if (q.ndim() != 2 || heads < 1 || q.shape(1) < 1 || q.shape(1) % heads)
    refuse("q " + shape_of(q) + ", allowed is (rows, a multiple of " + std::to_string(heads) + " heads)");
  const int64_t rows = q.shape(0), width = q.shape(1);
  const Numbers k = numbers("step_attention", "keys", keys), v = numbers("step_attention", "values", values);
  if (keys.ndim() != 2) refuse("keys " + shape_of(keys) + ", allowed is (places, " + std::to_string(width) + ")");
  has_shape("keys", keys, {keys.shape(0), width});
  has_shape("values", values, {keys.shape(0), width});
  if (k.half != v.half) refuse("keys and values of two types");
  has_shape("count", count, {rows});
  check_places(where, count, rows, keys.shape(0));
  pyllm::StepAttentionArgs a{};
  a.longest = rows ? *std::max_element(count.data(), count.data() + rows) : 0;
  if (bias) {
    if (bias->ndim() != 2 || bias->shape(0) != heads || bias->shape(1) < a.longest)
      refuse("bias " + shape_of(*bias) + ", allowed is (" + std::to_string(heads) + ", " + std::to_string(a.longest) +
             " or more)");
    a.bias = bias->data(), a.bias_stride = bias->shape(1);
  }
  FloatArray out = like(q), shown({weights ? (py::ssize_t)rows : 0, (py::ssize_t)heads, (py::ssize_t)a.longest});
  std::fill(shown.mutable_data(), shown.mutable_data() + shown.size(), 0.0f);
  a.q = q.data(), a.out = out.mutable_data(), a.keys = k.data, a.values = v.data;
  if (where.ndim() == 2) a.place = where.data(), a.place_stride = where.shape(1);
  else a.first = where.data();
  a.count = count.data(), a.rows = rows, a.heads = heads, a.dim = (int)(width / heads), a.scale = scale;
  a.type = k.half ? pyllm::Type::BF16 : pyllm::Type::F32;
  a.weights = weights ? shown.mutable_data() : nullptr;
  const pyllm::Kernels& kernels = use();
  without_gil([&] {
    const double flops = 4.0 * (double)rows * (double)width * (double)a.longest;
    a.scratch_stride = (kernels.step_attention_scratch(a) + 63) / 64 * 64;
    const Workspace memory((size_t)(a.scratch_stride * pyllm::team_width(flops)));
    a.scratch = memory.data();
    pyllm::run_kernel(kernels.step_attention, a, flops);
  });
  return weights ? py::object(py::make_tuple(out, shown)) : py::object(out);
}

// What a beam said: its tokens, how many of them were given, and how many it may have.
using Said = std::tuple<Ids, int64_t, int64_t>;

// For each group a list of (score, row, token, logprob).
py::list continuations(const pyllm::Sampling& how, const Row& logits, const std::vector<double>& scores,
                       const std::vector<int32_t>& start, int64_t most, const std::vector<Said>& said) {
  const size_t rows = scores.size();
  if (logits.ndim() != 2 || logits.shape(0) != (py::ssize_t)rows || logits.shape(1) < 1 || logits.shape(1) > INT32_MAX)
    throw py::value_error("continuations: logits " + shape_of(logits) + " for " + std::to_string(rows) + " scores");
  const bool ascend = !start.empty() && start.front() == 0 && start.back() == (int32_t)rows &&
                      std::is_sorted(start.begin(), start.end());
  if (!ascend || most < 1) throw py::value_error("continuations: groups ascend from 0 to the rows, most is above 0");
  if (said.size() != (how.edits() ? rows : 0))
    throw py::value_error("continuations: " + std::to_string(said.size()) + " histories for " + std::to_string(rows) +
                          " rows, allowed are as many, or none without edits");
  std::vector<pyllm::BeamRow> beams(rows);
  for (size_t i = 0; i < rows; ++i) {
    beams[i] = {logits.data((py::ssize_t)i, 0), {}, scores[i]};
    if (said.empty()) continue;
    const auto& [ids, prompt, longest] = said[i];
    if (ids.ndim() != 1 || prompt < 0 || prompt > ids.size())
      throw py::value_error("continuations: prompt of " + std::to_string(prompt) + " tokens in a history " +
                            shape_of(ids));
    beams[i].said = {ids.data(), (size_t)ids.size(), (size_t)prompt, longest > 0 ? (size_t)longest : 0};
  }
  std::vector<std::vector<pyllm::Continuation>> best;
  {
    py::gil_scoped_release release;
    best = pyllm::continuations(beams, (size_t)logits.shape(1), start, how, (size_t)most);
  }
  py::list out;
  for (const auto& group : best) {
    py::list found;
    for (const pyllm::Continuation& c : group) found.append(py::make_tuple(c.score, c.row, c.token, c.logprob));
    out.append(found);
  }
  return out;
}

}  // namespace

void bind_decoding(py::module_& m) {
  m.def("step_attention", &step_attention, py::arg("q"), py::arg("keys"), py::arg("values"), py::arg("places"),
        py::arg("count"), py::arg("heads"), py::arg("scale"), py::arg("bias") = py::none(), py::arg("weights") = false);
  m.def("continuations", &continuations, py::arg("how"), py::arg("logits").noconvert(), py::arg("scores"),
        py::arg("starts"), py::arg("most"), py::arg("said") = std::vector<Said>());
}
