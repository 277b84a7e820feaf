#include "text/score.h"

#include <cmath>

#include "text/error.h"
#include "text/unicode.h"

namespace text {
namespace {

constexpr std::string_view SPACE_MARK = "\xE2\x96\x81";  // U+2581
constexpr size_t JOINTS = 1 << 22;

// Characters as llama.cpp cuts them: by the length that the first byte announces, whatever follows.
size_t character(std::string_view text, size_t begin) {
  return std::min(announced(uint8_t(text[begin])), text.size() - begin);
}

}  // namespace

ScorePairs::ScorePairs(const Vocabulary& vocabulary, const float* scores, uint32_t unknown, bool add_space_prefix)
    : vocabulary_(vocabulary), add_space_prefix_(add_space_prefix), joints_(JOINTS) {
  rank(scores);
  find_bytes(unknown);
  note_neighbours();
}

void ScorePairs::rank(const float* scores) {
  const size_t count = vocabulary_.size();
  std::vector<uint32_t> order(count);
  for (size_t id = 0; id < count; ++id) {
    if (!std::isfinite(scores[id])) {
      throw Error("tokenizer.ggml.scores[" + std::to_string(id) + "]: " + std::to_string(scores[id]) +
                  "; finite numbers");
    }
    order[id] = uint32_t(id);
    longest_ = std::max(longest_, vocabulary_.text(id).size());
  }
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
  ranks_.resize(count);
  uint32_t rank = 0;
  for (size_t i = 0; i < count; ++i) {
    if (i > 0 && scores[order[i]] < scores[order[i - 1]]) ++rank;
    ranks_[order[i]] = rank;
  }
}

void ScorePairs::find_bytes(uint32_t unknown) {
  for (int byte = 0; byte < 256; ++byte) {
    const char* digits = "0123456789ABCDEF";
    const char name[] = {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
    uint32_t id = vocabulary_.find(std::string_view(name, 6));
    const char raw = char(byte);
    if (id == NONE) id = vocabulary_.find(std::string_view(&raw, 1));
    if (id == NONE || vocabulary_.reserved(id)) id = unknown;
    if (id == NONE) {
      throw Error("tokenizer.ggml.tokens: no byte token " + quoted(std::string_view(name, 6)) +
                  " and no unknown token that could stand for it");
    }
    byte_token_[byte] = id;
  }
}

size_t ScorePairs::joint(std::string_view left, std::string_view right) {
  uint64_t key = 0;
  for (const char c : left) key = key << 8 | uint8_t(c);
  for (const char c : right) key = key << 8 | uint8_t(c);
  return hash_number(key) % JOINTS;
}

void ScorePairs::note_neighbours() {
  for (size_t id = 0; id < vocabulary_.size(); ++id) {
    const std::string_view text = vocabulary_.text(id);
    size_t begin = 0;
    size_t size = character(text, 0);
    while (begin + size < text.size()) {
      const size_t next = begin + size;
      const size_t next_size = character(text, next);
      joints_[joint(text.substr(begin, size), text.substr(next, next_size))] = true;
      begin = next;
      size = next_size;
    }
  }
}

void ScorePairs::encode(std::string_view text, bool allow_special, const std::vector<uint32_t>& breaks,
                        std::vector<int32_t>& out) const {
  const auto lock = cache_.use();
  WordCache* const cache = lock ? &cache_ : nullptr;
  bool after_special = true;
  std::string escaped;
  for (const Fragment& fragment : vocabulary_.fragments(text, allow_special, breaks)) {
    if (fragment.token != NONE) {
      out.push_back(int32_t(fragment.token));
      after_special = true;
      continue;
    }
    escaped.assign(add_space_prefix_ && after_special ? SPACE_MARK : std::string_view());
    for (const char c : text.substr(fragment.begin, fragment.end - fragment.begin)) {
      if (c == ' ') {
        escaped += SPACE_MARK;
      } else {
        escaped += c;
      }
    }
    encode_escaped(escaped, cache, out);
    after_special = false;
  }
}

void ScorePairs::encode_escaped(std::string_view text, WordCache* cache, std::vector<int32_t>& out) const {
  std::vector<Symbol> symbols;
  for (size_t begin = 0; begin < text.size();) {
    size_t last = begin;
    size_t end = begin + character(text, begin);
    while (end < text.size()) {
      const size_t size = character(text, end);
      if (!joints_[joint(text.substr(last, end - last), text.substr(end, size))]) break;
      last = end;
      end += size;
    }
    const std::string_view word = text.substr(begin, end - begin);
    begin = end;
    uint64_t hash = 0;
    if (cache && cache->get(word, out, hash)) continue;
    const size_t before = out.size();
    encode_word(word, symbols, out);
    if (cache) cache->put(word, hash, out.data() + before, out.size() - before);
  }
}

Pair ScorePairs::find_pair(std::string_view text, const Symbol& left, const Symbol& right) const {
  const size_t size = size_t(left.size) + right.size;
  if (size > longest_) return {};
  const uint32_t id = vocabulary_.find(text.substr(left.begin, size));
  if (id == NONE || vocabulary_.reserved(id)) return {};
  return {ranks_[id], id};
}

void ScorePairs::encode_word(std::string_view word, std::vector<Symbol>& symbols, std::vector<int32_t>& out) const {
  symbols.clear();
  for (size_t begin = 0; begin < word.size();) {
    const size_t size = character(word, begin);
    const uint32_t id = vocabulary_.find(word.substr(begin, size));
    symbols.push_back({uint32_t(begin), uint32_t(size), id != NONE && vocabulary_.reserved(id) ? NONE : id});
    begin += size;
  }
  merge(symbols, [&](const Symbol& left, const Symbol& right) { return find_pair(word, left, right); });
  for (const Symbol& symbol : symbols) {
    if (symbol.id != NONE) {
      out.push_back(int32_t(symbol.id));
      continue;
    }
    for (const char c : word.substr(symbol.begin, symbol.size)) out.push_back(int32_t(byte_token_[uint8_t(c)]));
  }
}

std::string ScorePairs::bytes(size_t id) const {
  const std::string_view text = vocabulary_.text(id);
  if (vocabulary_.kind(id) == BYTE) return std::string(1, char(Vocabulary::byte_of(text)));
  if (vocabulary_.kind(id) != NORMAL) return std::string(text);
  std::string out;
  for (size_t begin = 0; begin < text.size();) {
    if (text.substr(begin, SPACE_MARK.size()) == SPACE_MARK) {
      out += ' ';
      begin += SPACE_MARK.size();
    } else {
      out += text[begin++];
    }
  }
  return out;
}

}  // namespace text
