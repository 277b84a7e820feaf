#pragma once
#include "core/kernels.h"

namespace pyllm::PYLLM_ISA {

void embedding(const EmbeddingArgs& a, int worker, int workers);
void norm(const NormArgs& a, int worker, int workers);
void map(const MapArgs& a, int worker, int workers);
void softmax(const SoftmaxArgs& a, int worker, int workers);
void rotary(const RotaryArgs& a, int worker, int workers);
void heads(const HeadsArgs& a, int worker, int workers);
void pack(const PackArgs& a, int worker, int workers);
void unpack(const UnpackArgs& a, int worker, int workers);
void turn(const TurnArgs& a, int worker, int workers);
double peak(int what, double seconds);

}  // namespace pyllm::PYLLM_ISA
