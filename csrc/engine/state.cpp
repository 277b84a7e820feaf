#include "engine/state.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace pyllm {

Pool::Pool(int64_t page_bytes, int64_t limit_bytes) : page_bytes_(page_bytes), limited_(limit_bytes > 0) {
  if (limited_) grow(limit_bytes / page_bytes_);
}

int64_t Pool::free_pages() {
  std::lock_guard<std::mutex> hold(lock_);
  return (int64_t)free_.size();
}

void Pool::grow(int64_t pages) {
  slabs_.emplace_back((size_t)(pages * page_bytes_));
  for (int64_t i = pages - 1; i >= 0; --i) free_.push_back(slabs_.back().data() + i * page_bytes_);
  pages_ += pages;
}

uint8_t* Pool::take() {
  std::lock_guard<std::mutex> hold(lock_);
  if (free_.empty()) {
    if (limited_) return nullptr;
    // A slab fills whole huge pages: small pages come several at once.
    grow(std::max<int64_t>(1, (int64_t(4) << 20) / page_bytes_));
  }
  uint8_t* page = free_.back();
  free_.pop_back();
  return page;
}

void Pool::give(uint8_t* page) {
  std::lock_guard<std::mutex> hold(lock_);
  free_.push_back(page);
}

Page Sequence::take() const {
  uint8_t* page = pool_->take();
  return page ? Page(page, [pool = pool_](uint8_t* p) { pool->give(p); }) : nullptr;
}

bool Sequence::writes_shared(int64_t length) const {
  size_t written = (size_t)(length_ / kPage);
  return length > length_ && written < pages_.size() && pages_[written].use_count() > 1;
}

bool Sequence::ready(int64_t length) const {
  return (int64_t)pages_.size() * kPage >= length && !writes_shared(length);
}

bool Sequence::reserve(int64_t length) {
  if (writes_shared(length)) {
    size_t written = (size_t)(length_ / kPage);
    Page own = take();
    if (!own) return false;
    std::memcpy(own.get(), pages_[written].get(), (size_t)pool_->page_bytes());
    table_[written] = own.get();
    pages_[written] = std::move(own);
  }
  while ((int64_t)pages_.size() * kPage < length) {
    Page own = take();
    if (!own) return false;
    table_.push_back(own.get());
    pages_.push_back(std::move(own));
  }
  return true;
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

void Sequence::place(int64_t at, Page page) {
  if (at == pages()) {
    table_.push_back(page.get());
    pages_.push_back(std::move(page));
  } else {
    table_.at((size_t)at) = page.get();
    pages_.at((size_t)at) = std::move(page);
  }
  length_ = std::max(length_, (at + 1) * kPage);
}

}  // namespace pyllm
