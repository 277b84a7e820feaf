#include "text/plain.h"

#include "text/cursor.h"

namespace text {
namespace {

// [\p{L}\p{M}\p{N}]+|[^\s\p{L}\p{M}\p{N}]|\s+
size_t words_and_marks(const char* text, size_t begin, size_t end) {
  const Char c = at(text, begin, end);
  if (c.is(LETTER | MARK | NUMBER)) return run(text, begin, end, LETTER | MARK | NUMBER);
  return c.is(SPACE) ? run(text, begin, end, SPACE) : begin + c.size;
}

size_t one_character(const char* text, size_t begin, size_t end) { return begin + at(text, begin, end).size; }

const Splitter WORDS = {"word", {words_and_marks}};
const Splitter CHARACTERS = {"character", {one_character}};

}  // namespace

const Splitter* find_plain_splitter(std::string_view name) {
  return name == WORDS.name ? &WORDS : name == CHARACTERS.name ? &CHARACTERS : nullptr;
}

bool between_words(const Splitter& splitter, std::string_view piece) {
  return &splitter == &WORDS && at(piece.data(), 0, piece.size()).is(SPACE);
}

WordTable::WordTable(const Vocabulary& vocabulary, const Splitter& splitter, uint32_t unknown)
    : vocabulary_(vocabulary), splitter_(splitter), unknown_(unknown) {}

void WordTable::encode(std::string_view text, bool allow_special, const std::vector<uint32_t>& breaks,
                       std::vector<int32_t>& out) const {
  for (const Fragment& fragment : vocabulary_.fragments(text, allow_special, breaks)) {
    const std::string_view part = text.substr(fragment.begin, fragment.end - fragment.begin);
    if (fragment.token != NONE) {
      out.push_back(int32_t(fragment.token));
    } else if (clean(part)) {
      encode_clean(part, out);
    } else {
      encode_clean(repaired(part), out);
    }
  }
}

void WordTable::encode_clean(std::string_view text, std::vector<int32_t>& out) const {
  split(splitter_, text.data(), 0, text.size(), [&](size_t begin, size_t end) {
    const std::string_view piece = text.substr(begin, end - begin);
    if (between_words(splitter_, piece)) return;
    const uint32_t id = vocabulary_.find(piece);
    out.push_back(int32_t(id == NONE || vocabulary_.reserved(id) ? unknown_ : id));
  });
}

std::string WordTable::bytes(size_t id) const {
  std::string out(&splitter_ == &WORDS ? " " : "");
  return out += vocabulary_.text(id);
}

}  // namespace text
