// Training byte-level byte-pair encoding: the most frequent pair of neighbours becomes a token, again and again.
#pragma once
#include <cstdint>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "text/count.h"

namespace text {

// The order of merges is that of PyPI's `tokenizers`. Of equal counts the pair of lower ids comes first. A merge whose
// text is a token already gives that token, and a pair's count is not lowered by its own merge; so pairs that come
// about again through such a token count on from there, and may merge again.
class PairTrainer {
 public:
  // Ids: the special tokens, 256 bytes in the order of their spelling, then merges until there are `vocabulary` tokens
  // or no pair stands `least` times. Nothing merges into a special token. Throws pyllm::Interrupted.
  PairTrainer(const WordCounts& words, const std::vector<std::string>& special, size_t vocabulary, uint64_t least);

  // Up to `most` merges; whether that was the last one. Throws pyllm::Interrupted between two merges.
  bool merge(size_t most);

  // Tokens in GPT-2's spelling.
  const Strings& tokens() const { return tokens_; }

  // (left id, right id) in order of rank. A pair merged twice has its later rank.
  std::vector<std::pair<uint32_t, uint32_t>> merges() const;

 private:
  struct Word {
    uint64_t begin;  // of its symbols
    uint32_t size;
    int64_t count;
  };
  struct Slot {
    uint64_t key = ~uint64_t(0);
    int64_t count = 0;
    uint32_t list = NONE;  // where new words of the pair are being noted
  };
  struct Candidate {
    int64_t count;  // when it was listed
    uint64_t key;
    uint32_t list;  // words in which the pair stood, and perhaps still does
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : key > other.key;
    }
  };

  Slot& slot(uint64_t key);
  void grow();
  void note(uint32_t left, uint32_t right, uint32_t word);
  void drop(uint32_t left, uint32_t right, int64_t count) { slot(uint64_t(left) << 32 | right).count -= count; }
  void enlist();
  uint32_t new_list();
  void merge_pair(const Candidate& best, uint32_t id);
  void merge_in(uint32_t number, uint32_t left, uint32_t right, uint32_t id);

  size_t special_;
  size_t vocabulary_;
  int64_t least_;
  Strings tokens_;
  std::vector<std::pair<uint32_t, uint32_t>> merges_;
  std::vector<uint32_t> symbols_;
  std::vector<Word> words_;
  std::vector<Slot> slots_ = std::vector<Slot>(1 << 12);
  size_t pairs_ = 0;
  std::vector<std::vector<uint32_t>> lists_;
  std::vector<uint32_t> free_lists_;
  std::vector<uint64_t> noted_;  // pairs whose slots have a list
  std::priority_queue<Candidate> queue_;
};

}  // namespace text
