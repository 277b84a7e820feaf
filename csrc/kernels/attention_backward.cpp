// The way back through attention: dq, dk and dv from dout, the scores made once more from q, k and the forward's lse.
//
//   P = exp(S - lse), dV = P^T dO, dP = dO V^T, dS = P * (dP - rowsum(dO * O)), dQ = scale dS K, dK = scale dS^T Q
//
// and where distances have a bias, which S has got: dB[key - query] += dS. Where weights are dropped, by factors M:
// dV = (P * M)^T dO, dP = M * (dO V^T).
//
// Queries of a sequence see the keys of the sequence of that number: its own (causal or not), or another's.
//
// A task is a sequence and a key/value head: the heads of its group, blocks of keys, within them blocks of queries.
// The scores of a block stand by queries; dK and dV are summed by features, and turned when they are written. Who does
// a task, and in whatever company, changes none of its sums.
#include "kernels/attention.h"
#include "kernels/draws.h"
#include "kernels/panels.h"
#include "kernels/tiles.h"
#include "simd/math.h"

namespace pyllm::PYLLM_ISA {
namespace {

static_assert(kPlaces == 64);              // the keys of a block: their factors are drawn at once
constexpr int64_t kKeys = 64, kRows = 96;  // of a block; both even, since bf16 keeps pairs

constexpr int64_t odd_lines(int64_t bytes) { return ((bytes + 63) / 64 | 1) * 64; }
constexpr int64_t kScoreStride = odd_lines(kKeys * 4) / 4;

// The operands of a task, in scratch. `rows` are what a tile broadcasts, panels what it multiplies with; `turned` rows
// are features over tokens.
struct Operands {
  Type type;
  Matrix* matrix;
  int64_t element, queries, length, dim;       // bytes of a number, query rows, keys, features
  int64_t key_panel, key_features;             // bytes from panel to panel: 16 keys, 16 features of all keys
  int64_t row_stride, turned_stride;           // bytes
  int64_t dq_stride, sum_stride;               // floats
  uint8_t *keys, *values, *features;           // panels of 16 keys; K as panels of 16 features
  uint8_t *q, *dout, *q_turned, *dout_turned;  // of one query head, q times scale
  float *dq, *dk, *dv, *delta;                 // dk and dv (features, keys); delta = rowsum(dO * O)
  float *score, *slope;                        // a block: S, dP
  uint8_t *p_panels, *ds_panels, *ds_rows;     // a block: P and dS as panels of 16 keys over queries, dS by queries
};

// Places in scratch one after the other; from null it only counts.
struct Places {
  uint8_t* at;
  int64_t used;
  uint8_t* take(int64_t bytes) {
    uint8_t* p = at + used;
    used += (bytes + 63) / 64 * 64;
    return p;
  }
};

Operands lay_out(const AttentionBackwardArgs& a, int64_t queries, int64_t length, Places& to) {
  Operands o = {};
  o.type = a.type, o.element = a.type == Type::F32 ? 4 : 2, o.dim = a.dim;
  o.queries = queries, o.length = length;
  const int64_t wide = panels(a.dim) * 16, long_ = panels(length) * 16, rows = panels(queries) * 16;
  o.key_panel = panel_bytes(a.type, (a.dim + 1) / 2 * 2), o.key_features = panel_bytes(a.type, long_);
  o.row_stride = odd_lines(wide * o.element), o.turned_stride = odd_lines(rows * o.element);
  o.dq_stride = odd_lines(wide * 4) / 4, o.sum_stride = odd_lines((long_ + kKeys) * 4) / 4;
  o.keys = to.take(panels(length) * o.key_panel), o.values = to.take(panels(length) * o.key_panel);
  o.features = to.take(panels(a.dim) * o.key_features);
  o.q = to.take(queries * o.row_stride), o.dout = to.take(queries * o.row_stride);
  o.q_turned = to.take(wide * o.turned_stride), o.dout_turned = to.take(wide * o.turned_stride);
  o.dq = (float*)to.take(queries * o.dq_stride * 4);
  o.dk = (float*)to.take(wide * o.sum_stride * 4), o.dv = (float*)to.take(wide * o.sum_stride * 4);
  o.delta = (float*)to.take(queries * 4);
  o.score = (float*)to.take(kRows * kScoreStride * 4), o.slope = (float*)to.take(kRows * kScoreStride * 4);
  o.p_panels = to.take(kKeys / 16 * panel_bytes(a.type, kRows));
  o.ds_panels = to.take(kKeys / 16 * panel_bytes(a.type, kRows));
  o.ds_rows = to.take(kRows * kScoreStride * 4);
  return o;
}

// Operands of products: the CPU's own rounding to bf16 takes subnormal numbers for zero, and so do its products.
PYLLM_INLINE void put_numbers(Type type, uint8_t* out, int64_t at, f32v x) {
  if (type == Type::F32) store((float*)out + at, x);
  else store_bf16_normal((uint16_t*)out + at, x);
}

// Numbers of a panel at two consecutive k.
PYLLM_INLINE void put_pair(Type type, uint8_t* panel, int64_t k, f32v first, f32v second) {
  if (type == Type::BF16) return store_bf16_pairs_normal(panel + k * 32, first, second);
  store((float*)panel + k * 16, first);
  store((float*)panel + k * 16 + 16, second);
}

// Numbers [d, d + n), 16 at most, of 16 tokens from t on, times scale, zeros where there are none. The lines of the
// tokens after them are fetched meanwhile: they lie far apart.
PYLLM_INLINE void read_block(int64_t length, int64_t n, const float* x, int64_t stride, int64_t t, int64_t d,
                             float scale, float (&block)[16][16]) {
  const f32v factor = set1(scale);
  for (int i = 0; i < 16; ++i) {
    const float* from = x + (t + i) * stride + d;
    if (t + 16 + i < length) prefetch(from + 16 * stride);
    if (t + i >= length) store(block[i], set1(0));
    else store(block[i], mul(n < 16 ? load_n(from, (int)n) : load(from), factor));
  }
}

// 16 tokens of x (queries, dim) as rows, and as rows of features over tokens; both filled with zeros to whole vectors.
void place_rows(const Operands& o, const float* x, int64_t stride, int64_t t, float scale, uint8_t* rows,
                uint8_t* turned) {
  alignas(64) float block[16][16], back[16][16];
  for (int64_t d = 0; d < o.dim; d += 16) {
    read_block(o.queries, o.dim - d, x, stride, t, d, scale, block);
    for (int64_t i = 0; i < 16 && t + i < o.queries; ++i)
      put_numbers(o.type, rows + (t + i) * o.row_stride, d, load(block[i]));
    transpose16(block[0], 16, back[0]);
    for (int i = 0; i < 16; ++i) put_numbers(o.type, turned + (d + i) * o.turned_stride, t, load(back[i]));
  }
}

// 16 tokens of x as a panel over features, and if they are wanted as the panels of 16 features over tokens.
void place_panels(const Operands& o, const float* x, int64_t stride, int64_t t, uint8_t* panel, uint8_t* features) {
  alignas(64) float block[16][16], back[16][16];
  for (int64_t d = 0; d < o.dim; d += 16) {
    read_block(o.length, o.dim - d, x, stride, t, d, 1, block);
    transpose16(block[0], 16, back[0]);
    for (int i = 0; i < 16 && d + i < o.dim; i += 2) put_pair(o.type, panel, d + i, load(back[i]), load(back[i + 1]));
    for (int i = 0; features && i < 16; i += 2)
      put_pair(o.type, features + d / 16 * o.key_features, t + i, load(block[i]), load(block[i + 1]));
  }
}

// What the query heads of a group share.
void place_keys(const AttentionBackwardArgs& a, const Operands& o, int64_t first, int64_t group) {
  const int64_t stride = (int64_t)a.groups * a.dim, from = first * stride + group * a.dim;
  for (int64_t t = 0; t < o.length; t += 16) {
    place_panels(o, a.k + from, stride, t, o.keys + t / 16 * o.key_panel, o.features);
    place_panels(o, a.v + from, stride, t, o.values + t / 16 * o.key_panel, nullptr);
  }
}

void place_queries(const AttentionBackwardArgs& a, const Operands& o, int64_t first, int64_t head) {
  const int64_t stride = (int64_t)a.heads * a.dim, from = first * stride + head * a.dim;
  for (int64_t t = 0; t < o.queries; ++t) {
    if (t % 16 == 0) {
      place_rows(o, a.q + from, stride, t, a.scale, o.q, o.q_turned);
      place_rows(o, a.dout + from, stride, t, 1, o.dout, o.dout_turned);
    }
    const float *out = a.out + from + t * stride, *dout = a.dout + from + t * stride;
    f32v total = set1(0);
    for (int64_t d = 0; d < o.dim; d += 16) {
      const int n = o.dim - d < 16 ? (int)(o.dim - d) : 16;
      if (t + 16 < o.queries) prefetch(out + 16 * stride + d);
      total = fma(load_n(dout + d, n), load_n(out + d, n), total);
    }
    o.delta[t] = sum(total);
  }
  memset(o.dq, 0, (size_t)(o.queries * o.dq_stride) * 4);
}

// Keys [begin, begin + keys) against queries [first, first + rows) of a sequence.
struct Block {
  const AttentionBackwardArgs& a;
  int64_t begin, keys, first, rows;
  const float* bias;  // of distance 0, and of the others around it; or null
  float* dbias;
  // Of the block's keys a row sees [from, to); both ascend with the row.
  int64_t from(int64_t row) const {
    const int64_t unseen = a.window ? first + row - a.window + 1 - begin : 0;
    return unseen < 0 ? 0 : unseen > keys ? keys : unseen;
  }
  int64_t to(int64_t row) const {
    const int64_t seen = a.causal ? first + row + 1 - begin : keys;
    return seen < 0 ? 0 : seen > keys ? keys : seen;
  }
};

// One tile of rows times panels [p, end) that lie `bytes` apart; out begins at panel 0.
void multiply(Type type, TileArgs& t, int rows, const uint8_t* panel, int64_t bytes, int64_t p, int64_t end,
              float* out) {
  TileSize s = {1, 1};
  for (; p < end; p += s.panels) {
    s = product_size(type, rows, end - p);
    for (int i = 0; i < s.panels; ++i) t.panel[i] = panel + (p + i) * bytes;
    t.out = out + p * 16;
    product(type, s, t);
  }
}

// S = q K^T and dP = dO V^T, as far as the rows of a tile see keys.
void scores(const Block& b, const Operands& o) {
  TileArgs t = {};
  t.matrix = o.matrix;
  t.row_stride = o.row_stride, t.k = o.dim, t.out_stride = kScoreStride;
  const uint8_t *keys = o.keys + b.begin / 16 * o.key_panel, *values = o.values + b.begin / 16 * o.key_panel;
  for (int64_t r = 0; r < b.rows;) {
    const int rows = product_size(o.type, b.rows - r, 4).rows;
    const int64_t p = b.from(r) / 16, end = panels(b.to(r + rows - 1));
    t.rows = o.q + (b.first + r) * o.row_stride;
    multiply(o.type, t, rows, keys, o.key_panel, p, end, o.score + r * kScoreStride);
    t.rows = o.dout + (b.first + r) * o.row_stride;
    multiply(o.type, t, rows, values, o.key_panel, p, end, o.slope + r * kScoreStride);
    r += rows;
  }
}

// P and dS of 16 keys.
struct Pair {
  f32v p, ds;
};
PYLLM_INLINE Pair soften(f32v s, f32v dp, f32v lse, f32v delta, float cap) {
  f32v bend = set1(1);
  if (cap) bend = softcap_slope(s, cap), s = softcap(s, cap);
  const f32v p = exp_to_one(sub(s, lse));
  const f32v ds = mul(p, sub(dp, delta));
  return {p, cap ? mul(ds, bend) : ds};
}

// P and dS of 16 keys from n on and a row of the block: zeros where nothing is seen, and beyond the last row.
PYLLM_INLINE Pair soften_keys(const Block& b, const Operands& o, int64_t r, int64_t n, float lse, const float* factor) {
  const f32v zero = set1(0);
  const int64_t from = b.from(r), to = b.to(r);
  if (r >= b.rows || n >= to || n + 16 <= from) return {zero, zero};
  f32v s = load(o.score + r * kScoreStride + n);
  const int64_t distance = b.begin + n - b.first - r, count = to - n < 16 ? to - n : 16;
  if (b.bias) s = add(s, load_n(b.bias + distance, (int)count));
  f32v dp = load(o.slope + r * kScoreStride + n);
  if (b.a.drop) dp = mul(dp, load(factor + n));
  Pair x = soften(s, dp, set1(lse), set1(o.delta[b.first + r]), b.a.softcap);
  if (b.a.drop) x.p = mul(x.p, load(factor + n));
  if (b.bias) {
    float* into = b.dbias + distance;
    store_n(into, add(load_n(into, (int)count), x.ds), (int)count);
  }
  if (to - n < 16) x = {below((int)(to - n), x.p, zero), below((int)(to - n), x.ds, zero)};
  if (n < from) x = {below((int)(from - n), zero, x.p), below((int)(from - n), zero, x.ds)};
  return x;
}

// P and dS of the block from S and dP, two rows a time, since bf16 multiplies pairs of queries.
void soften(const Block& b, const Operands& o, int64_t head, int64_t sequence_first) {
  const int64_t bytes = panel_bytes(o.type, kRows);
  const float* lse = b.a.lse + (sequence_first + b.first) * b.a.heads + head;
  alignas(64) float factor[2][kKeys];
  for (int64_t r = 0; r < b.rows; r += 2) {
    const float first = lse[r * b.a.heads], second = r + 1 < b.rows ? lse[(r + 1) * b.a.heads] : 0;
    uint8_t* rows = o.ds_rows + r * kScoreStride * 4;
    for (int i = 0; b.a.drop && i < 2; ++i)
      factors_of_keys(*b.a.drop, sequence_first + b.first + r + i, head, b.begin, factor[i]);
    for (int64_t n = 0; n < panels(b.keys) * 16; n += 16) {
      const Pair x = soften_keys(b, o, r, n, first, factor[0]), y = soften_keys(b, o, r + 1, n, second, factor[1]);
      put_numbers(o.type, rows, n, x.ds);
      put_numbers(o.type, rows + kScoreStride * 4, n, y.ds);
      put_pair(o.type, o.p_panels + n / 16 * bytes, r, x.p, y.p);
      put_pair(o.type, o.ds_panels + n / 16 * bytes, r, x.ds, y.ds);
    }
  }
}

// dQ += dS K over the keys that the rows of a tile see.
void add_queries(const Block& b, const Operands& o) {
  TileArgs t = {};
  t.matrix = o.matrix;
  t.row_stride = kScoreStride * 4, t.out_stride = o.dq_stride, t.add = true;
  for (int64_t r = 0; r < b.rows;) {
    const int rows = product_size(o.type, b.rows - r, 4).rows;
    const int64_t from = b.from(r) / 16 * 16;
    t.k = b.to(r + rows - 1) - from;
    t.rows = o.ds_rows + r * t.row_stride + from * o.element;
    const uint8_t* panel = o.features + (b.begin + from) * 16 * o.element;
    if (t.k > 0) multiply(o.type, t, rows, panel, o.key_features, 0, panels(o.dim), o.dq + (b.first + r) * o.dq_stride);
    r += rows;
  }
}

// dV^T += dO^T P and dK^T += Q^T dS, for two panels of keys at a time over the queries that see any of them: from an
// even one on, since blocks of keys and of rows are even and begin together.
void add_keys(const Block& b, const Operands& o) {
  TileArgs t = {};
  t.matrix = o.matrix;
  t.row_stride = o.turned_stride, t.out_stride = o.sum_stride, t.add = true;
  const int64_t bytes = panel_bytes(o.type, kRows), count = panels(b.keys);
  for (int64_t p = 0; p < count; p += 2) {
    int64_t begin = 0, end = b.rows;
    while (begin < end && b.to(begin) <= p * 16) ++begin;
    while (begin < end && b.from(end - 1) >= (p + 2) * 16) --end;
    t.k = end - begin;
    if (t.k <= 0) continue;
    const int64_t last = p + 2 < count ? p + 2 : count;
    for (int64_t d = 0; d < o.dim;) {
      const int rows = product_size(o.type, o.dim - d, 4).rows;
      const int64_t at = d * o.turned_stride + (b.first + begin) * o.element;
      float *dv = o.dv + d * o.sum_stride + b.begin, *dk = o.dk + d * o.sum_stride + b.begin;
      t.rows = o.dout_turned + at;
      multiply(o.type, t, rows, o.p_panels + begin * 16 * o.element, bytes, p, last, dv);
      t.rows = o.q_turned + at;
      multiply(o.type, t, rows, o.ds_panels + begin * 16 * o.element, bytes, p, last, dk);
      d += rows;
    }
  }
}

PYLLM_INLINE void put_out(float* p, f32v x, int64_t left) {
  if (left < 16) store_n(p, x, (int)left);
  else store(p, x);
}

void run_head(const AttentionBackwardArgs& a, const Operands& o, int64_t sequence, int64_t head) {
  const int64_t first = a.start[sequence], line = (sequence * a.heads + head) * a.bias_stride;
  place_queries(a, o, first, head);
  const float* bias = a.bias ? a.bias + head * a.bias_stride + a.bias_zero : nullptr;
  float* dbias = a.bias ? a.dbias + line + a.bias_zero : nullptr;
  if (a.bias) memset(a.dbias + line, 0, (size_t)a.bias_stride * 4);
  for (int64_t begin = 0; begin < o.length; begin += kKeys) {
    const int64_t keys = o.length - begin < kKeys ? o.length - begin : kKeys;
    const int64_t seen = a.window ? begin + keys - 1 + a.window : o.queries;
    const int64_t last = seen < o.queries ? seen : o.queries;
    for (int64_t at = a.causal ? begin : 0; at < last; at += kRows) {
      const Block b = {a, begin, keys, at, last - at < kRows ? last - at : kRows, bias, dbias};
      scores(b, o);
      soften(b, o, head, first);
      add_queries(b, o);
      add_keys(b, o);
    }
  }
  float* out = a.dq + (first * a.heads + head) * a.dim;
  for (int64_t t = 0; t < o.queries; ++t)
    for (int64_t d = 0; d < o.dim; d += 16)
      put_out(out + t * a.heads * a.dim + d, mul(load(o.dq + t * o.dq_stride + d), set1(a.scale)), o.dim - d);
}

// Sums (features, keys) as rows of keys.
void write_keys(const Operands& o, const float* sums, float* out, int64_t stride) {
  alignas(64) float block[16][16];
  for (int64_t n = 0; n < o.length; n += 16)
    for (int64_t d = 0; d < o.dim; d += 16) {
      transpose16(sums + d * o.sum_stride + n, o.sum_stride, block[0]);
      for (int64_t i = 0; i < 16 && n + i < o.length; ++i)
        put_out(out + (n + i) * stride + d, load(block[i]), o.dim - d);
    }
}

void run_task(const AttentionBackwardArgs& a, uint8_t* scratch, Matrix& matrix, int64_t sequence, int64_t group) {
  const int64_t first = a.start[sequence], first_key = a.key_start[sequence], stride = (int64_t)a.groups * a.dim;
  Places places = {scratch, 0};
  Operands o = lay_out(a, a.start[sequence + 1] - first, a.key_start[sequence + 1] - first_key, places);
  o.matrix = &matrix;
  memset(o.dk, 0, (size_t)(panels(o.dim) * 16 * o.sum_stride) * 4);
  memset(o.dv, 0, (size_t)(panels(o.dim) * 16 * o.sum_stride) * 4);
  place_keys(a, o, first_key, group);
  const int64_t heads = a.heads / a.groups;
  for (int64_t h = 0; h < heads; ++h) run_head(a, o, sequence, group * heads + h);
  write_keys(o, o.dk, a.dk + first_key * stride + group * a.dim, stride);
  write_keys(o, o.dv, a.dv + first_key * stride + group * a.dim, stride);
}

}  // namespace

int64_t attention_backward_scratch(const AttentionBackwardArgs& a) {
  Places places = {nullptr, 0};
  lay_out(a, a.longest, a.longest_keys, places);
  return places.used;
}

// Tasks from the longest sequence down, dealt in turn to the workers, slice after slice.
void attention_backward(const AttentionBackwardArgs& a, int share, int shares) {
  const int64_t slices = a.slices, mine = share % slices * (shares / slices) + share / slices;
  Matrix matrix;
  for (int64_t task = mine; task < a.sequences * a.groups; task += shares)
    run_task(a, a.scratch + share * a.scratch_stride, matrix, a.order[task / a.groups], task % a.groups);
}

}  // namespace pyllm::PYLLM_ISA
