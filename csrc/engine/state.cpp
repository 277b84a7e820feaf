#include "engine/state.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace pyllm {

// A slab fills whole huge pages: small pages come several at once.
int64_t Pool::per_slab() const { return std::max<int64_t>(1, (int64_t(4) << 20) / layout_.page_bytes()); }

int64_t Pool::free_pages() {
  std::lock_guard<std::mutex> hold(lock_);
  return (int64_t)free_.size();
}

uint8_t* Pool::take() {
  std::lock_guard<std::mutex> hold(lock_);
  if (free_.empty()) {
    const int64_t n = per_slab(), bytes = layout_.page_bytes();
    if (limit_ && (pages() + n) * bytes > limit_) throw std::bad_alloc();
    slabs_.emplace_back((size_t)(n * bytes));
    for (int64_t i = n - 1; i >= 0; --i) free_.push_back(slabs_.back().data() + i * bytes);
  }
  uint8_t* page = free_.back();
  free_.pop_back();
  return page;
}

void Pool::give(uint8_t* page) {
  std::lock_guard<std::mutex> hold(lock_);
  free_.push_back(page);
}

Sequence::Page Sequence::page() const {
  return Page(pool_->take(), [pool = pool_](uint8_t* p) { pool->give(p); });
}

void Sequence::reserve(int64_t length) {
  size_t written = (size_t)(length_ / kPage);
  if (length > length_ && written < pages_.size() && pages_[written].use_count() > 1) {
    Page own = page();
    std::memcpy(own.get(), pages_[written].get(), (size_t)pool_->layout().page_bytes());
    pages_[written] = own;
    table_[written] = own.get();
  }
  while ((int64_t)pages_.size() * kPage < length) {
    pages_.push_back(page());
    table_.push_back(pages_.back().get());
  }
}

void Sequence::truncate(int64_t length) {
  length_ = std::min(length_, length);
  size_t keep = (size_t)((length_ + kPage - 1) / kPage);
  if (keep < pages_.size()) {
    pages_.resize(keep);
    table_.resize(keep);
  }
}

std::shared_ptr<Sequence> Sequence::fork() const {
  auto s = std::make_shared<Sequence>(pool_);
  size_t used = (size_t)((length_ + kPage - 1) / kPage);
  s->pages_.assign(pages_.begin(), pages_.begin() + (long)used);
  s->table_.assign(table_.begin(), table_.begin() + (long)used);
  s->length_ = length_;
  return s;
}

}  // namespace pyllm
