#include "core/workers.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <new>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pyllm {
namespace {

using Clock = std::chrono::steady_clock;

int affinity() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return (int)std::max(1u, std::thread::hardware_concurrency());
}

// Whole CPUs granted by the control group, rounded up; 0: no limit.
int quota() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string limit;
  double period = 0;
  if (v2 >> limit >> period && limit != "max" && period > 0) return (int)(std::atof(limit.c_str()) / period + 0.999);
  std::ifstream q("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), p("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double us = 0;
  if (q >> us && p >> period && us > 0 && period > 0) return (int)(us / period + 0.999);
  return 0;
}

// Cores, not hyperthreads: two threads of a core share its vector units.
int physical_cores() {
  std::set<std::string> cores;
  for (int cpu = 0; cpu < 4096; ++cpu) {
    std::ifstream f("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    std::string siblings;
    if (!std::getline(f, siblings)) break;
    cores.insert(siblings);
  }
  return (int)cores.size();
}

struct Choice {
  int n;
  std::string why;
};

Choice choose_threads() {
  if (const char* e = std::getenv("OMP_NUM_THREADS")) {
    int n = std::atoi(e);
    if (n >= 1 && n <= 4096) return {n, "OMP_NUM_THREADS"};
  }
  Choice c = {affinity(), "CPUs this process may use"};
  if (int q = quota(); q && q < c.n) c = {q, "quota of the control group"};
  if (int p = physical_cores(); p && p < c.n) c = {p, "physical cores"};
  return c;
}

Choice& choice() {
  static Choice c = choose_threads();
  return c;
}

// libgomp's workers do not survive fork: a child of a process that has used them runs teams of std::thread instead.
std::mutex team;
std::atomic<bool> forked{false};
std::atomic<bool> used{false};

#if defined(__unix__) || defined(__APPLE__)
void in_child() {
  new (&team) std::mutex;  // whoever held it is not in this process
  if (used) forked = true;
}
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, in_child);
#endif

// About 15 us of spinning covers phases that end almost together. Then the CPU is offered to whoever shares it: where
// another program runs, the missing worker may be waiting for just that. Sleeping at once instead would cost a wake-up
// of 50 us at every phase; sleeping at last keeps a long wait from burning a core.
constexpr int kSpins = 1000, kYields = 4000;

void run_threads(int n, const std::function<void(int, int, Barrier&)>& job) {
  Barrier barrier(n);
  std::vector<std::thread> others;
  for (int w = 1; w < n; ++w) others.emplace_back([&, w] { job(w, n, barrier); });
  job(0, n, barrier);
  for (auto& t : others) t.join();
}

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

void Barrier::wait() {
  if (workers_ == 1) return;
  int phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == workers_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();
    return;
  }
  for (int i = 0; i < kSpins + kYields; ++i) {
    if (phase_.load(std::memory_order_acquire) != phase) return;
    if (i < kSpins) relax();
    else std::this_thread::yield();
  }
  while (phase_.load(std::memory_order_acquire) == phase) phase_.wait(phase, std::memory_order_acquire);
}

int threads() { return choice().n; }
std::string threads_reason() { return choice().why; }
void set_threads(int n) {
  if (n < 1 || n > 4096) throw std::invalid_argument("threads: " + std::to_string(n) + " given, 1 to 4096 are allowed");
  choice() = {n, "the caller"};
}

bool (*interrupted)() = nullptr;

bool poll_interrupt() {
  thread_local Clock::time_point last;  // callers that work alone may be several
  auto now = Clock::now();
  if (!interrupted || now - last < std::chrono::milliseconds(20)) return false;
  last = now;
  return interrupted();
}

void run_team(int n, const std::function<void(int, int, Barrier&)>& job) {
  if (n <= 1) {
    Barrier alone(1);
    return job(0, 1, alone);
  }
  std::lock_guard<std::mutex> lock(team);
#if defined(_OPENMP)
  if (!forked) {
    used = true;
    std::atomic<Barrier*> barrier{nullptr};
    int width = 0;
#pragma omp parallel num_threads(n)
    {
#pragma omp single
      {
        width = omp_get_num_threads();  // may be fewer than asked for
        barrier = new Barrier(width);
      }
      job(omp_get_thread_num(), width, *barrier.load());
    }
    delete barrier.load();
    return;
  }
#endif
  run_threads(n, job);
}

}  // namespace pyllm
