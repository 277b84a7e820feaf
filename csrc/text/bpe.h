// Byte-level byte-pair encoding, the GGUF tokenizer model "gpt2".
#pragma once
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "text/cache.h"
#include "text/merge.h"
#include "text/split.h"
#include "text/vocabulary.h"

namespace text {

// The bytes as GPT-2 spells them: each a visible character.
void spell(std::string& out, std::string_view bytes);

class BytePairs {
 public:
  // merges: "left right" in order of rank. The vocabulary outlives this.
  BytePairs(const Vocabulary& vocabulary, const Splitter& splitter, const StringList& merges);

  // Ids of the text, appended; special tokens and breaks as for Vocabulary::fragments. Malformed UTF-8 is read as
  // repaired() says.
  void encode(std::string_view text, bool allow_special, const std::vector<uint32_t>& breaks,
              std::vector<int32_t>& out) const;

  // Bytes that a token stands for.
  std::string bytes(size_t id) const;

 private:
  struct Merge {
    std::string_view left, right;
    uint64_t left_hash, right_hash;
  };

  void load(const StringList& merges);
  uint32_t part(std::string_view text);
  uint32_t part(std::string_view text, uint64_t hash);
  Merge parse(const StringList& merges, size_t rank) const;
  void add_pair(uint32_t left, uint32_t right, Pair pair);
  Pair find_pair(uint32_t left, uint32_t right) const;
  void encode_clean(std::string_view text, WordCache* cache, std::vector<int32_t>& out) const;
  void encode_word(std::string_view word, std::vector<Symbol>& symbols, std::vector<int32_t>& out) const;

  const Vocabulary& vocabulary_;
  const Splitter& splitter_;
  // Merges may pass through strings that are no token: they are numbered on from the vocabulary's size.
  Strings others_;
  struct Entry {
    uint64_t key = ~uint64_t(0);
    Pair pair;
  };
  std::vector<Entry> pairs_;
  std::array<uint32_t, 256> byte_part_{};
  mutable WordCache cache_;
};

}  // namespace text
