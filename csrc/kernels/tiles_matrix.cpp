// Tiles of whole products. Where the processor has matrix tiles, bf16 goes through them 16 pairs at a time; that is
// another order of sums than `float_tile`'s, so a product takes the one or the other for all its rows.
#include "kernels/tiles.h"

namespace pyllm::PYLLM_ISA {

#if defined(PYLLM_ISA_avx512amx)
namespace {

constexpr int64_t kPairs = 16, kTileBytes = kPairs * 64;  // of a panel, that a tile holds

template <bool TALL, bool WIDE, class F> PYLLM_INLINE void each_sum(F f) {
  f(Number<0>{}, 0, 0);
  if constexpr (WIDE) f(Number<1>{}, 0, 16);
  if constexpr (TALL) f(Number<2>{}, 16, 0);
  if constexpr (TALL && WIDE) f(Number<3>{}, 16, 16);
}

template <bool TALL, bool WIDE>
PYLLM_INLINE void step(const uint8_t* rows, int64_t stride, const uint8_t* first, const uint8_t* second) {
  tile_load<4>(rows, stride);
  tile_load<6>(first, 64);
  tile_dot_bf16<0, 4, 6>();
  if constexpr (WIDE) tile_load<7>(second, 64), tile_dot_bf16<1, 4, 7>();
  if constexpr (TALL) tile_load<5>(rows + 16 * stride, stride), tile_dot_bf16<2, 5, 6>();
  if constexpr (TALL && WIDE) tile_dot_bf16<3, 5, 7>();
}

PYLLM_INLINE void fetch(const uint8_t* from, int64_t bytes) {
  for (int64_t line = 0; line < bytes; line += 64) prefetch_far(from + line);
}

template <bool TALL, bool WIDE> void matrix(const TileArgs& a) {
  a.matrix->shape(a.size.rows);
  each_sum<TALL, WIDE>([&](auto tile, int row, int column) {
    if (a.add) tile_load<tile>(a.out + row * a.out_stride + column, a.out_stride * 4);
    else tile_zero<tile>();
  });
  const int64_t pairs = (a.k + 1) / 2, rest = pairs % kPairs;
  const uint8_t *x = a.rows, *w[2] = {a.panel[0], WIDE ? a.panel[1] : nullptr}, *next[2] = {a.fetch[0], a.fetch[1]};
  for (int64_t i = 0; i < pairs / kPairs; ++i) {
    for (int p = 0; p < (WIDE ? 2 : 1); ++p) {
      if (a.ahead) fetch(w[p] + a.ahead, kTileBytes);
      else fetch(next[p], a.fetch_step * kPairs), next[p] += a.fetch_step * kPairs;
    }
    step<TALL, WIDE>(x, a.row_stride, w[0], w[1]);
    x += kPairs * 4, w[0] += kTileBytes, w[1] += WIDE ? kTileBytes : 0;
  }
  if (rest) {  // filled with zeros: nothing is read past an end, and nothing is added
    alignas(64) uint8_t rows[kMatrixRows][64] = {}, panel[2][kTileBytes] = {};
    for (int r = 0; r < a.size.rows; ++r) memcpy(rows[r], x + r * a.row_stride, (size_t)rest * 4);
    for (int p = 0; p < (WIDE ? 2 : 1); ++p) memcpy(panel[p], w[p], (size_t)rest * 64);
    step<TALL, WIDE>(rows[0], 64, panel[0], panel[1]);
  }
  each_sum<TALL, WIDE>(
      [&](auto tile, int row, int column) { tile_store<tile>(a.out + row * a.out_stride + column, a.out_stride * 4); });
}

// One row, for which tiles wait longer than vectors: in their order, to the same bits. A tile that is filled with zeros
// gives other signs to sums that are zero.
template <int P> void one_row(const TileArgs& a) {
  const int64_t pairs = (a.k + 1) / 2;
  if (pairs % kPairs) return matrix<false, (P > 1)>(a);
  const TinyIsZero as_tiles_do;
  f32v sum[P];
  for (int p = 0; p < P; ++p) sum[p] = a.add ? load(a.out + p * 16) : set1(0);
  for (int64_t i = 0; i < pairs; i += kPairs) {
    f32v first[P], second[P];
    for (int p = 0; p < P; ++p) first[p] = second[p] = set1(0);
    for (int64_t j = i; j < i + kPairs; ++j) {
      const pairv x = pair((const uint16_t*)a.rows + 2 * j);
      const f32v x_first = first_numbers(x.v), x_second = second_numbers(x.v);
      for (int p = 0; p < P; ++p) {
        const u8v w = load_u8(a.panel[p] + j * 64);
        prefetch_far(a.panel[p] + j * 64 + a.ahead);
        first[p] = fma(first_numbers(w.v), x_first, first[p]);
        second[p] = fma(second_numbers(w.v), x_second, second[p]);
      }
    }
    for (int p = 0; p < P; ++p) sum[p] = add(sum[p], add(first[p], second[p]));
  }
  for (int p = 0; p < P; ++p) store(a.out + p * 16, sum[p]);
}

}  // namespace

Tile product_tile(Type t, TileSize s) {
  if (t != Type::BF16) return float_tile(t, s);
  if (s.rows == 1) return s.panels > 1 ? one_row<2> : one_row<1>;
  if (s.rows > 16) return s.panels > 1 ? matrix<true, true> : matrix<true, false>;
  return s.panels > 1 ? matrix<false, true> : matrix<false, false>;
}
#else
Tile product_tile(Type t, TileSize s) { return float_tile(t, s); }
#endif

}  // namespace pyllm::PYLLM_ISA
