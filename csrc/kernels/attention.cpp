// softmax(cap(scale q K^T)) V over paged keys and values, grouped queries, causal or not.
//
// Defined once, as chunks of kChunk positions at absolute positions: each gives (maximum m, sum l, output o), merged in
// ascending order. Within a chunk o is summed position by position (bf16: pair by pair). Whoever computes a chunk, in
// whatever company, the bits are the same. Positions that not all queries of a tile see are multiplied for each query
// alone: masked values are never read.
#include "kernels/attention.h"
#include "kernels/cache.h"
#include "kernels/draws.h"
#include "kernels/tiles.h"
#include "simd/math.h"

namespace pyllm::PYLLM_ISA {
namespace {

constexpr int kQueries = kTileRows;  // query vectors of one register tile

int64_t padded(const CacheLayout& c) { return panels(c.dim) * 16; }
int64_t slot(const CacheLayout& c) { return 16 + padded(c); }  // m and l, then o on a line of its own
// Rows of a tile are an odd number of lines apart, or they would share cache sets.
constexpr int64_t odd_lines(int64_t bytes) { return ((bytes + 63) / 64 | 1) * 64; }
constexpr int64_t kScoreBytes = odd_lines(kChunk * 4);
int64_t query_bytes(const CacheLayout& c) { return odd_lines(padded(c) * 4); }
int64_t weight_bytes(const CacheLayout& c) { return odd_lines(kChunk * (c.type == Type::F32 ? 4 : 2)); }
int64_t element(const CacheLayout& c) { return c.type == Type::F32 ? 4 : 2; }

// Pages of one key/value head from `first` on, as far as there are any.
struct Place {
  const Row* row;  // null: nothing
  int64_t head, first, pages;
};

struct Queries {  // kQueries query vectors of one key/value head and one segment
  const AttentionArgs& a;
  int64_t head;  // key/value head
  int count;
  int64_t row[kQueries], query_head[kQueries], limit[kQueries], begin[kQueries];  // positions begin..limit are seen
  uint8_t* query;                                                                 // (count, query_bytes)
  uint8_t* score;                                                                 // (count, kScoreBytes) of floats
  uint8_t* weight;                                                                // (count, weight_bytes)
  float* out;                                                                     // (count, padded dim)
  uint8_t *keys, *values;  // panels of a page of Q8_0, of values_page those of the values
  int64_t values_page;
  Place next;                   // what will be read after this chunk
  const float* bias[kQueries];  // what is added to the score of a query's key 0, and of those behind it; or null
  float* scores(int i) const { return (float*)(score + i * kScoreBytes); }
};

// Where a page's keys and values are stored, and the panels to multiply them as.
PYLLM_INLINE const uint8_t* keys_at(const AttentionArgs& a, const Row& row, int64_t head, int64_t page) {
  return row.pages[page] + (a.layer * (int64_t)a.cache->heads + head) * a.cache->head_bytes();
}
PYLLM_INLINE const uint8_t* keys_of(const Queries& t, int64_t page) {
  return keys_at(t.a, t.a.row[t.row[0]], t.head, page);
}
PYLLM_INLINE const uint8_t* values_of(const Queries& t, int64_t page) {
  return keys_of(t, page) + t.a.cache->key_bytes();
}
const uint8_t* key_panels(Queries& t, int64_t page) {
  if (t.a.cache->type != Type::Q8_0) return keys_of(t, page);
  expand_keys(*t.a.cache, keys_of(t, page), t.keys);
  return t.keys;
}
const uint8_t* value_panels(Queries& t, int64_t page) {
  if (t.a.cache->type != Type::Q8_0) return values_of(t, page);
  if (t.values_page != page) expand_values(*t.a.cache, values_of(t, page), t.values);
  t.values_page = page;
  return t.values;
}
// Few queries are bound by memory. While keys are multiplied, the same page's values are fetched; while values are, the
// keys of what comes after this chunk. Q8_0 is read while it is made panels, and needs no more.
int64_t distance(const Queries& t, const uint8_t* from, const uint8_t* to) {
  return t.a.cache->type == Type::Q8_0 ? 0 : to - from;
}
int64_t to_next_keys(const Queries& t, const uint8_t* from, int64_t page) {
  const Place& n = t.next;
  return n.row && page < n.pages ? distance(t, from, keys_at(t.a, *n.row, n.head, n.first + page)) : 0;
}

void load_queries(Queries& t) {
  const CacheLayout& c = *t.a.cache;
  for (int i = 0; i < t.count; ++i) {
    const float* x = t.a.q + t.row[i] * t.a.q_stride + t.query_head[i] * c.dim;
    uint8_t* p = t.query + i * query_bytes(c);
    for (int64_t d = 0; d < c.dim; d += 16) {
      f32v v = mul(load_n(x + d, c.dim - d < 16 ? (int)(c.dim - d) : 16), set1(t.a.scale));
      if (c.type == Type::F32) store((float*)p + d, v);
      else store_bf16((uint16_t*)p + d, v);
    }
  }
}

// Scores of the chunk's positions from a page on up to `positions`.
void scores(Queries& t, int64_t chunk, int64_t page, int64_t positions) {
  const CacheLayout& c = *t.a.cache;
  const int64_t bytes = panel_bytes(c.panel_type(), c.dim), first = chunk * (kChunk / kPage),
                pages = (positions + kPage - 1) / kPage;
  TileArgs a = {};
  a.row_stride = query_bytes(c), a.k = c.dim, a.out_stride = kScoreBytes / 4;
  for (; page < pages; ++page) {
    const uint8_t* keys = key_panels(t, first + page);
    const int64_t left = (positions - page * kPage + 15) / 16, count = left < kPage / 16 ? left : kPage / 16;
    a.ahead = distance(t, keys, values_of(t, first + page));
    for (int r = 0; r < t.count;) {
      TileSize s = {1, 1};
      for (int64_t n = 0; n < count; n += s.panels) {
        s = tile_size(t.count - r, count - n, float_limit(t.count - r));
        a.rows = t.query + r * a.row_stride;
        for (int i = 0; i < s.panels; ++i) a.panel[i] = keys + (n + i) * bytes;
        a.out = t.scores(r) + page * kPage + n * 16;
        float_tile(c.panel_type(), s)(a);
      }
      r += s.rows;
    }
  }
}

// Positions [from, to) of the chunk, which a query sees.
struct Range {
  int64_t from, to;
};

// Of 16 positions from n on, `inside` for those within the range.
PYLLM_INLINE f32v seen(const Range& r, int64_t n, f32v inside, f32v outside) {
  if (r.to - n < 16) inside = below((int)(r.to - n), inside, outside);
  return n < r.from ? below((int)(r.from - n), outside, inside) : inside;
}

// The scores of a query get what is learned for the distances of its keys.
void add_bias(Queries& t, int i, const Range& r, int64_t start) {
  float* s = t.scores(i);
  const float* bias = t.bias[i] + start;
  for (int64_t n = r.from / 16 * 16; n < r.to; n += 16)
    store(s + n, add(load(s + n), load_n(bias + n, r.to - n < 16 ? (int)(r.to - n) : 16)));
}

// m of a query, its scores capped before. Apart from the weights, so that these need not wait for one query's m after
// the other.
float maximum(Queries& t, int i, const Range& r) {
  float* s = t.scores(i);
  f32v top = set1(-INFINITY);
  for (int64_t n = r.from / 16 * 16; n < r.to; n += 16) {
    if (t.a.softcap) store(s + n, softcap(load(s + n), t.a.softcap));
    top = max(top, seen(r, n, load(s + n), set1(-INFINITY)));
  }
  return max_of(top);
}

// weight = exp(score - m); gives their sum l.
float soften(Queries& t, int i, const Range& r, float m) {
  const Type type = t.a.cache->type;
  const float* s = t.scores(i);
  uint8_t* w = t.weight + i * weight_bytes(*t.a.cache);
  const f32v shift = set1(m);
  f32v total = set1(0);
  for (int64_t n = r.from / 16 * 16; n < r.to; n += 16) {
    f32v e = seen(r, n, exp_to_one(sub(load(s + n), shift)), set1(0));
    total = add(total, e);
    if (type == Type::F32) store((float*)w + n, e);
    else store_bf16_normal((uint16_t*)w + n, e);
  }
  return sum(total);
}

// Weights that are dropped become zeros, behind their sum; write_out has the others' factor.
template <class T> void drop(Queries& t, int i, const Range& r, int64_t start) {
  alignas(64) float factor[kPlaces];
  T* w = (T*)(t.weight + i * weight_bytes(*t.a.cache));
  for (int64_t n = r.from / kPlaces * kPlaces; n < r.to; n += kPlaces) {
    factors_of_keys(*t.a.drop, t.row[i], t.query_head[i], start + n, factor);
    for (int j = 0; j < kPlaces; ++j) w[n + j] = factor[j] != 0 ? w[n + j] : T(0);
  }
}

// out of queries [r, r + rows) += weights x values over positions [from, to) of the chunk. bf16 keeps positions in
// pairs: where the range begins or ends inside one, its other half is masked.
void values(Queries& t, int64_t chunk, int r, int rows, int64_t from, int64_t to) {
  const CacheLayout& c = *t.a.cache;
  const int64_t bytes = panel_bytes(c.panel_type(), kPage), pairs = c.type == Type::F32 ? 1 : 2;
  const int64_t step = pairs == 1 ? 64 : 32;  // bytes of a panel per position
  TileArgs a = {};
  a.row_stride = weight_bytes(c), a.out_stride = padded(c), a.add = true;
  for (int64_t n = from; n < to;) {
    const int64_t page = n / kPage, end = (page + 1) * kPage < to ? (page + 1) * kPage : to;
    const int64_t place = chunk * (kChunk / kPage) + page;
    const uint8_t* v = value_panels(t, place);
    const int64_t lead = pairs == 2 && n % 2, begin = n + lead, tail = pairs == 2 && end % 2 && end > begin;
    a.k = end - tail - begin;
    a.ahead = to_next_keys(t, v, page);
    const auto half = [&](int i, int64_t p, int64_t at,
                          bool second) {  // one position that shares its pair with a masked one
      u8v pair_of_values = load_u8(v + p * bytes + at % kPage / 2 * 64);
      const uint16_t* w = (const uint16_t*)(t.weight + (r + i) * a.row_stride) + at / 2 * 2;
      float* o = t.out + (r + i) * a.out_stride + p * 16;
      store(o, dot_bf16(load(o), second ? second_of_pairs(pair_of_values) : first_of_pairs(pair_of_values), pair(w)));
    };
    for (int i = 0; lead && i < rows; ++i)
      for (int64_t p = 0; p < panels(c.dim); ++p) half(i, p, n, true);
    for (int i = 0; a.k && i < rows;) {
      TileSize s = {1, 1};
      for (int64_t p = 0; p < panels(c.dim); p += s.panels) {
        s = tile_size(rows - i, panels(c.dim) - p, float_limit(rows - i));
        a.rows = t.weight + (r + i) * a.row_stride + begin * element(c);
        for (int k = 0; k < s.panels; ++k) a.panel[k] = v + (p + k) * bytes + begin % kPage * step;
        a.out = t.out + (r + i) * a.out_stride + p * 16;
        float_tile(c.panel_type(), s)(a);
      }
      i += s.rows;
    }
    for (int i = 0; tail && i < rows; ++i)
      for (int64_t p = 0; p < panels(c.dim); ++p) half(i, p, end - 1, false);
    n = end;
  }
}

// One chunk for all queries of the tile. m and l go to `stats` (count, 2), the output to t.out. Positions that all see
// are multiplied together, the few before and after them query by query: the order of a query's sum is the same.
void chunk_product(Queries& t, int64_t chunk, float* stats) {
  const int64_t start = chunk * kChunk;
  int64_t positions = t.limit[t.count - 1] + 1 - start;
  if (positions > kChunk) positions = kChunk;
  const int64_t unseen = t.begin[0] < start ? 0 : t.begin[0] - start;  // pages before the first window stay unread
  if (unseen < positions) scores(t, chunk, unseen / kPage, positions);
  memset(t.out, 0, (size_t)(t.count * padded(*t.a.cache)) * 4);
  Range range[kQueries];
  int64_t common = 0, until = kChunk;
  int first = t.count, last = 0;  // queries that see anything here; limits ascend, so they are neighbours
  for (int i = 0; i < t.count; ++i) {
    Range& r = range[i];
    r.to = t.limit[i] + 1 - start > kChunk ? kChunk : t.limit[i] + 1 - start;
    r.from = t.begin[i] - start < 0 ? 0 : t.begin[i] - start;
    stats[2 * i] = -INFINITY, stats[2 * i + 1] = 0;
    if (r.from >= r.to) continue;
    if (t.a.bias) add_bias(t, i, r, start);
    stats[2 * i] = maximum(t, i, r);
    first = i < first ? i : first, last = i + 1;
    common = r.from > common ? r.from : common, until = r.to < until ? r.to : until;
  }
  for (int i = first; i < last; ++i) stats[2 * i + 1] = soften(t, i, range[i], stats[2 * i]);
  for (int i = first; t.a.drop && i < last; ++i)
    if (t.a.cache->type == Type::F32) drop<float>(t, i, range[i], start);
    else drop<uint16_t>(t, i, range[i], start);
  common = (common + 1) / 2 * 2, until = until / 2 * 2;
  if (common >= until) common = until = 0;
  for (int i = first; i < last; ++i)
    if (range[i].from < common) values(t, chunk, i, 1, range[i].from, common);
  if (until) values(t, chunk, first, last - first, common, until);
  for (int i = first; i < last; ++i) {
    const int64_t from = until ? until : range[i].from;
    if (from < range[i].to) values(t, chunk, i, 1, from, range[i].to);
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

void write_out(const AttentionArgs& a, int64_t row, int64_t head, float m, float l, const float* o) {
  const int dim = a.cache->dim;
  float* out = a.out + row * a.out_stride + head * dim;
  const f32v total = set1(a.drop ? l / a.drop->draw.factor : l);
  for (int d = 0; d < dim; d += 16) store_n(out + d, div(load(o + d), total), dim - d < 16 ? dim - d : 16);
  if (a.lse) a.lse[row * a.heads + head] = m + logf(l);
}
void write_merged(const AttentionArgs& a, int64_t row, int64_t head, const float* from) {
  write_out(a, row, head, from[0], from[1], from + 16);
}

float* partial(const AttentionArgs& a, int64_t row, int64_t head, int64_t chunk) {
  return a.partial + ((row * a.heads + head) * a.chunks + chunk) * slot(*a.cache);
}

Queries make_tile(const AttentionArgs& a, uint8_t* scratch, int64_t first_row, int64_t first, int64_t vectors,
                  int64_t head) {
  const CacheLayout& c = *a.cache;
  const int64_t group = a.heads / c.heads;
  Queries t = {a, head, 0, {}, {}, {}, {}, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, -1, {}, {}};
  for (int64_t v = first; v < vectors && t.count < kQueries; ++v, ++t.count) {
    int64_t row = first_row + v / group;
    t.row[t.count] = row;
    t.query_head[t.count] = head * group + v % group;
    t.limit[t.count] = a.causal ? a.row[row].position : a.length - 1;
    int64_t begin = a.window ? a.row[row].position - a.window + 1 : 0;
    t.begin[t.count] = begin < 0 ? 0 : begin;
    if (a.bias) t.bias[t.count] = a.bias + t.query_head[t.count] * a.bias_stride + a.bias_zero - (row - first_row);
  }
  t.query = scratch;
  t.score = t.query + kQueries * query_bytes(c);
  t.weight = t.score + kQueries * kScoreBytes;
  t.out = (float*)(t.weight + kQueries * weight_bytes(c));
  t.keys = (uint8_t*)(t.out + kQueries * padded(c));
  t.values = t.keys + c.key_panels();
  load_queries(t);
  return t;
}

// The only chunk of its queries: nothing is to be merged with it.
void write_chunk(Queries& t) {
  float stats[2 * kQueries];
  chunk_product(t, 0, stats);
  for (int i = 0; i < t.count; ++i)
    write_out(t.a, t.row[i], t.query_head[i], stats[2 * i], stats[2 * i + 1], t.out + i * padded(*t.a.cache));
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

// Chunks [begin, end) for a tile of the queries of a key/value head and of the segment that begins at row `first`.
struct Task {
  int64_t first, vector, vectors, head, begin, end;
};

template <class F> void each_task(const AttentionArgs& a, F f) {
  const int64_t group = a.heads / a.cache->heads;
  for (int64_t s = 0; s < a.segments; ++s) {
    const int64_t first = a.segment[s], vectors = (a.segment[s + 1] - first) * group;
    for (int64_t head = 0; head < a.cache->heads; ++head)
      for (int64_t v = 0; v < vectors; v += kQueries) {
        int64_t last_row = first + ((v + kQueries < vectors ? v + kQueries : vectors) - 1) / group;
        int64_t last = a.causal ? a.row[last_row].position : a.length - 1;
        f(Task{first, v, vectors, head, 0, (last + kChunk) / kChunk});
      }
  }
}

Place place(const AttentionArgs& a, const Task& task, int64_t chunk) {
  const Row& row = a.row[task.first];
  const int64_t last = a.causal ? row.position : a.length - 1, first = chunk * (kChunk / kPage);
  return {&row, task.head, first, last / kPage + 1 - first};
}

void run_task(const AttentionArgs& a, uint8_t* scratch, const Task& task, const Place& next) {
  Queries t = make_tile(a, scratch, task.first, task.vector, task.vectors, task.head);
  if (!a.split && task.end == 1) {
    t.next = next;
    return write_chunk(t);
  }
  for (int64_t c = task.begin; c < task.end; ++c) {
    t.next = c + 1 < task.end ? place(a, task, c + 1) : next;
    run_chunk(t, c);
  }
  for (int i = 0; !a.split && i < t.count; ++i)
    write_merged(a, t.row[i], t.query_head[i], partial(a, t.row[i], t.query_head[i], 0));
}

}  // namespace

int64_t attention_scratch(const AttentionArgs& a) {
  const CacheLayout& c = *a.cache;
  const int64_t pages = c.type == Type::Q8_0 ? c.key_panels() + c.value_panels() : 0;
  return kQueries * (query_bytes(c) + kScoreBytes + weight_bytes(c) + padded(c) * 4) + pages;
}

// Tasks: segment x key/value head x tile of queries, and when split x chunk. Whole tiles are dealt in turn, since later
// rows see more; chunks go in runs, so that a worker reads on where it was. A task runs when the one after it is known.
void attention(const AttentionArgs& a, int worker, int workers) {
  uint8_t* scratch = a.scratch + worker * a.scratch_stride;
  Task held = {};
  const auto take = [&](const Task& task) {
    if (held.end) run_task(a, scratch, held, place(a, task, task.begin));
    held = task;
  };
  int64_t tasks = 0, at = 0;
  if (a.split) {
    each_task(a, [&](const Task& task) { tasks += task.end; });
    const Share mine = share(tasks, worker, workers);
    each_task(a, [&](Task task) {
      const int64_t chunks = task.end;
      task.begin = mine.first > at ? mine.first - at : 0;
      task.end = mine.last - at < chunks ? mine.last - at : chunks;
      at += chunks;
      if (task.begin < task.end) take(task);
    });
  } else {
    each_task(a, [&](const Task& task) {
      if (at++ % workers == worker) take(task);
    });
  }
  if (held.end) run_task(a, scratch, held, {});
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
    write_merged(a, row, head, into);
  }
}

}  // namespace pyllm::PYLLM_ISA
