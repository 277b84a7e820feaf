// What running sequences remember, keys and values or recurrent states, in pages of kPage positions from one pool.
// Pages are shared by fork and by whoever places another's page, and copied when one of the sharers writes.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "core/kernels.h"
#include "core/memory.h"

namespace pyllm {

// The pages. With a limit they are taken from the system at once, and there are never more; without one (0) they come
// as they are asked for.
class Pool {
 public:
  Pool(int64_t page_bytes, int64_t limit_bytes);
  int64_t page_bytes() const { return page_bytes_; }
  int64_t pages() const { return pages_; }
  int64_t free_pages();

  // nullptr when the limit is reached, std::bad_alloc when memory is. The page comes zeroed the first time only.
  uint8_t* take();
  void give(uint8_t* page);

 private:
  void grow(int64_t pages);
  int64_t page_bytes_;
  bool limited_;
  int64_t pages_ = 0;
  std::mutex lock_;
  std::vector<Buffer> slabs_;
  std::vector<uint8_t*> free_;
};

using Page = std::shared_ptr<uint8_t>;  // goes back to its pool with the last owner

class Sequence {
 public:
  explicit Sequence(std::shared_ptr<Pool> pool) : pool_(std::move(pool)) {}
  int64_t length() const { return length_; }
  int64_t pages() const { return (int64_t)pages_.size(); }
  uint8_t* const* table() const { return table_.data(); }
  Pool* pool() const { return pool_.get(); }
  const std::shared_ptr<Pool>& shared_pool() const { return pool_; }

  bool ready(int64_t length) const;  // nothing has to be taken or copied to write up to there
  bool reserve(int64_t length);      // pages to write up to there, a shared one copied; false: the pool has no more
  void append(int64_t n) { length_ += n; }
  void truncate(int64_t length);
  std::shared_ptr<Sequence> fork() const;

  const Page& page(int64_t at) const { return pages_.at((size_t)at); }
  // Page `at` becomes this one, all of whose positions are filled; the length grows to its end where it stood before.
  void place(int64_t at, Page page);

 private:
  bool writes_shared(int64_t length) const;
  Page take() const;
  std::shared_ptr<Pool> pool_;
  std::vector<Page> pages_;
  std::vector<uint8_t*> table_;
  int64_t length_ = 0;
};

// The next tokens of a sequence.
struct Segment {
  Sequence* sequence;
  int64_t count;
};

}  // namespace pyllm
