#include "text/count.h"

#include <algorithm>
#include <numeric>

#include "text/cursor.h"
#include "text/plain.h"

namespace text {
namespace {

bool continues(char byte) { return (uint8_t(byte) & 0xC0) == 0x80; }

}  // namespace

void WordCounts::add(std::string_view piece) {
  const size_t seen = waiting_.size();
  waiting_ += piece;
  size_t size = settled(seen);
  if (size > 0) {
    count(std::string_view(waiting_).substr(0, size), size);
  } else if (waiting_.size() >= LONGEST_WAIT) {
    size = before_last_words();
    count(waiting_, size);
  }
  waiting_.erase(0, size);
}

void WordCounts::end_text() {
  count(waiting_, waiting_.size());
  waiting_.clear();
}

// Bytes of waiting_ whose words are settled: up to a space after something that is none, for no pre-tokenizer puts
// both into one word or looks across. 0 when there is none. The first `seen` bytes have been searched before.
size_t WordCounts::settled(size_t seen) const {
  for (size_t i = waiting_.size(); i-- > std::max<size_t>(seen, 1);) {
    if (waiting_[i] != ' ') continue;
    size_t before = i - 1;
    while (before > 0 && continues(waiting_[before])) --before;
    if (!at(waiting_.data(), before, i).is(SPACE)) return i;
    i = before + 1;
  }
  return 0;
}

// What follows may change the last word and, by a contraction, the one before; all of waiting_ if it has no others.
size_t WordCounts::before_last_words() const {
  size_t cuts[2] = {0, 0};
  split(splitter_, waiting_.data(), 0, waiting_.size(), [&](size_t begin, size_t) {
    cuts[0] = cuts[1];
    cuts[1] = begin;
  });
  return cuts[0] ? cuts[0] : waiting_.size();
}

// The words that begin before the limit.
void WordCounts::count(std::string_view text, size_t limit) {
  split(splitter_, text.data(), 0, text.size(), [&](size_t begin, size_t end) {
    const std::string_view word = text.substr(begin, end - begin);
    if (begin < limit && !between_words(splitter_, word)) note(word);
  });
}

void WordCounts::note(std::string_view word) {
  while (word.size() > LONGEST_WORD) {
    size_t size = LONGEST_WORD;
    while (continues(word[size])) --size;
    note(word.substr(0, size));
    word.remove_prefix(size);
  }
  const uint32_t number = words_.add(word);
  ++total_;
  if (number < counts_.size()) {
    ++counts_[number];
    return;
  }
  counts_.push_back(1);
  while (words_.size() > 1 && (words_.size() > most_ || words_.bytes() > 32 * most_)) forget();
}

void WordCounts::forget() {
  std::vector<uint32_t> order(words_.size());
  std::iota(order.begin(), order.end(), 0);
  const auto half = order.begin() + std::ptrdiff_t(order.size() / 2);
  std::nth_element(order.begin(), half, order.end(), [this](uint32_t a, uint32_t b) {
    return counts_[a] != counts_[b] ? counts_[a] > counts_[b] : a < b;
  });
  forgotten_ += uint64_t(order.end() - half);
  for (auto i = half; i != order.end(); ++i) forgotten_total_ += counts_[*i];
  std::sort(order.begin(), half);
  Strings words;
  std::vector<uint64_t> counts;
  for (auto i = order.begin(); i != half; ++i) {
    words.add(words_[*i]);
    counts.push_back(counts_[*i]);
  }
  words_ = std::move(words);
  counts_ = std::move(counts);
}

std::vector<uint32_t> WordCounts::common(uint64_t least) const {
  std::vector<uint32_t> order;
  for (uint32_t number = 0; number < words_.size(); ++number) {
    if (counts_[number] >= least) order.push_back(number);
  }
  std::sort(order.begin(), order.end(), [this](uint32_t a, uint32_t b) {
    return counts_[a] != counts_[b] ? counts_[a] > counts_[b] : words_[a] < words_[b];
  });
  return order;
}

}  // namespace text
