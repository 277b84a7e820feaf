// Merging neighbours, best rank first and leftmost among equals, until no pair may merge: the heart of both tokenizers.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
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
template <class Pairs>
void merge_few(std::vector<Symbol>& symbols, const Pairs& pairs) {
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

// Any number of symbols: a heap of rank << 32 | left. An entry is stale unless `left` still stands and its pair with
// its present neighbour has that rank; an entry that is right by accident asks for the same merge as the one that
// was pushed for it.
template <class Pairs>
void merge_many(std::vector<Symbol>& symbols, const Pairs& pairs) {
  const auto count = uint32_t(symbols.size());
  struct Link {
    uint32_t previous, next;
    Pair pair;  // with next
  };
  std::vector<Link> links(count);
  std::vector<uint64_t> heap;
  heap.reserve(count);
  const auto refresh = [&](uint32_t left) {
    const uint32_t right = links[left].next;
    links[left].pair = right < count ? pairs(symbols[left], symbols[right]) : Pair{};
    if (links[left].pair.rank == NONE) return false;
    heap.push_back(uint64_t(links[left].pair.rank) << 32 | left);
    return true;
  };
  for (uint32_t i = 0; i < count; ++i) links[i] = {i - 1, i + 1, Pair{}};
  for (uint32_t i = 0; i < count; ++i) refresh(i);
  const auto later = std::greater<uint64_t>();
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const uint64_t entry = heap.back();
    heap.pop_back();
    const auto left = uint32_t(entry);
    if (symbols[left].size == 0 || links[left].pair.rank != uint32_t(entry >> 32)) continue;
    const uint32_t right = links[left].next;
    symbols[left].id = links[left].pair.id;
    symbols[left].size += symbols[right].size;
    symbols[right].size = 0;
    links[left].next = links[right].next;
    if (links[left].next < count) links[links[left].next].previous = left;
    if (refresh(left)) std::push_heap(heap.begin(), heap.end(), later);
    const uint32_t previous = links[left].previous;
    if (previous != NONE && refresh(previous)) std::push_heap(heap.begin(), heap.end(), later);
  }
  symbols.erase(std::remove_if(symbols.begin(), symbols.end(), [](const Symbol& s) { return s.size == 0; }),
                symbols.end());
}

template <class Pairs>
void merge(std::vector<Symbol>& symbols, const Pairs& pairs) {
  if (symbols.size() <= 32) {
    merge_few(symbols, pairs);
  } else {
    merge_many(symbols, pairs);
  }
}

}  // namespace text
