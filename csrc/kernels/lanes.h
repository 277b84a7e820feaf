// Walks over numbers, a vector at a time.
#pragma once
#include "core/kernels.h"
#include "simd/vec.h"

namespace pyllm::PYLLM_ISA {

namespace {  // of each file its own: no symbol may leave for the linker to choose among

// Sixteen numbers, or the few at an end. Masks cost twice the time of whole vectors where memory is fast.
struct Whole {
  f32v get(const float* p) const { return load(p); }
  f32v get(const uint16_t* p) const { return load_bf16(p); }
  void put(float* p, f32v v) const { store(p, v); }
  void put(uint16_t* p, f32v v) const { store_bf16(p, v); }
  f32v or_else(f32v v, float) const { return v; }  // lanes beyond the end become a number
};
struct Part {
  int n;
  f32v get(const float* p) const { return load_n(p, n); }
  f32v get(const uint16_t* p) const {
    alignas(64) uint16_t some[16] = {};
    memcpy(some, p, (size_t)n * 2);
    return load_bf16(some);
  }
  void put(float* p, f32v v) const { store_n(p, v, n); }
  void put(uint16_t* p, f32v v) const {
    alignas(64) uint16_t some[16];
    store_bf16(some, v);
    memcpy(p, some, (size_t)n * 2);
  }
  f32v or_else(f32v v, float other) const { return below(n, v, set1(other)); }
};

}  // namespace

// f(i, lanes) for every vector of [first, last).
template <class F> PYLLM_INLINE void vectors(int64_t first, int64_t last, F f) {
  for (; first + 16 <= last; first += 16) f(first, Whole{});
  if (first < last) f(first, Part{(int)(last - first)});
}

// The share of n numbers in whole vectors: [first, last).
PYLLM_INLINE Share vector_share(int64_t n, int worker, int workers) {
  Share s = share((n + 15) / 16, worker, workers);
  return {s.first * 16, s.last * 16 < n ? s.last * 16 : n};
}

}  // namespace pyllm::PYLLM_ISA
