// Activations made ready for a weight: normalised, then in the number format of its product.
#pragma once
#include "kernels/panels.h"

namespace pyllm::PYLLM_ISA {

enum Form { kInt8, kBF16, kF32, kForms };
inline Form form_of(Type t) { return quantised(t) ? kInt8 : t == Type::BF16 ? kBF16 : kF32; }

// One prepared row holds every form that the parts need, one after the other.
struct PreparedLayout {
  int64_t offset[kForms];  // -1: not needed
  int64_t int8_stride;     // distance of the second int8 term
  int64_t bytes;
};
PreparedLayout prepared_layout(const LinearArgs& a);

// normed: k floats (rounded up to 16) of scratch.
void prepare_row(const LinearArgs& a, const PreparedLayout& layout, int64_t row, float* normed, uint8_t* out);
void normalise(const float* x, const float* weight, const float* bias, float eps, Norm norm, int64_t k, float* y);

}  // namespace pyllm::PYLLM_ISA
