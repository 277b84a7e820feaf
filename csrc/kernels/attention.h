#pragma once
#include "core/kernels.h"

namespace pyllm::PYLLM_ISA {

void attention(const AttentionArgs& a, int worker, int workers);
void merge(const AttentionArgs& a, int worker, int workers);
int64_t attention_scratch(const AttentionArgs& a);
void step_attention(const StepAttentionArgs& a, int worker, int workers);
int64_t step_attention_scratch(const StepAttentionArgs& a);
void attention_backward(const AttentionBackwardArgs& a, int worker, int workers);
int64_t attention_backward_scratch(const AttentionBackwardArgs& a);

}  // namespace pyllm::PYLLM_ISA
