// How often each word stands in texts that come piece by piece: what tokenizers are trained on.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/split.h"
#include "text/strings.h"

namespace text {

// Holds at most `most` distinct words of 32 * most bytes together. When there are more, the half with the highest
// counts stays, of equal counts what was met first; a word that was forgotten begins again from nothing. A word of more
// than LONGEST_WORD bytes counts as several.
class WordCounts {
 public:
  WordCounts(const Splitter& splitter, size_t most) : splitter_(splitter), most_(most) {}

  // More of a text, in clean UTF-8. The words are those of the whole text, wherever it is cut into pieces, unless it
  // goes on for a mebibyte without a space after something else.
  void add(std::string_view piece);

  // The text has ended.
  void end_text();

  const Strings& words() const { return words_; }
  const std::vector<uint64_t>& counts() const { return counts_; }
  uint64_t total() const { return total_; }                      // words met
  uint64_t forgotten() const { return forgotten_; }              // distinct words dropped, each time they were
  uint64_t forgotten_total() const { return forgotten_total_; }  // and how often they had been met

  // Numbers of the words met at least so often, most frequent first, equal ones in order of their bytes.
  std::vector<uint32_t> common(uint64_t least) const;

 private:
  static constexpr size_t LONGEST_WORD = size_t(1) << 14;
  static constexpr size_t LONGEST_WAIT = size_t(1) << 20;

  size_t settled(size_t seen) const;
  size_t before_last_words() const;
  void count(std::string_view text, size_t limit);
  void note(std::string_view word);
  void forget();

  const Splitter& splitter_;
  const size_t most_;
  std::string waiting_;  // the end of the text so far, whose words may yet grow
  Strings words_;
  std::vector<uint64_t> counts_;
  uint64_t total_ = 0, forgotten_ = 0, forgotten_total_ = 0;
};

}  // namespace text
