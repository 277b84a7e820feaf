#include "text/train.h"

#include <algorithm>
#include <unordered_set>

#include "core/workers.h"
#include "text/bpe.h"

namespace text {

PairTrainer::PairTrainer(const WordCounts& words, const std::vector<std::string>& special, size_t vocabulary,
                         uint64_t least)
    : vocabulary_(vocabulary), least_(int64_t(std::max<uint64_t>(least, 1))) {
  for (const std::string& token : special) tokens_.add(token);
  special_ = tokens_.size();
  std::vector<std::string> alphabet(256);
  for (int byte = 0; byte < 256; ++byte) spell(alphabet[byte], std::string(1, char(byte)));
  std::vector<std::string> sorted = alphabet;  // UTF-8 sorts as code points do
  std::sort(sorted.begin(), sorted.end());
  for (const std::string& character : sorted) tokens_.add(character);
  uint32_t id_of[256];
  for (int byte = 0; byte < 256; ++byte) id_of[byte] = tokens_.find(alphabet[byte]);
  for (size_t number = 0; number < words.words().size(); ++number) {
    if (number % 4096 == 0 && pyllm::poll_interrupt()) throw pyllm::Interrupted{};
    const std::string_view word = words.words()[number];
    if (word.size() < 2) continue;
    const auto index = uint32_t(words_.size());
    words_.push_back({symbols_.size(), uint32_t(word.size()), int64_t(words.counts()[number])});
    for (const char c : word) symbols_.push_back(id_of[uint8_t(c)]);
    for (size_t i = symbols_.size() - word.size(); i + 1 < symbols_.size(); ++i) {
      note(symbols_[i], symbols_[i + 1], index);
    }
  }
  enlist();
}

PairTrainer::Slot& PairTrainer::slot(uint64_t key) {
  const size_t mask = slots_.size() - 1;
  size_t i = hash_number(key) & mask;
  while (slots_[i].key != key) {
    if (slots_[i].key == ~uint64_t(0)) {
      if (pairs_ * 2 >= slots_.size()) {
        grow();
        return slot(key);
      }
      ++pairs_;
      slots_[i].key = key;
      break;
    }
    i = (i + 1) & mask;
  }
  return slots_[i];
}

void PairTrainer::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  const size_t mask = slots_.size() - 1;
  for (const Slot& each : old) {
    if (each.key == ~uint64_t(0)) continue;
    size_t i = hash_number(each.key) & mask;
    while (slots_[i].key != ~uint64_t(0)) i = (i + 1) & mask;
    slots_[i] = each;
  }
}

uint32_t PairTrainer::new_list() {
  if (free_lists_.empty()) {
    lists_.emplace_back();
    return uint32_t(lists_.size() - 1);
  }
  const uint32_t list = free_lists_.back();
  free_lists_.pop_back();
  return list;
}

// The pair stands once more in the word.
void PairTrainer::note(uint32_t left, uint32_t right, uint32_t word) {
  const uint64_t key = uint64_t(left) << 32 | right;
  Slot& pair = slot(key);
  pair.count += words_[word].count;
  if (pair.list == NONE) {
    pair.list = new_list();
    noted_.push_back(key);
  }
  std::vector<uint32_t>& list = lists_[pair.list];
  if (list.empty() || list.back() != word) list.push_back(word);
}

// Pairs noted since the last time become candidates.
void PairTrainer::enlist() {
  for (const uint64_t key : noted_) {
    Slot& pair = slot(key);
    if (pair.count > 0) {
      queue_.push({pair.count, key, pair.list});
    } else {
      lists_[pair.list].clear();
      free_lists_.push_back(pair.list);
    }
    pair.list = NONE;
  }
  noted_.clear();
}

bool PairTrainer::merge(size_t most) {
  std::string joined;
  while (most > 0) {
    if (tokens_.size() >= vocabulary_ || queue_.empty()) return true;
    if (pyllm::poll_interrupt()) throw pyllm::Interrupted{};
    Candidate best = queue_.top();
    const int64_t now = slot(best.key).count;
    if (best.count == now && now < least_) return true;
    queue_.pop();
    if (best.count != now) {  // counts only fall behind a candidate's back: it takes its place again
      best.count = now;
      if (now > 0) queue_.push(best);
      continue;
    }
    joined.assign(tokens_[best.key >> 32]);
    joined += tokens_[uint32_t(best.key)];
    const uint32_t known = tokens_.find(joined);
    if (known < special_) continue;
    merge_pair(best, known == NONE ? tokens_.add(joined) : known);
    --most;
  }
  return false;
}

void PairTrainer::merge_pair(const Candidate& best, uint32_t id) {
  const auto left = uint32_t(best.key >> 32), right = uint32_t(best.key);
  merges_.emplace_back(left, right);
  const std::vector<uint32_t> words = std::move(lists_[best.list]);
  lists_[best.list] = {};
  free_lists_.push_back(best.list);
  for (const uint32_t word : words) merge_in(word, left, right, id);
  enlist();
}

// From the left, without overlaps; the neighbours' pairs give way to those of the new symbol.
void PairTrainer::merge_in(uint32_t number, uint32_t left, uint32_t right, uint32_t id) {
  Word& word = words_[number];
  uint32_t* const symbols = symbols_.data() + word.begin;
  uint32_t kept = 0;
  for (uint32_t i = 0; i < word.size;) {
    if (symbols[i] != left || i + 1 == word.size || symbols[i + 1] != right) {
      symbols[kept++] = symbols[i++];
      continue;
    }
    i += 2;
    if (kept > 0) {
      drop(symbols[kept - 1], left, word.count);
      note(symbols[kept - 1], id, number);
    }
    if (i < word.size) {
      drop(right, symbols[i], word.count);
      note(id, symbols[i], number);
    }
    symbols[kept++] = id;
  }
  word.size = kept;
}

std::vector<std::pair<uint32_t, uint32_t>> PairTrainer::merges() const {
  std::vector<std::pair<uint32_t, uint32_t>> found;
  std::unordered_set<uint64_t> seen;
  for (auto pair = merges_.rbegin(); pair != merges_.rend(); ++pair) {
    if (seen.insert(uint64_t(pair->first) << 32 | pair->second).second) found.push_back(*pair);
  }
  std::reverse(found.begin(), found.end());
  return found;
}

}  // namespace text
