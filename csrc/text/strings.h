// Interned byte strings: each distinct string has one number, counted from 0.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace text {

constexpr uint32_t NONE = 0xFFFFFFFF;

// Keyed with a number drawn once per process, so that no file can be made whose strings all collide.
uint64_t hash_bytes(std::string_view bytes);
uint64_t hash_number(uint64_t value);

class Strings {
 public:
  // Room for so many strings without rehashing.
  void reserve(size_t count, size_t bytes);

  // Number of the string; a new one is size() before the call.
  uint32_t add(std::string_view bytes);

  // Number of the string or NONE.
  uint32_t find(std::string_view bytes) const { return find(bytes, hash_bytes(bytes)); }

  // The same with the hash in hand; expect() fetches what the search for it will touch first.
  uint32_t find(std::string_view bytes, uint64_t hash) const { return slots_[probe(bytes, hash)].number; }
  void expect(uint64_t hash) const { __builtin_prefetch(&slots_[hash & (slots_.size() - 1)]); }

  std::string_view operator[](size_t number) const {
    return std::string_view(bytes_).substr(starts_[number], starts_[number + 1] - starts_[number]);
  }

  size_t size() const { return starts_.size() - 1; }
  size_t bytes() const { return bytes_.size(); }

 private:
  struct Slot {
    uint32_t tag = 0;  // upper half of the hash
    uint32_t number = NONE;
  };

  size_t probe(std::string_view bytes, uint64_t hash) const;
  void grow(size_t slots);

  std::string bytes_;
  std::vector<size_t> starts_{0};
  std::vector<Slot> slots_ = std::vector<Slot>(16);
};

}  // namespace text
