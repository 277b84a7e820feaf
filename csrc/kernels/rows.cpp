// Operations that work row by row or number by number: norms, activations, softmax, rotary positions.
#include "kernels/rows.h"

#include "kernels/activation.h"
#include "kernels/cache.h"
#include "kernels/lanes.h"
#include "kernels/prepare.h"

namespace pyllm::PYLLM_ISA {

void norm(const NormArgs& a, int worker, int workers) {
  Share s = share(a.rows, worker, workers);
  for (int64_t r = s.first; r < s.last; ++r)
    normalise(a.x + r * a.k, a.weight, a.bias, a.eps, a.norm, a.k, a.out + r * a.k, a.add);
}

namespace {

// The numbers of a map's x or up, which are kept in bf16 where `kept` is not null, and then are what is kept.
template <class T, class At> f32v operand(const T* x, uint16_t* kept, int64_t i, At at) {
  if (!kept) return at.get(x + i);
  at.put(kept + i, at.get(x + i));
  return at.get(kept + i);
}

template <class T> void map_of(const MapArgs& a, const T* x, const T* up, Share s) {
  vectors(s.first, s.last, [&](int64_t i, auto at) {
    const f32v v = operand(x, a.kept_x, i, at), w = up ? operand(up, a.kept_up, i, at) : set1(1);
    if (!a.out) return;
    const f32v y = activate(v, a.act, a.cap);
    at.put(a.out + i, up ? mul(y, w) : y);
  });
}

}  // namespace

void map(const MapArgs& a, int worker, int workers) {
  const Share s = vector_share(a.n, worker, workers);
  if (a.half) map_of(a, (const uint16_t*)a.x, (const uint16_t*)a.up, s);
  else map_of(a, (const float*)a.x, (const float*)a.up, s);
}

// The maximum is subtracted first. A row of -inf alone gives NaN, as in PyTorch.
void softmax(const SoftmaxArgs& a, int worker, int workers) {
  Share s = share(a.rows, worker, workers);
  for (int64_t r = s.first; r < s.last; ++r) {
    const float* x = a.x + r * a.k;
    float* y = a.out + r * a.k;
    f32v top = set1(-INFINITY), total = set1(0);
    vectors(0, a.k, [&](int64_t i, auto at) { top = max(top, at.or_else(at.get(x + i), -INFINITY)); });
    const f32v m = set1(max_of(top));
    vectors(0, a.k, [&](int64_t i, auto at) {
      const f32v e = at.or_else(exp(sub(at.get(x + i), m)), 0);
      at.put(y + i, e);
      total = add(total, e);
    });
    const f32v l = set1(sum(total));
    vectors(0, a.k, [&](int64_t i, auto at) { at.put(y + i, div(at.get(y + i), l)); });
  }
}

namespace {

// y[2i] = x[2i] cos - x[2i+1] sin, y[2i+1] = x[2i+1] cos + x[2i] sin; the table holds -sin at even places.
void turn(const float* x, const float* table, int64_t dim, float* y) {
  vectors(0, dim, [&](int64_t d, auto at) {
    const f32v v = at.get(x + d);
    at.put(y + d, fma(swap<1>(v), at.get(table + dim + d), mul(v, at.get(table + d))));
  });
}

}  // namespace

void rotary(const RotaryArgs& a, int worker, int workers) {
  Share s = share(a.rows * a.heads, worker, workers);
  for (int64_t r = s.first; r < s.last; ++r)
    turn(a.x + r * a.dim, a.table + a.position[r / a.heads] * 2 * a.dim, a.dim, a.out + r * a.dim);
}

void heads(const HeadsArgs& a, int worker, int workers) {
  const CacheLayout& c = *a.cache;
  const int64_t each = a.heads + c.heads;
  Share s = share(a.rows * each, worker, workers);
  for (int64_t i = s.first; i < s.last; ++i) {
    const int64_t r = i / each, head = i % each, key = head - a.heads;
    float* x = key < 0 ? a.q + (r * a.heads + head) * c.dim : a.k + (r * c.heads + key) * c.dim;
    normalise(x, key < 0 ? a.q_weight : a.k_weight, nullptr, a.eps, Norm::RMS, c.dim, x);
    if (a.rotary) turn(x, a.rotary + a.row[r].position * 2 * c.dim, c.dim, x);
    for (int64_t d = 0; key >= 0 && d < c.dim; d += 16) {
      int n = c.dim - d < 16 ? (int)(c.dim - d) : 16;
      cache_put(c, a.row[r], a.layer, false, key * c.dim + d, load_n(x + d, n), n);
    }
  }
}

}  // namespace pyllm::PYLLM_ISA
