// What this room throws; the bindings turn it into pyllm.errors.TokenizerError.
#pragma once
#include <stdexcept>
#include <string>
#include <string_view>

namespace text {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The bytes in quotes, control and non-ASCII bytes as \xNN, cut after 60 bytes.
std::string quoted(std::string_view bytes);

}  // namespace text
