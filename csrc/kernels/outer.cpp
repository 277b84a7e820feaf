// h^T x for an h of few columns: what an adapter of low rank learns from. Both are read as they lie, so that nothing is
// turned or packed for a product that each number of x takes part in a few times only.
#include "kernels/panels.h"
#include "kernels/training_rows.h"

namespace pyllm::PYLLM_ISA {
namespace {

constexpr int kVectors = 16;   // of columns whose sums wait in the first-level cache
constexpr int64_t kRows = 32;  // of x that pass before they are taken up again: those stay in the cache too

// Sums of R columns of h, from `column` on, over all rows: of vectors of x from `first` on. A worker owns columns of x,
// and rows are added in their order.
template <int R> void sum_vectors(const OuterArgs& a, int64_t column, int64_t first, int64_t last) {
  alignas(64) float sums[kVectors][R][16] = {};
  for (int64_t row = 0; row < a.rows; row += kRows) {
    const int64_t end = row + kRows < a.rows ? row + kRows : a.rows;
    vectors(first, last, [&](int64_t i, auto at) {
      float (&sum)[R][16] = sums[(i - first) / 16];
      f32v acc[R];
      unroll<R>([&](auto r) { acc[r] = load(sum[r]); });
      for (int64_t t = row; t < end; ++t) {
        prefetch(a.x + (t + kRows) * a.k + i);
        const f32v x = at.get(a.x + t * a.k + i);
        const float* h = a.h + t * a.r + column;
        unroll<R>([&](auto r) { acc[r] = fma(set1(h[r]), x, acc[r]); });
      }
      unroll<R>([&](auto r) { store(sum[r], acc[r]); });
    });
  }
  vectors(first, last, [&](int64_t i, auto at) {
    for (int r = 0; r < R; ++r) {
      const float* sum = sums[(i - first) / 16][r];
      float* out = a.out + (column + r) * a.k + i;
      if (!a.across) at.put(out, a.add ? add(at.get(out), load(sum)) : load(sum));
      for (int64_t j = 0; a.across && j < 16 && i + j < last; ++j) {
        float& y = a.out[(i + j) * a.r + column + r];
        y = a.add ? y + sum[j] : sum[j];
      }
    }
  });
}

}  // namespace

void outer(const OuterArgs& a, int worker, int workers) {
  const Share s = vector_share(a.k, worker, workers);
  for (int64_t i = s.first; i < s.last; i += kVectors * 16) {
    const int64_t last = i + kVectors * 16 < s.last ? i + kVectors * 16 : s.last;
    int64_t column = 0;
    for (; column + 16 <= a.r; column += 16) sum_vectors<16>(a, column, i, last);
    for (; column + 4 <= a.r; column += 4) sum_vectors<4>(a, column, i, last);
    for (; column < a.r; ++column) sum_vectors<1>(a, column, i, last);
  }
}

}  // namespace pyllm::PYLLM_ISA
