#include "kernels/cache.h"

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
  alignas(64) float numbers[16];  // heads whose width is no multiple of 16 share vectors
  store(numbers, x);
  for (int i = 0; i < n; ++i) {
    int64_t f = feature + i;
    put_number(c, layer_heads + f / c.dim * c.head_bytes(), value, f % c.dim, at, numbers[i]);
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

}  // namespace pyllm::PYLLM_ISA
