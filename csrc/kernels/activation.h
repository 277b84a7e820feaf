// Which function of a single number, and its derivative.
#pragma once
#include "core/kernels.h"
#include "simd/math.h"

namespace pyllm::PYLLM_ISA {

PYLLM_INLINE f32v activate(f32v x, Act act, float cap) {
  switch (act) {
    case Act::None: return x;
    case Act::SiLU: return silu(x);
    case Act::GELU: return gelu(x);
    case Act::GELUTanh: return gelu_tanh(x);
    case Act::Softcap: return softcap(x, cap);
    case Act::ReLU: return relu(x);
    case Act::Tanh: return tanh(x);
    case Act::Sigmoid: return sigmoid(x);
  }
  return x;
}

PYLLM_INLINE f32v slope(f32v x, Act act, float cap) {
  switch (act) {
    case Act::None: return set1(1.0f);
    case Act::SiLU: return silu_slope(x);
    case Act::GELU: return gelu_slope(x);
    case Act::GELUTanh: return gelu_tanh_slope(x);
    case Act::Softcap: return softcap_slope(x, cap);
    case Act::ReLU: return relu_slope(x);
    case Act::Tanh: return tanh_slope(x);
    case Act::Sigmoid: return sigmoid_slope(x);
  }
  return set1(1.0f);
}

}  // namespace pyllm::PYLLM_ISA
