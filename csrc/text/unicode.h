// UTF-8 and the classes of code points that pre-tokenizers speak of. Unicode 15.1.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace text {

// One bit per class, so that a set of classes is a mask. 0 is "past the end" and belongs to no set.
enum Class : uint8_t { OTHER = 1, LETTER = 2, NUMBER = 4, MARK = 8, PUNCTUATION = 16, SYMBOL = 32, SPACE = 64 };

constexpr uint32_t REPLACEMENT = 0xFFFD;
constexpr uint32_t LAST_CODE_POINT = 0x10FFFF;

// Class of each code point, indexed 0..LAST_CODE_POINT.
const uint8_t* classes();

// Length in bytes that a first byte announces: 1 for ASCII and for stray continuation bytes, else 2, 3 or 4.
inline size_t announced(uint8_t first) { return first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4; }

struct CodePoint {
  uint32_t value;
  uint32_t size;  // bytes
};

// Code point at p of UTF-8 that clean() has passed.
inline CodePoint decode(const char* p) {
  const auto* b = reinterpret_cast<const uint8_t*>(p);
  if (b[0] < 0x80) return {b[0], 1};
  if (b[0] < 0xE0) return {uint32_t(b[0] & 0x1F) << 6 | (b[1] & 0x3F), 2};
  if (b[0] < 0xF0) return {uint32_t(b[0] & 0x0F) << 12 | uint32_t(b[1] & 0x3F) << 6 | (b[2] & 0x3F), 3};
  return {uint32_t(b[0] & 0x07) << 18 | uint32_t(b[1] & 0x3F) << 12 | uint32_t(b[2] & 0x3F) << 6 | (b[3] & 0x3F), 4};
}

void append(std::string& out, uint32_t code_point);

// Whether every byte belongs to a code point in its shortest form; surrogates count as code points.
bool clean(std::string_view text);

// The text as llama.cpp reads it: each byte that begins no sequence becomes U+FFFD, overlong forms become short,
// surrogates stay. Sequences above U+10FFFF, which llama.cpp does not survive, become one U+FFFD per byte.
std::string repaired(std::string_view text);

}  // namespace text
