// Rows of a packed matrix as panels of its transpose, for the gradient of what it was multiplied with: dx = dy W sums
// over the features of W, which lie side by side in its panels. Every number becomes what it stands for, then bf16.
#include "kernels/panels.h"
#include "kernels/rows.h"

namespace pyllm::PYLLM_ISA {
namespace {

// Where input i of the features from `first` on (a multiple of 16) goes: into i's panel, pair after pair.
struct Turned {
  uint8_t* panels;
  int64_t bytes;  // of a panel
  uint8_t* at(int64_t i, int64_t first) const { return panels + i / 16 * bytes + first / 2 * 64; }
};

// 16 features of 32 inputs: the codes of a feature are brought together first.
template <Type T> void turn_group(const uint8_t* panel, int64_t g, int64_t first, int features, const Turned& out) {
  using Group = PanelGroup<T>;
  constexpr int kHalves = 32 / Group::kSub;
  alignas(64) uint8_t quads[8][64], codes[16][32];
  alignas(64) float scale[2][16], minimum[2][16] = {};
  const Group w = Group::at(panel, g);
  unroll<8>([&](auto q) { store_u8(quads[q], w.template code<q>()); });
  unroll<kHalves>([&](auto h) {
    store(scale[h], w.scale(h));
    if constexpr (Group::kMinimum) store(minimum[h], w.minimum(h));
  });
  for (int f = 0; f < 16; ++f)
    for (int q = 0; q < 8; ++q) memcpy(codes[f] + q * 4, quads[q] + f * 4, 4);
  for (int half = 0; half < 2; ++half) {
    const int h = half % kHalves;
    const auto numbers = [&](int f) {
      const f32v code = load_u8_f32(codes[f] + half * 16), s = set1(scale[h][f]);
      if constexpr (Group::kMinimum) return add(mul(s, code), set1(minimum[h][f]));
      else return mul(s, sub(code, set1((float)Group::kOffset)));
    };
    uint8_t* to = out.at(g * 32 + half * 16, first);
    for (int f = 0; f < features; f += 2, to += 64) store_bf16_pairs_normal(to, numbers(f), numbers(f + 1));
  }
}

// 16 numbers of a panel of floats: one input of all its features.
f32v input_of(Type t, const uint8_t* panel, int64_t i) {
  if (t == Type::F32) return load((const float*)panel + i * 16);
  if (t == Type::F16) return load_f16((const uint16_t*)panel + i * 16);
  alignas(64) uint16_t one[16];
  for (int f = 0; f < 16; ++f) one[f] = ((const uint16_t*)panel)[(i / 2 * 16 + f) * 2 + i % 2];
  return load_bf16(one);
}

// 64 inputs of 16 features of Int8, from i on (a multiple of 64), as a panel of floats.
void floats_of(const uint8_t* panel, int64_t k, int64_t i, float (&out)[64][16]) {
  const float* scale = (const float*)(panel + int8_codes(k) * 16);
  alignas(64) float numbers[64];
  for (int f = 0; f < 16; ++f) {
    for (int j = 0; j < 64; ++j) numbers[j] = scale[f] * (float)((int)panel[((i + j) / 4 * 16 + f) * 4 + j % 4] - 128);
    mix(numbers);
    for (int j = 0; j < 64; ++j) out[j][f] = numbers[j];
  }
}

void turn_floats(const TurnArgs& a, const uint8_t* panel, int64_t first, int features, const Turned& out) {
  alignas(64) float block[16][16], turned[16][16], mixed[64][16];
  for (int64_t i = 0; i < a.k; i += 16) {
    const int inputs = a.k - i < 16 ? (int)(a.k - i) : 16;
    if (a.type == Type::Int8 && i % 64 == 0) floats_of(panel, a.k, i, mixed);
    for (int j = 0; j < inputs; ++j)
      store(block[j], a.type == Type::Int8 ? load(mixed[i % 64 + j]) : input_of(a.type, panel, i + j));
    transpose(block[0], 16, inputs, 16, turned);
    if (a.to == Type::F32) {
      memcpy(a.out + i / 16 * out.bytes + first * 64, turned, (size_t)features * 64);
      continue;
    }
    uint8_t* to = out.at(i, first);
    for (int f = 0; f < features; f += 2, to += 64)
      store_bf16_pairs_normal(to, load(turned[f]), f + 1 < features ? load(turned[f + 1]) : set1(0));
  }
}

}  // namespace

void turn(const TurnArgs& a, int worker, int workers) {
  const Turned out = {a.out, panel_bytes(a.to, a.rows)};
  const int64_t bytes = panel_bytes(a.type, a.k);
  const Share s = share(panels(a.rows), worker, workers);
  for (int64_t p = s.first; p < s.last; ++p) {
    const uint8_t* panel = a.panels + (a.row / 16 + p) * bytes;
    const int features = a.rows - p * 16 < 16 ? (int)(a.rows - p * 16) : 16;
    if (!quantised(a.type)) turn_floats(a, panel, p * 16, features, out);
    else
      visit(a.type, [&](auto tag) {
        for (int64_t g = 0; g * 32 < a.k; ++g) turn_group<tag.type>(panel, g, p * 16, features, out);
      });
  }
}

}  // namespace pyllm::PYLLM_ISA
