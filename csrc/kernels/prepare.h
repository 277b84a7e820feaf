// Activations made ready for a weight: normalised, then in the number format of its product.
#pragma once
#include "kernels/panels.h"

namespace pyllm::PYLLM_ISA {

enum Form { kInt8, kBF16, kF32, kWhole, kForms };  // kWhole: int8 with one scale for a row
inline Form form_of(Type t) { return quantised(t) ? kInt8 : t == Type::BF16 ? kBF16 : t == Type::Int8 ? kWhole : kF32; }
// What one step of a product reads of a row of k numbers: so many steps are in it.
inline int64_t steps_of(Form f, int64_t k) {
  return f == kInt8 ? k / 32 : f == kBF16 ? (k + 1) / 2 : f == kWhole ? (k + 63) / 64 * 16 : k;
}

// The operands of products, a plane for every form that the parts need: row r lies at offset + r * stride, in int8 its
// terms one after the other at offset + (r * terms + t) * stride.
struct PreparedLayout {
  int64_t offset[kForms], stride[kForms];  // -1: not needed
  int64_t bytes;                           // of all rows
};
PreparedLayout prepared_layout(const LinearArgs& a);

// Bytes of scratch that a row is made ready in.
constexpr int64_t row_scratch(int64_t k) { return 2 * int8_codes(k) * 4; }
// normed: row_scratch(k) bytes.
void prepare_row(const LinearArgs& a, const PreparedLayout& layout, int64_t row, float* normed, uint8_t* prepared);
// Rows [first, last) of an x that is (k, rows).
void prepare_columns(const LinearArgs& a, const PreparedLayout& layout, int64_t first, int64_t last, uint8_t* prepared);
// x and y may be the same row; accumulate: y += norm(x).
void normalise(const float* x, const float* weight, const float* bias, float eps, Norm norm, int64_t k, float* y,
               bool accumulate = false);

}  // namespace pyllm::PYLLM_ISA
