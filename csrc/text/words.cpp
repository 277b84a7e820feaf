// Stages that follow GPT-2's and its successors' idea of a word.
#include "text/cursor.h"
#include "text/stages.h"

namespace text {
namespace {

// Bytes of 's 't 'm 'd 're 've 'll at position, 0 when there is none.
size_t contraction(const char* text, size_t position, size_t end, bool any_case) {
  if (position + 1 >= end || text[position] != '\'') return 0;
  const char fold = any_case ? 0x20 : 0;
  const auto letter = [&](size_t i) { return upper(uint8_t(text[i])) ? char(text[i] | fold) : text[i]; };
  const char one = letter(position + 1);
  if (one == 's' || one == 't' || one == 'm' || one == 'd') return 2;
  if (position + 2 >= end) return 0;
  const char two = letter(position + 2);
  if ((one == 'r' && two == 'e') || (one == 'v' && two == 'e') || (one == 'l' && two == 'l')) return 3;
  return 0;
}

// \s+(?!\S)|\s+ from a white-space character: all but the last one, so that it can lead the next word.
// With line_ends, \s*[\r\n]+ comes first: up to the last line end of the run.
size_t spaces(const char* text, size_t begin, size_t end, bool line_ends) {
  size_t position = begin;
  size_t last = begin;
  size_t after_line_end = 0;
  for (Char c = at(text, begin, end); c.is(SPACE); c = at(text, position, end)) {
    last = position;
    position += c.size;
    if (c.line_end()) after_line_end = position;
  }
  if (line_ends && after_line_end) return after_line_end;
  if (position < end && last > begin) return last;
  return position;
}

// ` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`; with slash, [\r\n/]*.
size_t marks_or_spaces(const char* text, size_t begin, size_t end, uint8_t letters, bool slash) {
  const uint8_t marks = ANY & ~(SPACE | NUMBER | letters);
  const size_t first = begin + (text[begin] == ' ');
  if (at(text, first, end).is(marks)) {
    const size_t position = run(text, first, end, marks);
    return run_of(text, position, end, [&](Char c) { return c.line_end() || (slash && c.value == '/'); });
  }
  return spaces(text, begin, end, true);
}

// At most `most` numbers; 0: all of the run.
size_t numbers(const char* text, size_t begin, size_t end, int most) {
  int count = 0;
  return run_of(text, begin, end, [&](Char c) { return c.is(NUMBER) && (most == 0 || count++ < most); });
}

struct Style {
  bool contractions;
  uint8_t letters;  // what a word is made of
  int numbers;      // as for numbers()
};

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,n}| and marks_or_spaces.
size_t modern_words(const char* text, size_t begin, size_t end, Style style) {
  if (style.contractions) {
    if (const size_t size = contraction(text, begin, end, true)) return begin + size;
  }
  const Char c = at(text, begin, end);
  if (!c.line_end() && !c.is(NUMBER)) {
    if (c.is(style.letters) || at(text, begin + c.size, end).is(style.letters)) {
      return run(text, begin + c.size, end, style.letters);
    }
  }
  if (c.is(NUMBER)) return numbers(text, begin, end, style.numbers);
  return marks_or_spaces(text, begin, end, style.letters, false);
}

// [letters not a-z]*[letters not A-Z]+ or else [letters not a-z]+; begin itself when neither is there.
// After all capitals, a letter without case may still serve as the second group: the match then ends behind it.
size_t cased_letters(const char* text, size_t begin, size_t end) {
  size_t position = begin;
  size_t after_caseless = begin;
  Char c = at(text, position, end);
  for (; c.is(LETTER) && !lower(c.value); c = at(text, position, end)) {
    position += c.size;
    if (!upper(c.value)) after_caseless = position;
  }
  if (c.is(LETTER)) return run_of(text, position, end, [](Char x) { return x.is(LETTER) && !upper(x.value); });
  return after_caseless > begin ? after_caseless : position;
}

size_t cased_words(const char* text, size_t begin, size_t end, bool contractions, int most_numbers) {
  const Char c = at(text, begin, end);
  const bool lead = !c.line_end() && !c.is(LETTER | NUMBER);
  const size_t first = begin + (lead ? c.size : 0);
  const size_t after = cased_letters(text, first, end);
  if (after > first) return after + (contractions ? contraction(text, after, end, true) : 0);
  if (c.is(NUMBER)) return numbers(text, begin, end, most_numbers);
  return marks_or_spaces(text, begin, end, LETTER, true);
}

}  // namespace

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t gpt2_words(const char* text, size_t begin, size_t end) {
  if (const size_t size = contraction(text, begin, end, false)) return begin + size;
  const size_t first = begin + (text[begin] == ' ');
  const Char c = at(text, first, end);
  if (c.is(LETTER)) return run(text, first, end, LETTER);
  if (c.is(NUMBER)) return run(text, first, end, NUMBER);
  constexpr uint8_t MARKS = ANY & ~(SPACE | LETTER | NUMBER);
  if (c.is(MARKS)) return run(text, first, end, MARKS);
  return spaces(text, begin, end, false);
}

size_t llama3_words(const char* text, size_t begin, size_t end) {
  return modern_words(text, begin, end, {true, LETTER, 3});
}

size_t qwen2_words(const char* text, size_t begin, size_t end) {
  return modern_words(text, begin, end, {true, LETTER, 1});
}

// As qwen2_words with [\p{L}\p{M}] for \p{L}.
size_t qwen35_words(const char* text, size_t begin, size_t end) {
  return modern_words(text, begin, end, {true, LETTER | MARK, 1});
}

size_t any_number_words(const char* text, size_t begin, size_t end) {
  return modern_words(text, begin, end, {true, LETTER, 0});
}

// As qwen2_words without contractions.
size_t plain_words(const char* text, size_t begin, size_t end) {
  return modern_words(text, begin, end, {false, LETTER, 1});
}

size_t tekken_words(const char* text, size_t begin, size_t end) { return cased_words(text, begin, end, false, 1); }

size_t gpt4o_words(const char* text, size_t begin, size_t end) { return cased_words(text, begin, end, true, 3); }

// [!-/:-@[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
// begin itself when none of them matches there.
static size_t deepseek3_match(const char* text, size_t begin, size_t end) {
  const Char c = at(text, begin, end);
  const Char next = at(text, begin + c.size, end);
  constexpr uint8_t MARKS = PUNCTUATION | SYMBOL;
  const auto ascii_letter = [](Char x) { return upper(x.value) || lower(x.value); };
  if (c.value < 128 && c.is(MARKS) && ascii_letter(next)) return run_of(text, begin + 1, end, ascii_letter);
  if (c.is(LETTER | MARK)) return run(text, begin, end, LETTER | MARK);
  if (!c.line_end() && !c.is(MARKS) && next.is(LETTER | MARK)) {
    return run(text, begin + c.size, end, LETTER | MARK);
  }
  const size_t first = begin + (c.value == ' ');
  if (at(text, first, end).is(MARKS)) {
    return run_of(text, run(text, first, end, MARKS), end, [](Char x) { return x.line_end(); });
  }
  return spaces(text, begin, end, true);
}

size_t deepseek3_words(const char* text, size_t begin, size_t end) {
  const size_t match = deepseek3_match(text, begin, end);
  if (match > begin) return match;
  size_t position = begin;
  do {
    position += at(text, position, end).size;
  } while (position < end && deepseek3_match(text, position, end) == position);
  return position;
}

}  // namespace text
