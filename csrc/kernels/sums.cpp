// Sums over rows and over long vectors, in partial sums of a fixed size: the workers change no bit.
#include "kernels/training_rows.h"

namespace pyllm::PYLLM_ISA {
namespace {

constexpr int64_t kColumns = 2048;  // of a partial sum: it stays in the first-level cache

// Columns [first, first + count) of out; count at most kColumns.
void sum_columns(const ColumnSumsArgs& a, int64_t first, int64_t count) {
  float* out = a.out + first;
  memset(out, 0, (size_t)count * 4);
  alignas(64) float partial[kColumns];
  for (int64_t r0 = 0; r0 < a.rows; r0 += kSumRows) {
    memset(partial, 0, sizeof partial);
    for (int64_t r = r0; r < r0 + kSumRows && r < a.rows; ++r) {
      const float* x = a.x + r * a.k + first;
      vectors(0, count, [&](int64_t i, auto at) { store(partial + i, add(load(partial + i), at.get(x + i))); });
    }
    vectors(0, count, [&](int64_t i, auto at) { at.put(out + i, add(at.get(out + i), load(partial + i))); });
  }
}

}  // namespace

// A worker owns columns.
void column_sums(const ColumnSumsArgs& a, int worker, int workers) {
  const Share s = vector_share(a.k, worker, workers);
  for (int64_t c = s.first; c < s.last; c += kColumns) sum_columns(a, c, s.last - c < kColumns ? s.last - c : kColumns);
}

// A worker owns columns and walks all rows in order, so a token that comes twice is added in the order of the text.
void embedding_backward(const EmbeddingBackwardArgs& a, int worker, int workers) {
  const Share s = vector_share(a.k, worker, workers);
  if (s.first >= s.last) return;
  for (int64_t r = 0; r < a.rows; ++r) {
    float* into = a.into + a.ids[r] * a.k;
    const float* dy = a.dy + r * a.k;
    vectors(s.first, s.last, [&](int64_t i, auto at) { at.put(into + i, add(at.get(into + i), at.get(dy + i))); });
  }
}

void squares(const SquaresArgs& a, int worker, int workers) {
  const Share s = share((a.n + kSumBlock - 1) / kSumBlock, worker, workers);
  for (int64_t b = s.first; b < s.last; ++b) {
    const int64_t first = b * kSumBlock, count = a.n - first < kSumBlock ? a.n - first : kSumBlock;
    const float* x = a.x + first;
    double lane[16] = {};
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
      for (int j = 0; j < 16; ++j) lane[j] += (double)x[i + j] * (double)x[i + j];
    for (int j = 0; i + j < count; ++j) lane[j] += (double)x[i + j] * (double)x[i + j];
    for (int w = 8; w; w >>= 1)
      for (int j = 0; j < w; ++j) lane[j] += lane[j + w];
    a.partial[b] = lane[0];
  }
}

}  // namespace pyllm::PYLLM_ISA
