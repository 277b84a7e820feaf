// y = norm(x) W^T with what follows it: bias, residual, activation, gate, rotation, the key/value cache.
#include "kernels/linear.h"
#include "kernels/tiles.h"
#include "simd/math.h"

namespace pyllm::PYLLM_ISA {
namespace {

// Above so many int8 rows expanding a panel pays: it costs about two rows' products and makes each cheaper.
constexpr int64_t kExpandRows = 8;

f32v activate(f32v x, Act act) {
  switch (act) {
    case Act::SiLU: return silu(x);
    case Act::GELU: return gelu(x);
    case Act::GELUTanh: return gelu_tanh(x);
    default: return x;
  }
}

// 16 features of one row, turned by the row's angles: pairs (2i, 2i+1), cosines and signed sines from the table.
f32v rotate(const LinearArgs& a, f32v y, int64_t row, int64_t feature) {
  if (!a.rotary) return y;
  const int dim = a.cache->dim;
  const float* table = a.rotary + a.row[row].position * 2 * dim;
  alignas(64) float c[16], s[16];
  int64_t d = feature % dim;
  if (d + 16 <= dim) return fma(swap_pairs(y), load(table + dim + d), mul(y, load(table + d)));
  for (int i = 0; i < 16; ++i) {
    int64_t j = (feature + i) % dim;  // heads whose width is no multiple of 16 share a panel
    c[i] = table[j];
    s[i] = table[dim + j];
  }
  return fma(swap_pairs(y), load(s), mul(y, load(c)));
}

void put_number(uint8_t* p, Type type, int64_t index, float x) {
  if (type == Type::F32) ((float*)p)[index] = x;
  else ((uint16_t*)p)[index] = f32_to_bf16(x);
}

void finish(const LinearArgs& a, const LinearPart& part, int64_t row, int64_t panel, f32v y) {
  int64_t feature = panel * 16;
  int n = part.n - feature < 16 ? (int)(part.n - feature) : 16;
  if (part.bias) y = add(y, load_n(part.bias + feature, n));
  float* out = part.out ? part.out + row * part.out_stride + feature : nullptr;
  switch (part.epilogue) {
    case Epilogue::Store: return store_n(out, y, n);
    case Epilogue::Add: return store_n(out, add(load_n(out, n), y), n);
    case Epilogue::Activate: return store_n(out, activate(y, a.act), n);
    case Epilogue::Rotary: return store_n(out, rotate(a, y, row, feature), n);
    case Epilogue::Key: y = rotate(a, y, row, feature); break;
    case Epilogue::Value: break;
  }
  alignas(64) float values[16];
  store(values, y);
  for (int i = 0; i < n; ++i)
    cache_put(*a.cache, a.row[row], a.layer, part.epilogue == Epilogue::Value, feature + i, values[i]);
}

struct Group {  // up to kMaxPanels panels that go through tiles together
  const uint8_t* panel[kMaxPanels];
  int64_t bytes[kMaxPanels];
  int part[kMaxPanels];
  int64_t index[kMaxPanels];
  int size;
  Type type;
};

struct Job {
  const LinearArgs& a;
  PreparedLayout layout;
  const uint8_t* rows;  // prepared, layout.bytes apart
  uint8_t* expanded;
};

const uint8_t* operand(const Job& j, Form form, int64_t row) {
  const uint8_t* p = j.rows + row / (form == kInt8 ? j.a.terms : 1) * j.layout.bytes + j.layout.offset[form];
  return form == kInt8 ? p + row % j.a.terms * j.layout.int8_stride : p;
}

// All tiles of `operands` (rows, or two int8 terms a row) with the group's panels into out (operands, size, 16).
void multiply(const Job& j, const Group& g, int64_t first, int operands, bool expand_panels, float* out) {
  Form form = form_of(g.type);
  for (int r = 0; r < operands;) {
    for (int p = 0; p < g.size;) {
      TileSize limit = form != kInt8   ? float_limit(operands - r)
                       : expand_panels ? kExpandedLimit
                                       : direct_limit(operands - r);
      TileSize s = tile_size(operands - r, g.size - p, limit);
      const uint8_t *row[kMaxRows], *panel[kMaxPanels];
      for (int i = 0; i < s.rows; ++i) row[i] = operand(j, form, first + r + i);
      for (int i = 0; i < s.panels; ++i)
        panel[i] = expand_panels ? j.expanded + (p + i) * expanded_bytes(g.type, j.a.k) : g.panel[p + i];
      Tile tile = form != kInt8   ? float_tile(g.type, s)
                  : expand_panels ? expanded_tile(g.type, s)
                                  : direct_tile(g.type, s);
      alignas(64) float local[kMaxRows * kMaxPanels * 16];
      int64_t ahead = g.bytes[0] * g.size < 32768 ? g.bytes[0] * g.size : 4096;
      tile(row, panel, j.a.k, ahead, local);
      for (int i = 0; i < s.rows; ++i)
        memcpy(out + ((r + i) * g.size + p) * 16, local + i * s.panels * 16, (size_t)s.panels * 64);
      p += s.panels;
      if (p == g.size) r += s.rows;
    }
  }
}

void run_group(const Job& j, const Group& g, int64_t first, int64_t last) {
  const LinearArgs& a = j.a;
  const bool int8 = quantised(g.type);
  const int terms = int8 ? a.terms : 1;
  bool expand_panels = int8 && (last - first) * terms > kExpandRows;
  if (expand_panels)
    for (int p = 0; p < g.size; ++p) expand(g.type, g.panel[p], a.k, j.expanded + p * expanded_bytes(g.type, a.k));
  alignas(64) float out[kMaxRows * 2 * kMaxPanels * 16];
  for (int64_t r0 = first; r0 < last; r0 += kMaxRows) {
    int rows = last - r0 < kMaxRows ? (int)(last - r0) : kMaxRows;
    multiply(j, g, r0 * terms, rows * terms, expand_panels, out);
    for (int r = 0; r < rows; ++r) {
      f32v y[kMaxPanels];
      for (int p = 0; p < g.size; ++p) {
        const float* t = out + (r * terms * g.size + p) * 16;
        y[p] = terms == 1 ? load(t) : add(load(t), load(t + g.size * 16));
      }
      for (int p = 0; p < g.size; p += a.gated ? 2 : 1) {
        const LinearPart& part = a.part[g.part[p]];
        f32v v = y[p];
        if (a.gated) {
          int n = part.n - g.index[p] * 16 < 16 ? (int)(part.n - g.index[p] * 16) : 16;
          f32v up = y[p + 1];
          if (part.bias) v = add(v, load_n(part.bias + g.index[p] * 16, n));
          if (a.part[1].bias) up = add(up, load_n(a.part[1].bias + g.index[p] * 16, n));
          store_n(part.out + (r0 + r) * part.out_stride + g.index[p] * 16, mul(activate(v, a.act), up), n);
        } else {
          finish(a, part, r0 + r, g.index[p], v);
        }
      }
    }
  }
}

void append(const LinearArgs& a, Group& g, int part, int64_t index) {
  int64_t bytes = panel_bytes(a.part[part].type, a.k);
  g.panel[g.size] = a.part[part].panels + index * bytes;
  g.bytes[g.size] = bytes;
  g.part[g.size] = part;
  g.index[g.size] = index;
  g.type = a.part[part].type;
  ++g.size;
}

// Items are panels, counted through all parts (gated: pairs of a gate and an up panel).
int64_t items(const LinearArgs& a) {
  int64_t n = 0;
  for (int p = 0; p < (a.gated ? 1 : a.parts); ++p) n += panels(a.part[p].n);
  return n;
}

// Runs items [first, last) in groups of at most `width` panels of one part.
void run_items(const Job& j, int64_t first, int64_t last, int width, int64_t row0, int64_t row1) {
  const LinearArgs& a = j.a;
  int part = 0;
  int64_t base = 0;
  for (int64_t i = first; i < last;) {
    while (i - base >= panels(a.part[part].n)) base += panels(a.part[part++].n);
    int64_t end = base + panels(a.part[part].n) < last ? base + panels(a.part[part].n) : last;
    Group g = {};
    for (; i < end && g.size < width; ++i) {
      append(a, g, part, i - base);
      if (a.gated) append(a, g, 1, i - base);
    }
    run_group(j, g, row0, row1);
  }
}

int group_width(const LinearArgs& a) {
  bool all_float = true;
  for (int i = 0; i < a.parts; ++i) all_float = all_float && !quantised(a.part[i].type);
  if (a.rows == 1) return kMaxPanels;
  return all_float ? (kTilePanels < 2 && a.gated ? 2 : kTilePanels) : 2;
}

}  // namespace

void cache_put(const CacheLayout& c, const Row& row, int layer, bool value, int64_t feature, float x) {
  int64_t head = feature / c.dim, d = feature % c.dim, at = row.position % kPage;
  uint8_t* p = row.pages[row.position / kPage] + (layer * (int64_t)c.heads + head) * c.head_bytes();
  int step = info(c.type).block;  // 2: bf16 keeps pairs of the summed index together
  if (value) {
    p += c.key_bytes() + d / 16 * panel_bytes(c.type, kPage);
    put_number(p, c.type, (at / step * 16 + d % 16) * step + at % step, x);
  } else {
    p += at / 16 * panel_bytes(c.type, c.dim);
    put_number(p, c.type, (d / step * 16 + at % 16) * step + d % step, x);
  }
}

void prepare(const LinearArgs& a, int worker, int workers) {
  PreparedLayout layout = prepared_layout(a);
  Share s = share(a.rows, worker, workers);
  float* normed = (float*)(a.scratch + worker * a.scratch_stride);
  for (int64_t r = s.first; r < s.last; ++r) prepare_row(a, layout, r, normed, a.prepared + r * layout.bytes);
}

int64_t linear_scratch(const LinearArgs& a) {
  int64_t normed = Int8Row::padded(a.k) * 4, wide = 0;
  for (int i = 0; i < a.parts; ++i)
    if (quantised(a.part[i].type)) {
      int64_t b = expanded_bytes(a.part[i].type, a.k);
      wide = b > wide ? b : wide;
    }
  return (normed + wide * kMaxPanels + (a.prepared ? 0 : a.rows * prepared_layout(a).bytes) + 63) / 64 * 64;
}

int64_t prepared_bytes(const LinearArgs& a) { return a.rows * prepared_layout(a).bytes; }

void linear(const LinearArgs& a, int worker, int workers) {
  uint8_t* scratch = a.scratch + worker * a.scratch_stride;
  float* normed = (float*)scratch;
  Job j = {a, prepared_layout(a), a.prepared, nullptr};
  uint8_t* own = scratch + Int8Row::padded(a.k) * 4;
  if (!a.prepared) {
    for (int64_t r = 0; r < a.rows; ++r) prepare_row(a, j.layout, r, normed, own + r * j.layout.bytes);
    j.rows = own;
    own += a.rows * j.layout.bytes;
  }
  j.expanded = own;
  // Few rows: contiguous panels per worker, streamed once. Many rows: tasks of a panel group times a block of rows,
  // enough of them to keep all workers busy, each block long enough to pay for expanding the panels.
  int width = group_width(a);
  int64_t n = items(a), step = a.gated && width > 1 ? width / 2 : width;
  if (a.rows <= 2 * kExpandRows) {
    Share s = share(n, worker, workers);
    return run_items(j, s.first, s.last, (int)width, 0, a.rows);
  }
  int64_t groups = (n + step - 1) / step, want = (4 * workers + groups - 1) / groups, most = (a.rows + 47) / 48;
  int64_t row_blocks = want < most ? want : most;
  Share s = share(groups * row_blocks, worker, workers);
  for (int64_t t = s.first; t < s.last; ++t) {
    int64_t g = t / row_blocks, b = t % row_blocks;
    Share rows = share(a.rows, (int)b, (int)row_blocks);
    int64_t end = (g + 1) * step < n ? (g + 1) * step : n;
    run_items(j, g * step, end, width, rows.first, rows.last);
  }
}

}  // namespace pyllm::PYLLM_ISA
