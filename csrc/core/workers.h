// The one team of workers. Only workers.cpp knows OpenMP.
#pragma once
#include <functional>
#include <string>

#include "core/kernels.h"

namespace pyllm {

int threads();
void set_threads(int n);       // 1 or more; std::invalid_argument otherwise
std::string threads_reason();  // why threads() is what it is

// Asked by the calling worker between shares, at least every 50 ms; true stops the work, unless it is to be done whole.
// Set by the bindings.
extern bool (*interrupted)();
struct Interrupted {};  // thrown by run_team when it said true: the shares that were left did not run
bool poll_interrupt();  // rate-limited

// Steps of work, each cut into shares that any worker may take. A step begins when all shares of the one before are
// done, whoever did them: a worker that another program keeps from its core is not waited for.
struct Job {
  int steps;
  std::function<int(int step)> shares;
  std::function<void(int step, int share, int shares, int worker)> run;  // may not throw
  bool whole = false;  // never stopped: what it changes in place would be neither old nor new
};

// Runs the job on a team of so many workers; one team per process, callers queue, but who works alone does not.
// Worker 0 is the caller.
void run_team(int workers, const Job& job);

// A kernel's share: scratch belongs to the worker, not to the share.
template <class Args> void run_share(Kernel<Args> kernel, const Args& args, int share, int shares, int worker) {
  if constexpr (requires { args.scratch; }) {
    Args own = args;
    own.scratch = args.scratch + (worker - share) * args.scratch_stride;
    kernel(own, share, shares);
  } else {
    kernel(args, share, shares);
  }
}

// Into how many shares for each worker work of so many operations is cut: some 100 us each, so that who comes late
// finds some left, and that an interrupt is seen in time.
inline int slices(double flops) { return flops < 5e8 ? 1 : flops > 5e11 ? 1000 : (int)(flops / 5e8); }

// One kernel on the team; kWhole: as Job.whole. The number of workers is threads(), or 1 where waking them would cost
// more.
constexpr bool kWhole = true;
inline int team_width(double flops) { return flops < 1e5 ? 1 : threads(); }
template <class Args> void run_kernel(Kernel<Args> kernel, const Args& args, double flops, bool whole = false) {
  const int workers = team_width(flops), shares = workers * slices(flops);
  const auto run = [&](int, int share, int n, int worker) { run_share(kernel, args, share, n, worker); };
  run_team(workers, {1, [&](int) { return shares; }, run, whole});
}

}  // namespace pyllm
