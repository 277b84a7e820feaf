#include "text/bpe.h"

#include "text/error.h"
#include "text/unicode.h"

namespace text {
namespace {

bool shows_itself(uint32_t byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

// GPT-2 spells each byte as a visible character: itself, or the next one from U+0100 on.
struct ByteSpelling {
  uint32_t of_byte[256];
  int16_t of_character[512];

  ByteSpelling() {
    std::fill(std::begin(of_character), std::end(of_character), int16_t(-1));
    uint32_t next = 256;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      of_byte[byte] = shows_itself(byte) && byte != 0xAD ? byte : next++;
      of_character[of_byte[byte]] = int16_t(byte);
    }
  }
};

const ByteSpelling& spelling() {
  static const ByteSpelling table;
  return table;
}

}  // namespace

void spell(std::string& out, std::string_view bytes) {
  out.clear();
  for (const char c : bytes) append(out, spelling().of_byte[uint8_t(c)]);
}

BytePairs::BytePairs(const Vocabulary& vocabulary, const Splitter& splitter, const StringList& merges)
    : vocabulary_(vocabulary), splitter_(splitter) {
  for (uint32_t byte = 0; byte < 256; ++byte) {
    std::string character;
    append(character, spelling().of_byte[byte]);
    byte_part_[byte] = part(character);
  }
  load(merges);
}

// Number of a symbol's text: a token that text may reach, or one of the others.
uint32_t BytePairs::part(std::string_view text) { return part(text, hash_bytes(text)); }

uint32_t BytePairs::part(std::string_view text, uint64_t hash) {
  const uint32_t id = vocabulary_.names().find(text, hash);
  if (id != NONE && !vocabulary_.reserved(id)) return id;
  return uint32_t(vocabulary_.size()) + others_.add(text);
}

BytePairs::Merge BytePairs::parse(const StringList& merges, size_t rank) const {
  constexpr const char* FIELD = "tokenizer.ggml.merges";
  const std::string_view merge = merges.get(rank, FIELD);
  const size_t space = merge.find(' ', 1);
  if (space == std::string_view::npos || space + 1 == merge.size()) {
    throw Error(std::string(FIELD) + "[" + std::to_string(rank) + "]: " + quoted(merge) +
                " is not two parts with a space between them");
  }
  Merge found{merge.substr(0, space), merge.substr(space + 1), 0, 0};
  found.left_hash = hash_bytes(found.left);
  found.right_hash = hash_bytes(found.right);
  vocabulary_.names().expect(found.left_hash);
  vocabulary_.names().expect(found.right_hash);
  return found;
}

// Merges are read some places ahead, since looking up their parts waits for memory most of the time.
void BytePairs::load(const StringList& merges) {
  constexpr size_t AHEAD = 16;
  size_t slots = 16;
  while (slots < merges.count * 3 / 2) slots *= 2;
  pairs_.assign(slots, Entry{});
  Merge next[AHEAD];
  for (size_t rank = 0; rank < std::min(AHEAD, merges.count); ++rank) next[rank] = parse(merges, rank);
  std::string joined;
  uint32_t guess = 0;  // vocabularies list their merged tokens in the order of the merges
  for (size_t rank = 0; rank < merges.count; ++rank) {
    const Merge merge = next[rank % AHEAD];
    if (rank + AHEAD < merges.count) next[rank % AHEAD] = parse(merges, rank + AHEAD);
    joined.assign(merge.left);
    joined += merge.right;
    const bool guessed = guess < vocabulary_.size() && vocabulary_.text(guess) == joined;
    const uint32_t id = guessed ? guess : vocabulary_.find(joined);
    guess = id + 1;
    if (id != NONE && vocabulary_.reserved(id)) continue;  // text must not grow into a control token
    const uint32_t left = part(merge.left, merge.left_hash);
    const uint32_t right = part(merge.right, merge.right_hash);
    add_pair(left, right, {uint32_t(rank), id != NONE ? id : part(joined)});
  }
}

void BytePairs::add_pair(uint32_t left, uint32_t right, Pair pair) {
  const uint64_t key = uint64_t(left) << 32 | right;
  const size_t mask = pairs_.size() - 1;
  size_t i = hash_number(key) & mask;
  while (pairs_[i].pair.rank != NONE && pairs_[i].key != key) i = (i + 1) & mask;
  if (pairs_[i].pair.rank == NONE) pairs_[i] = {key, pair};  // the first of equal merges counts
}

Pair BytePairs::find_pair(uint32_t left, uint32_t right) const {
  const uint64_t key = uint64_t(left) << 32 | right;
  const size_t mask = pairs_.size() - 1;
  size_t i = hash_number(key) & mask;
  while (pairs_[i].pair.rank != NONE && pairs_[i].key != key) i = (i + 1) & mask;
  return pairs_[i].pair;
}

void BytePairs::encode(std::string_view text, bool allow_special, const std::vector<uint32_t>& breaks,
                       std::vector<int32_t>& out) const {
  const auto lock = cache_.use();
  WordCache* const cache = lock ? &cache_ : nullptr;
  for (const Fragment& fragment : vocabulary_.fragments(text, allow_special, breaks)) {
    const std::string_view part = text.substr(fragment.begin, fragment.end - fragment.begin);
    if (fragment.token != NONE) {
      out.push_back(int32_t(fragment.token));
    } else if (clean(part)) {
      encode_clean(part, cache, out);
    } else {
      encode_clean(repaired(part), cache, out);
    }
  }
}

void BytePairs::encode_clean(std::string_view text, WordCache* cache, std::vector<int32_t>& out) const {
  std::vector<Symbol> symbols;
  split(splitter_, text.data(), 0, text.size(), [&](size_t begin, size_t end) {
    const std::string_view word = text.substr(begin, end - begin);
    uint64_t hash = 0;
    if (cache && cache->get(word, out, hash)) return;
    const size_t before = out.size();
    encode_word(word, symbols, out);
    if (cache) cache->put(word, hash, out.data() + before, out.size() - before);
  });
}

void BytePairs::encode_word(std::string_view word, std::vector<Symbol>& symbols, std::vector<int32_t>& out) const {
  std::string spelt;
  if (splitter_.whole_words) {
    spell(spelt, word);
    const uint32_t id = vocabulary_.find(spelt);
    if (id != NONE && !vocabulary_.reserved(id)) {
      out.push_back(int32_t(id));
      return;
    }
  }
  symbols.clear();
  symbols.reserve(word.size());
  for (size_t i = 0; i < word.size(); ++i) symbols.push_back({uint32_t(i), 1, byte_part_[uint8_t(word[i])]});
  merge(symbols, [this](const Symbol& left, const Symbol& right) { return find_pair(left.id, right.id); });
  for (const Symbol& symbol : symbols) {
    if (symbol.id < vocabulary_.size()) {
      out.push_back(int32_t(symbol.id));
      continue;
    }
    // No token: its bytes one by one as far as they are tokens, as llama.cpp does. It looks up each byte of the
    // spelling, so bytes that are spelt with two bytes vanish.
    spell(spelt, word.substr(symbol.begin, symbol.size));
    for (const char c : spelt) {
      const uint32_t id = vocabulary_.find(std::string_view(&c, 1));
      if (id != NONE && !vocabulary_.reserved(id)) out.push_back(int32_t(id));
    }
  }
}

std::string BytePairs::bytes(size_t id) const {
  const std::string_view text = vocabulary_.text(id);
  if (vocabulary_.kind(id) == BYTE) return std::string(1, char(Vocabulary::byte_of(text)));
  if (vocabulary_.kind(id) != NORMAL || !clean(text)) return std::string(text);
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = decode(text.data() + i);
    const int byte = c.value < 512 ? spelling().of_character[c.value] : -1;
    if (byte >= 0) {
      out += char(byte);
    } else {
      out += text.substr(i, c.size);
    }
    i += c.size;
  }
  return out;
}

}  // namespace text
