#include "kernels/cache.h"
#include "kernels/rows.h"

namespace pyllm::PYLLM_ISA {
namespace {

// bf16 keeps pairs of the summed index together: for keys neighbouring features, for values neighbouring positions.
void put_number(const CacheLayout& c, uint8_t* head, bool value, int64_t d, int64_t at, float x) {
  const int step = info(c.type).block;
  uint8_t* p =
      head + (value ? c.key_bytes() + d / 16 * panel_bytes(c.type, kPage) : at / 16 * panel_bytes(c.type, c.dim));
  int64_t summed = value ? at : d, lane = (value ? d : at) % 16,
          index = (summed / step * 16 + lane) * step + summed % step;
  if (c.type == Type::F32) ((float*)p)[index] = x;
  else ((uint16_t*)p)[index] = f32_to_bf16(x);
}

// 16 features in int8 with a scale of their own: the largest becomes 127. What is not finite becomes NaN.
void put_int8(const CacheLayout& c, uint8_t* head, bool value, int64_t d, int64_t at, f32v x) {
  float top = max_of(abs(x));
  const bool finite = sum(sub(x, x)) == 0;
  uint16_t scale = f32_to_f16(finite ? top / 127.0f : __builtin_nanf(""));
  const float exact = f16_to_f32(scale);  // what the codes will be multiplied with
  int8_t code[16];
  store_s8(code, round_i32(finite && exact > 0 ? min(set1(127.0f), max(set1(-127.0f), div(x, set1(exact)))) : set1(0)));
  uint8_t* part = head + (value ? c.key_bytes() : 0);
  uint16_t* scales = (uint16_t*)(part + (value ? c.value_panels() : c.key_panels()) / 2);
  scales[d / 16 * kPage + at] = scale;
  if (value) {
    uint8_t* p = part + d / 16 * (kPage * 16) + at / 2 * 32 + at % 2;
    for (int i = 0; i < 16; ++i) p[2 * i] = (uint8_t)code[i];
  } else {
    uint8_t* p = part + at / 16 * (c.dim * 16) + d / 2 * 32 + at % 16 * 2;
    for (int i = 0; i < 8; ++i) memcpy(p + i * 32, code + 2 * i, 2);
  }
}

}  // namespace

void cache_put(const CacheLayout& c, const Row& row, int layer, bool value, int64_t feature, f32v x, int n) {
  const int64_t at = row.position % kPage;
  uint8_t* layer_heads = row.pages[row.position / kPage] + layer * (int64_t)c.heads * c.head_bytes();
  const int64_t d = feature % c.dim;
  uint8_t* head = layer_heads + feature / c.dim * c.head_bytes();
  if (c.type == Type::BF16 && n == 16 && d % 16 == 0 && d + 16 <= c.dim) {
    if (value) {
      uint8_t* p = head + c.key_bytes() + d / 16 * panel_bytes(c.type, kPage) + at / 2 * 64 + at % 2 * 2;
      return store_bf16_alternate((uint16_t*)p, x);
    }
    alignas(64) uint16_t half[16];
    store_bf16(half, x);
    uint8_t* p = head + at / 16 * panel_bytes(c.type, c.dim) + d / 2 * 64 + at % 16 * 4;
    for (int i = 0; i < 8; ++i) memcpy(p + i * 64, half + 2 * i, 4);
    return;
  }
  if (c.type == Type::Q8_0) return put_int8(c, head, value, d, at, x);
  alignas(64) float numbers[16];  // heads whose width is no multiple of 16 share vectors
  store(numbers, x);
  for (int i = 0; i < n; ++i) {
    int64_t f = feature + i;
    put_number(c, layer_heads + f / c.dim * c.head_bytes(), value, f % c.dim, at, numbers[i]);
  }
}

// Keys: a scale for each lane, the same for both numbers of its pair; values: one for all lanes, each of the pair its
// own.
void expand_keys(const CacheLayout& c, const uint8_t* keys, uint8_t* out) {
  const uint16_t* scales = (const uint16_t*)(keys + c.key_panels() / 2);
  for (int64_t n = 0; n < kPage; n += 16)
    for (int64_t d = 0; d < c.dim; d += 16) {
      f32v scale = load_f16(scales + d / 16 * kPage + n);
      for (int64_t pair = (n / 16 * c.dim + d) / 2, end = pair + 8; pair < end; ++pair)
        store_u8(out + pair * 64, scale_pairs((const int8_t*)keys + pair * 32, scale, scale));
    }
}

void expand_values(const CacheLayout& c, const uint8_t* values, uint8_t* out) {
  const uint16_t* scales = (const uint16_t*)(values + c.value_panels() / 2);
  for (int64_t d = 0; d < c.dim; d += 16)
    for (int64_t n = 0; n < kPage; n += 2) {
      const uint16_t* scale = scales + d / 16 * kPage + n;
      const int64_t pair = (d / 16 * kPage + n) / 2;
      store_u8(out + pair * 64,
               scale_pairs((const int8_t*)values + pair * 32, set1(f16_to_f32(scale[0])), set1(f16_to_f32(scale[1]))));
    }
}

void cache_write(const CacheWriteArgs& a, int worker, int workers) {
  Share s = share(a.rows, worker, workers);
  const int64_t width = (int64_t)a.cache->heads * a.cache->dim;
  for (int64_t r = s.first; r < s.last; ++r)
    for (int64_t f = 0; f < width; f += 16) {
      int n = width - f < 16 ? (int)(width - f) : 16;
      cache_put(*a.cache, a.row[r], a.layer, false, f, load_n(a.key + r * width + f, n), n);
      cache_put(*a.cache, a.row[r], a.layer, true, f, load_n(a.value + r * width + f, n), n);
    }
}

void cache_fill(const CacheFillArgs& a, int worker, int workers) {
  const CacheLayout& c = *a.write.cache;
  const int64_t stride = (int64_t)c.heads * c.dim, bytes = panel_bytes(c.type, kPage);
  const Share s = share(a.pages * c.heads, worker, workers);
  for (int64_t i = s.first; i < s.last; ++i) {
    const int64_t first = a.page[i / c.heads], n = a.page[i / c.heads + 1] - first, head = i % c.heads;
    const Row& row = a.write.row[first];
    uint8_t* page = row.pages[row.position / kPage] + (a.write.layer * (int64_t)c.heads + head) * c.head_bytes();
    const float *key = a.write.key + first * stride + head * c.dim, *value = a.write.value + (key - a.write.key);
    pack({key, page, n, c.dim, stride, c.type, false}, 0, 1);
    for (int64_t d = 0; d < c.dim; d += 16)
      pack({value + d, page + c.key_bytes() + d / 16 * bytes, c.dim - d < 16 ? c.dim - d : 16, n, stride, c.type, true},
           0, 1);
  }
}

}  // namespace pyllm::PYLLM_ISA
