// Which instruction sets this CPU and its operating system run, and which kernels are in force.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "core/kernels.h"

namespace pyllm {

std::vector<std::pair<std::string, bool>> cpu_features();  // named as in /proc/cpuinfo; "os_avx", "os_avx512" by xgetbv
const std::vector<const Kernels*>& runnable();             // best last
const Kernels& kernels();                                  // in force
int64_t stream_ahead();                                    // bytes that a core should fetch ahead of one stream
bool quick_pairs();                                        // products of bf16 pairs cost no more than those of floats
void choose(const std::string& name);                      // std::invalid_argument: unknown, or not run by this CPU

}  // namespace pyllm
