// From one row of logits to one token. Every function is pure: the same arguments give the same bits, whatever was
// sampled before or beside. LogitsError is the model's fault, std::invalid_argument the caller's.
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace pyllm {

struct LogitsError : std::domain_error {
  using std::domain_error::domain_error;
};

struct Sampling {
  bool sample = false;  // false: the likeliest token
  double temperature = 1.0;
  int64_t top_k = 0;       // 0: all
  double top_p = 1.0;      // 1: all
  double min_p = 0.0;      // 0: all
  double typical_p = 1.0;  // 1: all
  double repetition_penalty = 1.0;
  double presence_penalty = 0.0;
  double frequency_penalty = 0.0;
  int64_t no_repeat_ngram = 0;
  int64_t min_new_tokens = 0;                      // until then no id of `ends` is chosen
  std::vector<int64_t> forced_first, forced_last;  // nothing but these may be the second token, the last one at most
  std::vector<int64_t> ends;
  std::vector<std::pair<int64_t, float>> bias;  // added to the logits
  std::vector<std::vector<int64_t>> banned;     // the last id of each, when the ids before it have just been said

  bool greedy() const { return !sample || temperature == 0; }
  bool edits() const;  // does edit_logits() do anything?
};

// The tokens so far: the first `prompt` were given, the rest generated.
struct History {
  const int64_t* ids = nullptr;
  size_t length = 0;
  size_t prompt = 0;
  size_t most = 0;  // tokens at most; 0: nobody knows
};

struct Candidate {
  float logit;
  int32_t id;
  double weight;  // exp((logit - largest) / temperature), or a log-probability where that is said
};

struct Choice {
  int64_t token = 0;
  double logprob = 0;          // by the unprocessed logits
  std::vector<Candidate> top;  // the likeliest by the unprocessed logits; weight = log-probability
};

// row, in place: bias, repetition, frequency and presence penalties, then -inf for what may not be said.
void edit_logits(float* row, size_t vocab, const Sampling& how, const History& said);

// All ids whose logits edit_logits may change, each once; false where it may change all of them.
bool edited_ids(const Sampling& how, const History& said, std::vector<int64_t>& ids);

// One token from `row` (edited, or the same pointer as `raw`); `u` in [0, 1) is the draw; `top` alternatives.
Choice choose(const float* raw, const float* row, size_t vocab, const Sampling& how, double u, size_t top,
              bool logprob);

// row, in place: divided by the temperature where top-k, top-p, min-p and typical-p leave a token, -inf elsewhere.
void warp_logits(float* row, size_t vocab, const Sampling& how);

// The k largest in descending order (equal ones: lowest id first), never -inf; weight = log-softmax.
std::vector<Candidate> likeliest(const float* row, size_t vocab, size_t k);

// The same in half the time, the weights within 1e-6 and an ulp of the logit.
std::vector<Candidate> nearly_likeliest(const float* row, size_t vocab, size_t k);

// The k largest in descending order (equal ones: lowest id first), never -inf; without weights.
std::vector<Candidate> largest(const float* row, size_t vocab, size_t k);

// log(sum(exp(row))) in double.
double log_sum_exp(const float* row, size_t vocab);

}  // namespace pyllm
