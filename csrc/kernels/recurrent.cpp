// Recurrent nets, one step of time: the products with the last state by the tiles of `linear`, and at their end the
// gates; the way back likewise. Each cell's forward stands beside its backward.
#include "kernels/recurrent.h"

#include "kernels/lanes.h"
#include "kernels/tiles.h"
#include "simd/math.h"

namespace pyllm::PYLLM_ISA {
namespace {

constexpr int kGates = 4, kBlocks = 2;  // most gates of a cell; blocks of 16 units that go through tiles together
constexpr int64_t kBlockRows = 96;  // rows whose sums wait for their gates: 48 KB at most, in the second-level cache
constexpr int kItems = kGates * kBlocks;

// Sums of one row: of gate g and block b at (g * blocks + b) * 16.
using RowSums = float[kItems * 16];

// One pass of products: rows of operands times `items` panels.
struct Pass {
  Type type;
  int64_t k;
  const uint8_t* rows;
  int64_t stride;
  const uint8_t* panel[kItems];
  const uint8_t* next;  // what is read after the last of them
  int items;
  bool add;  // to sums that are there
};

// Panels outermost: rows stay in the cache while a pair of panels passes over them, and the next pair is fetched.
void products(const Pass& x, int64_t rows, RowSums* sums) {
  Matrix matrix;
  TileArgs t = {};
  t.matrix = &matrix, t.k = x.k, t.row_stride = x.stride, t.out_stride = kItems * 16, t.add = x.add;
  const int64_t bytes = panel_bytes(x.type, x.k), steps = x.type == Type::BF16 ? (x.k + 1) / 2 : x.k;
  for (int i = 0, panels; i < x.items; i += panels) {
    panels = product_size(x.type, rows, x.items - i).panels;
    const uint8_t* next = i + panels < x.items ? x.panel[i + panels] : x.next;
    for (int p = 0; p < panels; ++p) t.panel[p] = x.panel[i + p];
    for (int p = 0; p < 2; ++p) t.fetch[p] = next + p * bytes;
    const int64_t whole = rows / product_rows(x.type);  // tiles that fetch
    t.fetch_step = whole ? bytes / (whole * steps) + 1 : 0;
    t.ahead = whole ? 0 : next - x.panel[i];
    for (int64_t r = 0; r < rows;) {
      const TileSize s = {product_size(x.type, rows - r, panels).rows, panels};
      t.rows = x.rows + r * x.stride;
      t.out = sums[r] + i * 16;
      product(x.type, s, t);
      for (int p = 0; p < 2; ++p) t.fetch[p] += t.fetch_step * steps;
      r += s.rows;
    }
  }
}

void clear_sums(RowSums* sums, int64_t rows) {
  if (rows > 0) memset(sums, 0, (size_t)rows * sizeof(RowSums));
}

// Blocks [block, block + blocks) of 16 units.
struct Blocks {
  int64_t block;
  int blocks;
};
template <class F> void each_blocks(const RecurrentShape& s, int mine, int shares, F f) {
  const int64_t all = panels(s.units);
  const int together = all >= 8 * shares ? kBlocks : 1;  // of many, shares are whole pairs
  const Share own = share((all + together - 1) / together, mine, shares);
  const int64_t last = own.last * together < all ? own.last * together : all;
  for (int64_t b = own.first * together; b < last; b += kBlocks) {
    const int n = last - b < kBlocks ? 1 : kBlocks;
    f(Blocks{b, n}, b + n < all ? b + n : 0);
  }
}

// The products of every gate's weights with the operand of the step before: forward.
void gate_products(const RecurrentShape& s, Blocks b, int64_t next, int64_t first, int64_t rows, RowSums* sums) {
  const int64_t bytes = panel_bytes(s.type, s.units), matrix = gate_panels(s.type, s.units);
  Pass x = {s.type, s.units, s.operand[s.turn] + first * s.operand_stride, s.operand_stride, {}, nullptr, 0, false};
  for (int g = 0; g < s.gates(); ++g)
    for (int i = 0; i < b.blocks; ++i) x.panel[x.items++] = s.weights + g * matrix + (b.block + i) * bytes;
  x.next = s.weights + next * bytes;
  products(x, rows, sums);
}

// The sum over gates of the products of their gradients: backward. Gate after gate, so that few panels are read at
// once.
void sum_products(const RecurrentShape& s, Blocks b, int64_t next, int64_t first, int64_t rows, RowSums* sums) {
  const int64_t bytes = panel_bytes(s.type, s.units), matrix = gate_panels(s.type, s.units);
  Pass x = {s.type, s.units, s.operand[s.turn] + first * s.operand_stride, s.operand_stride, {}, nullptr, 0, false};
  x.items = b.blocks;
  for (int g = 0; g < s.gates(); ++g) {
    for (int i = 0; i < b.blocks; ++i) x.panel[i] = s.weights + g * matrix + (b.block + i) * bytes;
    x.next = g + 1 < s.gates() ? x.panel[0] + matrix : s.weights + next * bytes;
    products(x, rows, sums);
    x.rows += operand_bytes(s.type, s.units), x.add = true;
  }
}

// One row's place among everything that a cell reads and writes: 16 units, or the few at an end.
struct Place {
  int64_t row, sequence, unit;
  const float* sum;  // of gate g at g * step
  int step;
  f32v of(int gate) const { return load(sum + gate * step); }
};

// f(place, lanes) for the rows [first, last) of a step and blocks of units, whose sums are there.
template <class F>
void each_place(const RecurrentShape& s, Blocks b, int64_t step, int64_t first, int64_t last, RowSums* sums, F f) {
  const int64_t start = step < 0 ? 0 : s.start[step];
  for (int i = 0; i < b.blocks; ++i) {
    const int64_t unit = (b.block + i) * 16, left = s.units - unit;
    for (int64_t r = first; r < last; ++r) {
      const Place p = {start + r, r, unit, sums[r - first] + i * 16, b.blocks * 16};
      if (left >= 16) f(p, Whole{});
      else f(p, Part{(int)left});
    }
  }
}

// Into the operand that the next step reads.
void put_operand(const RecurrentShape& s, uint8_t* operand, int64_t sequence, int gate, int64_t unit, f32v v) {
  uint8_t* row = operand + sequence * s.operand_stride + gate * operand_bytes(s.type, s.units);
  const int n = s.units - unit < 16 ? (int)(s.units - unit) : 16;
  if (s.type == Type::F32) return store_n((float*)row + unit, v, n);
  alignas(64) uint16_t half[16];
  store_bf16(half, v);
  memcpy((uint16_t*)row + unit, half, (size_t)n * 2);
}

// Both operands at first: zeros, or a state.
void begin(const RecurrentShape& s, const float* first, int mine, int shares) {
  const Share own = share(s.sequences, mine, shares);
  for (int i = 0; i < 2; ++i)
    for (int64_t r = own.first; r < own.last; ++r) {
      memset(s.operand[i] + r * s.operand_stride, 0, (size_t)s.operand_stride);
      if (!first) continue;
      vectors(0, s.units,
              [&](int64_t u, auto at) { put_operand(s, s.operand[i], r, 0, u, at.get(first + r * s.units + u)); });
    }
}

// h or c of a place after the step before it: of this layer's rows, of the first state, or zero.
template <class At>
f32v before(const RecurrentShape& s, const float* x, const float* first, int64_t step, Place p, At at) {
  if (p.sequence < s.count(step)) return at.get(x + (s.start[step] + p.sequence) * s.units + p.unit);
  return first ? at.get(first + p.sequence * s.units + p.unit) : set1(0);
}

f32v rest(f32v x) { return sub(set1(1.0f), x); }                          // 1 - x
f32v square_rest(f32v x) { return fma(x, sub(set1(0), x), set1(1.0f)); }  // 1 - x^2, rounded once

// h = tanh(x) or relu(x), x = W x + b + R h'. dx = dh (1 - h^2), or dh where h > 0.
template <bool TANH> struct Simple {
  static constexpr int kGates = 1;
  template <class At> PYLLM_INLINE f32v forward(const RecurrentArgs& a, Place p, At at) {
    const f32v x = add(at.get(a.gates + p.row * a.shape.units + p.unit), p.of(0));
    return TANH ? tanh(x) : relu(x);
  }
  template <class At>
  PYLLM_INLINE void backward(const RecurrentBackwardArgs& a, Place p, At at, f32v dh, f32v (&d)[4]) {
    const f32v h = at.get(a.h + p.row * a.shape.units + p.unit);
    d[0] = TANH ? mul(dh, square_rest(h)) : where_above(h, set1(0), dh, set1(0));
    at.put(a.gates + p.row * a.shape.units + p.unit, d[0]);
  }
};

// i, f, o = sigmoid, g = tanh of their sums; c = f c' + i g; h = o tanh(c). Hochreiter, Schmidhuber 1997.
struct Long {
  static constexpr int kGates = 4;
  template <class At> PYLLM_INLINE f32v forward(const RecurrentArgs& a, Place p, At at) {
    const int64_t units = a.shape.units;
    float* gate = a.gates + p.row * 4 * units + p.unit;
    const f32v i = sigmoid(add(at.get(gate), p.of(0))), f = sigmoid(add(at.get(gate + units), p.of(1))),
               g = tanh(add(at.get(gate + 2 * units), p.of(2))), o = sigmoid(add(at.get(gate + 3 * units), p.of(3)));
    const f32v c = fma(f, before(a.shape, a.c, a.first_c, a.before, p, at), mul(i, g));
    at.put(gate, i), at.put(gate + units, f), at.put(gate + 2 * units, g), at.put(gate + 3 * units, o);
    at.put(a.c + p.row * units + p.unit, c);
    return mul(o, tanh(c));
  }
  template <class At>
  PYLLM_INLINE void backward(const RecurrentBackwardArgs& a, Place p, At at, f32v dh, f32v (&d)[4]) {
    const int64_t units = a.shape.units;
    float *gate = a.gates + p.row * 4 * units + p.unit, *carry = a.carry + p.sequence * units + p.unit;
    const f32v i = at.get(gate), f = at.get(gate + units), g = at.get(gate + 2 * units), o = at.get(gate + 3 * units);
    const f32v t = tanh(at.get(a.c + p.row * units + p.unit));
    const f32v dc = fma(mul(dh, o), square_rest(t), at.get(carry));
    d[0] = mul(mul(dc, g), mul(i, rest(i)));
    d[1] = mul(mul(dc, before(a.shape, a.c, a.first_c, a.before, p, at)), mul(f, rest(f)));
    d[2] = mul(mul(dc, i), square_rest(g));
    d[3] = mul(mul(dh, t), mul(o, rest(o)));
    at.put(carry, mul(dc, f));
    for (int k = 0; k < 4; ++k) at.put(gate + k * units, d[k]);
  }
};

// r, z = sigmoid of their sums; n = tanh(x + r s), s = R h' + b; h = n + z (h' - n). Cho et al. 2014; the reset gate
// stands after the product, as in PyTorch and cuDNN.
struct Gated {
  static constexpr int kGates = 3;
  template <class At> PYLLM_INLINE f32v forward(const RecurrentArgs& a, Place p, At at) {
    const int64_t units = a.shape.units;
    float *gate = a.gates + p.row * 3 * units + p.unit, *inner = a.inner + p.row * units + p.unit;
    const f32v r = sigmoid(add(at.get(gate), p.of(0))), z = sigmoid(add(at.get(gate + units), p.of(1)));
    const f32v s = a.inner_bias ? add(p.of(2), at.get(a.inner_bias + p.unit)) : p.of(2);
    const f32v n = tanh(fma(r, s, at.get(gate + 2 * units)));
    at.put(gate, r), at.put(gate + units, z), at.put(gate + 2 * units, n), at.put(inner, s);
    return fma(z, sub(before(a.shape, a.h, a.first, a.before, p, at), n), n);
  }
  template <class At>
  PYLLM_INLINE void backward(const RecurrentBackwardArgs& a, Place p, At at, f32v dh, f32v (&d)[4]) {
    const int64_t units = a.shape.units;
    float *gate = a.gates + p.row * 3 * units + p.unit, *hidden = a.hidden + p.row * 3 * units + p.unit;
    float* carry = a.carry + p.sequence * units + p.unit;
    const f32v r = at.get(gate), z = at.get(gate + units), n = at.get(gate + 2 * units);
    const f32v s = at.get(a.inner + p.row * units + p.unit);
    dh = add(dh, at.get(carry));
    const f32v dn = mul(mul(dh, rest(z)), square_rest(n));
    d[0] = mul(mul(dn, s), mul(r, rest(r)));
    d[1] = mul(mul(dh, sub(before(a.shape, a.h, a.first, a.before, p, at), n)), mul(z, rest(z)));
    d[2] = mul(dn, r);
    at.put(carry, mul(dh, z));
    at.put(gate, d[0]), at.put(gate + units, d[1]), at.put(gate + 2 * units, dn);
    for (int k = 0; k < 3; ++k) at.put(hidden + k * units, d[k]);
  }
};

template <class Cell> void forward(const RecurrentArgs& a, int share, int shares) {
  const RecurrentShape& s = a.shape;
  const int64_t rows = s.count(a.step);
  // Without a first state only what the step before has computed goes on.
  const int64_t known = a.first || s.count(a.before) > rows ? rows : s.count(a.before);
  alignas(64) RowSums sums[kBlockRows];
  each_blocks(s, share, shares, [&](Blocks b, int64_t next) {
    for (int64_t first = 0; first < rows; first += kBlockRows) {
      const int64_t last = first + kBlockRows < rows ? first + kBlockRows : rows, end = known < last ? known : last;
      if (end > first) gate_products(s, b, next, first, end - first, sums);
      clear_sums(sums + (end > first ? end - first : 0), last - (end > first ? end : first));
      each_place(s, b, a.step, first, last, sums, [&](Place p, auto at) {
        const f32v h = Cell::forward(a, p, at);
        at.put(a.h + p.row * s.units + p.unit, h);
        put_operand(s, s.operand[1 - s.turn], p.sequence, 0, p.unit, h);
      });
    }
  });
}

template <class Cell> void backward(const RecurrentBackwardArgs& a, int share, int shares) {
  const RecurrentShape& s = a.shape;
  const int64_t rows = s.count(a.step), known = s.count(a.after), all = known > rows ? known : rows;
  alignas(64) RowSums sums[kBlockRows];
  each_blocks(s, share, shares, [&](Blocks b, int64_t next) {
    for (int64_t first = 0; first < all; first += kBlockRows) {
      const int64_t last = first + kBlockRows < all ? first + kBlockRows : all, end = known < last ? known : last,
                    middle = rows < first  ? first
                             : rows < last ? rows
                                           : last;
      if (end > first) sum_products(s, b, next, first, end - first, sums);
      clear_sums(sums + (end > first ? end - first : 0), last - (end > first ? end : first));
      each_place(s, b, a.step, first, middle, sums, [&](Place p, auto at) {
        f32v d[kGates];
        Cell::backward(a, p, at, add(at.get(a.dh + p.row * s.units + p.unit), p.of(0)), d);
        for (int g = 0; g < Cell::kGates; ++g) put_operand(s, s.operand[1 - s.turn], p.sequence, g, p.unit, d[g]);
      });
      // Sequences that began at the step `after`: their first state.
      each_place(s, b, -1, middle, last, sums + (middle - first), [&](Place p, auto at) {
        const int64_t i = p.sequence * s.units + p.unit;
        at.put(a.dfirst + i, s.cell == pyllm::Cell::GRU ? add(at.get(a.carry + i), p.of(0)) : p.of(0));
      });
    }
  });
}

}  // namespace

void recurrent(const RecurrentArgs& a, int share, int shares) {
  if (a.shape.turn < 0) return begin(a.shape, a.first, share, shares);
  switch (a.shape.cell) {
    case Cell::Tanh: return forward<Simple<true>>(a, share, shares);
    case Cell::ReLU: return forward<Simple<false>>(a, share, shares);
    case Cell::LSTM: return forward<Long>(a, share, shares);
    case Cell::GRU: return forward<Gated>(a, share, shares);
  }
}

void recurrent_backward(const RecurrentBackwardArgs& a, int share, int shares) {
  if (a.shape.turn < 0) return begin(a.shape, nullptr, share, shares);
  switch (a.shape.cell) {
    case Cell::Tanh: return backward<Simple<true>>(a, share, shares);
    case Cell::ReLU: return backward<Simple<false>>(a, share, shares);
    case Cell::LSTM: return backward<Long>(a, share, shares);
    case Cell::GRU: return backward<Gated>(a, share, shares);
  }
}

}  // namespace pyllm::PYLLM_ISA
