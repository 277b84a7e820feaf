// Register tiles: R activation rows times P panels, all of K. Every tile adds the products of one output in the same
// order, so a row's bits do not depend on the tile that computed it.
#pragma once
#include "kernels/prepare.h"

namespace pyllm::PYLLM_ISA {

// out (R, P, 16). row: prepared rows in the form of the type. panel: as stored, or expanded.
// ahead: how far beyond each panel to prefetch, in bytes.
using Tile = void (*)(const uint8_t* const* row, const uint8_t* const* panel, int64_t k, int64_t ahead, float* out);

// Tiles exist for 1, 2, 4, 6 and 12 rows and 1, 2 and 4 panels, as far as the instruction set's registers reach.
constexpr int kMaxRows = 12, kMaxPanels = 4;
struct TileSize {
  int rows, panels;
};
// The largest tile not above what is left.
inline TileSize tile_size(int64_t rows, int64_t panels, TileSize limit) {
  constexpr int kRows[] = {12, 6, 4, 2, 1}, kPanels[] = {4, 2, 1};
  TileSize t = {1, 1};
  for (int r : kRows)
    if (r <= rows && r <= limit.rows) {
      t.rows = r;
      break;
    }
  for (int p : kPanels)
    if (p <= panels && p <= limit.panels) {
      t.panels = p;
      break;
    }
  return t;
}
// Few rows read stored panels: as rows grow, fewer panels fit beside them.
inline TileSize direct_limit(int64_t rows) {
  int p = rows >= 4 ? 1 : rows >= 2 ? 2 : 4;
  return {kDirectRows, p < kDirectPanels ? p : kDirectPanels};
}
constexpr TileSize kExpandedLimit = {kIntRows, kIntPanels};
inline TileSize float_limit(int64_t rows) { return {kTileRows, rows == 1 ? kDirectPanels : kTilePanels}; }

Tile direct_tile(Type t, TileSize size);
Tile expanded_tile(Type t, TileSize size);
Tile float_tile(Type t, TileSize size);
void expand(Type t, const uint8_t* panel, int64_t k, uint8_t* out);

namespace {

template <class Group> PYLLM_INLINE const int32_t* sums(const Int8Row& r) {
  return Group::kSub == 32 ? r.sum32 : r.sum16;
}
template <class Group> PYLLM_INLINE const float* lows(const Int8Row& r) {
  return Group::kSub == 32 ? r.low32 : r.low16;
}

// One group of 32 inputs: integer sums first, exact; then acc + float(sum) * (weight scale * activation scale), and for
// types with a minimum acc + minimum * (activation scale * sum of codes). An offset starts the integer sum.
template <class Group, int R, int P>
PYLLM_INLINE void group_product(const Group (&w)[P], const Int8Row (&x)[R], int64_t g, f32v (&acc)[R][P]) {
  constexpr int kHalves = 32 / Group::kSub, kQuads = 8 / kHalves;
  unroll<kHalves>([&](auto h) {
    i32v total[R][P];
    unroll<R>([&](auto r) {
      int32_t start = Group::kOffset ? -Group::kOffset * sums<Group>(x[r])[g * kHalves + h] : 0;
      unroll<P>([&](auto p) { total[r][p] = set1_i32(start); });
    });
    unroll<kQuads>([&](auto q) {
      constexpr int Q = h * kQuads + q;
      u8v code[P];
      unroll<P>([&](auto p) { code[p] = w[p].template code<Q>(); });
      unroll<R>([&](auto r) {
        s8v a = quad(x[r].code + g * 32 + Q * 4);
        unroll<P>([&](auto p) { total[r][p] = dot_u8s8<Group::kNarrow>(total[r][p], code[p], a); });
      });
    });
    unroll<P>([&](auto p) {
      f32v scale = w[p].scale(h);
      unroll<R>([&](auto r) { acc[r][p] = fma(to_f32(total[r][p]), mul(scale, set1(x[r].scale[g])), acc[r][p]); });
      if constexpr (Group::kMinimum) {
        f32v minimum = w[p].minimum(h);
        unroll<R>([&](auto r) { acc[r][p] = fma(minimum, set1(lows<Group>(x[r])[g * kHalves + h]), acc[r][p]); });
      }
    });
  });
}

template <int R, int P> PYLLM_INLINE void clear(f32v (&acc)[R][P]) {
  unroll<R>([&](auto r) { unroll<P>([&](auto p) { acc[r][p] = set1(0); }); });
}
template <int R, int P> PYLLM_INLINE void put(const f32v (&acc)[R][P], float* out) {
  unroll<R>([&](auto r) { unroll<P>([&](auto p) { store(out + (r * P + p) * 16, acc[r][p]); }); });
}

}  // namespace
}  // namespace pyllm::PYLLM_ISA
