// How stages look at text: one code point and its class at a time, nothing outside [begin, end).
#pragma once
#include "text/unicode.h"

namespace text {

struct Char {
  uint32_t value;  // NOTHING past the end
  uint32_t size;
  uint8_t kind;  // 0 past the end

  bool is(uint8_t mask) const { return (kind & mask) != 0; }
  bool line_end() const { return value == '\r' || value == '\n'; }
};

constexpr uint32_t NOTHING = 0xFFFFFFFF;

inline Char at(const char* text, size_t position, size_t end) {
  if (position >= end) return {NOTHING, 0, 0};
  static const uint8_t* const table = classes();
  const CodePoint c = decode(text + position);
  return {c.value, c.size, table[c.value]};
}

// End of the run of code points whose class is in the mask.
inline size_t run(const char* text, size_t position, size_t end, uint8_t mask) {
  for (Char c = at(text, position, end); c.is(mask); c = at(text, position, end)) position += c.size;
  return position;
}

// End of the run of code points for which belongs(Char) holds; it must not hold past the end.
template <class Belongs> size_t run_of(const char* text, size_t position, size_t end, Belongs&& belongs) {
  for (Char c = at(text, position, end); belongs(c); c = at(text, position, end)) position += c.size;
  return position;
}

inline bool digit(uint32_t value) { return value >= '0' && value <= '9'; }
inline bool upper(uint32_t value) { return value >= 'A' && value <= 'Z'; }
inline bool lower(uint32_t value) { return value >= 'a' && value <= 'z'; }

constexpr uint8_t ANY = OTHER | LETTER | NUMBER | MARK | PUNCTUATION | SYMBOL | SPACE;

}  // namespace text
