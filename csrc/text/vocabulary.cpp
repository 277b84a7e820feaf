#include "text/vocabulary.h"

#include <algorithm>

#include "text/error.h"

namespace text {
namespace {

constexpr size_t MOST_TOKENS = 1 << 24;
constexpr size_t LONGEST_TOKEN = 65'535;
constexpr size_t LONGEST_SPECIAL = 1'024;
constexpr size_t MOST_MATCHES = 1 << 25;  // of special tokens in one text; only a hostile vocabulary nears it

int hex(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string number(size_t value) { return std::to_string(value); }

}  // namespace

std::string_view StringList::get(size_t index, const char* field) const {
  if (starts[index] > bytes || lengths[index] > bytes - starts[index]) {
    throw Error(std::string(field) + "[" + number(index) + "]: " + number(lengths[index]) + " bytes at " +
                number(starts[index]) + "; the buffer has " + number(bytes));
  }
  return {data + starts[index], size_t(lengths[index])};
}

int Vocabulary::byte_of(std::string_view text) {
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return -1;
  const int high = hex(text[3]);
  const int low = hex(text[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

Vocabulary::Vocabulary(const StringList& tokens, const int32_t* kinds) {
  constexpr const char* FIELD = "tokenizer.ggml.tokens";
  if (tokens.count == 0 || tokens.count > MOST_TOKENS) {
    throw Error(std::string(FIELD) + ": " + number(tokens.count) + " tokens; 1 to " + number(MOST_TOKENS));
  }
  size_t bytes = 0;
  for (size_t i = 0; i < tokens.count; ++i) bytes += tokens.get(i, FIELD).size();
  names_.reserve(tokens.count, bytes);
  kinds_.reserve(tokens.count);
  for (size_t i = 0; i < tokens.count; ++i) {
    const std::string_view token = tokens.get(i, FIELD);
    const std::string at = std::string(token.size() > LONGEST_TOKEN || token.empty() ? number(i) : "");
    if (token.size() > LONGEST_TOKEN) {
      throw Error(std::string(FIELD) + "[" + at + "]: " + number(token.size()) + " bytes; at most " +
                  number(LONGEST_TOKEN));
    }
    // An empty text can be met nowhere; the name is the one that llama.cpp shows.
    const uint32_t id = token.empty() ? names_.add("[EMPTY_" + at + "]") : names_.add(token);
    if (id != i) {
      throw Error(std::string(FIELD) + ": " + quoted(token) + " is both token " + number(id) + " and token " +
                  number(i));
    }
    const int32_t kind = kinds ? kinds[i] : int32_t(NORMAL);
    if (kind < UNDEFINED || kind > BYTE) {
      throw Error("tokenizer.ggml.token_type[" + number(i) + "]: " + std::to_string(kind) + "; 0 to 6");
    }
    if (kind == BYTE && byte_of(token) < 0) {
      throw Error(std::string(FIELD) + "[" + number(i) + "]: byte token " + quoted(token) + "; <0x00> to <0xFF>");
    }
    kinds_.push_back(Kind(kind));
  }
}

void Vocabulary::finish() {
  token_at_.assign(1, NONE);
  reserved_below_.assign(1, false);
  size_t nodes = 1;
  std::vector<uint32_t> special;
  for (size_t id = 0; id < size(); ++id) {
    if (!reserved(id) && kinds_[id] != USER_DEFINED) continue;
    if (text(id).size() > LONGEST_SPECIAL) {
      throw Error("tokenizer.ggml.tokens[" + number(id) + "]: special token of " + number(text(id).size()) +
                  " bytes; at most " + number(LONGEST_SPECIAL));
    }
    special.push_back(uint32_t(id));
    nodes += text(id).size();
  }
  size_t slots = 16;
  while (slots < nodes * 2) slots *= 2;
  edges_.assign(slots, Edge{});
  std::fill(std::begin(first_byte_), std::end(first_byte_), false);
  for (const uint32_t id : special) insert(id);
}

void Vocabulary::insert(uint32_t token) {
  const size_t mask = edges_.size() - 1;
  uint32_t node = 0;
  first_byte_[uint8_t(text(token)[0])] = true;
  for (const char c : text(token)) {
    const uint64_t key = uint64_t(node) << 8 | uint8_t(c);
    size_t i = hash_number(key) & mask;
    while (edges_[i].node != NONE && edges_[i].key != key) i = (i + 1) & mask;
    if (edges_[i].node == NONE) {
      edges_[i] = {key, uint32_t(token_at_.size())};
      token_at_.push_back(NONE);
      reserved_below_.push_back(false);
    }
    node = edges_[i].node;
    if (reserved(token)) reserved_below_[node] = true;
  }
  token_at_[node] = token;
}

uint32_t Vocabulary::child(uint32_t node, uint8_t byte) const {
  const size_t mask = edges_.size() - 1;
  const uint64_t key = uint64_t(node) << 8 | byte;
  size_t i = hash_number(key) & mask;
  while (edges_[i].node != NONE && edges_[i].key != key) i = (i + 1) & mask;
  return edges_[i].node;
}

std::vector<Vocabulary::Match> Vocabulary::matches(std::string_view text, bool allow_special,
                                                   const std::vector<uint32_t>& breaks) const {
  std::vector<Match> found;
  auto next_break = breaks.begin();
  for (size_t begin = 0; begin < text.size(); ++begin) {
    if (!first_byte_[uint8_t(text[begin])]) continue;
    while (next_break != breaks.end() && *next_break <= begin) ++next_break;
    const size_t limit = next_break == breaks.end() ? text.size() : *next_break;
    uint32_t node = 0;
    for (size_t i = begin; i < text.size(); ++i) {
      node = child(node, uint8_t(text[i]));
      if (node == NONE) break;
      const uint32_t token = token_at_[node];
      if (token == NONE || (reserved(token) && (!allow_special || i >= limit))) continue;
      found.push_back({uint32_t(begin), uint32_t(i + 1 - begin), token});
    }
    if (found.size() > MOST_MATCHES) {
      throw Error("text: more than " + number(MOST_MATCHES) + " places where a special token could stand");
    }
  }
  return found;
}

std::vector<uint32_t> Vocabulary::reserved_starts(std::string_view text) const {
  std::vector<uint32_t> starts;
  for (size_t begin = 0; begin < text.size(); ++begin) {
    if (!first_byte_[uint8_t(text[begin])]) continue;
    uint32_t node = 0;
    size_t i = begin;
    bool found = false;
    for (; i < text.size() && !found; ++i) {
      node = child(node, uint8_t(text[i]));
      if (node == NONE || !reserved_below_[node]) break;
      found = token_at_[node] != NONE && reserved(token_at_[node]);
    }
    if (found || i == text.size()) starts.push_back(uint32_t(begin));
  }
  return starts;
}

std::vector<Fragment> Vocabulary::fragments(std::string_view text, bool allow_special,
                                            const std::vector<uint32_t>& breaks) const {
  std::vector<Match> found = matches(text, allow_special, breaks);
  std::stable_sort(found.begin(), found.end(), [](const Match& a, const Match& b) {
    return a.size != b.size ? a.size > b.size : a.token != b.token ? a.token < b.token : a.begin < b.begin;
  });
  // What was taken before is at least as long, so a new match overlaps it exactly if one of its ends is taken.
  std::vector<bool> taken(found.empty() ? 0 : text.size());
  std::vector<Match> chosen;
  for (const Match& match : found) {
    if (taken[match.begin] || taken[match.begin + match.size - 1]) continue;
    std::fill(taken.begin() + match.begin, taken.begin() + match.begin + match.size, true);
    chosen.push_back(match);
  }
  std::sort(chosen.begin(), chosen.end(), [](const Match& a, const Match& b) { return a.begin < b.begin; });
  std::vector<Fragment> fragments;
  size_t begin = 0;
  for (const Match& match : chosen) {
    if (match.begin > begin) fragments.push_back({begin, match.begin, NONE});
    fragments.push_back({match.begin, match.begin + match.size, match.token});
    begin = match.begin + match.size;
  }
  if (begin < text.size()) fragments.push_back({begin, text.size(), NONE});
  return fragments;
}

}  // namespace text
