// pyllm._core: Sampling, philox4x32, philox_uniform, log_softmax_at, log_sum_exp, likeliest.
#include <array>
#include <cstring>

#include "bindings/bindings.h"
#include "core/philox.h"
#include "engine/sampler.h"

namespace {

using pyllm::Sampling;
using Row = py::array_t<float, py::array::c_style>;
using Ids = py::array_t<int64_t, py::array::c_style>;

size_t vocabulary(const Row& logits) {
  if (logits.ndim() != 1 || logits.shape(0) < 1 || logits.shape(0) > INT32_MAX) {
    throw py::value_error("sample: logits " + shape_of(logits) + ", needs one float32 row (vocabulary,)");
  }
  return static_cast<size_t>(logits.shape(0));
}

pyllm::History history(const Ids& tokens, int64_t prompt, int64_t most = 0) {
  if (tokens.ndim() != 1 || prompt < 0 || prompt > tokens.shape(0)) {
    throw py::value_error("sample: prompt of " + std::to_string(prompt) + " tokens in a history " + shape_of(tokens));
  }
  return {tokens.data(), static_cast<size_t>(tokens.shape(0)), static_cast<size_t>(prompt),
          most > 0 ? static_cast<size_t>(most) : 0};
}

py::list pairs(const std::vector<pyllm::Candidate>& found) {
  py::list out;
  for (const auto& c : found) out.append(py::make_tuple(c.id, c.weight));
  return out;
}

// (token, logprob, [(id, logprob), ...])
py::tuple choose(const Sampling& how, const Row& logits, const Ids& tokens, int64_t prompt, uint64_t seed,
                 uint64_t sequence, int64_t top, bool logprob, const py::object& edited, int64_t most) {
  const size_t vocab = vocabulary(logits);
  const pyllm::History said = history(tokens, prompt, most);
  const float* raw = logits.data();
  const float* row = raw;
  Row other;
  if (!edited.is_none()) {
    other = py::cast<Row>(edited);
    if (vocabulary(other) != vocab)
      throw py::value_error("sample: scores " + shape_of(other) + ", logits " + shape_of(logits));
    row = other.data();
  }
  pyllm::Choice choice;
  {
    py::gil_scoped_release release;
    std::vector<float> copy;
    if (edited.is_none() && how.edits()) {
      copy.assign(raw, raw + vocab);
      pyllm::edit_logits(copy.data(), vocab, how, said);
      row = copy.data();
    }
    const double u = philox_uniform(seed, sequence, said.length);
    choice = pyllm::choose(raw, row, vocab, how, u, top > 0 ? static_cast<size_t>(top) : 0, logprob);
  }
  return py::make_tuple(choice.token, choice.logprob, pairs(choice.top));
}

Row edit(const Sampling& how, const Row& logits, const Ids& tokens, int64_t prompt, int64_t most) {
  const size_t vocab = vocabulary(logits);
  Row out(logits.shape(0));
  std::memcpy(out.mutable_data(), logits.data(), vocab * sizeof(float));
  pyllm::edit_logits(out.mutable_data(), vocab, how, history(tokens, prompt, most));
  return out;
}

Row warp(const Sampling& how, const Row& logits) {
  const size_t vocab = vocabulary(logits);
  Row out(logits.shape(0));
  std::memcpy(out.mutable_data(), logits.data(), vocab * sizeof(float));
  pyllm::warp_logits(out.mutable_data(), vocab, how);
  return out;
}

// rows (n, vocab) float32, ids (n) -> (n) float64: the log-softmax of each row at its id.
py::array_t<double> log_softmax_at(const Row& rows, const Ids& ids) {
  if (rows.ndim() != 2 || ids.ndim() != 1 || rows.shape(0) != ids.shape(0)) {
    throw py::value_error("log_softmax_at: rows " + shape_of(rows) + " and ids " + shape_of(ids) + " do not match");
  }
  const int64_t n = rows.shape(0), vocab = rows.shape(1);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t id = ids.at(i);
    if (id < 0 || id >= vocab) {
      throw py::value_error("log_softmax_at: id " + std::to_string(id) + ", the vocabulary has " +
                            std::to_string(vocab));
    }
  }
  py::array_t<double> out(n);
  const float* from = rows.data();
  const int64_t* at = ids.data();
  double* to = out.mutable_data();
  py::gil_scoped_release release;
  const int workers = pyllm::threads();
  std::vector<std::string> wrong(static_cast<size_t>(workers));  // by share: none may throw in the team
  const auto run = [&](int, int share, int shares, int) {
    const pyllm::Share own = pyllm::share(n, share, shares);
    try {
      for (int64_t i = own.first; i < own.last; ++i) {
        const float* row = from + i * vocab;
        to[i] = row[at[i]] - pyllm::log_sum_exp(row, static_cast<size_t>(vocab));
      }
    } catch (const pyllm::LogitsError& error) {
      wrong[static_cast<size_t>(share)] = error.what();
    }
  };
  pyllm::run_team(workers, {1, [&](int) { return workers; }, run});
  for (const std::string& what : wrong) {
    if (!what.empty()) throw pyllm::LogitsError(what);
  }
  return out;
}

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  const philox_block r = philox4x32({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  return {r.word[0], r.word[1], r.word[2], r.word[3]};
}

}  // namespace

void bind_sampling(py::module_& m) {
  py::register_exception<pyllm::LogitsError>(m, "LogitsError", PyExc_ValueError);
  py::class_<Sampling>(m, "Sampling", "The parameters of the sampler, checked by pyllm.generate.Sampler")
      .def(py::init<>())
      .def_readwrite("sample", &Sampling::sample)
      .def_readwrite("temperature", &Sampling::temperature)
      .def_readwrite("top_k", &Sampling::top_k)
      .def_readwrite("top_p", &Sampling::top_p)
      .def_readwrite("min_p", &Sampling::min_p)
      .def_readwrite("typical_p", &Sampling::typical_p)
      .def_readwrite("repetition_penalty", &Sampling::repetition_penalty)
      .def_readwrite("presence_penalty", &Sampling::presence_penalty)
      .def_readwrite("frequency_penalty", &Sampling::frequency_penalty)
      .def_readwrite("no_repeat_ngram", &Sampling::no_repeat_ngram)
      .def_readwrite("min_new_tokens", &Sampling::min_new_tokens)
      .def_readwrite("forced_first", &Sampling::forced_first)
      .def_readwrite("forced_last", &Sampling::forced_last)
      .def_readwrite("ends", &Sampling::ends)
      .def_readwrite("bias", &Sampling::bias)
      .def_readwrite("banned", &Sampling::banned)
      .def_property_readonly("edits", &Sampling::edits)
      .def("choose", &choose, py::arg("logits").noconvert(), py::arg("tokens"), py::arg("prompt"), py::arg("seed"),
           py::arg("sequence"), py::arg("top") = 0, py::arg("logprob") = false, py::arg("edited") = py::none(),
           py::arg("most") = 0,
           "(token, logprob, [(id, logprob), ...]) from logits (vocabulary,) float32 after tokens (length,) int64")
      .def("edit", &edit, py::arg("logits").noconvert(), py::arg("tokens"), py::arg("prompt"), py::arg("most") = 0,
           "A copy of logits after bias, penalties and bans")
      .def("warp", &warp, py::arg("logits").noconvert(),
           "A copy of logits divided by the temperature, -inf where top-k, top-p, min-p or typical-p cut");
  m.def("philox4x32", &philox, py::arg("counter"), py::arg("key"), "Philox4x32-10 of a counter (4) under a key (2)");
  m.def("philox_uniform", &philox_uniform, py::arg("seed"), py::arg("stream"), py::arg("position"),
        "The draw in [0, 1) of a position of a stream of a seed");
  m.def("log_softmax_at", &log_softmax_at, py::arg("rows").noconvert(), py::arg("ids"),
        "rows (n, vocabulary) float32, ids (n,) int64 -> (n,) float64");
  m.def(
      "log_sum_exp", [](const Row& logits) { return pyllm::log_sum_exp(logits.data(), vocabulary(logits)); },
      py::arg("logits").noconvert(), "log(sum(exp(logits))) of one float32 row, in double");
  m.def(
      "likeliest",
      [](const Row& logits, int64_t k) {
        return pairs(pyllm::likeliest(logits.data(), vocabulary(logits), k > 0 ? static_cast<size_t>(k) : 0));
      },
      py::arg("logits").noconvert(), py::arg("k"), "The k likeliest [(id, logprob), ...] of one float32 row");
}
