// A matrix of (features, inputs) in panels of its storage type.
#pragma once
#include <memory>
#include <string>

#include "core/memory.h"
#include "core/types.h"

namespace pyllm {

class Weight {
 public:
  Weight(Type type, int64_t n, int64_t k);  // std::invalid_argument: k not a multiple of the type's block

  // Rows as a file stores them, from `row` (a multiple of 16) on; on the team of workers.
  void fill(int64_t row, int64_t rows, const uint8_t* bytes);
  // Packs float32 rows from `row` (a multiple of 16) on, all of them transposed (F32, BF16 and INT8 only).
  void fill_floats(const float* x, int64_t stride, bool transposed, int64_t row, int64_t rows);
  // Rows [row, row + k) of another weight, turned: those are the inputs of this one's features (BF16, or F32 of F32).
  void fill_turned(const Weight& other, int64_t row);

  Type type() const { return type_; }
  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  const uint8_t* panels() const { return memory_.data(); }
  int64_t bytes() const { return (int64_t)memory_.size(); }

 private:
  void check_rows(int64_t row, int64_t rows) const;

  Type type_;
  int64_t n_, k_;
  Buffer memory_;
};

Type type_named(const std::string& name);  // std::invalid_argument lists the names

}  // namespace pyllm
