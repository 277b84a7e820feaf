// Few rows: quantised panels multiplied as they are stored. Here memory is the limit, so panels are prefetched.
#include "kernels/tiles.h"

namespace pyllm::PYLLM_ISA {
namespace {

template <Type T, int R, int P>
void direct(const uint8_t* const* row, const uint8_t* const* panel, int64_t k, int64_t ahead, float* out) {
  using Group = PanelGroup<T>;
  Int8Row x[R];
  unroll<R>([&](auto r) { x[r] = Int8Row::at(row[r], k); });
  f32v acc[R][P];
  clear(acc);
  int64_t groups = (k + 31) / 32;
  for (int64_t g = 0; g < groups; ++g) {
    Group w[P] = {};
    unroll<P>([&](auto p) {
      w[p] = Group::at(panel[p], g);
      for (int line = 0; line < Group::kBytes; line += 64) prefetch(panel[p] + g * Group::kBytes + ahead + line);
    });
    group_product<Group, R, P>(w, x, g, acc);
  }
  put(acc, out);
}

template <Type T, int R, int P> Tile if_fits() {
  if constexpr (R <= kDirectRows && P <= kDirectPanels) return direct<T, R, P>;
  else return nullptr;
}
template <Type T> Tile pick(TileSize s) {
  if (s.rows == 4) return if_fits<T, 4, 1>();
  if (s.rows == 2) return s.panels == 2 ? if_fits<T, 2, 2>() : if_fits<T, 2, 1>();
  return s.panels == 4 ? if_fits<T, 1, 4>() : s.panels == 2 ? if_fits<T, 1, 2>() : direct<T, 1, 1>;
}

}  // namespace

Tile direct_tile(Type t, TileSize s) {
  switch (t) {
    case Type::Q4_0: return pick<Type::Q4_0>(s);
    case Type::Q4_1: return pick<Type::Q4_1>(s);
    case Type::Q5_0: return pick<Type::Q5_0>(s);
    case Type::Q5_1: return pick<Type::Q5_1>(s);
    case Type::Q8_0: return pick<Type::Q8_0>(s);
    case Type::Q2_K: return pick<Type::Q2_K>(s);
    case Type::Q3_K: return pick<Type::Q3_K>(s);
    case Type::Q4_K: return pick<Type::Q4_K>(s);
    case Type::Q5_K: return pick<Type::Q5_K>(s);
    case Type::Q6_K: return pick<Type::Q6_K>(s);
    default: return nullptr;
  }
}

}  // namespace pyllm::PYLLM_ISA
