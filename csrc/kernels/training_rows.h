// Kernels of training that work row by row or number by number.
#pragma once
#include "core/kernels.h"
#include "simd/vec.h"

namespace pyllm::PYLLM_ISA {

void norm_backward(const NormBackwardArgs& a, int worker, int workers);
void map_backward(const MapBackwardArgs& a, int worker, int workers);
void softmax_backward(const SoftmaxBackwardArgs& a, int worker, int workers);
void column_sums(const ColumnSumsArgs& a, int worker, int workers);
void embedding_backward(const EmbeddingBackwardArgs& a, int worker, int workers);
void cross_entropy(const CrossEntropyArgs& a, int worker, int workers);
void dropout(const DropoutArgs& a, int worker, int workers);
void squares(const SquaresArgs& a, int worker, int workers);
void adamw(const AdamWArgs& a, int worker, int workers);
void sgd(const SGDArgs& a, int worker, int workers);
void axpy(const AxpyArgs& a, int worker, int workers);

// Lanes that are left of n numbers from i on, at most 16.
PYLLM_INLINE int lanes_left(int64_t n, int64_t i) { return n - i < 16 ? (int)(n - i) : 16; }

// The share of n numbers in whole vectors: [first, last).
PYLLM_INLINE Share vector_share(int64_t n, int worker, int workers) {
  Share s = share((n + 15) / 16, worker, workers);
  return {s.first * 16, s.last * 16 < n ? s.last * 16 : n};
}

}  // namespace pyllm::PYLLM_ISA
