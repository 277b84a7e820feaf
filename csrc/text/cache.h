// Ids of short words met before: a table of one slot per hash, the latest word wins.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "text/strings.h"

namespace text {

class WordCache {
 public:
  // One caller at a time uses the cache; another one meanwhile works without.
  std::unique_lock<std::mutex> use() {
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (lock && !slots_) slots_ = std::make_unique<Slot[]>(SLOTS);
    return lock;
  }

  // Appends the ids of the word, or answers false; `hash` is for put().
  bool get(std::string_view word, std::vector<int32_t>& out, uint64_t& hash) const {
    hash = hash_bytes(word);
    const Slot& slot = slots_[hash % SLOTS];
    if (word.size() > LONGEST || slot.size != word.size() || std::memcmp(slot.word, word.data(), word.size()) != 0) {
      return false;
    }
    out.insert(out.end(), slot.ids, slot.ids + slot.count);
    return true;
  }

  void put(std::string_view word, uint64_t hash, const int32_t* ids, size_t count) {
    if (word.empty() || word.size() > LONGEST || count > MOST) return;
    Slot& slot = slots_[hash % SLOTS];
    slot.size = uint8_t(word.size());
    slot.count = uint8_t(count);
    std::memcpy(slot.word, word.data(), word.size());
    std::copy(ids, ids + count, slot.ids);
  }

 private:
  static constexpr size_t SLOTS = 1 << 14;
  static constexpr size_t LONGEST = 30;
  static constexpr size_t MOST = 8;

  struct Slot {
    uint8_t size = 0;  // 0: empty
    uint8_t count = 0;
    char word[LONGEST];
    int32_t ids[MOST];
  };

  std::mutex mutex_;
  std::unique_ptr<Slot[]> slots_;
};

}  // namespace text
