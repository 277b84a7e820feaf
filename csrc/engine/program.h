// A model's forward, recorded once as a flat list of kernel calls and replayed without Python.
//
// Values are matrices of (rows of the step, width). A replay's input is rows grouped in segments (a sequence and how
// many of its tokens come next); one row, a prompt chunk, or many users' rows are the same replay.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/kernels.h"
#include "core/memory.h"
#include "core/recurrent.h"
#include "engine/state.h"
#include "engine/weight.h"

namespace pyllm {

using Floats = std::shared_ptr<std::vector<float>>;

struct NormOf {
  Norm kind = Norm::None;
  Floats weight, bias;
  float eps = 0;
};

// Angles of rotary positions: position * frequency[i], cosines and sines times `magnitude`; features beyond 2 *
// frequency.size() are left alone.
struct Rotary {
  std::vector<double> frequency;
  double magnitude = 1;
};

// One of the program's tables, as far as it has been needed: (positions, 2, dim), cosines, then signed sines.
struct RotaryTable {
  Rotary rotary;
  std::vector<float> numbers;
  void grow(int64_t positions, int64_t context, int64_t dim);
};

struct Part {
  std::shared_ptr<Weight> weight;
  Floats bias;
  Epilogue epilogue = Epilogue::Store;
  int more = -1;  // a value of its outputs' width that is added as a bias is
};

class Program {
 public:
  // heads = 0: no attention, no keys and values.
  Program(int layers, int heads, int dim, Type cache, int64_t context, bool high_precision);

  int rotary(Rotary rotary);  // gives its number; kUnturned is none
  int embedding(std::shared_ptr<Weight> tokens, Floats positions, float scale);
  // Each part with Epilogue::Store, Activate or Rotary gives a value; Key and Value go to the cache of `layer`.
  // residual >= 0: the parts are added to that value, which is then the result. gated: see LinearArgs.
  std::vector<int> linear(int x, NormOf norm, std::vector<Part> parts, Act act, bool gated, int residual, int layer,
                          int rotary);
  // Queries and keys normalised head by head and turned; q stays where it is, k goes to the cache of `layer`.
  void heads(int q, int k, Floats q_weight, Floats k_weight, float eps, int layer, int rotary);
  int attention(int q, int layer, int heads, float scale, int64_t window, float softcap);
  // h of every row from the input products of a recurrent layer, from the states that sequences have, whose pages get
  // the new ones. weight: of every gate whole panels of (units, units); inner_bias: what GRU's reset multiplies too.
  int recurrent(int gates, Cell cell, std::shared_ptr<Weight> weight, Floats inner_bias);
  void add_norm(int residual, int x, NormOf norm);  // residual += norm(x)
  int map(int x, int up, Act act);
  void logits(int x, NormOf norm, Part head, float softcap);  // last: only for the rows that are wanted
  void finish();                                              // no more recording; plans the buffers

  // Runs the rows; out receives (wanted, vocabulary), or (wanted, width) where the rows stay hidden: normalised, but
  // not through the head. The sequences have been reserved; lengths advance on success.
  void run(const int32_t* tokens, const std::vector<Segment>& segments, const std::vector<int32_t>& wanted, bool hidden,
           float* out);
  // Logits of hidden rows, the same bits as run gives: a long text's logits need not be held at once.
  void head(const float* hidden, int64_t rows, float* out);

  int64_t page_bytes() const;  // of its sequences
  int64_t context() const { return context_; }
  int64_t vocabulary() const { return vocabulary_; }
  int64_t width() const { return width_; }
  int64_t width_of(int value) const { return values_.at((size_t)value).width; }
  std::string describe() const;
  static constexpr int64_t kMaxRows = 512;
  static constexpr int kUnturned = -1;

 private:
  struct Value {
    int64_t width;
    int buffer, first, last;
  };
  struct Context;
  struct Step;
  struct EmbeddingStep;
  struct LinearStep;
  struct HeadsStep;
  struct AttentionStep;
  struct RecurrentStep;
  struct NormStep;
  struct MapStep;
  struct SoftcapStep;
  struct HiddenStep;
  using Steps = std::vector<std::shared_ptr<Step>>;

  int value(int64_t width);
  void use(int v);
  const float* table(int rotary) const;
  void replay(const Steps& steps, Context& c);

  CacheLayout cache_;
  std::vector<int> state_;  // what a recurrent program's states consist of: values of all rows, h and c of each layer
  int64_t state_numbers_ = 0;
  std::vector<RotaryTable> rotary_;
  int64_t context_, vocabulary_ = 0, width_ = 0;
  int terms_;
  std::vector<Value> values_;
  Steps steps_;
  size_t trunk_ = 0;                     // steps before the head
  std::shared_ptr<Step> hidden_, head_;  // what may stand in for the head: its norm alone, it alone
  std::vector<int64_t> buffer_width_;
  Buffer arena_, scratch_;
  bool finished_ = false;
};

}  // namespace pyllm
