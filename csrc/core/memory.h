// Aligned memory in huge pages where the system gives them: here two workers read 53 GB/s from 2 MiB pages and 32 from
// 4 KiB pages.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace pyllm {

class Buffer {  // zeroed; std::bad_alloc when memory is short
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  // For what stays: small ones stand side by side in huge pages, which are given back when the last of them has gone.
  static Buffer lasting(size_t bytes);
  ~Buffer();
  Buffer(Buffer&& o) noexcept { swap(o); }
  Buffer& operator=(Buffer&& o) noexcept {
    swap(o);
    return *this;
  }
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void swap(Buffer& o) {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    std::swap(mapped_, o.mapped_);
    std::swap(base_, o.base_);
    std::swap(shared_, o.shared_);
  }
  uint8_t* data_ = nullptr;
  void* base_ = nullptr;
  size_t size_ = 0, mapped_ = 0;
  std::shared_ptr<Buffer> shared_;  // whose memory this is a part of
};

// Memory that is freed is kept for what comes next: a training step asks for the same sizes again and again, and fresh
// pages cost more than what is computed on them. For the whole process; nothing where the system has no such switch.
void keep_freed();

// Asks for huge pages for the whole ones within memory that is large.
void prefer_huge(void* p, size_t bytes);

std::string huge_pages();  // the system's mode: "always", "madvise", "never", "unknown"

}  // namespace pyllm
