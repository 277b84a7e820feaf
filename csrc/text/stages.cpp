// Stages that cut out one kind of character; what lies between two matches is a piece too.
#include "text/stages.h"

#include <algorithm>
#include <iterator>

#include "text/cursor.h"

namespace text {
namespace {

// (class)+ isolated.
template <class Belongs> size_t isolate(const char* text, size_t begin, size_t end, Belongs&& belongs) {
  if (belongs(at(text, begin, end))) return run_of(text, begin, end, belongs);
  return run_of(text, begin, end, [&](Char c) { return c.kind != 0 && !belongs(c); });
}

// \s?(class)+ isolated.
template <class Belongs> size_t isolate_spaced(const char* text, size_t begin, size_t end, Belongs&& belongs) {
  for (size_t position = begin; position < end;) {
    const Char c = at(text, position, end);
    const size_t next = position + c.size;
    const bool led = c.is(SPACE) && belongs(at(text, next, end));
    if (led || belongs(c)) {
      return position > begin ? position : run_of(text, led ? next : position, end, belongs);
    }
    position = next;
  }
  return end;
}

size_t number_groups(const char* text, size_t begin, size_t end, int most) {
  const auto number = [](Char c) { return c.is(NUMBER); };
  if (!number(at(text, begin, end))) return isolate(text, begin, end, number);
  int count = 0;
  return run_of(text, begin, end, [&](Char c) { return number(c) && count++ < most; });
}

bool listed(Char c, const char* symbols) {
  for (; *symbols; ++symbols) {
    if (c.value == uint32_t(*symbols)) return true;
  }
  return false;
}

struct Range {
  uint32_t first, last;
};

// The letters of the DeepSeek LLM tokenizer: alphabets that know capitals.
constexpr Range CASED[] = {
    {0x41, 0x5A},       {0x61, 0x7A},       {0xB5, 0xB5},       {0xC0, 0xD6},       {0xD8, 0xF6},
    {0xF8, 0x1BA},      {0x1BC, 0x1BF},     {0x1C4, 0x293},     {0x295, 0x2AF},     {0x370, 0x373},
    {0x376, 0x377},     {0x37B, 0x37D},     {0x37F, 0x37F},     {0x386, 0x386},     {0x388, 0x38A},
    {0x38C, 0x38C},     {0x38E, 0x3A1},     {0x3A3, 0x3F5},     {0x3F7, 0x481},     {0x48A, 0x52F},
    {0x531, 0x556},     {0x10A0, 0x10C5},   {0x13A0, 0x13F5},   {0x13F8, 0x13FD},   {0x1C90, 0x1CBA},
    {0x1CBD, 0x1CBF},   {0x1D00, 0x1D2B},   {0x1D6B, 0x1D77},   {0x1D79, 0x1D9A},   {0x1E00, 0x1F15},
    {0x1F18, 0x1F1D},   {0x1F20, 0x1F45},   {0x1F48, 0x1F4D},   {0x1F50, 0x1F57},   {0x1F59, 0x1F59},
    {0x1F5B, 0x1F5B},   {0x1F5D, 0x1F5D},   {0x1F5F, 0x1F7D},   {0x1F80, 0x1FB4},   {0x1FB6, 0x1FBC},
    {0x1FBE, 0x1FBE},   {0x1FC2, 0x1FC4},   {0x1FC6, 0x1FCC},   {0x1FD0, 0x1FD3},   {0x1FD6, 0x1FDB},
    {0x1FE0, 0x1FEC},   {0x1FF2, 0x1FF4},   {0x1FF6, 0x1FFC},   {0x2102, 0x2102},   {0x2107, 0x2107},
    {0x210A, 0x2113},   {0x2115, 0x2115},   {0x2119, 0x211D},   {0x2124, 0x2124},   {0x2126, 0x2126},
    {0x2128, 0x2128},   {0x212A, 0x212D},   {0x212F, 0x2134},   {0x2139, 0x2139},   {0x213C, 0x213F},
    {0x2145, 0x2149},   {0x214E, 0x214E},   {0x2183, 0x2184},   {0x2C00, 0x2C7B},   {0x2C7E, 0x2CE4},
    {0x2CEB, 0x2CEE},   {0x2CF2, 0x2CF3},   {0xA640, 0xA66D},   {0xA680, 0xA69B},   {0xA722, 0xA76F},
    {0xA771, 0xA787},   {0xA78B, 0xA78E},   {0xAB70, 0xABBF},   {0xFB00, 0xFB06},   {0xFB13, 0xFB17},
    {0xFF21, 0xFF3A},   {0xFF41, 0xFF5A},   {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB},
    {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943}};

bool cased(Char c) {
  const auto* range = std::upper_bound(std::begin(CASED), std::end(CASED), c.value,
                                       [](uint32_t value, const Range& r) { return value < r.first; });
  return range != std::begin(CASED) && c.value <= std::prev(range)->last;
}

bool within(Char c, uint32_t first, uint32_t last) { return c.value >= first && c.value <= last; }

}  // namespace

size_t one_number(const char* text, size_t begin, size_t end) { return number_groups(text, begin, end, 1); }

// \p{N}{1,3}
size_t three_numbers(const char* text, size_t begin, size_t end) { return number_groups(text, begin, end, 3); }

size_t all_numbers(const char* text, size_t begin, size_t end) {
  return isolate(text, begin, end, [](Char c) { return c.is(NUMBER); });
}

// [0-9][0-9][0-9]
size_t three_digits(const char* text, size_t begin, size_t end) {
  const auto three = [&](size_t i) {
    return i + 3 <= end && digit(uint8_t(text[i])) && digit(uint8_t(text[i + 1])) && digit(uint8_t(text[i + 2]));
  };
  if (three(begin)) return begin + 3;
  size_t position = begin;
  while (position < end && !three(position)) ++position;
  return position;
}

// [\p{P}$+<=>^~|]+
size_t default_marks(const char* text, size_t begin, size_t end) {
  return isolate(text, begin, end, [](Char c) { return c.is(PUNCTUATION) || listed(c, "$+<=>^~|"); });
}

// [\p{P}$+<=>^~|`]+
size_t falcon_marks(const char* text, size_t begin, size_t end) {
  return isolate(text, begin, end, [](Char c) { return c.is(PUNCTUATION) || listed(c, "$+<=>^~|`"); });
}

// [\r\n]
size_t one_line_end(const char* text, size_t begin, size_t end) {
  if (at(text, begin, end).line_end()) return begin + 1;
  return run_of(text, begin, end, [](Char c) { return c.kind != 0 && !c.line_end(); });
}

size_t spaced_letters(const char* text, size_t begin, size_t end) {
  return isolate_spaced(text, begin, end, [](Char c) { return c.is(LETTER); });
}

size_t spaced_punctuation(const char* text, size_t begin, size_t end) {
  return isolate_spaced(text, begin, end, [](Char c) { return c.is(PUNCTUATION); });
}

size_t deepseek_letters(const char* text, size_t begin, size_t end) { return isolate_spaced(text, begin, end, cased); }

// The range :-~ holds the ASCII letters too: words of accented letters fall apart here, as in the original.
size_t deepseek_punctuation(const char* text, size_t begin, size_t end) {
  return isolate_spaced(text, begin, end, [](Char c) {
    return within(c, '!', '/') || within(c, ':', '~') || within(c, 0xFF01, 0xFF0F) || within(c, 0xFF1A, 0xFF5E) ||
           within(c, 0x2018, 0x201F) || within(c, 0x3001, 0x3002);
  });
}

// \s+$
size_t final_spaces(const char* text, size_t begin, size_t end) {
  size_t last_other = begin;
  for (size_t position = begin; position < end;) {
    const Char c = at(text, position, end);
    position += c.size;
    if (!c.is(SPACE)) last_other = position;
  }
  return last_other == begin ? end : last_other;
}

size_t deepseek_han(const char* text, size_t begin, size_t end) {
  return isolate(text, begin, end,
                 [](Char c) { return !c.is(SPACE) && (within(c, 0x800, 0x9FA5) || within(c, 0xAC00, 0xD7FF)); });
}

size_t han_and_kana(const char* text, size_t begin, size_t end) {
  return isolate(text, begin, end, [](Char c) { return within(c, 0x4E00, 0x9FA5) || within(c, 0x3040, 0x30FF); });
}

}  // namespace text
