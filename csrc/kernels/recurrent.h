#pragma once
#include "core/recurrent.h"

namespace pyllm::PYLLM_ISA {

void recurrent(const RecurrentArgs& a, int worker, int workers);
void recurrent_backward(const RecurrentBackwardArgs& a, int worker, int workers);

}  // namespace pyllm::PYLLM_ISA
