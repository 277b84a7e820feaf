// Many rows: a panel is expanded once to bytes and float scales, then multiplied with all of them.
#include "kernels/tiles.h"

namespace pyllm::PYLLM_ISA {
namespace {

template <class Group, int R, int P>
void expanded(const uint8_t* const* row, const uint8_t* const* panel, int64_t k, int64_t, float* out) {
  Int8Row x[R];
  unroll<R>([&](auto r) { x[r] = Int8Row::at(row[r], k); });
  f32v acc[R][P];
  clear(acc);
  int64_t groups = (k + 31) / 32;
  for (int64_t g = 0; g < groups; ++g) {
    Group w[P] = {};
    unroll<P>([&](auto p) { w[p] = Group::at(panel[p], g, groups); });
    group_product<Group, R, P>(w, x, g, acc);
  }
  put(acc, out);
}

template <class Group, int R, int P> Tile if_fits() {
  if constexpr (R <= kIntRows && P <= kIntPanels) return expanded<Group, R, P>;
  else return nullptr;
}
template <class Group, int P> Tile pick_rows(int rows) {
  switch (rows) {
    case 6: return if_fits<Group, 6, P>();
    case 4: return if_fits<Group, 4, P>();
    case 2: return if_fits<Group, 2, P>();
    default: return if_fits<Group, 1, P>();
  }
}

template <Type T> Tile pick(TileSize s) {
  using Group = ExpandedGroup<info(T).sub, info(T).minimum, info(T).offset, T != Type::Q8_0>;
  return s.panels == 2 ? pick_rows<Group, 2>(s.rows) : pick_rows<Group, 1>(s.rows);
}

template <Type T> void expand_as(const uint8_t* panel, int64_t k, uint8_t* out) {
  using Group = PanelGroup<T>;
  constexpr int kHalves = 32 / Group::kSub;
  int64_t groups = (k + 31) / 32;
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

void expand(Type t, const uint8_t* panel, int64_t k, uint8_t* out) {
  switch (t) {
    case Type::Q4_0: return expand_as<Type::Q4_0>(panel, k, out);
    case Type::Q4_1: return expand_as<Type::Q4_1>(panel, k, out);
    case Type::Q5_0: return expand_as<Type::Q5_0>(panel, k, out);
    case Type::Q5_1: return expand_as<Type::Q5_1>(panel, k, out);
    case Type::Q8_0: return expand_as<Type::Q8_0>(panel, k, out);
    case Type::Q2_K: return expand_as<Type::Q2_K>(panel, k, out);
    case Type::Q3_K: return expand_as<Type::Q3_K>(panel, k, out);
    case Type::Q4_K: return expand_as<Type::Q4_K>(panel, k, out);
    case Type::Q5_K: return expand_as<Type::Q5_K>(panel, k, out);
    case Type::Q6_K: return expand_as<Type::Q6_K>(panel, k, out);
    default: return;
  }
}

}  // namespace pyllm::PYLLM_ISA
