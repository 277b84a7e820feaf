// What this machine can do at most, measured now: the denominators of benchmarks.
#pragma once

namespace pyllm {

double read_bandwidth(double seconds);          // bytes per second, all workers, from a buffer beyond the caches
double compute_rate(int what, double seconds);  // operations per second, all workers: 0 fp32, 1 bf16, 2 int8

}  // namespace pyllm
