#include "text/unicode.h"

#include <cstring>
#include <vector>

namespace text {
namespace {

struct Run {
  uint32_t first;
  uint8_t kind;
};

const Run RUNS[] = {
#include "text/unicode_data.inc"
};

std::vector<uint8_t> expand() {
  std::vector<uint8_t> table(LAST_CODE_POINT + 1);
  const size_t count = sizeof(RUNS) / sizeof(RUNS[0]);
  for (size_t i = 0; i < count; ++i) {
    const uint32_t end = i + 1 < count ? RUNS[i + 1].first : LAST_CODE_POINT + 1;
    std::memset(table.data() + RUNS[i].first, RUNS[i].kind, end - RUNS[i].first);
  }
  return table;
}

// Size of the well-formed sequence at p, 0 when there is none; overlong forms and any 4-byte value count.
size_t sequence(const char* p, const char* end) {
  const auto first = uint8_t(*p);
  if (first < 0x80) return 1;
  if (first < 0xC0 || first >= 0xF8) return 0;
  const size_t size = announced(first);
  if (size_t(end - p) < size) return 0;
  for (size_t i = 1; i < size; ++i) {
    if ((uint8_t(p[i]) & 0xC0) != 0x80) return 0;
  }
  return size;
}

size_t shortest(uint32_t code_point) {
  return code_point < 0x80 ? 1 : code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
}

}  // namespace

const uint8_t* classes() {
  static const std::vector<uint8_t> table = expand();
  return table.data();
}

void append(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += char(c);
  } else if (c < 0x800) {
    out += char(0xC0 | c >> 6);
    out += char(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += char(0xE0 | c >> 12);
    out += char(0x80 | (c >> 6 & 0x3F));
    out += char(0x80 | (c & 0x3F));
  } else {
    out += char(0xF0 | c >> 18);
    out += char(0x80 | (c >> 12 & 0x3F));
    out += char(0x80 | (c >> 6 & 0x3F));
    out += char(0x80 | (c & 0x3F));
  }
}

bool clean(std::string_view text) {
  const char* p = text.data();
  const char* const end = p + text.size();
  while (p < end) {
    uint64_t eight = 0;
    while (end - p >= 8) {
      std::memcpy(&eight, p, 8);
      if (eight & 0x8080808080808080u) break;
      p += 8;
    }
    if (p == end) break;
    const size_t size = sequence(p, end);
    if (size == 0) return false;
    const CodePoint c = decode(p);
    if (c.value > LAST_CODE_POINT || shortest(c.value) != size) return false;
    p += size;
  }
  return true;
}

std::string repaired(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  const char* p = text.data();
  const char* const end = p + text.size();
  while (p < end) {
    const size_t size = sequence(p, end);
    const uint32_t value = size ? decode(p).value : REPLACEMENT;
    const bool valid = size && value <= LAST_CODE_POINT;
    append(out, valid ? value : REPLACEMENT);
    p += valid ? size : 1;
  }
  return out;
}

}  // namespace text
