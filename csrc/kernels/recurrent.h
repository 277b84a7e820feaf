#pragma once
#include "core/recurrent.h"

namespace pyllm::PYLLM_ISA {

void recurrent(const RecurrentArgs& a, int share, int shares);
void recurrent_backward(const RecurrentBackwardArgs& a, int share, int shares);

}  // namespace pyllm::PYLLM_ISA
