// softmax(scale q K^T) V over paged keys and values, grouped queries, causal or not.
//
// Defined once, as chunks of kChunk positions at absolute positions: each gives (maximum m, sum l, output o), merged in
// ascending order. Within a chunk o is the sum of its pages' products in order. Whoever computes a chunk, in whatever
// company, the bits are the same. A page that a query sees only in part is multiplied for that query alone, up to its
// own last position: masked values are never read.
#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/tiles.h"
#include "simd/math.h"

namespace pyllm::PYLLM_ISA {
namespace {

constexpr int kQueries = kTileRows;  // query vectors of one register tile

int64_t padded(const CacheLayout& c) { return panels(c.dim) * 16; }
int64_t slot(const CacheLayout& c) { return 16 + padded(c); }  // m and l, then o on a line of its own
int64_t query_bytes(const CacheLayout& c) { return (padded(c) * 4 + 63) / 64 * 64; }

struct Queries {  // kQueries query vectors of one key/value head and one segment
  const AttentionArgs& a;
  int64_t head;  // key/value head
  int count;
  int64_t row[kQueries], query_head[kQueries], limit[kQueries], begin[kQueries];  // positions begin..limit are seen
  uint8_t* query;                                                                 // (count, query_bytes)
  float* score;                                                                   // (count, kChunk)
  uint8_t* weight;                                                                // (count, kChunk) in the cache's type
  float* out;  // (count, padded dim): product of one page
};

const uint8_t* head_of(const Queries& t, int64_t page) {
  const CacheLayout& c = *t.a.cache;
  return t.a.row[t.row[0]].pages[page] + (t.a.layer * (int64_t)c.heads + t.head) * c.head_bytes();
}

void load_queries(Queries& t) {
  const CacheLayout& c = *t.a.cache;
  alignas(64) float q[16];
  for (int i = 0; i < t.count; ++i) {
    const float* x = t.a.q + t.row[i] * t.a.q_stride + t.query_head[i] * c.dim;
    uint8_t* p = t.query + i * query_bytes(c);
    for (int64_t d = 0; d < c.dim; d += 16) {
      f32v v = mul(load_n(x + d, c.dim - d < 16 ? (int)(c.dim - d) : 16), set1(t.a.scale));
      store(q, v);
      if (c.type == Type::F32) memcpy(p + d * 4, q, 64);
      else store_bf16((uint16_t*)p + d, v);
    }
  }
}

// Scores of the chunk's positions up to the largest limit, in panels of 16 positions.
void scores(Queries& t, int64_t chunk, int64_t positions) {
  const CacheLayout& c = *t.a.cache;
  int64_t bytes = panel_bytes(c.type, c.dim);
  for (int r = 0; r < t.count;) {
    TileSize s = {1, 1};
    for (int64_t n = 0; n < positions; n += s.panels * 16) {
      int64_t in_page = (kPage - n % kPage) / 16, left = (positions - n + 15) / 16;
      s = tile_size(t.count - r, in_page < left ? in_page : left, float_limit(t.count - r));
      const uint8_t *row[kMaxRows], *panel[kMaxPanels];
      const uint8_t* keys = head_of(t, (chunk * kChunk + n) / kPage) + n % kPage / 16 * bytes;
      for (int i = 0; i < s.rows; ++i) row[i] = t.query + (r + i) * query_bytes(c);
      for (int i = 0; i < s.panels; ++i) panel[i] = keys + i * bytes;
      alignas(64) float local[kMaxRows * kMaxPanels * 16];
      float_tile(c.type, s)(row, panel, c.dim, 0, local);
      for (int i = 0; i < s.rows; ++i)
        memcpy(t.score + (r + i) * kChunk + n, local + i * s.panels * 16, (size_t)s.panels * 64);
    }
    r += s.rows;
  }
}

// weight = exp(score - m) over positions [from, to) of the chunk, zero elsewhere up to the page's end; gives m and l.
void soften(Queries& t, int i, int64_t from, int64_t to, float* m, float* l) {
  const Type type = t.a.cache->type;
  float* s = t.score + i * kChunk;
  f32v top = set1(-INFINITY), total = set1(0), none = set1(-INFINITY);
  for (int64_t n = from / 16 * 16; n < to; n += 16) {
    f32v v = below((int)(to - n < 16 ? to - n : 16), load(s + n), none);
    if (n < from) v = below((int)(from - n), none, v);
    store(s + n, v);
    top = max(top, v);
  }
  *m = max_of(top);
  f32v shift = set1(*m);
  for (int64_t n = 0; n < (to + kPage - 1) / kPage * kPage; n += 16) {
    f32v e = n < to && n + 16 > from ? exp(sub(load(s + n), shift)) : set1(0);
    if (n < to && n + 16 > from) {
      e = below((int)(to - n < 16 ? to - n : 16), e, set1(0));  // exp(-inf) is exp(-104), not nothing
      if (n < from) e = below((int)(from - n), set1(0), e);
    }
    total = add(total, e);
    if (type == Type::F32) store((float*)t.weight + i * kChunk + n, e);
    else store_bf16((uint16_t*)t.weight + i * kChunk + n, e);
  }
  *l = sum(total);
}

// out rows [r, r+rows) += weights x values over positions [from, to) of a page that begins at in_chunk. bf16 keeps
// positions in pairs: where the range begins or ends inside one, its other half is masked.
void page_product(Queries& t, int r, int rows, int64_t page, int64_t in_chunk, int64_t from, int64_t to) {
  const CacheLayout& c = *t.a.cache;
  const uint8_t* values = head_of(t, page) + c.key_bytes();
  const bool pairs = c.type == Type::BF16;
  const int64_t bytes = panel_bytes(c.type, kPage), element = pairs ? 2 : 4, step = pairs ? 32 : 64;
  const int64_t lead = pairs && from % 2, tail = pairs && to % 2, begin = from + lead;
  for (int done = 0; done < rows;) {
    TileSize s = {1, 1};
    for (int64_t p = 0; p < panels(c.dim); p += s.panels) {
      s = tile_size(rows - done, panels(c.dim) - p, float_limit(rows - done));
      const uint8_t *row[kMaxRows], *panel[kMaxPanels];
      for (int i = 0; i < s.rows; ++i) row[i] = t.weight + ((r + done + i) * kChunk + in_chunk + begin) * element;
      for (int i = 0; i < s.panels; ++i) panel[i] = values + (p + i) * bytes + begin * step;
      alignas(64) float local[kMaxRows * kMaxPanels * 16];
      float_tile(c.type, s)(row, panel, to - tail - begin, 0, local);
      for (int i = 0; i < s.rows; ++i)
        for (int k = 0; k < s.panels; ++k) {
          f32v y = load(local + (i * s.panels + k) * 16);
          const uint16_t* weight = (const uint16_t*)(row[i] - begin * element);
          const uint8_t* value = panel[k] - begin * step;
          if (tail) y = dot_bf16(y, first_of_pairs(load_u8(value + (to - 1) * step)), pair(weight + to - 1));
          if (lead) y = dot_bf16(y, second_of_pairs(load_u8(value + (from - 1) * step)), pair(weight + from - 1));
          float* o = t.out + (r + done + i) * padded(c) + (p + k) * 16;
          store(o, add(load(o), y));
        }
    }
    done += s.rows;
  }
}

// One chunk for all queries of the tile. m and l go to `stats` (count, 2), the output to t.out.
void chunk_product(Queries& t, int64_t chunk, float* stats) {
  const int64_t start = chunk * kChunk;
  int64_t positions = t.limit[t.count - 1] + 1 - start;
  if (positions > kChunk) positions = kChunk;
  scores(t, chunk, positions);
  memset(t.out, 0, (size_t)(t.count * padded(*t.a.cache)) * 4);
  int64_t from[kQueries], to[kQueries];  // within the chunk; empty: 0, 0
  for (int i = 0; i < t.count; ++i) {
    to[i] = t.limit[i] + 1 - start > kChunk ? kChunk : t.limit[i] + 1 - start;
    from[i] = t.begin[i] - start < 0 ? 0 : t.begin[i] - start;
    if (from[i] >= to[i]) from[i] = to[i] = 0;
    if (to[i]) soften(t, i, from[i], to[i], stats + 2 * i, stats + 2 * i + 1);
    else stats[2 * i] = -INFINITY, stats[2 * i + 1] = 0;
  }
  for (int64_t n = 0; n < positions; n += kPage) {
    const int64_t page = (start + n) / kPage;
    for (int i = 0; i < t.count;) {
      int whole = 0;  // neighbours that see the whole page go together
      while (i + whole < t.count && from[i + whole] <= n && to[i + whole] >= n + kPage) ++whole;
      int64_t first = from[i] > n ? from[i] - n : 0, last = to[i] - n < kPage ? to[i] - n : kPage;
      if (whole) page_product(t, i, whole, page, n, 0, kPage);
      else if (first < last) page_product(t, i, 1, page, n, first, last);
      i += whole ? whole : 1;
    }
  }
}

// (m, l, o) at `into` takes in (m, l, o) of the next chunk.
void absorb(float* into, float m, float l, const float* o, int64_t width) {
  if (l == 0 && m == -INFINITY) return;
  if (into[1] == 0 && into[0] == -INFINITY) {
    into[0] = m, into[1] = l;
    for (int64_t d = 0; d < width; d += 16) store(into + 16 + d, load(o + d));
    return;
  }
  f32v top = max(set1(into[0]), set1(m));
  f32v old = exp(sub(set1(into[0]), top)), fresh = exp(sub(set1(m), top));
  alignas(64) float v[16];
  store(v, top);
  into[0] = v[0];
  store(v, fma(set1(into[1]), old, mul(set1(l), fresh)));
  into[1] = v[0];
  for (int64_t d = 0; d < width; d += 16) store(into + 16 + d, fma(load(into + 16 + d), old, mul(load(o + d), fresh)));
}

void write_out(const AttentionArgs& a, int64_t row, int64_t head, const float* from) {
  const int dim = a.cache->dim;
  float* out = a.out + row * a.out_stride + head * dim;
  f32v l = set1(from[1]);
  for (int d = 0; d < dim; d += 16) store_n(out + d, div(load(from + 16 + d), l), dim - d < 16 ? dim - d : 16);
}

float* partial(const AttentionArgs& a, int64_t row, int64_t head, int64_t chunk) {
  return a.partial + ((row * a.heads + head) * a.chunks + chunk) * slot(*a.cache);
}

Queries make_tile(const AttentionArgs& a, uint8_t* scratch, int64_t first_row, int64_t first, int64_t vectors,
                  int64_t head) {
  const CacheLayout& c = *a.cache;
  const int64_t group = a.heads / c.heads;
  Queries t = {a, head, 0, {}, {}, {}, {}, nullptr, nullptr, nullptr, nullptr};
  for (int64_t v = first; v < vectors && t.count < kQueries; ++v, ++t.count) {
    int64_t row = first_row + v / group;
    t.row[t.count] = row;
    t.query_head[t.count] = head * group + v % group;
    t.limit[t.count] = a.causal ? a.row[row].position : a.length - 1;
    int64_t begin = a.window ? a.row[row].position - a.window + 1 : 0;
    t.begin[t.count] = begin < 0 ? 0 : begin;
  }
  t.query = scratch;
  t.score = (float*)(t.query + kQueries * query_bytes(c));
  t.weight = (uint8_t*)(t.score + kQueries * kChunk);
  t.out = (float*)(t.weight + kQueries * kChunk * 4);
  load_queries(t);
  return t;
}

void run_chunk(Queries& t, int64_t chunk) {
  float stats[2 * kQueries];
  chunk_product(t, chunk, stats);
  const CacheLayout& c = *t.a.cache;
  for (int i = 0; i < t.count; ++i) {
    float* p = partial(t.a, t.row[i], t.query_head[i], t.a.split ? chunk : 0);
    if (t.a.split || chunk == 0) p[0] = -INFINITY, p[1] = 0;
    absorb(p, stats[2 * i], stats[2 * i + 1], t.out + i * padded(c), padded(c));
  }
}

}  // namespace

int64_t attention_scratch(const AttentionArgs& a) {
  const CacheLayout& c = *a.cache;
  return kQueries * (query_bytes(c) + kChunk * 8 + padded(c) * 4);
}

// Tasks: key/value head x tile of queries, and when split x chunk; dealt in turn, since later rows see more.
void attention(const AttentionArgs& a, int worker, int workers) {
  uint8_t* scratch = a.scratch + worker * a.scratch_stride;
  const int64_t group = a.heads / a.cache->heads;
  int64_t task = 0;
  for (int64_t s = 0; s < a.segments; ++s) {
    int64_t first = a.segment[s], vectors = (a.segment[s + 1] - first) * group;
    for (int64_t v = 0; v < vectors; v += kQueries)
      for (int64_t head = 0; head < a.cache->heads; ++head) {
        int64_t last_vector = v + kQueries < vectors ? v + kQueries : vectors;
        int64_t last_row = first + (last_vector - 1) / group;
        int64_t chunks = ((a.causal ? a.row[last_row].position : a.length - 1) + kChunk) / kChunk;
        if (!a.split) {
          if (task++ % workers != worker) continue;
          Queries t = make_tile(a, scratch, first, v, vectors, head);
          for (int64_t c = 0; c < chunks; ++c) run_chunk(t, c);
          for (int i = 0; i < t.count; ++i)
            write_out(a, t.row[i], t.query_head[i], partial(a, t.row[i], t.query_head[i], 0));
        } else {
          for (int64_t c = 0; c < chunks; ++c) {
            if (task++ % workers != worker) continue;
            Queries t = make_tile(a, scratch, first, v, vectors, head);
            run_chunk(t, c);
          }
        }
      }
  }
}

void merge(const AttentionArgs& a, int worker, int workers) {
  Share s = share(a.rows * a.heads, worker, workers);
  for (int64_t i = s.first; i < s.last; ++i) {
    int64_t row = i / a.heads, head = i % a.heads;
    int64_t chunks = ((a.causal ? a.row[row].position : a.length - 1) + kChunk) / kChunk;
    float* into = partial(a, row, head, 0);
    for (int64_t c = 1; c < chunks; ++c) {
      const float* p = partial(a, row, head, c);
      absorb(into, p[0], p[1], p + 16, padded(*a.cache));
    }
    write_out(a, row, head, into);
  }
}

void cache_write(const CacheWriteArgs& a, int worker, int workers) {
  Share s = share(a.rows, worker, workers);
  const int64_t width = (int64_t)a.cache->heads * a.cache->dim;
  for (int64_t r = s.first; r < s.last; ++r)
    for (int64_t f = 0; f < width; ++f) {
      cache_put(*a.cache, a.row[r], a.layer, false, f, a.key[r * width + f]);
      cache_put(*a.cache, a.row[r], a.layer, true, f, a.value[r * width + f]);
    }
}

}  // namespace pyllm::PYLLM_ISA
