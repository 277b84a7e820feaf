// Merging neighbours, best rank first and leftmost among equals, until no pair may merge: the heart of both tokenizers.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <queue>
#include <unordered_map>
#include <vector>

#include "text/strings.h"

namespace text {

struct Symbol {
  uint32_t begin, size;  // bytes of the text
  uint32_t id;
};

struct Pair {
  uint32_t rank = NONE;  // NONE: may not merge
  uint32_t id = NONE;    // of the merged symbol
};

// Few symbols: look for the best pair each time. pairs(left, right) -> Pair.
template <class Pairs> void merge_few(std::vector<Symbol>& symbols, const Pairs& pairs) {
  Pair next[33];
  size_t count = symbols.size();
  for (size_t i = 0; i + 1 < count; ++i) next[i] = pairs(symbols[i], symbols[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (next[i].rank < next[best].rank) best = i;
    }
    if (next[best].rank == NONE) break;
    symbols[best].size += symbols[best + 1].size;
    symbols[best].id = next[best].id;
    std::copy(symbols.begin() + best + 2, symbols.begin() + count, symbols.begin() + best + 1);
    std::copy(next + best + 1, next + count - 1, next + best);
    --count;
    if (best + 1 < count) next[best] = pairs(symbols[best], symbols[best + 1]);
    if (best > 0) next[best - 1] = pairs(symbols[best - 1], symbols[best]);
  }
  symbols.resize(count);
}

// The places where a pair of one rank may stand, handed out from the left. Most come in ascending order.
class Places {
 public:
  bool listed = false;  // whether the rank awaits its turn

  bool empty() const { return next_ == run_.size() && early_.empty(); }

  void add(uint32_t place) {
    if (next_ == run_.size()) {
      run_.clear();
      next_ = 0;
    }
    if (run_.empty() || place >= run_.back()) {
      run_.push_back(place);
    } else {
      early_.push_back(place);
      std::push_heap(early_.begin(), early_.end(), std::greater<uint32_t>());
    }
  }

  uint32_t take() {
    if (early_.empty() || (next_ < run_.size() && run_[next_] <= early_.front())) return run_[next_++];
    std::pop_heap(early_.begin(), early_.end(), std::greater<uint32_t>());
    const uint32_t place = early_.back();
    early_.pop_back();
    return place;
  }

 private:
  std::vector<uint32_t> run_;    // ascending; taken up to next_
  std::vector<uint32_t> early_;  // a heap of those that came too late for the run
  size_t next_ = 0;
};

// Any number of symbols, in nearly linear time: the places of each rank, and a heap of the few ranks there are.
// A place is stale unless its symbol still stands and its pair with its present neighbour has that rank; one that is
// right by accident asks for the same merge as the one that was added for it.
template <class Pairs> void merge_many(std::vector<Symbol>& symbols, const Pairs& pairs) {
  const auto count = uint32_t(symbols.size());
  struct Link {
    uint32_t previous, next;
    Pair pair;  // with next
  };
  std::vector<Link> links(count);
  std::unordered_map<uint32_t, Places> places;
  std::priority_queue<uint32_t, std::vector<uint32_t>, std::greater<uint32_t>> ranks;
  const auto look = [&](uint32_t left) {
    Link& link = links[left];
    link.pair = link.next < count ? pairs(symbols[left], symbols[link.next]) : Pair{};
    if (link.pair.rank == NONE) return;
    Places& here = places[link.pair.rank];
    here.add(left);
    if (!here.listed) ranks.push(link.pair.rank);
    here.listed = true;
  };
  for (uint32_t i = 0; i < count; ++i) links[i] = {i - 1, i + 1, Pair{}};
  for (uint32_t i = 0; i < count; ++i) look(i);
  while (!ranks.empty()) {
    const uint32_t rank = ranks.top();
    Places& here = places[rank];
    if (here.empty()) {
      here.listed = false;
      ranks.pop();
      continue;
    }
    const uint32_t left = here.take();
    if (symbols[left].size == 0 || links[left].pair.rank != rank) continue;
    const uint32_t right = links[left].next;
    symbols[left].id = links[left].pair.id;
    symbols[left].size += symbols[right].size;
    symbols[right].size = 0;
    links[left].next = links[right].next;
    if (links[left].next < count) links[links[left].next].previous = left;
    look(left);
    if (links[left].previous != NONE) look(links[left].previous);
  }
  symbols.erase(std::remove_if(symbols.begin(), symbols.end(), [](const Symbol& s) { return s.size == 0; }),
                symbols.end());
}

template <class Pairs> void merge(std::vector<Symbol>& symbols, const Pairs& pairs) {
  if (symbols.size() <= 32) {
    merge_few(symbols, pairs);
  } else {
    merge_many(symbols, pairs);
  }
}

}  // namespace text
