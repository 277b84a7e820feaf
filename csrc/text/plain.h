// Words and characters as tokens: text is cut, and each piece is looked up whole.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "text/split.h"
#include "text/vocabulary.h"

namespace text {

// "word": runs of letters, marks and numbers; each other character that is no white space; white space, which counts
// for nothing. "character": each code point. nullptr for any other name.
const Splitter* find_plain_splitter(std::string_view name);

// Whether a piece that the splitter gave is the white space between two words.
bool between_words(const Splitter& splitter, std::string_view piece);

class WordTable {
 public:
  // unknown: the id of what is no token. The vocabulary outlives this.
  WordTable(const Vocabulary& vocabulary, const Splitter& splitter, uint32_t unknown);

  // As BytePairs::encode.
  void encode(std::string_view text, bool allow_special, const std::vector<uint32_t>& breaks,
              std::vector<int32_t>& out) const;

  // The token's text; a word with a space before it.
  std::string bytes(size_t id) const;

 private:
  void encode_clean(std::string_view text, std::vector<int32_t>& out) const;

  const Vocabulary& vocabulary_;
  const Splitter& splitter_;
  uint32_t unknown_;
};

}  // namespace text
