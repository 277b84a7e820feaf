// Register tiles: R activation rows times P panels, all of K. Every tile adds the products of one output in the same
// order, so a row's bits do not depend on the tile that computed it.
#pragma once
#include "kernels/prepare.h"

namespace pyllm::PYLLM_ISA {

struct TileSize {
  int rows, panels;
};
struct TileArgs {
  const uint8_t* rows;  // R prepared rows in the form of the type, row_stride bytes apart
  int64_t row_stride;
  const uint8_t* panel[4];  // P panels, as stored or expanded
  int64_t k;
  int64_t ahead;            // few rows: bytes from what is read to what is fetched meanwhile; 0: nothing
  const uint8_t* fetch[2];  // many rows: what is fetched meanwhile for either panel, so many bytes at every step
  int64_t fetch_step;
  float* out;  // out[r * out_stride + p * 16 ...]
  int64_t out_stride;
  bool add;        // float tiles: the sums start from out and not from zero
  TileSize size;   // for tiles that are not made for one size
  Matrix* matrix;  // of the thread, for products
};
using Tile = void (*)(const TileArgs&);

constexpr int kMaxRows = kMatrixRows > 12 ? kMatrixRows : 12;
// The largest tile not above what is left.
inline TileSize tile_size(int64_t rows, int64_t panels, TileSize limit) {
  constexpr int kRows[] = {12, 8, 6, 4, 3, 2, 1}, kPanels[] = {4, 2, 1};
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
constexpr TileSize kExpandedLimit = {kIntRows, kIntPanels};
// Float sums are what fills the registers: rows times panels of them.
inline TileSize float_limit(int64_t rows) {
  int r = rows < kTileRows ? (int)rows : kTileRows, p = kTileSums / r;
  return {kTileRows, p >= 4 ? 4 : p >= 2 ? 2 : 1};
}

Tile direct_tile(Type t, int rows);  // one panel as it is stored: weights come as one stream
Tile expanded_tile(Type t, TileSize size);
Tile whole_tile(TileSize size);  // of Int8
Tile float_tile(Type t, TileSize size);
// Tiles of whole products, all of whose rows go through them; as `float_tile`, or through the processor's matrix tiles.
Tile product_tile(Type t, TileSize size);
constexpr bool on_matrix(Type t) { return kMatrixRows > 0 && t == Type::BF16; }
constexpr int product_rows(Type t) { return on_matrix(t) ? kMatrixRows : kTileRows; }
inline TileSize product_size(Type t, int64_t rows, int64_t panels) {
  if (!on_matrix(t)) return tile_size(rows, panels, float_limit(rows));
  return {rows < kMatrixRows ? (int)rows : kMatrixRows, panels < 2 ? 1 : 2};
}
inline void product(Type t, TileSize size, TileArgs& a) {
  a.size = size;
  product_tile(t, size)(a);
}
void expand(Type t, const uint8_t* panel, int64_t k, uint8_t* out);

namespace {

template <class Group> PYLLM_INLINE int32_t sum_of(const Int8Block* x, int h) {
  return Group::kSub == 32 ? x->sum32 : x->sum16[h];
}
template <class Group> PYLLM_INLINE float low_of(const Int8Block* x, int h) {
  return Group::kSub == 32 ? x->low32 : x->low16[h];
}

// One group of 32 inputs: integer sums first, exact; then acc + float(sum) * (weight scale * activation scale), and for
// types with a minimum acc + minimum * (activation scale * sum of codes). An offset starts the integer sum. One row
// sums odd quads apart: the integers are the same, and no product waits for the one before.
template <class Group, int R, int P>
PYLLM_INLINE void group_product(const Group (&w)[P], const Rows<R>& rows, f32v (&acc)[R][P]) {
  constexpr int kHalves = 32 / Group::kSub, kQuads = 8 / kHalves;
  constexpr bool kApart = R * P == 1;
  constexpr int kStart = Group::kOffset - (Group::kNarrow ? 0 : kByteBase);
  unroll<kHalves>([&](auto h) {
    i32v total[R][P];
    i32v odd = set1_i32(0);
    unroll<R>([&](auto r) {
      const Int8Block* x = (const Int8Block*)rows.template at<r>();
      int32_t start = kStart ? -kStart * sum_of<Group>(x, h) : 0;
      unroll<P>([&](auto p) { total[r][p] = set1_i32(start); });
    });
    unroll<kQuads>([&](auto q) {
      constexpr int Q = h * kQuads + q;
      u8v code[P];
      unroll<P>([&](auto p) { code[p] = w[p].template code<Q>(); });
      unroll<R>([&](auto r) {
        s8v a = quad(((const Int8Block*)rows.template at<r>())->code + Q * 4);
        unroll<P>([&](auto p) {
          if constexpr (kApart && q % 2) odd = dot_u8s8<Group::kNarrow>(odd, code[p], a);
          else total[r][p] = dot_u8s8<Group::kNarrow>(total[r][p], code[p], a);
        });
      });
    });
    if constexpr (kApart) total[0][0] = add_i32(total[0][0], odd);
    unroll<P>([&](auto p) {
      f32v scale = w[p].scale(h);
      unroll<R>([&](auto r) {
        const Int8Block* x = (const Int8Block*)rows.template at<r>();
        acc[r][p] = fma(to_f32(total[r][p]), mul(scale, set1(x->scale)), acc[r][p]);
      });
      if constexpr (Group::kMinimum) {
        f32v minimum = w[p].minimum(h);
        unroll<R>([&](auto r) {
          const Int8Block* x = (const Int8Block*)rows.template at<r>();
          acc[r][p] = fma(minimum, set1(low_of<Group>(x, h)), acc[r][p]);
        });
      }
    });
  });
}

template <int R, int P> PYLLM_INLINE void clear(f32v (&acc)[R][P]) {
  unroll<R>([&](auto r) { unroll<P>([&](auto p) { acc[r][p] = set1(0); }); });
}
template <int R, int P> PYLLM_INLINE void put(const f32v (&acc)[R][P], const TileArgs& a) {
  unroll<R>([&](auto r) { unroll<P>([&](auto p) { store(a.out + r * a.out_stride + p * 16, acc[r][p]); }); });
}

}  // namespace
}  // namespace pyllm::PYLLM_ISA
