// pyllm._core: WordCounts, PairTrainer.
#include "text/train.h"

#include <mutex>

#include "bindings/bindings.h"
#include "text/error.h"
#include "text/plain.h"
#include "text/unicode.h"

namespace {

// One caller at a time: both work without the GIL.
struct Counts {
  text::WordCounts words;
  std::mutex mutex;

  Counts(const text::Splitter& splitter, size_t most) : words(splitter, most) {}
};

struct Trainer {
  text::PairTrainer pairs;
  std::mutex mutex;
};

std::unique_ptr<Counts> make_counts(const std::string& cut, size_t most) {
  const text::Splitter* splitter = text::find_plain_splitter(cut);
  if (!splitter) splitter = text::find_splitter(cut);
  if (!splitter) throw text::Error("WordCounts: pre-tokenizer " + text::quoted(cut) + " is not known");
  return std::make_unique<Counts>(*splitter, most);
}

void add(Counts& self, const py::bytes& data) {
  const auto view = std::string_view(data);
  py::gil_scoped_release release;
  const std::lock_guard<std::mutex> lock(self.mutex);
  if (text::clean(view)) {
    self.words.add(view);
  } else {
    self.words.add(text::repaired(view));
  }
}

void end_text(Counts& self) {
  py::gil_scoped_release release;
  const std::lock_guard<std::mutex> lock(self.mutex);
  self.words.end_text();
}

std::vector<std::pair<py::bytes, uint64_t>> common(Counts& self, uint64_t least, size_t most) {
  std::vector<uint32_t> order;
  {
    py::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(self.mutex);
    order = self.words.common(least);
  }
  std::vector<std::pair<py::bytes, uint64_t>> found;
  for (const uint32_t number : order) {
    if (found.size() == most) break;
    found.emplace_back(py::bytes(std::string(self.words.words()[number])), self.words.counts()[number]);
  }
  return found;
}

std::unique_ptr<Trainer> make_trainer(Counts& counts, const std::vector<std::string>& special, size_t vocabulary,
                                      uint64_t least) {
  return without_gil([&] {
    const std::lock_guard<std::mutex> lock(counts.mutex);
    return std::unique_ptr<Trainer>(new Trainer{{counts.words, special, vocabulary, least}, {}});
  });
}

bool merge(Trainer& self, size_t most) {
  return without_gil([&] {
    const std::lock_guard<std::mutex> lock(self.mutex);
    return self.pairs.merge(most);
  });
}

std::vector<py::bytes> tokens(const Trainer& self) {
  std::vector<py::bytes> found;
  for (size_t id = 0; id < self.pairs.tokens().size(); ++id) {
    found.emplace_back(std::string(self.pairs.tokens()[id]));
  }
  return found;
}

}  // namespace

void bind_train(py::module_& m) {
  py::class_<Counts>(m, "WordCounts")
      .def(py::init(&make_counts), py::arg("cut"), py::arg("most"))
      .def("__len__", [](const Counts& self) { return self.words.words().size(); })
      .def("add", &add, py::arg("data"))
      .def("end_text", &end_text)
      .def("common", &common, py::arg("least"), py::arg("most"))
      .def_property_readonly("total", [](const Counts& self) { return self.words.total(); })
      .def_property_readonly("forgotten", [](const Counts& self) { return self.words.forgotten(); })
      .def_property_readonly("forgotten_total", [](const Counts& self) { return self.words.forgotten_total(); });
  py::class_<Trainer>(m, "PairTrainer")
      .def(py::init(&make_trainer), py::arg("counts"), py::arg("special"), py::arg("vocabulary"), py::arg("least"))
      .def("__len__", [](const Trainer& self) { return self.pairs.tokens().size(); })
      .def("merge", &merge, py::arg("most"))
      .def("tokens", &tokens)
      .def("merges", [](const Trainer& self) { return self.pairs.merges(); });
}
