#pragma once
#include "core/kernels.h"

namespace pyllm::PYLLM_ISA {

void prepare(const LinearArgs& a, int worker, int workers);
void linear(const LinearArgs& a, int worker, int workers);
int64_t linear_scratch(const LinearArgs& a);
int64_t prepared_bytes(const LinearArgs& a);

}  // namespace pyllm::PYLLM_ISA
