// Int8: a scale for every feature and one for a row, so that integers are summed over all inputs and scaled once at the
// end. Sums are exact, so in whatever order they are made a row's bits are the same.
#include "kernels/tiles.h"

namespace pyllm::PYLLM_ISA {
namespace {

template <int R, int P> void whole(const TileArgs& a) {
  const int64_t codes = int8_codes(a.k);
  Rows<R> x = Rows<R>::of(a.rows, a.row_stride);
  i32v total[R][P];
  float scale[R];
  unroll<R>([&](auto r) {
    Int8Row end;
    memcpy(&end, x.template at<r>() + int8_row_bytes(a.k), sizeof(end));
    scale[r] = end.scale;
    // Codes of weights are stored 128 higher: taken off in unsigned numbers, which may pass their end.
    const i32v start = set1_i32((int32_t)(-(uint32_t)info(Type::Int8).offset * (uint32_t)end.sum));
    unroll<P>([&](auto p) { total[r][p] = start; });
  });
  const uint8_t *w[P], *fetch[P];
  unroll<P>([&](auto p) { w[p] = a.panel[p], fetch[p] = a.fetch_step ? a.fetch[p % 2] : w[p]; });
  for (int64_t i = 0; i < codes / 4; ++i) {
    unroll<kQuadParts>([&](auto part) {
      u8v code[P];
      unroll<P>([&](auto p) { code[p] = quad_part<part>(w[p]); });
      unroll<R>([&](auto r) {
        const s8v q = quad((const int8_t*)x.template at<r>() + part * 4);
        unroll<P>([&](auto p) { total[r][p] = dot_part(total[r][p], code[p], q); });
      });
    });
    unroll<P>([&](auto p) {
      if constexpr (R <= 8) prefetch_far(w[p] + a.ahead);
      else prefetch_far(fetch[p]), fetch[p] += a.fetch_step;
      w[p] += 64;
    });
    x.advance(4 * kQuadParts);
  }
  unroll<P>([&](auto p) {
    const f32v of_feature = load((const float*)w[p]);
    unroll<R>([&](auto r) {
      store(a.out + r * a.out_stride + p * 16, mul(to_f32(total[r][p]), mul(of_feature, set1(scale[r]))));
    });
  });
}

template <int R, int P> Tile if_fits() {
  if constexpr (R <= kTileRows && R * P <= kTileSums) return whole<R, P>;
  else return nullptr;
}
template <int P> Tile pick_rows(int rows) {
  switch (rows) {
    case 12: return if_fits<12, P>();
    case 8: return if_fits<8, P>();
    case 6: return if_fits<6, P>();
    case 4: return if_fits<4, P>();
    case 3: return if_fits<3, P>();
    case 2: return if_fits<2, P>();
    default: return if_fits<1, P>();
  }
}

}  // namespace

Tile whole_tile(TileSize s) {
  return s.panels == 4 ? pick_rows<4>(s.rows) : s.panels == 2 ? pick_rows<2>(s.rows) : pick_rows<1>(s.rows);
}

}  // namespace pyllm::PYLLM_ISA
