#include "text/strings.h"

#include <cstring>
#include <random>

#include "text/error.h"

namespace text {
namespace {

uint64_t seed() {
  static const uint64_t value = [] {
    std::random_device device;
    return uint64_t(device()) << 32 | device();
  }();
  return value;
}

uint64_t mix(uint64_t x) {
  x ^= x >> 32;
  x *= 0xD6E8FEB86659FD93u;
  x ^= x >> 32;
  x *= 0xD6E8FEB86659FD93u;
  return x ^ x >> 32;
}

size_t slots_for(size_t count) {
  size_t slots = 16;
  while (slots < count * 2) slots *= 2;
  return slots;
}

}  // namespace

std::string quoted(std::string_view bytes) {
  constexpr size_t LONGEST = 60;
  const char* digits = "0123456789abcdef";
  std::string out = "'";
  for (const char c : bytes.substr(0, LONGEST)) {
    const auto byte = uint8_t(c);
    if (byte >= 0x20 && byte < 0x7F) {
      out += c;
    } else {
      out += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    }
  }
  return out + (bytes.size() > LONGEST ? "...'" : "'");
}

uint64_t hash_number(uint64_t value) { return mix(value ^ seed()); }

uint64_t hash_bytes(std::string_view bytes) {
  uint64_t hash = seed() ^ bytes.size();
  const char* p = bytes.data();
  size_t left = bytes.size();
  for (; left >= 8; left -= 8, p += 8) {
    uint64_t eight;
    std::memcpy(&eight, p, 8);
    hash = mix(hash ^ eight) + 0x9E3779B97F4A7C15u;
  }
  uint64_t rest = 0;
  for (size_t i = 0; i < left; ++i) rest |= uint64_t(uint8_t(p[i])) << 8 * i;
  return mix(hash ^ rest);
}

void Strings::reserve(size_t count, size_t bytes) {
  bytes_.reserve(bytes);
  starts_.reserve(count + 1);
  if (slots_for(count) > slots_.size()) grow(slots_for(count));
}

size_t Strings::probe(std::string_view bytes, uint64_t hash) const {
  const size_t mask = slots_.size() - 1;
  const auto tag = uint32_t(hash >> 32);
  size_t i = hash & mask;
  while (slots_[i].number != NONE && (slots_[i].tag != tag || (*this)[slots_[i].number] != bytes)) i = (i + 1) & mask;
  return i;
}

void Strings::grow(size_t count) {
  std::vector<Slot> fresh(count);
  for (size_t number = 0; number < size(); ++number) {
    const uint64_t hash = hash_bytes((*this)[number]);
    size_t i = hash & (count - 1);
    while (fresh[i].number != NONE) i = (i + 1) & (count - 1);
    fresh[i] = {uint32_t(hash >> 32), uint32_t(number)};
  }
  slots_ = std::move(fresh);
}

uint32_t Strings::add(std::string_view bytes) {
  if ((size() + 1) * 2 > slots_.size()) grow(slots_.size() * 2);
  const uint64_t hash = hash_bytes(bytes);
  const size_t i = probe(bytes, hash);
  if (slots_[i].number != NONE) return slots_[i].number;
  slots_[i] = {uint32_t(hash >> 32), uint32_t(size())};
  bytes_ += bytes;
  starts_.push_back(bytes_.size());
  return uint32_t(size() - 1);
}

}  // namespace text
