// Between panels and rows: packing float matrices, reading rows back, looking tokens up.
#include "kernels/rows.h"
#include "kernels/panels.h"

namespace pyllm::PYLLM_ISA {
namespace {

// Row `feature` of a panel as k floats: a column of 16-lane vectors.
template <Type T> void unpack_quantised(const uint8_t* panel, int lane, int64_t k, float* out) {
  using Group = PanelGroup<T>;
  alignas(64) uint8_t codes[8][64];
  alignas(64) float scale[2][16], minimum[2][16];
  constexpr int kHalves = 32 / Group::kSub;
  for (int64_t g = 0; g * 32 < k; ++g) {
    Group w = Group::at(panel, g);
    unroll<8>([&](auto q) { store_u8(codes[q], w.template code<q>()); });
    unroll<kHalves>([&](auto h) {
      store(scale[h], w.scale(h));
      if constexpr (Group::kMinimum) store(minimum[h], w.minimum(h));
    });
    for (int i = 0; i < 32; ++i) {
      int h = i / Group::kSub, code = codes[i / 4][lane * 4 + i % 4];
      out[g * 32 + i] = Group::kMinimum ? scale[h][lane] * (float)code + minimum[h][lane]
                                        : scale[h][lane] * (float)(code - Group::kOffset);
    }
  }
}

void unpack_row(const uint8_t* panels, Type t, int64_t row, int64_t k, float* out) {
  const uint8_t* panel = panels + row / 16 * panel_bytes(t, k);
  const int lane = (int)(row % 16);
  switch (t) {
    case Type::F32:
      for (int64_t i = 0; i < k; ++i) out[i] = ((const float*)panel)[i * 16 + lane];
      return;
    case Type::F16:
      for (int64_t i = 0; i < k; ++i) out[i] = f16_to_f32(((const uint16_t*)panel)[i * 16 + lane]);
      return;
    case Type::BF16:
      for (int64_t i = 0; i < k; ++i) out[i] = bf16_to_f32(((const uint16_t*)panel)[(i / 2 * 16 + lane) * 2 + i % 2]);
      return;
    case Type::Int8:
      for (int64_t i = 0; i < k; i += 64) {
        const f32v scale = set1(((const float*)(panel + int8_codes(k) * 16))[lane]);
        alignas(64) uint8_t code[64];
        alignas(64) float block[64];
        for (int64_t j = 0; j < 64; j += 4) memcpy(code + j, panel + (i + j) * 16 + lane * 4, 4);
        for (int64_t j = 0; j < 64; j += 16)
          store(block + j, mul(scale, sub(load_u8_f32(code + j), set1((float)info(Type::Int8).offset))));
        mix(block);
        memcpy(out + i, block, (size_t)(k - i < 64 ? k - i : 64) * 4);
      }
      return;
    default: return visit(t, [&](auto tag) { unpack_quantised<tag.type>(panel, lane, k, out); });
  }
}

}  // namespace

void unpack(const UnpackArgs& a, int worker, int workers) {
  Share s = share(a.rows, worker, workers);
  for (int64_t r = s.first; r < s.last; ++r) unpack_row(a.panels, a.type, a.row + r, a.k, a.out + r * a.k);
}

void embedding(const EmbeddingArgs& a, int worker, int workers) {
  Share s = share(a.rows, worker, workers);
  for (int64_t r = s.first; r < s.last; ++r) {
    float* out = a.out + r * a.out_stride;
    unpack_row(a.tokens, a.token_type, a.ids[r], a.k, out);
    for (int64_t i = 0; a.scale != 1 && i < a.k; ++i) out[i] *= a.scale;
    if (!a.positions) continue;
    const float* position = a.positions + a.row[r].position * a.k;
    for (int64_t i = 0; i < a.k; ++i) out[i] += position[i];
  }
}

namespace {

uint32_t rounded(float f) {
  uint32_t b;
  memcpy(&b, &f, 4);
  return (b & 0x7fffffffu) > 0x7f800000u ? b | 0x400000u : b + 0x7fffu + ((b >> 16) & 1);
}

// 16 pairs of bf16 of two vectors; a loop of integers, which compilers make vectors of.
void store_pairs(const float* first, const float* second, uint8_t* out) {
  alignas(64) uint32_t pair[16];
  for (int l = 0; l < 16; ++l) pair[l] = rounded(first[l]) >> 16 | (rounded(second[l]) & 0xffff0000u);
  memcpy(out, pair, 64);
}

// Rows of a transposed matrix lie across the panels: so many panels are filled at a time that each row is read in
// pieces which the processor fetches ahead by itself. 64 bytes of a row, one panel, is a third of the speed.
constexpr int64_t kAcross = 8, kRowsAhead = 8;

// Panel p of rows that are features: turned 16 inputs at a time.
void pack_panel(const PackArgs& a, int64_t p, uint8_t* panel) {
  const int features = a.rows - p * 16 < 16 ? (int)(a.rows - p * 16) : 16;
  alignas(64) float block[16][16];
  for (int64_t i = 0; i < a.k; i += 16) {
    const int inputs = a.k - i < 16 ? (int)(a.k - i) : 16;
    transpose(a.x + p * 16 * a.stride + i, a.stride, features, inputs, block);
    uint8_t* out = panel + i / info(a.type).block * info(a.type).panel_bytes;
    if (a.type == Type::F32) memcpy(out, block, (size_t)inputs * 64);
    else
      for (int j = 0; j < inputs; j += 2) store_pairs(block[j], block[j + 1], out + j * 32);
  }
}

// 64 inputs of a feature in int8. inverse 0: zeros.
void put_codes(float* x, float inverse, int lane, uint8_t* out) {
  mix(x);
  for (int i = 0; i < 64; ++i)
    out[(i / 4 * 16 + lane) * 4 + i % 4] = (uint8_t)(128 + (int)__builtin_rintf(x[i] * inverse));
}

// Panel p in int8: every feature, transformed, over its largest number.
void pack_whole(const PackArgs& a, int64_t p, uint8_t* panel) {
  float* scales = (float*)(panel + int8_codes(a.k) * 16);
  for (int lane = 0; lane < 16; ++lane) {
    const bool there = p * 16 + lane < a.rows;
    const float* x = a.x + (there ? p * 16 + lane : 0) * a.stride;
    alignas(64) float block[64];
    float top = 0;
    bool finite = true;
    const auto take = [&](int64_t i) {
      const int64_t n = a.k - i < 64 ? a.k - i : 64;
      memset(block, 0, sizeof(block));
      if (there) memcpy(block, x + i, (size_t)n * 4);
    };
    for (int64_t i = 0; i < a.k; i += 64) {
      take(i);
      mix(block);
      for (float each : block) {
        const float size = __builtin_fabsf(each);
        finite = finite && size <= 3.0e38f;
        top = size > top ? size : top;
      }
    }
    const float inverse = !finite || top < 4e-37f ? 0 : 127.0f / top;  // below, it would overflow: counts as zero
    scales[lane] = finite ? inverse == 0 ? 0 : top / 127.0f * kMixed : __builtin_nanf("");
    for (int64_t i = 0; i < a.k; i += 64) {
      take(i);
      for (int j = 0; inverse == 0 && j < 64; ++j) block[j] = 0;
      put_codes(block, inverse, lane, panel + i * 16);
    }
  }
}

// Panels [first, last) of rows that are inputs: they lie as panels want them.
template <bool PAIRS> void pack_across(const PackArgs& a, int64_t first, int64_t last, int64_t bytes) {
  const float zero[16 * kAcross] = {};
  const int64_t step = PAIRS ? 2 : 1, left = a.rows - first * 16;
  for (int64_t i = 0; i < a.k; i += step) {
    const float *even = a.x + i * a.stride + first * 16, *odd = PAIRS && i + 1 < a.k ? even + a.stride : zero;
    const bool more = i + kRowsAhead < a.k;
    uint8_t* out = a.panels + first * bytes + i / step * 64;
    for (int64_t f = 0; f < (last - first) * 16; f += 16, out += bytes) {
      if (more) prefetch(even + f + kRowsAhead * a.stride);
      if (PAIRS && more) prefetch(even + f + (kRowsAhead + 1) * a.stride);
      if (left - f >= 16) {
        if (PAIRS) store_pairs(even + f, odd + f, out);
        else store((float*)out, load(even + f));
        continue;
      }
      alignas(64) float part[2][16];
      store(part[0], load_n(even + f, (int)(left - f)));
      store(part[1], odd == zero ? set1(0) : load_n(odd + f, (int)(left - f)));
      if (PAIRS) store_pairs(part[0], part[1], out);
      else memcpy(out, part[0], 64);
    }
  }
}

}  // namespace

void pack(const PackArgs& a, int worker, int workers) {
  const int64_t bytes = panel_bytes(a.type, a.k), n = panels(a.rows), step = a.transposed ? kAcross : 1;
  Share s = share((n + step - 1) / step, worker, workers);
  for (int64_t p = s.first * step; p < s.last * step && p < n; p += step)
    if (a.transposed)
      (a.type == Type::F32 ? pack_across<false> : pack_across<true>)(a, p, p + step < n ? p + step : n, bytes);
    else (a.type == Type::Int8 ? pack_whole : pack_panel)(a, p, a.panels + p * bytes);
}

}  // namespace pyllm::PYLLM_ISA
