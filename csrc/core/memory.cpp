#include "core/memory.h"

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <new>
#if defined(__linux__) || defined(__APPLE__)
#include <sys/mman.h>
#define PYLLM_MMAP 1
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace pyllm {
namespace {
constexpr size_t kHuge = size_t(2) << 20, kLine = 64;
}

Buffer::Buffer(size_t bytes) : size_(bytes) {
  if (!bytes) return;
#if PYLLM_MMAP
  if (bytes >= kHuge) {
    mapped_ = (bytes + 2 * kHuge - 1) / kHuge * kHuge;  // room to begin on a huge page
    base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base_ == MAP_FAILED) {
      base_ = nullptr;
      throw std::bad_alloc();
    }
    data_ = (uint8_t*)(((uintptr_t)base_ + kHuge - 1) / kHuge * kHuge);
#if defined(MADV_HUGEPAGE)
    madvise(data_, (bytes + kHuge - 1) / kHuge * kHuge, MADV_HUGEPAGE);
#endif
    return;
  }
#endif
  base_ = std::malloc(bytes + kLine);
  if (!base_) throw std::bad_alloc();
  data_ = (uint8_t*)(((uintptr_t)base_ + kLine - 1) / kLine * kLine);
  std::memset(data_, 0, bytes);
}

Buffer Buffer::lasting(size_t bytes) {
  // Small models are made of small matrices: in pages of 4 KiB decoding ran at half the bandwidth.
  constexpr size_t kSlab = 16 * kHuge;
  static std::mutex lock;
  static std::weak_ptr<Buffer> latest;
  static size_t used = 0;
  const size_t need = (bytes + kLine - 1) / kLine * kLine;
  if (!bytes || need > kSlab / 8) return Buffer(bytes);
  std::lock_guard<std::mutex> hold(lock);
  std::shared_ptr<Buffer> slab = latest.lock();
  if (!slab || used + need > kSlab) {
    latest = slab = std::make_shared<Buffer>(kSlab);
    used = 0;
  }
  Buffer part;
  part.data_ = slab->data_ + used;
  part.size_ = bytes;
  part.shared_ = std::move(slab);
  used += need;
  return part;
}

Buffer::~Buffer() {
#if PYLLM_MMAP
  if (mapped_) {
    munmap(base_, mapped_);
    return;
  }
#endif
  std::free(base_);  // null for a part
}

void prefer_huge([[maybe_unused]] void* p, [[maybe_unused]] size_t bytes) {
#if PYLLM_MMAP && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 4096;
  if (bytes < 2 * kHuge) return;
  const uintptr_t first = ((uintptr_t)p + kPage - 1) / kPage * kPage;
  madvise((void*)first, (uintptr_t)p + bytes - first, MADV_HUGEPAGE);
#endif
}

void keep_freed() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, INT32_MAX);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

std::string huge_pages() {
  std::ifstream f("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  if (!std::getline(f, line)) return "unknown";
  size_t a = line.find('['), b = line.find(']');
  return a == std::string::npos || b == std::string::npos ? "unknown" : line.substr(a + 1, b - a - 1);
}

}  // namespace pyllm
