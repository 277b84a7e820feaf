// y = norm(x) W^T with what follows it: bias, residual, activation, gate, rotation, the key/value cache.
#include "kernels/linear.h"
#include "kernels/activation.h"
#include "kernels/cache.h"
#include "kernels/tiles.h"

namespace pyllm::PYLLM_ISA {
namespace {

// Up to so many rows memory is the limit: panels are read as they are stored, one after the other. Above, expanding a
// panel pays: it costs about two rows' products and makes each cheaper.
constexpr int64_t kFewRows = 16;
constexpr int64_t kAhead = 8192;  // bytes that few rows of a k-type fetch ahead; nearer measured worse
constexpr int kBusyRows = 4;      // from here on the time for a panel goes into its products, and the stream would stop
constexpr int64_t kAcross = 64;   // rows of a transposed x made ready together: pieces of 256 bytes are read
constexpr int64_t kShared = 4;    // panels a worker for which few rows' parts are shared out one by one
// Rows that stay in the second-level cache (of 1 MB) while panels pass by; so many at least that fetching and expanding
// a panel are repaid, even where the rows outgrow the cache. Of few panels each worker takes rows of its own, if so
// many. Processors with matrix tiles have 2 MB.
constexpr int64_t kBlockBytes = kMatrixRows ? 1 << 20 : 448 << 10, kLeastRows = kMatrixRows ? 128 : 264, kOwnRows = 24;
// Lines of a slice of deep panels: 256 KB of two; for matrix tiles 16 KB, which stay in the first-level cache.
constexpr int64_t deep_steps(Type t) { return on_matrix(t) ? 128 : 2048; }
constexpr int64_t kDeepRows = kMatrixRows ? 512 : 264;  // whose sums wait between slices
// Panels that rows pass together slice after slice: the more, the fewer times rows come from the second-level cache.
constexpr int kTogether = kMatrixRows ? 4 : 2;

f32v activated(f32v x, Act act) { return activate(x, act, 1); }

// 16 features of one row, turned by the row's angles: pairs (2i, 2i+1), cosines and signed sines from the table.
f32v rotate(const LinearArgs& a, f32v y, int64_t row, int64_t feature) {
  if (!a.rotary) return y;
  const int dim = a.cache->dim;
  const float* table = a.rotary + a.row[row].position * 2 * dim;
  alignas(64) float c[16], s[16];
  int64_t d = feature % dim;
  if (d + 16 <= dim) return fma(swap<1>(y), load(table + dim + d), mul(y, load(table + d)));
  for (int i = 0; i < 16; ++i) {
    int64_t j = (feature + i) % dim;  // heads whose width is no multiple of 16 share a panel
    c[i] = table[j];
    s[i] = table[dim + j];
  }
  return fma(swap<1>(y), load(s), mul(y, load(c)));
}

struct Group {  // one panel, or a gate's and its up's, that go through tiles together
  const uint8_t *panel[kTogether], *next[kTogether];  // next: what will be read after this group
  int part, size;
  int64_t index;  // of the panel within its part
  Type type;
};

struct Job {
  const LinearArgs& a;
  PreparedLayout layout;
  const uint8_t* prepared;
  uint8_t* expanded;
  bool few;
  Matrix* matrix;
};

// Sums of one panel for consecutive rows, `step` floats apart.
struct Sums {
  const float* y;
  int64_t step;
  f32v of(int64_t row) const { return load(y + row * step); }
};

// Whether many rows' outputs go past the caches: they would be read before they are written, and leave them anyway.
// Only for matrix tiles, beside which everything else is slow; whole lines alone.
bool streams(const LinearPart& part, int64_t rows) {
  return on_matrix(part.type) && rows >= 16 && (part.out_stride % 16 | ((int64_t)part.out & 63)) == 0;
}

// What follows the product, for rows [row, row + rows) of one panel. f makes a row's 16 numbers of its sums.
template <class F> PYLLM_INLINE void each_row(const LinearPart& part, int64_t index, int64_t row, int64_t rows, F f) {
  int64_t n = part.n - index * 16;
  const int64_t at = row * part.out_stride + index * 16;
  float* out = part.out + at;
  const float* before = part.residual ? part.residual + at : out;
  if (n >= 16 && part.epilogue != Epilogue::Add && streams(part, rows))
    for (int64_t r = 0; r < rows; ++r) store_past(out + r * part.out_stride, f(r, before + r * part.out_stride));
  else if (n >= 16)
    for (int64_t r = 0; r < rows; ++r) store(out + r * part.out_stride, f(r, before + r * part.out_stride));
  else
    for (int64_t r = 0; r < rows; ++r) {
      alignas(64) float old[16];
      store(old, load_n(before + r * part.out_stride, (int)n));
      store_n(out + r * part.out_stride, f(r, old), (int)n);
    }
}

// 16 features of a product with what a part adds to it: its bias, and a row of its own.
struct Raised {
  const LinearPart& part;
  Sums y;
  int64_t row, feature;
  int n;
  f32v bias;
  Raised(const LinearPart& p, Sums sums, int64_t first, int64_t at)
      : part(p), y(sums), row(first), feature(at), n(p.n - at < 16 ? (int)(p.n - at) : 16) {
    bias = p.bias ? load_n(p.bias + at, n) : set1(0);
  }
  f32v of(int64_t r) const {
    const f32v v = part.bias ? add(y.of(r), bias) : y.of(r);  // a bias of 0 would make 0 of -0
    return part.more ? add(v, load_n(part.more + (row + r) * part.n + feature, n)) : v;
  }
};

// The product of low rank of a part, added to the sums of one panel.
void add_low(const LinearPart& part, int64_t index, int64_t row, int64_t rows, Sums sums) {
  TileArgs t = {};
  t.k = part.rank, t.row_stride = part.rank * 4, t.add = true;
  t.panel[0] = part.low_panels + index * panel_bytes(Type::F32, part.rank);
  for (int64_t r = 0; r < rows;) {
    const TileSize s = tile_size(rows - r, 1, float_limit(rows - r));
    t.rows = (const uint8_t*)(part.low + (row + r) * part.rank);
    t.out = (float*)sums.y + r * sums.step, t.out_stride = sums.step;
    float_tile(Type::F32, s)(t);
    r += s.rows;
  }
}

void finish(const LinearArgs& a, const Group& g, int64_t row, int64_t rows, Sums sums, Sums up_sums) {
  const LinearPart& part = a.part[g.part];
  if (part.low) add_low(part, g.index, row, rows, sums);
  const int64_t feature = g.index * 16;
  const Raised y(part, sums, row, feature);
  if (a.gated) {
    const Raised up(a.part[1], up_sums, row, feature);
    return each_row(part, g.index, row, rows,
                    [&](int64_t r, const float*) { return mul(activated(y.of(r), a.act), up.of(r)); });
  }
  switch (part.epilogue) {
    case Epilogue::Store: return each_row(part, g.index, row, rows, [&](int64_t r, const float*) { return y.of(r); });
    case Epilogue::Add:
      return each_row(part, g.index, row, rows, [&](int64_t r, const float* old) { return add(load(old), y.of(r)); });
    case Epilogue::Activate:
      if (form_of(g.type) != kF32 && a.act == Act::GELU)  // rounded operands lose a thousand times what this one does
        return each_row(part, g.index, row, rows, [&](int64_t r, const float*) { return gelu_brief(y.of(r)); });
      return each_row(part, g.index, row, rows, [&](int64_t r, const float*) { return activated(y.of(r), a.act); });
    case Epilogue::Rotary:
      return each_row(part, g.index, row, rows,
                      [&](int64_t r, const float*) { return rotate(a, y.of(r), row + r, feature); });
    case Epilogue::Key:
    case Epilogue::Value:
      for (int64_t r = 0; r < rows; ++r) {
        f32v v = y.of(r);
        bool value = part.epilogue == Epilogue::Value;
        if (!value) v = rotate(a, v, row + r, feature);
        cache_put(*a.cache, a.row[row + r], a.layer, value, feature, v, y.n);
      }
  }
}

// How far the first tile of few operands fetches ahead. Processors see by themselves what comes next in one stream, but
// not in several, which the k-types' blocks are, nor past a panel that several tiles read.
int64_t ahead(const LinearArgs& a, Type type, int64_t operands) {
  if (operands >= kBusyRows || (operands > 1 && a.ahead)) return panel_bytes(type, a.k);
  return info(type).block > 64 ? kAhead : a.ahead;
}

// Whether nothing follows the product: then tiles of floats write it where it belongs.
bool bare(const LinearArgs& a, const Group& g) {
  const LinearPart& part = a.part[g.part];
  return form_of(g.type) != kInt8 && !a.gated && part.epilogue == Epilogue::Store && !part.bias && !part.more &&
         !part.low && (g.index + g.size) * 16 <= part.n;
}

// Whether a group's two panels go through a tile together though rows are few: of one row's products each waits
// for the one before it, those of two panels do not.
bool paired(const Job& j, Type type) { return j.a.rows == 1 && (form_of(type) == kBF16 || form_of(type) == kWhole); }

// Products of a group with rows [first, last), and what follows them. An operand is a row, in int8 one of its terms.
void run_group(const Job& j, const Group& g, int64_t first, int64_t last) {
  const LinearArgs& a = j.a;
  const Form form = form_of(g.type);
  const int terms = form == kInt8 ? a.terms : 1;
  const bool expanded = form == kInt8 && !j.few, direct = bare(a, g);
  const LinearPart& part = a.part[g.part];
  TileArgs t = {};
  t.k = a.k, t.row_stride = j.layout.stride[form], t.matrix = j.matrix;
  const uint8_t* panel[2] = {g.panel[0], g.panel[1]};
  if (expanded)
    for (int p = 0; p < g.size; ++p) {
      panel[p] = j.expanded + p * expanded_bytes(g.type, a.k);
      expand(g.type, g.panel[p], a.k, (uint8_t*)panel[p]);
    }
  const int64_t tiles = (last - first) * terms / (expanded ? kIntRows : product_rows(g.type)) + 1,
                bytes = panel_bytes(g.type, a.k);
  t.fetch_step = bytes / (tiles * steps_of(form, a.k)) + 1;
  alignas(64) float sums[2][kMaxRows * 2 * 16];
  int64_t tile = 0;
  for (int64_t op = first * terms, end = last * terms; op < end;) {
    const TileSize limit = expanded ? kExpandedLimit : TileSize{kDirectRows, 1};
    TileSize s = {1, 1};
    t.rows = j.prepared + j.layout.offset[form] + op * t.row_stride;
    Sums y[2];
    for (int p = 0; p < g.size; p += s.panels) {
      const int64_t left = j.few && !paired(j, g.type) ? 1 : g.size - p;
      s = form == kInt8 ? tile_size(end - op, left, limit) : product_size(g.type, end - op, left);
      for (int i = 0; i < s.panels; ++i) t.panel[i] = panel[p + i], t.fetch[i] = g.next[p + i] + bytes * tile / tiles;
      t.out = sums[p], t.out_stride = s.panels * 16;
      if (direct) t.out = part.out + op * part.out_stride + (g.index + p) * 16, t.out_stride = part.out_stride;
      t.ahead = j.few && op == first * terms ? ahead(a, g.type, end - op) : 0;
      t.size = s;
      (expanded ? expanded_tile(g.type, s) : form == kInt8 ? direct_tile(g.type, s.rows) : product_tile(g.type, s))(t);
      for (int i = 0; i < s.panels; ++i) y[p + i] = {sums[p] + i * 16, t.out_stride};
    }
    if (direct) {
      op += s.rows, ++tile;
      continue;
    }
    if (terms == 2)
      for (int p = 0; p < g.size; ++p) {
        for (int r = 0; r < s.rows; r += 2) store((float*)y[p].y + r * y[p].step, add(y[p].of(r), y[p].of(r + 1)));
        y[p].step *= 2;
      }
    if (a.gated || g.size == 1) finish(a, g, op / terms, s.rows / terms, y[0], y[g.size - 1]);
    else
      for (int p = 0; p < g.size; ++p) {
        Group one = g;
        one.index += p;
        finish(a, one, op / terms, s.rows / terms, y[p], y[p]);
      }
    op += s.rows, ++tile;
  }
}

// Whether two panels would leave the second-level cache while rows pass: then all rows go through a slice of them
// first.
bool deep(const Job& j, Type type) {
  const Form form = form_of(type);
  return !j.few && !j.a.gated && floating(type) && (form == kBF16 ? j.a.k / 2 : j.a.k) > deep_steps(type) * 3 / 2;
}

// Rows from x on times one panel or two; what comes next is fetched meanwhile, a part for every tile.
void run_pair(Type type, TileArgs t, int pair, int64_t rows, const uint8_t* x, float* sums) {
  const int64_t part = t.fetch_step * (type == Type::BF16 ? (t.k + 1) / 2 : t.k);
  for (int64_t r = 0; r < rows;) {
    TileSize s = {1, 1};
    for (int p = 0; p < pair; p += s.panels) {
      s = product_size(type, rows - r, pair - p);
      TileArgs one = t;
      one.rows = x + r * t.row_stride, one.out = sums + r * t.out_stride + p * 16;
      for (int i = 0; i < s.panels; ++i) one.panel[i] = t.panel[p + i], one.fetch[i] = t.fetch[p + i];
      product(type, s, one);
    }
    for (int p = 0; p < pair; ++p) t.fetch[p] += part;
    r += s.rows;
  }
}

// As run_group, slice after slice of the inputs; sums wait in memory, where adding goes on in the same order.
void run_deep(const Job& j, const Group& g, int64_t first, int64_t last) {
  const LinearArgs& a = j.a;
  const Form form = form_of(g.type);
  const int64_t depth = deep_steps(g.type) * (form == kBF16 ? 2 : 1), width = form == kBF16 ? 2 : 4;
  alignas(64) float sums[kDeepRows][kTogether * 16];
  TileArgs t = {};
  t.row_stride = j.layout.stride[form], t.out_stride = kTogether * 16, t.matrix = j.matrix;
  for (int64_t row = first, rows; row < last; row += rows) {
    rows = last - row < kDeepRows ? last - row : kDeepRows;
    const uint8_t* x = j.prepared + j.layout.offset[form] + row * t.row_stride;
    for (int64_t k = 0; k < a.k; k += depth) {
      t.k = a.k - k < depth ? a.k - k : depth, t.add = k > 0;
      const int64_t slice = panel_bytes(g.type, t.k), steps = form == kBF16 ? (t.k + 1) / 2 : t.k;
      t.fetch_step = slice / ((rows / product_rows(g.type) + 1) * steps) + 1;
      for (int p = 0; p < g.size; p += 2) {
        const int pair = g.size - p < 2 ? 1 : 2;
        for (int i = 0; i < pair; ++i) {
          t.panel[i] = g.panel[p + i] + panel_bytes(g.type, k);
          t.fetch[i] = k + depth < a.k ? t.panel[i] + slice : g.next[p + i];
        }
        run_pair(g.type, t, pair, rows, x + k * width, sums[0] + p * 16);
      }
    }
    for (int p = 0; p < g.size; ++p) {
      Group one = g;
      one.index += p;
      const Sums y = {sums[0] + p * 16, kTogether * 16};
      finish(a, one, row, rows, y, y);
    }
  }
}

// Items are panels, counted through all parts (gated: pairs of a gate and an up panel).
int64_t items(const LinearArgs& a) {
  int64_t n = 0;
  for (int p = 0; p < (a.gated ? 1 : a.parts); ++p) n += panels(a.part[p].n);
  return n;
}

// Panels of a group of many rows.
int together(const Job& j, Type type) { return deep(j, type) ? kTogether : 2; }

// Items [first, last) in groups of one panel where rows are few, else of several of one part.
void run_items(const Job& j, int64_t first, int64_t last, int64_t row0, int64_t row1) {
  const LinearArgs& a = j.a;
  int part = 0;
  int64_t base = 0;
  for (int64_t i = first; i < last;) {
    while (i - base >= panels(a.part[part].n)) base += panels(a.part[part++].n);
    const Type type = a.part[part].type;
    const int64_t bytes = panel_bytes(type, a.k), left = base + panels(a.part[part].n) - i;
    Group g = {{a.part[part].panels + (i - base) * bytes}, {}, part, 1, i - base, type};
    int64_t taken = 1;
    if (a.gated) g.panel[g.size++] = a.part[1].panels + (i - base) * bytes;
    const int64_t most = a.gated ? 1 : paired(j, type) ? 2 : j.few ? 1 : together(j, type);
    for (; taken < most && taken < left && i + taken < last; ++taken) g.panel[g.size++] = g.panel[0] + taken * bytes;
    for (int p = 0; p < g.size; ++p) g.next[p] = g.panel[p] + taken * bytes;
    if (deep(j, type)) run_deep(j, g, row0, row1);
    else run_group(j, g, row0, row1);
    i += taken;
  }
}

// Few rows: contiguous panels per worker, streamed once; of each part its share where the parts are large enough, since
// keys and values take longer than queries.
void run_few(const Job& j, int64_t n, int worker, int workers) {
  const LinearArgs& a = j.a;
  bool apart = !a.gated;
  for (int p = 0; p < a.parts; ++p) apart = apart && panels(a.part[p].n) >= kShared * workers;
  int64_t begin = 0;
  for (int p = 0; p < (apart ? a.parts : 1); ++p) {
    const int64_t count = apart ? panels(a.part[p].n) : n;
    const Share s = share(count, worker, workers);
    run_items(j, begin + s.first, begin + s.last, 0, a.rows);
    begin += count;
  }
}

}  // namespace

void prepare(const LinearArgs& a, int worker, int workers) {
  PreparedLayout layout = prepared_layout(a);
  if (a.transposed) {
    Share s = share((a.rows + kAcross - 1) / kAcross, worker, workers);
    for (int64_t r = s.first * kAcross; r < s.last * kAcross && r < a.rows; r += kAcross)
      prepare_columns(a, layout, r, r + kAcross < a.rows ? r + kAcross : a.rows, a.prepared);
    return;
  }
  Share s = share(a.rows, worker, workers);
  float* normed = (float*)(a.scratch + worker * a.scratch_stride);
  for (int64_t r = s.first; r < s.last; ++r) prepare_row(a, layout, r, normed, a.prepared);
}

int64_t linear_scratch(const LinearArgs& a) {
  int64_t normed = row_scratch(a.k), wide = 0;
  for (int i = 0; i < a.parts; ++i)
    if (quantised(a.part[i].type)) {
      int64_t b = expanded_bytes(a.part[i].type, a.k);
      wide = b > wide ? b : wide;
    }
  return (normed + wide * 2 + (a.prepared ? 0 : prepared_layout(a).bytes) + 63) / 64 * 64;
}

int64_t prepared_bytes(const LinearArgs& a) { return prepared_layout(a).bytes; }

void linear(const LinearArgs& a, int worker, int workers) {
  uint8_t* own = a.scratch + worker * a.scratch_stride;
  float* normed = (float*)own;
  own += row_scratch(a.k);
  Matrix matrix;
  Job j = {a, prepared_layout(a), a.prepared, nullptr, a.rows <= kFewRows, &matrix};
  if (!a.prepared) {
    for (int64_t r = 0; r < a.rows; ++r) prepare_row(a, j.layout, r, normed, own);
    j.prepared = own;
    own += j.layout.bytes;
  }
  j.expanded = own;
  const int64_t n = items(a);
  if (j.few) return run_few(j, n, worker, workers);
  // Tasks are a block of rows times a group of panels, blocks outermost: their rows stay in the cache.
  int64_t row_bytes = 0;
  for (int f = 0; f < kForms; ++f) row_bytes += j.layout.offset[f] < 0 ? 0 : j.layout.stride[f] * a.terms;
  int64_t most = kBlockBytes / row_bytes > kLeastRows ? kBlockBytes / row_bytes : kLeastRows;
  int64_t step = a.gated ? 1 : together(j, a.part[0].type), groups = (n + step - 1) / step,
          blocks = (a.rows + most - 1) / most;
  if (groups < 4 * a.workers && blocks < a.workers && a.rows >= a.workers * kOwnRows) blocks = a.workers;
  const int64_t whole = product_rows(a.part[0].type),
                rows = ((a.rows + blocks - 1) / blocks + whole - 1) / whole * whole;
  Share s = share(groups * blocks, worker, workers);
  for (int64_t t = s.first; t < s.last; ++t) {
    int64_t first = t / groups * rows, last = first + rows < a.rows ? first + rows : a.rows, g = t % groups * step;
    if (first < last) run_items(j, g, g + step < n ? g + step : n, first, last);
  }
  stores_past_done();
}

}  // namespace pyllm::PYLLM_ISA
