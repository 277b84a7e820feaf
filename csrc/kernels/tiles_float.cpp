// Panels of f32, bf16 and f16: outer products, one input (bf16: a pair) at a time.
#include "kernels/tiles.h"

namespace pyllm::PYLLM_ISA {
namespace {

struct AsF32 {
  static constexpr int kStep = 1, kRowBytes = 4, kPanelBytes = 64;
  PYLLM_INLINE f32v weight(const uint8_t* p) { return load((const float*)p); }
  PYLLM_INLINE f32v input(const uint8_t* p) {
    float x;
    memcpy(&x, p, 4);
    return set1(x);
  }
  PYLLM_INLINE f32v product(f32v acc, f32v w, f32v x) { return fma(w, x, acc); }
  PYLLM_INLINE void keep(f32v& w) { pin(w); }
};
struct AsF16 : AsF32 {
  static constexpr int kPanelBytes = 32;
  PYLLM_INLINE f32v weight(const uint8_t* p) { return load_f16((const uint16_t*)p); }
};
struct AsBF16 {
  static constexpr int kStep = 2, kRowBytes = 4, kPanelBytes = 64;
  PYLLM_INLINE u8v weight(const uint8_t* p) { return load_u8(p); }
  PYLLM_INLINE pairv input(const uint8_t* p) { return pair((const uint16_t*)p); }
  PYLLM_INLINE f32v product(f32v acc, u8v w, pairv x) { return dot_bf16(acc, w, x); }
  PYLLM_INLINE void keep(u8v&) {}
};

template <class As, int R, int P> void floats(const TileArgs& a) {
  f32v acc[R][P];
  if (a.add)
    unroll<R>([&](auto r) { unroll<P>([&](auto p) { acc[r][p] = load(a.out + r * a.out_stride + p * 16); }); });
  else clear(acc);
  Rows<R> x = Rows<R>::of(a.rows, a.row_stride);
  const uint8_t *w[P], *fetch[P];
  unroll<P>([&](auto p) { w[p] = a.panel[p], fetch[p] = a.fetch_step ? a.fetch[p % 2] : w[p]; });
  for (int64_t i = 0, steps = (a.k + As::kStep - 1) / As::kStep; i < steps; ++i) {
    decltype(As::weight(nullptr)) weight[P];
    unroll<P>([&](auto p) {
      weight[p] = As::weight(w[p]);
      As::keep(weight[p]);
      if constexpr (R <= 8) prefetch_far(w[p] + a.ahead);
      else prefetch_far(fetch[p]), fetch[p] += a.fetch_step;
      w[p] += As::kPanelBytes;
    });
    unroll<R>([&](auto r) {
      auto input = As::input(x.template at<r>());
      unroll<P>([&](auto p) { acc[r][p] = As::product(acc[r][p], weight[p], input); });
    });
    x.advance(As::kRowBytes);
  }
  put(acc, a);
}

template <class As, int R, int P> Tile if_fits() {
  if constexpr (R <= kTileRows && R * P <= kTileSums) return floats<As, R, P>;
  else return nullptr;
}
template <class As, int P> Tile pick_rows(int rows) {
  switch (rows) {
    case 12: return if_fits<As, 12, P>();
    case 8: return if_fits<As, 8, P>();
    case 6: return if_fits<As, 6, P>();
    case 4: return if_fits<As, 4, P>();
    case 3: return if_fits<As, 3, P>();
    case 2: return if_fits<As, 2, P>();
    default: return if_fits<As, 1, P>();
  }
}
template <class As> Tile pick(TileSize s) {
  return s.panels == 4 ? pick_rows<As, 4>(s.rows) : s.panels == 2 ? pick_rows<As, 2>(s.rows) : pick_rows<As, 1>(s.rows);
}

}  // namespace

Tile float_tile(Type t, TileSize s) {
  if (t == Type::F32) return pick<AsF32>(s);
  if (t == Type::F16) return pick<AsF16>(s);
  if (t == Type::Int8) return whole_tile(s);
  return pick<AsBF16>(s);
}

}  // namespace pyllm::PYLLM_ISA
