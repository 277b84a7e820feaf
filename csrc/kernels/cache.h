// Keys and values on their way into the pages of the cache.
#pragma once
#include "core/kernels.h"
#include "simd/vec.h"

namespace pyllm::PYLLM_ISA {

// Features [feature, feature + n), feature = head * dim + d and n <= 16, of one row's key or value.
void cache_put(const CacheLayout& c, const Row& row, int layer, bool value, int64_t feature, f32v x, int n);

// Panels of bf16 from a page of Q8_0.
void expand_keys(const CacheLayout& c, const uint8_t* keys, uint8_t* out);
void expand_values(const CacheLayout& c, const uint8_t* values, uint8_t* out);

void cache_write(const CacheWriteArgs& a, int worker, int workers);
// F32 and BF16 only: a page of a head as panels at once.
void cache_fill(const CacheFillArgs& a, int worker, int workers);

}  // namespace pyllm::PYLLM_ISA
