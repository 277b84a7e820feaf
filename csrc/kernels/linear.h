#pragma once
#include "core/kernels.h"

namespace pyllm::PYLLM_ISA {

void prepare(const LinearArgs& a, int worker, int workers);
void linear(const LinearArgs& a, int worker, int workers);
int64_t linear_scratch(const LinearArgs& a);
int64_t prepared_bytes(const LinearArgs& a);

// Writes feature (head * dim + d) of one row's key or value into its page.
void cache_put(const CacheLayout& c, const Row& row, int layer, bool value, int64_t feature, float x);

}  // namespace pyllm::PYLLM_ISA
