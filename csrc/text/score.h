// Pairs merged by score: SentencePiece's BPE, the GGUF tokenizer model "llama".
#pragma once
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "text/cache.h"
#include "text/merge.h"
#include "text/vocabulary.h"

namespace text {

class ScorePairs {
 public:
  // scores: one per token, higher merges first. unknown: the token for bytes that have none, or NONE.
  ScorePairs(const Vocabulary& vocabulary, const float* scores, uint32_t unknown, bool add_space_prefix);

  // Ids of the text, appended; special tokens and breaks as for Vocabulary::fragments. Bytes that are no token become
  // byte tokens.
  void encode(std::string_view text, bool allow_special, const std::vector<uint32_t>& breaks,
              std::vector<int32_t>& out) const;

  // Bytes that a token stands for; U+2581 is a space.
  std::string bytes(size_t id) const;

 private:
  void rank(const float* scores);
  void find_bytes(uint32_t unknown);
  void note_neighbours();
  static size_t joint(std::string_view left, std::string_view right);
  Pair find_pair(std::string_view text, const Symbol& left, const Symbol& right) const;
  void encode_escaped(std::string_view text, WordCache* cache, std::vector<int32_t>& out) const;
  void encode_word(std::string_view word, std::vector<Symbol>& symbols, std::vector<int32_t>& out) const;

  const Vocabulary& vocabulary_;
  bool add_space_prefix_;
  size_t longest_ = 0;           // bytes of the longest token
  std::vector<uint32_t> ranks_;  // by id; equal scores have equal ranks
  std::array<uint32_t, 256> byte_token_{};
  // Hashes of characters that stand side by side in some token. Text is cut wherever two neighbours are not among
  // them: no merge crosses such a place, so each part can be merged alone.
  std::vector<bool> joints_;
  mutable WordCache cache_;
};

}  // namespace text
