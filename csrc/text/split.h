// Pre-tokenizers: how a text falls into words before merging. Hand-written machines, linear in the text, each equal
// to the regular expression that llama.cpp uses under the same name.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace text {

// A stage answers where the first piece of text[begin, end) ends; begin < end; the text is clean UTF-8.
// It never looks outside [begin, end): to a later stage, a piece of an earlier one is the whole text.
using Stage = size_t (*)(const char* text, size_t begin, size_t end);

struct Splitter {
  const char* name;
  std::vector<Stage> stages;  // each cuts the pieces of the one before
  bool whole_words = false;   // a word that is itself a token is not merged from its parts
  bool begins_with_bos = false;
};

// The splitter of that name in `tokenizer.ggml.pre`, nullptr when there is none.
const Splitter* find_splitter(std::string_view name);

// All names, sorted.
std::vector<std::string> splitter_names();

// Calls emit(begin, end) for each word of text[begin, end), in order.
template <class Emit>
void split(const Splitter& splitter, const char* text, size_t begin, size_t end, Emit&& emit, size_t stage = 0) {
  while (begin < end) {
    const size_t cut = splitter.stages[stage](text, begin, end);
    if (stage + 1 == splitter.stages.size()) {
      emit(begin, cut);
    } else {
      split(splitter, text, begin, cut, emit, stage + 1);
    }
    begin = cut;
  }
}

}  // namespace text
