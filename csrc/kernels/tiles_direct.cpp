// Few rows: quantised panels multiplied as they are stored. Here memory is the limit: one panel at a time, so that the
// weights of a worker are one stream (several panels side by side halved the bandwidth).
#include "kernels/tiles.h"

namespace pyllm::PYLLM_ISA {
namespace {

template <Type T, int R> void direct(const TileArgs& a) {
  using Group = PanelGroup<T>;
  Rows<R> x = Rows<R>::of(a.rows, a.row_stride);
  f32v acc[R][1];
  clear(acc);
  for (int64_t g = 0, groups = a.k / 32; g < groups; ++g) {
    for (int line = 0; a.ahead && line < Group::kBytes; line += 64)
      prefetch(a.panel[0] + g * Group::kBytes + a.ahead + line);
    const Group w[1] = {Group::at(a.panel[0], g)};
    group_product<Group, R, 1>(w, x, acc);
    x.advance(sizeof(Int8Block));
  }
  put(acc, a);
}

template <Type T, int R> Tile if_fits() {
  if constexpr (R <= kDirectRows) return direct<T, R>;
  else return nullptr;
}

}  // namespace

Tile direct_tile(Type t, int rows) {
  return visit(t, [&](auto tag) -> Tile {
    switch (rows) {
      case 8: return if_fits<tag.type, 8>();
      case 6: return if_fits<tag.type, 6>();
      case 4: return if_fits<tag.type, 4>();
      case 3: return if_fits<tag.type, 3>();
      case 2: return if_fits<tag.type, 2>();
      default: return direct<tag.type, 1>;
    }
  });
}

}  // namespace pyllm::PYLLM_ISA
