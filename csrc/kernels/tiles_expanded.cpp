// Many rows: a panel is expanded once to bytes and float scales, then multiplied with all of them.
#include "kernels/tiles.h"

namespace pyllm::PYLLM_ISA {
namespace {

template <class Group, int R, int P> void expanded(const TileArgs& a) {
  Rows<R> x = Rows<R>::of(a.rows, a.row_stride);
  f32v acc[R][P];
  clear(acc);
  const uint8_t* fetch[P];
  unroll<P>([&](auto p) { fetch[p] = a.fetch[p]; });
  for (int64_t g = 0, groups = a.k / 32; g < groups; ++g) {
    Group w[P] = {};
    unroll<P>([&](auto p) {
      w[p] = Group::at(a.panel[p], g, groups);
      prefetch_far(fetch[p]), fetch[p] += a.fetch_step;
    });
    group_product<Group, R, P>(w, x, acc);
    x.advance(sizeof(Int8Block));
  }
  put(acc, a);
}

template <class Group, int R, int P> Tile if_fits() {
  if constexpr (R <= kIntRows && P <= kIntPanels) return expanded<Group, R, P>;
  else return nullptr;
}
template <class Group, int P> Tile pick_rows(int rows) {
  switch (rows) {
    case 6: return if_fits<Group, 6, P>();
    case 4: return if_fits<Group, 4, P>();
    case 3: return if_fits<Group, 3, P>();
    case 2: return if_fits<Group, 2, P>();
    default: return if_fits<Group, 1, P>();
  }
}

template <Type T> void expand_as(const uint8_t* panel, int64_t k, uint8_t* out) {
  using Group = PanelGroup<T>;
  constexpr int kHalves = 32 / Group::kSub;
  int64_t groups = k / 32;
  float* scales = (float*)(out + groups * 512);
  float* minima = scales + groups * kHalves * 16;
  for (int64_t g = 0; g < groups; ++g) {
    Group w = Group::at(panel, g);
    unroll<8>([&](auto q) { store_u8(out + g * 512 + q * 64, w.template code<q>()); });
    unroll<kHalves>([&](auto h) {
      store(scales + (g * kHalves + h) * 16, w.scale(h));
      if constexpr (Group::kMinimum) store(minima + (g * kHalves + h) * 16, w.minimum(h));
    });
  }
}

}  // namespace

Tile expanded_tile(Type t, TileSize s) {
  return visit(t, [&](auto tag) -> Tile {
    constexpr Type T = tag.type;
    using Group = ExpandedGroup<info(T).sub, info(T).minimum, info(T).offset, T != Type::Q8_0>;
    return s.panels == 2 ? pick_rows<Group, 2>(s.rows) : pick_rows<Group, 1>(s.rows);
  });
}

void expand(Type t, const uint8_t* panel, int64_t k, uint8_t* out) {
  visit(t, [&](auto tag) { expand_as<tag.type>(panel, k, out); });
}

}  // namespace pyllm::PYLLM_ISA
