// Tokens: their text as the file spells it, their kind, and the special ones found in text.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/strings.h"

namespace text {

// The numbers of `tokenizer.ggml.token_type`.
enum Kind : uint8_t { UNDEFINED = 0, NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6 };

// Strings inside one buffer, as a GGUF file holds them.
struct StringList {
  const char* data;
  size_t bytes;
  const uint64_t* starts;
  const uint64_t* lengths;
  size_t count;

  // Throws Error, naming the field and the index, when the string leaves the buffer.
  std::string_view get(size_t index, const char* field) const;
};

// A stretch of text, or (token != NONE) the special token that stood there.
struct Fragment {
  size_t begin, end;
  uint32_t token;
};

class Vocabulary {
 public:
  // kinds: token_type of each token, or nullptr: all normal.
  Vocabulary(const StringList& tokens, const int32_t* kinds);

  size_t size() const { return kinds_.size(); }
  std::string_view text(size_t id) const { return names_[id]; }
  uint32_t find(std::string_view text) const { return names_.find(text); }
  Kind kind(size_t id) const { return kinds_[id]; }
  void mark(size_t id, Kind kind) { kinds_[id] = kind; }
  const Strings& names() const { return names_; }

  // Never an answer to text: it is only reached where special tokens are allowed.
  bool reserved(size_t id) const { return kinds_[id] == CONTROL || kinds_[id] == UNKNOWN; }

  // Byte of a token spelled <0x00> to <0xFF>, capital digits; -1 for any other text.
  static int byte_of(std::string_view text);

  // Collects the special tokens; to be called once all kinds are final.
  void finish();

  // Cuts text at special tokens: longer ones first wherever they stand, equal ones from the left.
  // Reserved tokens are looked for only when allowed; user-defined ones always.
  // No reserved token is found across one of the breaks (offsets, ascending).
  std::vector<Fragment> fragments(std::string_view text, bool allow_special, const std::vector<uint32_t>& breaks) const;

  // Where the spelling of a reserved token begins, or could begin if more text followed.
  std::vector<uint32_t> reserved_starts(std::string_view text) const;

 private:
  struct Match {
    uint32_t begin, size, token;
  };

  void insert(uint32_t token);
  uint32_t child(uint32_t node, uint8_t byte) const;
  std::vector<Match> matches(std::string_view text, bool allow_special, const std::vector<uint32_t>& breaks) const;

  Strings names_;
  std::vector<Kind> kinds_;
  // A trie: edges_ maps node << 8 | byte to the next node, open addressing; token_at_ per node.
  struct Edge {
    uint64_t key = ~uint64_t(0);
    uint32_t node = NONE;
  };
  std::vector<Edge> edges_;
  std::vector<uint32_t> token_at_;
  std::vector<bool> reserved_below_;  // per node: whether a reserved token's spelling passes through it
  bool first_byte_[256] = {};
};

}  // namespace text
