// Keys and values of running sequences, in pages of kPage positions from one pool. Pages are shared by fork and copied
// when one of the sharers writes.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "core/kernels.h"
#include "core/memory.h"

namespace pyllm {

class Pool {
 public:
  Pool(CacheLayout layout, int64_t limit_bytes) : layout_(layout), limit_(limit_bytes) {}
  const CacheLayout& layout() const { return layout_; }
  int64_t pages() const { return (int64_t)slabs_.size() * per_slab(); }
  int64_t free_pages();

  // std::bad_alloc when the limit (0: none) or memory is reached. The page comes zeroed the first time only.
  uint8_t* take();
  void give(uint8_t* page);

 private:
  int64_t per_slab() const;
  CacheLayout layout_;
  int64_t limit_;
  std::mutex lock_;
  std::vector<Buffer> slabs_;
  std::vector<uint8_t*> free_;
};

class Sequence {
 public:
  explicit Sequence(std::shared_ptr<Pool> pool) : pool_(std::move(pool)) {}
  int64_t length() const { return length_; }
  int64_t pages() const { return (int64_t)pages_.size(); }
  uint8_t* const* table() const { return table_.data(); }
  Pool* pool() const { return pool_.get(); }

  void reserve(int64_t length);  // pages to write up to there; a shared page that would be written is copied
  void append(int64_t n) { length_ += n; }
  void truncate(int64_t length);
  std::shared_ptr<Sequence> fork() const;

 private:
  using Page = std::shared_ptr<uint8_t>;
  Page page() const;
  std::shared_ptr<Pool> pool_;
  std::vector<Page> pages_;
  std::vector<uint8_t*> table_;
  int64_t length_ = 0;
};

}  // namespace pyllm
