// pyllm._core: Vocabulary, BytePairs, ScorePairs, WordTable, splitter_names, split_words.
#include <optional>

#include "bindings/bindings.h"
#include "text/bpe.h"
#include "text/error.h"
#include "text/plain.h"
#include "text/score.h"
#include "text/unicode.h"

namespace {

using Numbers = py::array_t<uint64_t, py::array::c_style | py::array::forcecast>;
using Kinds = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;
using Scores = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ids = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

constexpr size_t LONGEST_TEXT = size_t(1) << 31;

// A list of strings in a buffer, kept alive by the caller for as long as it is read.
struct Strings {
  py::buffer_info buffer;
  Numbers starts, lengths;

  Strings(const py::buffer& data, const Numbers& starts_, const Numbers& lengths_, const char* field)
      : buffer(data.request()), starts(starts_), lengths(lengths_) {
    if (starts.ndim() != 1 || lengths.ndim() != 1 || starts.size() != lengths.size()) {
      throw text::Error(std::string(field) + ": " + std::to_string(starts.size()) + " starts and " +
                        std::to_string(lengths.size()) + " lengths; one of each per string");
    }
  }

  text::StringList list() const {
    return {static_cast<const char*>(buffer.ptr), size_t(buffer.size) * size_t(buffer.itemsize), starts.data(),
            lengths.data(), size_t(starts.size())};
  }
};

// Arrays beside the tokens have one entry per token.
void check_length(size_t found, size_t tokens, const char* field) {
  if (found != tokens) {
    throw text::Error(std::string(field) + ": " + std::to_string(found) + " entries for " + std::to_string(tokens) +
                      " tokens; one per token");
  }
}

size_t checked(const text::Vocabulary& vocabulary, int64_t id) {
  if (id < 0 || size_t(id) >= vocabulary.size()) {
    throw text::Error("token id " + std::to_string(id) + "; 0 to " + std::to_string(vocabulary.size() - 1));
  }
  return size_t(id);
}

// A vocabulary and the tokenizer that reads it, in one lifetime.
template <class Model> struct Tokenizer {
  std::shared_ptr<text::Vocabulary> vocabulary;
  std::unique_ptr<Model> model;
};

template <class Model>
Ids encode(const Tokenizer<Model>& self, const py::bytes& data, bool allow_special,
           const std::vector<uint32_t>& breaks) {
  const auto view = std::string_view(data);
  if (view.size() >= LONGEST_TEXT) {
    throw text::Error("text: " + std::to_string(view.size()) + " bytes; fewer than " + std::to_string(LONGEST_TEXT));
  }
  std::vector<int32_t> ids;
  {
    py::gil_scoped_release release;
    self.model->encode(view, allow_special, breaks, ids);
  }
  return Ids(py::ssize_t(ids.size()), ids.data());
}

template <class Model> py::bytes decode(const Tokenizer<Model>& self, const Ids& ids, bool skip_reserved) {
  std::string out;
  for (py::ssize_t i = 0; i < ids.size(); ++i) {
    const size_t id = checked(*self.vocabulary, ids.data()[i]);
    if (!skip_reserved || !self.vocabulary->reserved(id)) out += self.model->bytes(id);
  }
  return out;
}

template <class Model> py::class_<Tokenizer<Model>> bind_model(py::module_& m, const char* name) {
  using Self = Tokenizer<Model>;
  return py::class_<Self>(m, name)
      .def("encode", &encode<Model>, py::arg("data"), py::arg("allow_special"),
           py::arg("breaks") = std::vector<uint32_t>())
      .def("decode", &decode<Model>, py::arg("ids"), py::arg("skip_reserved"))
      .def("bytes",
           [](const Self& self, int64_t id) { return py::bytes(self.model->bytes(checked(*self.vocabulary, id))); });
}

Tokenizer<text::BytePairs> byte_pairs(std::shared_ptr<text::Vocabulary> vocabulary, const std::string& pre,
                                      const py::buffer& data, const Numbers& starts, const Numbers& lengths) {
  const Strings merges(data, starts, lengths, "tokenizer.ggml.merges");
  const text::Splitter* splitter = text::find_splitter(pre);
  if (!splitter) {
    std::string known;
    for (const std::string& name : text::splitter_names()) known += (known.empty() ? "" : ", ") + name;
    throw text::Error("tokenizer.ggml.pre: " + text::quoted(pre) + " is not known; known are " + known);
  }
  py::gil_scoped_release release;
  vocabulary->finish();
  auto model = std::make_unique<text::BytePairs>(*vocabulary, *splitter, merges.list());
  return {std::move(vocabulary), std::move(model)};
}

Tokenizer<text::ScorePairs> score_pairs(std::shared_ptr<text::Vocabulary> vocabulary, const Scores& scores,
                                        std::optional<int64_t> unknown, bool add_space_prefix) {
  check_length(size_t(scores.size()), vocabulary->size(), "tokenizer.ggml.scores");
  const uint32_t unknown_id = unknown ? uint32_t(checked(*vocabulary, *unknown)) : text::NONE;
  py::gil_scoped_release release;
  vocabulary->finish();
  auto model = std::make_unique<text::ScorePairs>(*vocabulary, scores.data(), unknown_id, add_space_prefix);
  return {std::move(vocabulary), std::move(model)};
}

Tokenizer<text::WordTable> word_table(std::shared_ptr<text::Vocabulary> vocabulary, const std::string& cut,
                                      int64_t unknown) {
  const text::Splitter* splitter = text::find_plain_splitter(cut);
  if (!splitter) throw text::Error("WordTable: " + text::quoted(cut) + " is not known; 'word' or 'character'");
  const auto unknown_id = uint32_t(checked(*vocabulary, unknown));
  py::gil_scoped_release release;
  vocabulary->finish();
  auto model = std::make_unique<text::WordTable>(*vocabulary, *splitter, unknown_id);
  return {std::move(vocabulary), std::move(model)};
}

std::shared_ptr<text::Vocabulary> make_vocabulary(const py::buffer& data, const Numbers& starts, const Numbers& lengths,
                                                  const std::optional<Kinds>& kinds) {
  const Strings tokens(data, starts, lengths, "tokenizer.ggml.tokens");
  if (kinds) check_length(size_t(kinds->size()), size_t(starts.size()), "tokenizer.ggml.token_type");
  return std::make_shared<text::Vocabulary>(tokens.list(), kinds ? kinds->data() : nullptr);
}

std::vector<py::bytes> split_words(const std::string& pre, const py::bytes& data) {
  const text::Splitter* splitter = text::find_splitter(pre);
  if (!splitter) throw text::Error("tokenizer.ggml.pre: " + text::quoted(pre) + " is not known");
  const auto view = std::string_view(data);
  const std::string repaired = text::clean(view) ? std::string(view) : text::repaired(view);
  std::vector<py::bytes> words;
  text::split(*splitter, repaired.data(), 0, repaired.size(),
              [&](size_t begin, size_t end) { words.emplace_back(repaired.substr(begin, end - begin)); });
  return words;
}

}  // namespace

void bind_text(py::module_& m) {
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const text::Error& error) {
      const py::object type = py::module_::import("pyllm.errors").attr("TokenizerError");
      PyErr_SetString(type.ptr(), error.what());
    }
  });

  py::class_<text::Vocabulary, std::shared_ptr<text::Vocabulary>>(m, "Vocabulary")
      .def(py::init(&make_vocabulary), py::arg("data"), py::arg("starts"), py::arg("lengths"), py::arg("kinds"))
      .def("__len__", &text::Vocabulary::size)
      .def("text", [](const text::Vocabulary& self, int64_t id) { return py::bytes(self.text(checked(self, id))); })
      .def("kind", [](const text::Vocabulary& self, int64_t id) { return int(self.kind(checked(self, id))); })
      .def("mark", [](text::Vocabulary& self, int64_t id, int kind) { self.mark(checked(self, id), text::Kind(kind)); })
      .def("reserved_starts", [](const text::Vocabulary& self,
                                 const py::bytes& data) { return self.reserved_starts(std::string_view(data)); })
      .def("find", [](const text::Vocabulary& self, const py::bytes& name) -> std::optional<uint32_t> {
        const uint32_t id = self.find(std::string_view(name));
        return id == text::NONE ? std::nullopt : std::optional<uint32_t>(id);
      });

  bind_model<text::BytePairs>(m, "BytePairs")
      .def(py::init(&byte_pairs), py::arg("vocabulary"), py::arg("pre"), py::arg("data"), py::arg("starts"),
           py::arg("lengths"));
  bind_model<text::ScorePairs>(m, "ScorePairs")
      .def(py::init(&score_pairs), py::arg("vocabulary"), py::arg("scores"), py::arg("unknown"),
           py::arg("add_space_prefix"));
  bind_model<text::WordTable>(m, "WordTable")
      .def(py::init(&word_table), py::arg("vocabulary"), py::arg("cut"), py::arg("unknown"));
  m.def("splitter_names", &text::splitter_names);
  m.def("split_words", &split_words, py::arg("pre"), py::arg("data"));
}
