#include "core/workers.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <memory>
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

using Clock = std::chrono::steady_clock;

bool (*interrupted)() = nullptr;

bool poll_interrupt() {
  thread_local Clock::time_point last;  // callers that work alone may be several
  const auto now = Clock::now();
  if (!interrupted || now - last < std::chrono::milliseconds(20)) return false;
  last = now;
  return interrupted();
}

namespace {

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

// About 15 us of spinning covers steps that end almost together. Then the CPU is offered to whoever shares it: where
// another program runs, the missing worker may be waiting for just that. Sleeping at once instead would cost a wake-up
// of 50 us at every step; sleeping at last keeps a long wait from burning a core.
constexpr int kPatience = 100, kSpins = 1000, kYields = 4000;
constexpr std::chrono::milliseconds kIdle(20);  // after which workers leave: some gaps between training's kernels

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Which step runs, as one number: its place in the order of all steps of the process, and its shares. 0 shares: idle.
struct Stage {
  uint32_t number, shares;
  uint64_t word() const { return (uint64_t)number << 32 | shares; }
  static Stage of(uint64_t word) { return {(uint32_t)(word >> 32), (uint32_t)word}; }
};

// Every worker has a range of a step's shares and takes them in order, then what others left of theirs. Who took a
// share of a stage can rely on the job: it cannot end before that share is done.
class Team {
 public:
  explicit Team(int workers) : workers(workers), taken_((size_t)workers) {}
  const int workers;

  // By the caller, worker 0.
  void run(const Job& job) {
    job_ = &job;
    step_ = -1;
    stop_ = false;
    advance(Stage::of(stage_).number);
    for (uint64_t seen; Stage::of(seen = stage_).shares;) {
      help(0, Stage::of(seen));
      wait(seen);
    }
    if (stop_) throw Interrupted{};
  }

  // Workers stay between jobs, and leave when none has come for a while: libgomp makes the barriers of others in this
  // process, as PyTorch's, sleep instead of spin while there are more threads than processors.
  bool leaving() const { return leaving_; }
  void leave() {
    leaving_ = true;
    wake();
  }

  // Threads of OpenMP. The first has the caller's place, and sleeps.
  void serve() {
#if defined(_OPENMP)
#pragma omp parallel num_threads(workers)
    {
      if (const int worker = omp_get_thread_num()) serve(worker);
      else
        for (int seen; (seen = gone_) < omp_get_num_threads() - 1;) gone_.wait(seen);
    }
#else
    std::vector<std::thread> others;
    for (int w = 1; w < workers; ++w) others.emplace_back([this, w] { serve(w); });
    for (auto& t : others) t.join();
#endif
    leaving_ = true;
  }

 private:
  struct alignas(64) Taken {
    std::atomic<uint64_t> word{0};  // of the last stage in which one was taken: its number, and how many
  };

  void serve(int worker) {
    while (!leaving_) {
      const uint64_t seen = stage_;
      help(worker, Stage::of(seen));
      if (!wait(seen) && !Stage::of(seen).shares) leaving_ = true;
    }
    ++gone_;
    gone_.notify_one();
  }

  // Until another stage comes; false where none did for kIdle.
  bool wait(uint64_t seen) {
    for (int i = 0; i < kSpins + kYields; ++i) {
      if (stage_.load(std::memory_order_acquire) != seen) return true;
      if (i < kSpins) relax();
      else std::this_thread::yield();
    }
    return rest([&] { return stage_ != seen || leaving_; });
  }

  template <class F> bool rest(F enough) {
    std::unique_lock<std::mutex> lock(sleep_);
    ++sleeping_;
    const bool came = bell_.wait_for(lock, kIdle, enough);
    --sleeping_;
    return came;
  }

  // Whoever sleeps has counted itself before it looked; what it looks for was changed before this.
  void wake() {
    if (!sleeping_) return;
    std::lock_guard<std::mutex> lock(sleep_);
    bell_.notify_all();
  }

  // Of the range of worker `whose`: its next share, or -1.
  int64_t take(int whose, Stage stage) {
    const Share range = share(stage.shares, whose, workers);
    std::atomic<uint64_t>& word = taken_[(size_t)whose].word;
    uint64_t found = word.load(std::memory_order_acquire);
    for (;;) {
      const Stage last = Stage::of(found);
      const uint32_t count = last.number == stage.number ? last.shares : 0;
      // Later stages have been here: this one is over. Numbers wrap around, so their distance counts.
      if ((int32_t)(last.number - stage.number) > 0 || count >= range.last - range.first) return -1;
      if (word.compare_exchange_weak(found, Stage{stage.number, count + 1}.word())) return range.first + count;
    }
  }

  void help(int worker, Stage stage) {
    for (int i = 0; i < workers; ++i) {
      // Others end almost always at once, and looking at what they took costs them a miss at their next share.
      for (int spin = 0; i == 1 && spin < kPatience; ++spin, relax())
        if (stage_.load(std::memory_order_acquire) != stage.word()) return;
      for (int64_t s; (s = take((worker + i) % workers, stage)) >= 0;) {
        if (!stop_.load(std::memory_order_relaxed)) job_->run(step_, (int)s, (int)stage.shares, worker);
        if (worker == 0 && !job_->whole && poll_interrupt()) stop_ = true;
        if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) return advance(stage.number);
      }
    }
  }

  // By whoever did the last share.
  void advance(uint32_t number) {
    uint32_t shares = 0;
    while (!shares && ++step_ < job_->steps) shares = (uint32_t)job_->shares(step_);
    left_ = (int64_t)shares;
    stage_ = Stage{number + 1, shares}.word();
    wake();
  }

  std::vector<Taken> taken_;
  const Job* job_ = nullptr;
  int step_ = 0;
  std::mutex sleep_;
  std::condition_variable bell_;
  std::atomic<int> sleeping_{0}, gone_{0};
  std::atomic<bool> stop_{false}, leaving_{false};
  alignas(64) std::atomic<uint64_t> stage_{0};
  alignas(64) std::atomic<int64_t> left_{0};
};

std::mutex turn;
std::shared_ptr<Team>& team = *new std::shared_ptr<Team>;  // threads may outlive what is destroyed at exit

#if defined(__unix__) || defined(__APPLE__)
void in_child() {
  new (&turn) std::mutex;  // whoever held it is not in this process, nor are the team's threads
  new (&team) std::shared_ptr<Team>;
}
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, in_child);
#endif

void run_alone(const Job& job) {
  for (int step = 0; step < job.steps; ++step)
    for (int s = 0, n = job.shares(step); s < n; ++s) {
      job.run(step, s, n, 0);
      if (!job.whole && poll_interrupt()) throw Interrupted{};
    }
}

}  // namespace

int threads() { return choice().n; }
std::string threads_reason() { return choice().why; }
void set_threads(int n) {
  if (n < 1 || n > 4096) throw std::invalid_argument("threads: " + std::to_string(n) + " given, 1 to 4096 are allowed");
  choice() = {n, "the caller"};
}

void run_team(int workers, const Job& job) {
  if (workers <= 1) return run_alone(job);
  std::lock_guard<std::mutex> lock(turn);
  if (team && team->workers != workers) team->leave();
  if (!team || team->leaving()) {
    team = std::make_shared<Team>(workers);
    std::thread([mine = team] { mine->serve(); }).detach();
  }
  team->run(job);
}

}  // namespace pyllm
