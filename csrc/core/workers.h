// The one team of workers. Only workers.cpp knows OpenMP.
#pragma once
#include <atomic>
#include <functional>
#include <string>

#include "core/kernels.h"

namespace pyllm {

// All workers meet; spins about 20 us, then sleeps, so that a neighbour on the same core can go on.
class Barrier {
 public:
  explicit Barrier(int workers) : workers_(workers) {}
  void wait();

 private:
  const int workers_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> phase_{0};
};

int threads();
void set_threads(int n);       // 1 or more; std::invalid_argument otherwise
std::string threads_reason();  // why threads() is what it is

// Asked by the calling worker between kernels, at least every 50 ms; true stops the work. Set by the bindings.
extern bool (*interrupted)();
struct Interrupted {};  // thrown by run functions when it said true
bool poll_interrupt();  // rate-limited; for the calling worker only

// Runs job(worker, workers, barrier) on the team; one team per process, callers queue, but who works alone does not.
// Worker 0 is the caller.
void run_team(int threads, const std::function<void(int, int, Barrier&)>& job);

// Slice s of a worker's share: shares are numbered as if there were more workers, scratch stays the worker's own.
template <class Args>
void run_slice(Kernel<Args> kernel, const Args& args, int worker, int workers, int s, int slices) {
  int share = worker * slices + s;
  if constexpr (requires { args.scratch; }) {
    Args own = args;
    own.scratch = args.scratch + (worker - share) * args.scratch_stride;
    kernel(own, share, workers * slices);
  } else {
    kernel(args, share, workers * slices);
  }
}

// Into how many slices work of so many operations is cut, so that none runs longer than some milliseconds.
inline int slices(double flops) { return flops < 2e9 ? 1 : flops > 2e12 ? 1000 : (int)(flops / 2e9); }

// One kernel on the team, interruptible. The number of workers is threads(), or 1 where waking them would cost more.
inline int team_width(double flops) { return flops < 1e5 ? 1 : threads(); }
template <class Args> void run_kernel(Kernel<Args> kernel, const Args& args, double flops) {
  std::atomic<bool> stop{false};
  run_team(team_width(flops), [&](int worker, int workers, Barrier&) {
    for (int s = 0, n = slices(flops); s < n && !stop.load(std::memory_order_relaxed); ++s) {
      run_slice(kernel, args, worker, workers, s, n);
      if (worker == 0 && poll_interrupt()) stop = true;
    }
  });
  if (stop) throw Interrupted{};
}

}  // namespace pyllm
