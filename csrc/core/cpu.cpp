#include "core/cpu.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(PYLLM_HAS_avx512amx)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pyllm {

namespace base {
extern const Kernels table;
}
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
namespace avx512vnni {
extern const Kernels table;
}
namespace avx512amx {
extern const Kernels table;
}

namespace {

struct Cpu {
  bool ssse3 = false, sse41 = false, sse42 = false, popcnt = false, fma = false, f16c = false, avx = false,
       avx2 = false;
  bool bmi1 = false, bmi2 = false, avx512f = false, avx512bw = false, avx512dq = false, avx512vl = false;
  bool vnni = false, bf16 = false, amx = false, os_avx = false, os_avx512 = false, os_amx = false;
};

Cpu detect() {
  Cpu c;
#if defined(__x86_64__)
  unsigned a, b, x, d;
  if (!__get_cpuid(1, &a, &b, &x, &d)) return c;
  auto bit = [](unsigned r, int i) { return (r >> i & 1) != 0; };
  c.ssse3 = bit(x, 9), c.fma = bit(x, 12), c.sse41 = bit(x, 19), c.sse42 = bit(x, 20), c.popcnt = bit(x, 23);
  c.avx = bit(x, 28), c.f16c = bit(x, 29);
  if (bit(x, 27)) {  // osxsave: the operating system says which registers it keeps for us
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    c.os_avx = (low & 0x6) == 0x6;
    c.os_avx512 = (low & 0xe6) == 0xe6;
    c.os_amx = (low & 0x60000) == 0x60000;
  }
  if (__get_cpuid_count(7, 0, &a, &b, &x, &d)) {
    c.bmi1 = bit(b, 3), c.avx2 = bit(b, 5), c.bmi2 = bit(b, 8), c.avx512f = bit(b, 16), c.avx512dq = bit(b, 17);
    c.avx512bw = bit(b, 30), c.avx512vl = bit(b, 31), c.vnni = bit(x, 11), c.amx = bit(d, 22) && bit(d, 24);
    unsigned leaves = a;
    if (leaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &x, &d)) c.bf16 = bit(a, 5);
  }
#endif
  return c;
}

#if defined(PYLLM_HAS_avx512amx)
// Linux keeps the registers of matrix tiles (8 KB) only for processes that ask; refused where a signal stack of a
// thread is too small for them.
bool allowed_tiles() {
  constexpr long kRequest = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}
#endif

std::vector<const Kernels*> find() {
  std::vector<const Kernels*> found;
  [[maybe_unused]] Cpu c = detect();
#if defined(__x86_64__)
  if (!(c.ssse3 && c.sse41 && c.sse42 && c.popcnt))
    throw std::runtime_error(
        "pyllm: this CPU lacks SSE4.2 or POPCNT; the oldest supported level is x86-64-v2 (Intel from 2009, AMD from "
        "2011)");
#endif
  found.push_back(&base::table);
#if defined(PYLLM_HAS_avx2)
  bool v3 = c.avx && c.avx2 && c.fma && c.f16c && c.bmi1 && c.bmi2 && c.os_avx;
  bool v4 = v3 && c.avx512f && c.avx512bw && c.avx512dq && c.avx512vl && c.os_avx512;
  if (v3) found.push_back(&avx2::table);
  if (v4) found.push_back(&avx512::table);
  if (v4 && c.vnni && c.bf16) found.push_back(&avx512vnni::table);
#endif
#if defined(PYLLM_HAS_avx512amx)
  if (v4 && c.vnni && c.bf16 && c.amx && c.os_amx && allowed_tiles()) found.push_back(&avx512amx::table);
#endif
  return found;
}

const Kernels* by_name(const std::string& name) {
  std::string run;
  for (const Kernels* k : runnable()) {
    if (name == k->name) return k;
    run += (run.empty() ? "" : ", ") + std::string(k->name);
  }
  throw std::invalid_argument("PYLLM_ISA: '" + name +
                              "' is not an instruction set that this CPU runs; it runs: " + run);
}

std::atomic<const Kernels*>& active() {
  static std::atomic<const Kernels*> k = [] {
    const char* wanted = std::getenv("PYLLM_ISA");
    return wanted && *wanted ? by_name(wanted) : runnable().back();
  }();
  return k;
}

}  // namespace

std::vector<std::pair<std::string, bool>> cpu_features() {
  Cpu c = detect();
  return {{"sse4_2", c.sse42},      {"popcnt", c.popcnt},     {"avx", c.avx},
          {"avx2", c.avx2},         {"fma", c.fma},           {"f16c", c.f16c},
          {"avx512f", c.avx512f},   {"avx512bw", c.avx512bw}, {"avx512dq", c.avx512dq},
          {"avx512vl", c.avx512vl}, {"avx512_vnni", c.vnni},  {"avx512_bf16", c.bf16},
          {"amx_bf16", c.amx},      {"os_avx", c.os_avx},     {"os_avx512", c.os_avx512},
          {"os_amx", c.os_amx}};
}

const std::vector<const Kernels*>& runnable() {
  static const std::vector<const Kernels*> found = find();
  return found;
}
// By measuring one-row products over cold weights: AMD's family 26 (Zen 5) decodes 4 to 14 % faster so, family 25 (Zen
// 4) a quarter slower at any distance.
int64_t stream_ahead() {
  static const int64_t bytes = [] {  // asked once: cpuid leaves a virtual machine
#if defined(__x86_64__)
    unsigned a = 0, b, x, d;
    if (__get_cpuid(1, &a, &b, &x, &d) && (a >> 8 & 15) + (a >> 20 & 255) == 26) return 5632;
#endif
    return 0;
  }();
  return bytes;
}

// By measuring attention: on AMD (Zen 5) pairs of bf16 bring a tenth of an encoder's time, on Intel (Emerald Rapids),
// whose vdpbf16ps has half the rate of an FMA, floats take two thirds of the time.
bool quick_pairs() {
  static const bool amd = [] {
#if defined(__x86_64__)
    unsigned a, b = 0, x, d;
    if (__get_cpuid(0, &a, &b, &x, &d)) return b == 0x68747541;  // "Auth"
#endif
    return false;
  }();
  return amd && std::string(kernels().name) == "avx512vnni";
}

const Kernels& kernels() { return *active().load(std::memory_order_relaxed); }
void choose(const std::string& name) { active().store(by_name(name)); }

}  // namespace pyllm
