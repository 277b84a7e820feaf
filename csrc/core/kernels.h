// What a kernel is: a function of (arguments, share, shares) that does its share and returns. Kernels call them worker
// and workers: the work is cut as if each share had a worker of its own. One table of them per instruction set; the
// arguments are plain structs, because every instruction set's sources read this header.
#pragma once
#include "core/types.h"

namespace pyllm {

enum class Norm : uint8_t { None, RMS, Layer };
enum class Act : uint8_t { None, SiLU, GELU, GELUTanh, Softcap, ReLU, Tanh, Sigmoid };
enum class Epilogue : uint8_t {
  Store,     // out = y + bias
  Add,       // out += y + bias, or residual + y + bias
  Activate,  // out = act(y + bias)
  Rotary,    // out = rotate(y + bias)
  Key,       // cache <- rotate(y + bias), or y + bias where there is no rotary table
  Value,     // cache <- y + bias
};

// A page holds kPage positions of every layer and key/value head of one sequence.
constexpr int kPage = 64;
// Attention is defined as chunks of kChunk positions at absolute positions, merged in ascending order.
constexpr int kChunk = 256;

// Inside a page, per layer and head: keys as panels of 16 positions over the head's features, then values as panels of
// 16 features over the positions; both padded to whole panels, so attention is two small panel products. Q8_0: the
// numbers of bf16 panels in int8, in the same order, then a half for every position and 16 features that they are
// multiplied with, 16 features after 16 features (so heads are a multiple of 16 wide); attention makes bf16 panels of a
// page before it reads them.
struct CacheLayout {
  int layers, heads, dim;  // key/value heads, features per head
  Type type;               // F32, BF16 or Q8_0
  Type panel_type() const { return type == Type::F32 ? Type::F32 : Type::BF16; }
  int64_t key_panels() const { return kPage / kPanel * panel_bytes(panel_type(), dim); }
  int64_t value_panels() const { return panels(dim) * panel_bytes(panel_type(), kPage); }
  int64_t scales() const { return panels(dim) * kPage * 2; }
  int64_t key_bytes() const { return type == Type::Q8_0 ? key_panels() / 2 + scales() : key_panels(); }
  int64_t value_bytes() const { return type == Type::Q8_0 ? value_panels() / 2 + scales() : value_panels(); }
  int64_t head_bytes() const { return key_bytes() + value_bytes(); }
  int64_t page_bytes() const { return (int64_t)layers * heads * head_bytes(); }
};

// One token of a step.
struct Row {
  int64_t position;
  uint8_t* const* pages;  // of its sequence, in order
};

struct LinearPart {
  const uint8_t* panels;
  const float* bias;  // or null
  float* out;         // (rows, n); unused by Key and Value
  int64_t n, out_stride;
  Type type;
  Epilogue epilogue;
  const float* more;  // (rows, n), added to the product as a bias is; or null
  // A product of low rank, added to the other: low (rows, rank) times F32 panels (n, rank); or null.
  const float* low;
  const uint8_t* low_panels;
  int64_t rank;
  const float* residual;  // of Add, where it stands not in out: rows out_stride apart; or null
};

constexpr int kParts = 3;

// y = norm(x) W^T for one to three weights that share x; gated: out = act(x W0^T) * (x W1^T).
struct LinearArgs {
  const float* x;
  const int32_t* gather;  // rows of x to take, or null: all in order
  int64_t rows, k, x_stride;
  bool transposed;  // x is (k, rows): then prepare runs first, and there is no norm
  const float *norm_weight, *norm_bias;
  float eps;
  Norm norm;
  Act act;
  bool gated;
  int workers;    // of the team: rows are cut so that each has some
  int terms;      // int8 numbers per activation: 1, or 2 for precision="high"
  int64_t ahead;  // bytes that one row fetches ahead of its weights, as stream_ahead() says
  int parts;
  LinearPart part[kParts];
  const LinearArgs* beside;  // another product that reads the same prepared rows, or null
  const Row* row;            // Rotary, Key, Value
  const float* rotary;       // (positions, 2, dim): cosines, then signed sines; or null
  const CacheLayout* cache;
  int layer;
  uint8_t* prepared;  // rows made ready once for all workers (then prepare has run before), or null: each makes its own
  uint8_t* scratch;   // per worker, scratch_stride apart
  int64_t scratch_stride;
};

// Which numbers are kept, times factor = 1 / (1 - p), and which become 0: kernels/draws.h.
struct Draw {
  uint64_t seed, stream, offset;
  uint32_t least;
  float factor;
};

// Dropout of attention weights as of an array (rows, heads, keys), keys a multiple of 64.
struct WeightDropout {
  Draw draw;
  int64_t heads, keys;
};

struct AttentionArgs {
  const float* q;  // (rows, heads * dim)
  float* out;      // the same shape
  const Row* row;
  int64_t rows, q_stride, out_stride;
  const CacheLayout* cache;
  int layer, heads;
  float scale, softcap;    // scores are c tanh(scale q k / c); softcap 0: scale q k
  bool causal;             // else every row sees `length` positions
  int64_t length, window;  // window: only the last that many positions; 0: all
  int64_t chunks;          // capacity of partial per row and head
  float* partial;          // (rows, heads, chunks, 2 + padded dim)
  const int32_t* segment;  // starts of runs of rows that share pages with ascending positions; segments + 1 numbers
  int64_t segments;
  bool split;  // chunks are tasks of their own, and merge follows as a step
  uint8_t* scratch;
  int64_t scratch_stride;
  float* lse;  // (rows, heads): log of the sum of exp of the scores, for the way back; or null
  // (heads, bias_stride), added to the scores: bias_zero + the key's place less the query's in their sequence; or null.
  const float* bias;
  int64_t bias_stride, bias_zero;
  const WeightDropout* drop;  // of the weights, while a model learns; or null
};

// One query of each row over keys and values that lie as rows of numbers in memory, in any order.
struct StepAttentionArgs {
  const float* q;                // (rows, heads * dim)
  float* out;                    // the same shape
  const void *keys, *values;     // (places, heads * dim), F32 or BF16
  const int32_t* place;          // (rows, place_stride): which places a row sees, in order; or null: from first on
  const int32_t *first, *count;  // of each row; count: how many places it sees
  int64_t rows, place_stride, longest;
  int heads, dim;
  float scale;
  Type type;
  const float* bias;  // (heads, bias_stride), added to the scores so that a row's last key gets a line's last; or null
  int64_t bias_stride;
  float* weights;  // (rows, heads, longest), of which a row writes what it sees; or null
  uint8_t* scratch;
  int64_t scratch_stride;
};

// dq, dk, dv of out = attention(q, k, v) over whole sequences, row after row.
struct AttentionBackwardArgs {
  const float *dout, *q, *k, *v, *out, *lse;  // (rows, heads * dim), k and v (keys, groups * dim), lse (rows, heads)
  float *dq, *dk, *dv;
  const int32_t *start, *key_start;  // of every sequence's queries and keys; sequences + 1 numbers each
  const int32_t* order;              // the sequences, the longest first
  int64_t sequences, longest, longest_keys;
  int heads, groups, dim;
  float scale, softcap;  // as in AttentionArgs, and so are causal and window
  bool causal;
  int64_t window;
  Type type;          // of the products: F32 or BF16
  const float* bias;  // as in AttentionArgs
  float* dbias;       // (sequences, heads, bias_stride)
  int64_t bias_stride, bias_zero;
  const WeightDropout* drop;
  int slices;
  uint8_t* scratch;
  int64_t scratch_stride;
};

struct EmbeddingArgs {
  const int32_t* ids;
  const Row* row;
  const uint8_t* tokens;   // panels
  const float* positions;  // (context, k), added; or null
  float* out;
  int64_t rows, k, out_stride;
  Type token_type;
  float scale;  // of the tokens' rows
};

// y = norm(x), row by row; add: y += norm(x).
struct NormArgs {
  const float *x, *weight, *bias;
  float* out;
  int64_t rows, k;
  float eps;
  Norm norm;
  bool add;
};

// y = f(x) elementwise; with up: y = f(x) * up. Softmax works on rows of k. x and up are float32, or with `half` bf16;
// with kept_x they are rounded to bf16 first, which goes there and to kept_up. out may be null.
struct MapArgs {
  const void *x, *up;
  float* out;
  int64_t n;
  Act act;
  float cap;  // of Softcap: cap tanh(x / cap)
  bool half;
  uint16_t *kept_x, *kept_up;
};
struct SoftmaxArgs {
  const float* x;
  float* out;
  int64_t rows, k;
};
struct RotaryArgs {
  const float *x, *table;  // table as in LinearArgs; x (rows, heads * dim)
  const int64_t* position;
  float* out;
  int64_t rows, heads, dim;
};
// Every head of queries and keys divided by its root mean square, times a weight (dim), then turned: both in place, the
// keys also into the cache.
struct HeadsArgs {
  float *q, *k;  // (rows, heads * dim), (rows, key heads * dim)
  const float *q_weight, *k_weight;
  float eps;
  const Row* row;
  int64_t rows, heads;
  const float* rotary;  // as in LinearArgs
  const CacheLayout* cache;
  int layer;
};
// Row-major (rows, k) of float32 into panels of F32 or BF16; transposed: the source is (k, rows).
struct PackArgs {
  const float* x;
  uint8_t* panels;
  int64_t rows, k, stride;
  Type type;
  bool transposed;
};
// Rows of panels back to float32.
struct UnpackArgs {
  const uint8_t* panels;
  float* out;
  int64_t row, rows, k;
  Type type;
};
// Rows [row, row + rows) of panels (any type, k inputs; row a multiple of 16) as panels of k features and `rows`
// inputs, of type `to`: BF16, or F32 of F32.
struct TurnArgs {
  const uint8_t* panels;
  uint8_t* out;
  int64_t row, rows, k;
  Type type, to;
};
// Key and value rows of one sequence into pages (eager attention).
struct CacheWriteArgs {
  const float *key, *value;  // (rows, heads * dim)
  const Row* row;
  int64_t rows;
  const CacheLayout* cache;
  int layer;
};
// The same for whole pages: rows [page[i], page[i + 1]) are one page of a sequence, from its beginning.
struct CacheFillArgs {
  CacheWriteArgs write;
  const int32_t* page;
  int64_t pages;
};

// Training, row by row. Sums over rows or long vectors are made of partial sums of kSumRows rows or kSumBlock numbers,
// merged in ascending order: never one for each worker.
constexpr int64_t kSumRows = 32, kSumBlock = 4096;

// dx of y = norm(x), and for every kSumRows rows the sums of dy * normed x and of dy (bias null: not wanted).
struct NormBackwardArgs {
  const float *dy, *x, *weight;
  float *dx, *weight_sums, *bias_sums;  // (rows, k), then (blocks, k) each
  int64_t rows, k;
  float eps;
  Norm norm;
};
// y = act(x) * up: dx, and with up dup. x and up as in MapArgs.
struct MapBackwardArgs {
  const float* dy;
  const void *x, *up;
  float *dx, *dup;
  int64_t n;
  Act act;
  float cap;
  bool half;
};
struct SoftmaxBackwardArgs {
  const float *dy, *y;
  float* dx;
  int64_t rows, k;
};
struct ColumnSumsArgs {
  const float* x;  // (rows, k)
  float* out;      // (k)
  int64_t rows, k;
};
// out = h^T x, or with `add` more by that: h (rows, r) of few columns, x (rows, k), out (r, k), `across` (k, r).
struct OuterArgs {
  const float *h, *x;
  float* out;
  int64_t rows, r, k;
  bool add, across;
};
// into[ids[r]] += dy[r].
struct EmbeddingBackwardArgs {
  const float* dy;
  const int32_t* ids;
  float* into;
  int64_t rows, k;
};
// losses, and with `gradient` logits overwritten by scale * weight * d(loss) / d(logits).
struct CrossEntropyArgs {
  float* logits;           // (rows, k)
  const int64_t* targets;  // 0 to k - 1, or kIgnored
  const float* weights;    // or null: all 1
  float* losses;
  int64_t rows, k;
  float smoothing, scale;
  bool gradient;
};
constexpr int64_t kIgnored = -100;
// y = x / (1 - p) where the word of its place is `least` or more, else 0.
struct DropoutArgs {
  const float* x;
  float* y;
  int64_t n;
  Draw draw;
};
// partial[b]: the sum of the squares of block b, exact products in double.
struct SquaresArgs {
  const float* x;
  double* partial;
  int64_t n;
};
struct AdamWArgs {
  float *p, *m, *v;
  const float* g;
  int64_t n;
  float scale;                 // of g, first
  float keep, beta2;           // keep: 1 - lr * weight decay
  float rest1, rest2;          // 1 - beta1, 1 - beta2
  float root, eps, step_size;  // 1 / sqrt(1 - beta2^t), lr / (1 - beta1^t)
};
struct SGDArgs {
  float *p, *m;  // m null: no momentum
  const float* g;
  int64_t n;
  float lr, momentum, weight_decay, scale;
  bool nesterov, first;  // first: m becomes g
};
struct AxpyArgs {
  const float* x;
  float* into;
  int64_t n;
  float a;
};

struct RecurrentArgs;  // core/recurrent.h
struct RecurrentBackwardArgs;

template <class Args> using Kernel = void (*)(const Args&, int share, int shares);

struct Kernels {
  const char* name;
  Kernel<LinearArgs> prepare, linear;
  Kernel<AttentionArgs> attention, merge;
  Kernel<StepAttentionArgs> step_attention;
  Kernel<EmbeddingArgs> embedding;
  Kernel<NormArgs> norm;
  Kernel<MapArgs> map;
  Kernel<SoftmaxArgs> softmax;
  Kernel<RotaryArgs> rotary;
  Kernel<HeadsArgs> heads;
  Kernel<PackArgs> pack;
  Kernel<UnpackArgs> unpack;
  Kernel<TurnArgs> turn;
  Kernel<CacheWriteArgs> cache_write;
  Kernel<CacheFillArgs> cache_fill;
  Kernel<AttentionBackwardArgs> attention_backward;
  Kernel<NormBackwardArgs> norm_backward;
  Kernel<MapBackwardArgs> map_backward;
  Kernel<SoftmaxBackwardArgs> softmax_backward;
  Kernel<ColumnSumsArgs> column_sums;
  Kernel<OuterArgs> outer;
  Kernel<EmbeddingBackwardArgs> embedding_backward;
  Kernel<CrossEntropyArgs> cross_entropy;
  Kernel<DropoutArgs> dropout;
  Kernel<SquaresArgs> squares;
  Kernel<AdamWArgs> adamw;
  Kernel<SGDArgs> sgd;
  Kernel<AxpyArgs> axpy;
  Kernel<RecurrentArgs> recurrent;
  Kernel<RecurrentBackwardArgs> recurrent_backward;
  int64_t (*linear_scratch)(const LinearArgs&);
  int64_t (*prepared_bytes)(const LinearArgs&);
  int64_t (*attention_scratch)(const AttentionArgs&);
  int64_t (*step_attention_scratch)(const StepAttentionArgs&);
  int64_t (*attention_backward_scratch)(const AttentionBackwardArgs&);
  double (*peak)(int what, double seconds);  // measured limit: 0 fp32 flop/s, 1 bf16, 2 int8
};

// The share [first, last) of n items that falls to a worker.
struct Share {
  int64_t first, last;
};
inline Share share(int64_t n, int worker, int workers) { return {n * worker / workers, n * (worker + 1) / workers}; }

}  // namespace pyllm
