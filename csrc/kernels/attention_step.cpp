// softmax(scale q K^T + bias) V for one query of each row: what a step of many beams asks. Keys and values are rows of
// numbers that lie anywhere, so that beams which share a past share its memory, and nothing moves when beams do.
//
// A task is a row and a head. It is defined as attention.cpp's is, chunk by chunk, every sum in the same order: of
// float32 numbers the bits are those.
#include "kernels/attention.h"
#include "simd/math.h"

namespace pyllm::PYLLM_ISA {
namespace {

int64_t rounded(int64_t n) { return (n + 15) / 16 * 16; }

// 16 numbers, or the n that are left and zeros.
PYLLM_INLINE f32v numbers(const float* p, int64_t n) { return n < 16 ? load_n(p, (int)n) : load(p); }
PYLLM_INLINE f32v numbers(const uint16_t* p, int64_t n) {
  if (n >= 16) return load_bf16(p);
  uint16_t whole[16] = {};
  memcpy(whole, p, (size_t)n * 2);
  return load_bf16(whole);
}

template <class T> struct Task {
  const StepAttentionArgs& a;
  int64_t row, head, count;
  const T *keys, *values;
  float *q, *score, *sums, *total;   // scratch; score: of all keys
  float top = -INFINITY, whole = 0;  // of the chunks so far

  Task(const StepAttentionArgs& a, int64_t row, int64_t head, uint8_t* scratch)
      : a(a),
        row(row),
        head(head),
        count(a.count[row]),
        keys((const T*)a.keys + head * a.dim),
        values((const T*)a.values + head * a.dim),
        q((float*)scratch),
        score(q + rounded(a.dim)),
        sums(score + rounded(a.longest)),
        total(sums + rounded(a.dim)) {
    const float* from = a.q + (row * a.heads + head) * a.dim;
    for (int64_t d = 0; d < a.dim; d += 16) store(q + d, mul(numbers(from + d, a.dim - d), set1(a.scale)));
  }
  int64_t offset(int64_t key) const {
    const int64_t place = a.place ? a.place[row * a.place_stride + key] : a.first[row] + key;
    return place * a.heads * a.dim;
  }

  // Scores of keys [k, k + n), 16 at most: one key a lane, feature after feature.
  f32v scores(int64_t k, int64_t n) {
    alignas(64) float block[16][16], turned[16][16];
    const T* key[16];
    for (int64_t i = 0; i < n; ++i) key[i] = keys + offset(k + i);
    for (int64_t i = n; i < 16; ++i) store(block[i], set1(0));
    f32v s = set1(0);
    for (int64_t d = 0; d < a.dim; d += 16) {
      for (int64_t i = 0; i < n; ++i) store(block[i], numbers(key[i] + d, a.dim - d));
      transpose16(block[0], 16, turned[0]);
      const int64_t features = a.dim - d < 16 ? a.dim - d : 16;
      for (int64_t i = 0; i < features; ++i) s = fma(load(turned[i]), set1(q[d + i]), s);
    }
    if (!a.bias) return s;
    return add(s, load_n(a.bias + (head + 1) * a.bias_stride - count + k, (int)n));
  }

  // Features [d, d + 16 N) of the sum of values over keys [from, to).
  template <int N> void add_values(int64_t from, int64_t to, int64_t d) {
    f32v o[N];
    for (int i = 0; i < N; ++i) o[i] = set1(0);
    for (int64_t k = from; k < to; ++k) {
      const T* value = values + offset(k) + d;
      const f32v w = set1(score[k]);
      for (int i = 0; i < N; ++i) o[i] = fma(numbers(value + 16 * i, a.dim - d - 16 * i), w, o[i]);
    }
    for (int i = 0; i < N; ++i) store(sums + d + 16 * i, o[i]);
  }

  // Keys [from, to): score becomes exp(score - m); gives m.
  float chunk(int64_t from, int64_t to) {
    f32v high = set1(-INFINITY), l = set1(0);
    for (int64_t k = from; k < to; k += 16) {
      const int64_t n = to - k < 16 ? to - k : 16;
      const f32v s = scores(k, n);
      store(score + k, s);
      high = max(high, below((int)n, s, set1(-INFINITY)));
    }
    const float m = max_of(high);
    for (int64_t k = from; k < to; k += 16) {
      const int n = to - k < 16 ? (int)(to - k) : 16;
      const f32v e = below(n, exp_to_one(sub(load(score + k), set1(m))), set1(0));
      l = add(l, e);
      store(score + k, e);
    }
    int64_t d = 0;
    for (; d + 48 < a.dim; d += 64) add_values<4>(from, to, d);
    for (; d < a.dim; d += 16) add_values<1>(from, to, d);
    absorb(m, sum(l));
    return m;
  }

  // The chunks so far take in (m, l, sums) of the next.
  void absorb(float m, float l) {
    if (whole == 0 && top == -INFINITY) {
      top = m, whole = l;
      for (int64_t d = 0; d < a.dim; d += 16) store(total + d, load(sums + d));
      return;
    }
    const f32v most = max(set1(top), set1(m));
    const f32v old = exp(sub(set1(top), most)), fresh = exp(sub(set1(m), most));
    alignas(64) float v[16];
    store(v, most);
    top = v[0];
    store(v, fma(set1(whole), old, mul(set1(l), fresh)));
    whole = v[0];
    for (int64_t d = 0; d < a.dim; d += 16) store(total + d, fma(load(total + d), old, mul(load(sums + d), fresh)));
  }

  // What was seen of keys [from, to), whose scores are less m.
  void show(int64_t from, int64_t to, float m) {
    float* into = a.weights + (row * a.heads + head) * a.longest;
    const f32v factor = div(exp(sub(set1(m), set1(top))), set1(whole));
    for (int64_t k = from; k < to; k += 16)
      store_n(into + k, mul(load(score + k), factor), to - k < 16 ? (int)(to - k) : 16);
  }

  void run(float* maxima) {
    for (int64_t k = 0; k < count; k += kChunk) maxima[k / kChunk] = chunk(k, k + kChunk < count ? k + kChunk : count);
    float* out = a.out + (row * a.heads + head) * a.dim;
    for (int64_t d = 0; d < a.dim; d += 16)
      store_n(out + d, div(load(total + d), set1(whole)), a.dim - d < 16 ? (int)(a.dim - d) : 16);
    for (int64_t k = 0; a.weights && k < count; k += kChunk)
      show(k, k + kChunk < count ? k + kChunk : count, maxima[k / kChunk]);
  }
};

int64_t task_floats(const StepAttentionArgs& a) { return 3 * rounded(a.dim) + rounded(a.longest) + 64; }

}  // namespace

int64_t step_attention_scratch(const StepAttentionArgs& a) { return (task_floats(a) + a.longest / kChunk + 1) * 4; }

void step_attention(const StepAttentionArgs& a, int worker, int workers) {
  uint8_t* scratch = a.scratch + worker * a.scratch_stride;
  float* maxima = (float*)scratch + task_floats(a);
  const Share s = share(a.rows * a.heads, worker, workers);
  for (int64_t i = s.first; i < s.last; ++i) {
    if (a.type == Type::F32) Task<float>(a, i / a.heads, i % a.heads, scratch).run(maxima);
    else Task<uint16_t>(a, i / a.heads, i % a.heads, scratch).run(maxima);
  }
}

}  // namespace pyllm::PYLLM_ISA
