// Kernels of training that work row by row or number by number.
#pragma once
#include "core/kernels.h"
#include "kernels/lanes.h"

namespace pyllm::PYLLM_ISA {

void norm_backward(const NormBackwardArgs& a, int worker, int workers);
void map_backward(const MapBackwardArgs& a, int worker, int workers);
void softmax_backward(const SoftmaxBackwardArgs& a, int worker, int workers);
void column_sums(const ColumnSumsArgs& a, int worker, int workers);
void embedding_backward(const EmbeddingBackwardArgs& a, int worker, int workers);
void outer(const OuterArgs& a, int worker, int workers);
void cross_entropy(const CrossEntropyArgs& a, int worker, int workers);
void dropout(const DropoutArgs& a, int worker, int workers);
void squares(const SquaresArgs& a, int worker, int workers);
void adamw(const AdamWArgs& a, int worker, int workers);
void sgd(const SGDArgs& a, int worker, int workers);
void axpy(const AxpyArgs& a, int worker, int workers);

}  // namespace pyllm::PYLLM_ISA
