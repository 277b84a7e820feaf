#include <mutex>
#include <optional>

#include "bindings/bindings.h"
#include "core/cpu.h"
#include "engine/program.h"

using pyllm::Act, pyllm::Epilogue, pyllm::Norm, pyllm::Program, pyllm::Sequence, pyllm::Weight;

namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Ids = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

pyllm::Floats floats(const std::optional<FloatArray>& a) {
  return a ? std::make_shared<std::vector<float>>(a->data(), a->data() + a->size()) : nullptr;
}

// What a program can run: not "softcap", whose cap only logits hand over.
Act recorded_act(const std::string& s) {
  return named<Act>("activation", s,
                    {{"none", Act::None},
                     {"silu", Act::SiLU},
                     {"gelu", Act::GELU},
                     {"gelu_tanh", Act::GELUTanh},
                     {"relu", Act::ReLU},
                     {"tanh", Act::Tanh},
                     {"sigmoid", Act::Sigmoid}});
}
Epilogue epilogue_named(const std::string& s) {
  return named<Epilogue>("epilogue", s,
                         {{"store", Epilogue::Store},
                          {"add", Epilogue::Add},
                          {"activate", Epilogue::Activate},
                          {"rotary", Epilogue::Rotary},
                          {"key", Epilogue::Key},
                          {"value", Epilogue::Value}});
}

// (kind, weight, bias, eps), or None.
pyllm::NormOf norm_of(const py::object& o) {
  if (o.is_none()) return {};
  auto [kind, weight, bias, eps] = o.cast<std::tuple<std::string, FloatArray, std::optional<FloatArray>, float>>();
  return {named<Norm>("norm", kind, {{"rms", Norm::RMS}, {"layer", Norm::Layer}}), floats(weight), floats(bias), eps};
}

// [(weight, bias or None, epilogue, value that is added or -1), ...]
std::vector<pyllm::Part> parts_of(const py::list& list) {
  std::vector<pyllm::Part> parts;
  for (const py::handle& h : list) {
    auto [w, b, e, more] = h.cast<std::tuple<std::shared_ptr<Weight>, std::optional<FloatArray>, std::string, int>>();
    parts.push_back({w, floats(b), epilogue_named(e), more});
  }
  return parts;
}

struct SharedPage {  // a page that Python holds on to
  std::shared_ptr<pyllm::Pool> pool;
  pyllm::Page page;
};

// Pages to write up to length; only where there is something to take or to copy is the GIL dropped.
bool reserve(Sequence& s, int64_t length) {
  if (s.ready(length)) return true;
  return without_gil([&] { return s.reserve(length); });
}

struct Recorded {  // a program and the lock that makes its replays one at a time
  Program program;
  std::mutex lock;
  int64_t tokens = 0;  // rows of the embedding: the ids that are allowed
  template <class... A> explicit Recorded(A&&... a) : program(std::forward<A>(a)...) {}
};

// batch: [(sequence, ids, how many of its last rows are given), ...]
FloatArray run(Recorded& self, const py::list& batch, bool hidden) {
  Program& p = self.program;
  std::vector<int32_t> tokens, wanted;
  std::vector<pyllm::Segment> segments;
  std::vector<std::shared_ptr<Sequence>> held;
  for (const py::handle& h : batch) {
    auto [sequence, ids, want] = h.cast<std::tuple<std::shared_ptr<Sequence>, Ids, int64_t>>();
    for (py::ssize_t i = 0; i < ids.size(); ++i) {
      int32_t id = ids.data()[i];
      if (id < 0 || id >= self.tokens)
        throw std::invalid_argument("tokens: id " + std::to_string(id) + " at " + std::to_string(i) +
                                    ", allowed are 0 to " + std::to_string(self.tokens - 1));
      tokens.push_back(id);
    }
    if (ids.size() == 0) throw std::invalid_argument("tokens: a sequence of the step has none");
    if (sequence->length() + ids.size() > p.context())
      throw std::invalid_argument("context: " + std::to_string(sequence->length() + ids.size()) +
                                  " positions, the model has " + std::to_string(p.context()));
    for (const auto& other : held)
      if (other == sequence) throw std::invalid_argument("step: a sequence appears twice");
    segments.push_back({sequence.get(), (int64_t)ids.size()});
    held.push_back(sequence);
    if (want < 0 || want > ids.size())
      throw std::invalid_argument("step: " + std::to_string(want) + " rows are wanted of " +
                                  std::to_string(ids.size()) + " tokens");
    int32_t end = (int32_t)tokens.size();
    for (int32_t i = end - (int32_t)want; i < end; ++i) wanted.push_back(i);
  }
  if (segments.empty()) throw std::invalid_argument("step: no sequences");
  FloatArray out({(py::ssize_t)wanted.size(), (py::ssize_t)(hidden ? p.width() : p.vocabulary())});
  float* to = out.mutable_data();
  without_gil([&] {
    std::lock_guard<std::mutex> hold(self.lock);
    for (const auto& s : segments)
      if (!s.sequence->reserve(s.sequence->length() + s.count)) throw std::bad_alloc();
    p.run(tokens.data(), segments, wanted, hidden, to);
  });
  return out;
}

// hidden (rows, width), as run gives them.
FloatArray head(Recorded& self, const FloatArray& hidden) {
  Program& p = self.program;
  if (hidden.ndim() != 2 || hidden.shape(1) != p.width())
    throw std::invalid_argument("head: hidden rows need the width " + std::to_string(p.width()));
  FloatArray out({hidden.shape(0), (py::ssize_t)p.vocabulary()});
  const float* from = hidden.data();
  float* to = out.mutable_data();
  without_gil([&] {
    std::lock_guard<std::mutex> hold(self.lock);
    p.head(from, hidden.shape(0), to);
  });
  return out;
}

void bind_states(py::module_& m) {
  py::class_<pyllm::Pool, std::shared_ptr<pyllm::Pool>>(m, "Pool")
      .def(py::init([](const Recorded& r, int64_t limit) {
             return std::make_shared<pyllm::Pool>(r.program.page_bytes(), limit);
           }),
           py::arg("program"), py::arg("limit_bytes") = 0)
      .def_property_readonly("pages", &pyllm::Pool::pages)
      .def_property_readonly("free_pages", &pyllm::Pool::free_pages)
      .def_property_readonly("page_bytes", &pyllm::Pool::page_bytes)
      .def_property_readonly("page_length", [](const pyllm::Pool&) { return pyllm::kPage; });

  py::class_<SharedPage>(m, "Page").def_property_readonly("users",
                                                          [](const SharedPage& p) { return p.page.use_count(); });

  py::class_<Sequence, std::shared_ptr<Sequence>>(m, "Sequence")
      .def(py::init<std::shared_ptr<pyllm::Pool>>(), py::arg("pool"))
      .def_property_readonly("length", &Sequence::length)
      .def_property_readonly("pages", &Sequence::pages)
      .def("reserve", &reserve, py::arg("length"))
      .def(
          "truncate",
          [](Sequence& s, int64_t n) {
            if (n < 0 || n > s.length())
              throw std::invalid_argument("truncate: to " + std::to_string(n) + ", allowed are 0 to " +
                                          std::to_string(s.length()));
            s.truncate(n);
          },
          py::arg("length"))
      .def("fork", &Sequence::fork)
      .def(
          "page",
          [](const Sequence& s, int64_t at) {
            if (at < 0 || at >= s.length() / pyllm::kPage)
              throw std::out_of_range("page: " + std::to_string(at) + " of " +
                                      std::to_string(s.length() / pyllm::kPage) + " full ones");
            return SharedPage{s.shared_pool(), s.page(at)};
          },
          py::arg("at"))
      .def(
          "place",
          [](Sequence& s, int64_t at, const SharedPage& page) {
            if (page.pool != s.shared_pool()) throw std::invalid_argument("place: a page of another pool");
            if (at < 0 || at * pyllm::kPage > s.length())
              throw std::out_of_range("place: page " + std::to_string(at) + " of a sequence of length " +
                                      std::to_string(s.length()));
            s.place(at, page.page);
          },
          py::arg("at"), py::arg("page"));
}

}  // namespace

void bind_engine(py::module_& m) {
  py::class_<Weight, std::shared_ptr<Weight>>(m, "Weight")
      .def(py::init([](const std::string& dtype, int64_t n, int64_t k) {
             return std::make_shared<Weight>(pyllm::type_named(dtype), n, k);
           }),
           py::arg("dtype"), py::arg("n"), py::arg("k"))
      .def(
          "fill",
          [](Weight& w, int64_t row, int64_t rows, const Bytes& bytes) {
            int64_t need = rows * pyllm::file_row_bytes(w.type(), w.k());
            if (rows < 0 || bytes.size() != need)
              throw std::invalid_argument("weight: " + std::to_string(rows) + " rows need " + std::to_string(need) +
                                          " bytes, found " + std::to_string(bytes.size()));
            const uint8_t* p = bytes.data();
            without_gil([&] { w.fill(row, rows, p); });
          },
          py::arg("row"), py::arg("rows"), py::arg("bytes"))
      .def(
          "fill_floats",
          [](Weight& w, const FloatArray& x, bool transposed, std::optional<int64_t> row) {
            const bool whole = !row || transposed;  // else some rows, from `row` on
            if (x.ndim() != 2 || x.shape(!transposed) != w.k() || (whole && x.shape(transposed) != w.n()))
              throw std::invalid_argument("weight: the array's shape is not the weight's");
            const float* p = x.data();
            without_gil([&] { w.fill_floats(p, x.shape(1), transposed, whole ? 0 : *row, x.shape(transposed)); });
          },
          py::arg("x"), py::arg("transposed") = false, py::arg("row") = py::none())
      .def(
          "fill_turned",
          [](Weight& w, const Weight& other, int64_t row) { without_gil([&] { w.fill_turned(other, row); }); },
          py::arg("other"), py::arg("row") = 0)
      .def(
          "dequantise",
          [](const Weight& w, int64_t row, int64_t rows) {
            if (row < 0 || rows < 0 || rows > w.n() - row)
              throw std::out_of_range("weight: rows " + std::to_string(row) + " to " + std::to_string(row + rows) +
                                      " of " + std::to_string(w.n()));
            FloatArray out({(py::ssize_t)rows, (py::ssize_t)w.k()});
            pyllm::UnpackArgs a = {w.panels(), out.mutable_data(), row, rows, w.k(), w.type()};
            without_gil([&] { pyllm::run_kernel(pyllm::kernels().unpack, a, (double)rows * (double)w.k()); });
            return out;
          },
          py::arg("row"), py::arg("rows"))
      .def_property_readonly("dtype", [](const Weight& w) { return std::string(pyllm::info(w.type()).name); })
      .def_property_readonly("shape", [](const Weight& w) { return py::make_tuple(w.n(), w.k()); })
      .def_property_readonly("nbytes", &Weight::bytes);

  bind_states(m);
  py::class_<Recorded>(m, "Program")
      .def(py::init([](int layers, int heads, int dim, const std::string& cache, int64_t context, bool high) {
             return std::make_unique<Recorded>(layers, heads, dim, pyllm::type_named(cache), context, high);
           }),
           py::arg("layers"), py::arg("heads"), py::arg("dim"), py::arg("cache"), py::arg("context"),
           py::arg("high_precision"))
      .def(
          "rotary",
          [](Recorded& r, std::vector<double> frequency, double magnitude) {
            return r.program.rotary({std::move(frequency), magnitude});
          },
          py::arg("frequency"), py::arg("magnitude"))
      .def(
          "embedding",
          [](Recorded& r, std::shared_ptr<Weight> w, std::optional<FloatArray> positions, float scale) {
            r.tokens = w->n();
            return r.program.embedding(std::move(w), floats(positions), scale);
          },
          py::arg("weight"), py::arg("positions") = py::none(), py::arg("scale") = 1.0f)
      .def(
          "linear",
          [](Recorded& r, int x, const py::object& norm, const py::list& parts, const std::string& act, bool gated,
             int residual, int layer, int rotary) {
            return r.program.linear(x, norm_of(norm), parts_of(parts), recorded_act(act), gated, residual, layer,
                                    rotary);
          },
          py::arg("x"), py::arg("norm"), py::arg("parts"), py::arg("act") = "none", py::arg("gated") = false,
          py::arg("residual") = -1, py::arg("layer") = 0, py::arg("rotary") = Program::kUnturned)
      .def(
          "heads",
          [](Recorded& r, int q, int k, const std::optional<FloatArray>& q_weight,
             const std::optional<FloatArray>& k_weight, float eps, int layer,
             int rotary) { r.program.heads(q, k, floats(q_weight), floats(k_weight), eps, layer, rotary); },
          py::arg("q"), py::arg("k"), py::arg("q_weight"), py::arg("k_weight"), py::arg("eps"), py::arg("layer"),
          py::arg("rotary"))
      .def(
          "attention",
          [](Recorded& r, int q, int layer, int heads, float scale, int64_t window, float softcap) {
            return r.program.attention(q, layer, heads, scale, window, softcap);
          },
          py::arg("q"), py::arg("layer"), py::arg("heads"), py::arg("scale"), py::arg("window") = 0,
          py::arg("softcap") = 0.0f)
      .def(
          "recurrent",
          [](Recorded& r, int gates, const std::string& cell, std::shared_ptr<Weight> w,
             std::optional<FloatArray> inner_bias) {
            return r.program.recurrent(gates, cell_named("recurrent", cell), std::move(w), floats(inner_bias));
          },
          py::arg("gates"), py::arg("cell"), py::arg("weight"), py::arg("inner_bias"))
      .def(
          "add_norm",
          [](Recorded& r, int residual, int x, const py::object& norm) {
            r.program.add_norm(residual, x, norm_of(norm));
          },
          py::arg("residual"), py::arg("x"), py::arg("norm"))
      .def(
          "map",
          [](Recorded& r, int x, int up, const std::string& act) { return r.program.map(x, up, recorded_act(act)); },
          py::arg("x"), py::arg("up") = -1, py::arg("act") = "none")
      .def(
          "logits",
          [](Recorded& r, int x, const py::object& norm, std::shared_ptr<Weight> w, std::optional<FloatArray> bias,
             float softcap) {
            r.program.logits(x, norm_of(norm), {std::move(w), floats(bias), Epilogue::Store}, softcap);
          },
          py::arg("x"), py::arg("norm"), py::arg("weight"), py::arg("bias") = py::none(), py::arg("softcap") = 0.0f)
      .def("finish", [](Recorded& r) { r.program.finish(); })
      .def("run", &run, py::arg("batch"), py::arg("hidden") = false,
           "Appends each (sequence, ids, want); gives float32 logits of the last `want` rows of each, or what the head "
           "would be given for them")
      .def("head", &head, py::arg("hidden"), "Logits (rows, vocabulary) of hidden rows, with the bits that run gives")
      .def("describe", [](const Recorded& r) { return r.program.describe(); })
      .def_property_readonly("max_rows", [](const Recorded&) { return Program::kMaxRows; });
}
