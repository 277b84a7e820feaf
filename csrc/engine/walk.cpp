#include "engine/walk.h"

#include <algorithm>
#include <numeric>

namespace pyllm {

namespace {

struct alignas(64) StatePage {
  int32_t token[kPage];
  int32_t after[2];  // how many of its positions each state comes after; 0: it is none
  float* state(int which, int64_t numbers) { return (float*)(this + 1) + which * numbers; }
  // The last state after `positions` of them or fewer; -1: none.
  int nearest(int64_t positions) const {
    int found = -1;
    for (int i = 0; i < 2; ++i)
      if (after[i] > 0 && after[i] <= positions && (found < 0 || after[i] > after[found])) found = i;
    return found;
  }
};

StatePage& page_of(const Sequence& s, int64_t at) { return *(StatePage*)s.table()[at]; }

// From where a sequence goes on, and its state there.
Walk::One nearest(const Segment& s, int64_t numbers) {
  const int64_t length = s.sequence->length();
  for (int64_t at = (length + kPage - 1) / kPage - 1; at >= 0; --at) {
    StatePage& page = page_of(*s.sequence, at);
    const int which = page.nearest(std::min<int64_t>(length - at * kPage, kPage));
    if (which < 0) continue;
    const int64_t begin = at * kPage + page.after[which];
    return {s.sequence, begin, length - begin + s.count, page.state(which, numbers)};
  }
  return {s.sequence, 0, length + s.count, nullptr};
}

}  // namespace

int64_t state_page_bytes(int64_t numbers) {
  return ((int64_t)sizeof(StatePage) + 2 * numbers * (int64_t)sizeof(float) + 63) / 64 * 64;
}

Walk::Walk(const std::vector<Segment>& segments, const int32_t* given, const std::vector<int32_t>& asked,
           int64_t numbers)
    : numbers_(numbers) {
  std::vector<One> found;
  std::vector<int64_t> first, order(segments.size());  // first: of the given tokens
  for (int64_t at = 0; const Segment& s : segments) {
    found.push_back(nearest(s, numbers));
    first.push_back(at);
    at += s.count;
  }
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return found[(size_t)a].count > found[(size_t)b].count; });
  for (int64_t i : order) sequences.push_back(found[(size_t)i]);

  start.push_back(0);
  std::vector<int32_t> place(asked.empty() ? 0 : (size_t)(first.back() + segments.back().count));  // of given tokens
  for (int64_t t = 0, n = (int64_t)sequences.size();; ++t) {
    while (n && sequences[(size_t)n - 1].count <= t) --n;
    if (!n) break;
    for (int64_t i = 0; i < n; ++i) {
      const One& one = sequences[(size_t)i];
      const int64_t position = one.begin + t, length = one.sequence->length(),
                    from = first[(size_t)order[(size_t)i]] + position - length;
      const bool known = position < length;
      if (!known && !place.empty()) place[(size_t)from] = (int32_t)row.size();
      tokens.push_back(known ? page_of(*one.sequence, position / kPage).token[position % kPage] : given[from]);
      row.push_back({position, one.sequence->table()});
    }
    start.push_back((int64_t)row.size());
  }
  for (int32_t each : asked) wanted.push_back(place[(size_t)each]);
}

void Walk::keep(const std::vector<Part>& parts) const {
  for (int64_t i = 0; const One& one : sequences) {
    const int64_t end = one.begin + one.count;
    for (int64_t at = one.begin / kPage; at * kPage < end; ++at) {
      StatePage& page = page_of(*one.sequence, at);
      const int64_t first = std::max(one.begin, at * kPage), last = std::min(end, (at + 1) * kPage);
      for (int64_t p = first; p < last; ++p) page.token[p % kPage] = tokens[(size_t)row_of(i, p)];
      const bool within = one.begin > at * kPage;  // then what the run began with stays
      const int into = within ? 1 - page.nearest(one.begin - at * kPage) : 0;
      if (!within) page.after[1] = 0;
      page.after[into] = (int32_t)(last - at * kPage);
      float* out = page.state(into, numbers_);
      for (const Part& part : parts) {
        const float* from = part.rows + row_of(i, last - 1) * part.width;
        out = std::copy(from, from + part.width, out);
      }
    }
    ++i;
  }
}

}  // namespace pyllm
