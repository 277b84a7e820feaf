// One step of beam search for many searches at once: from logits to the best continuations of each.
#pragma once
#include <cstdint>
#include <vector>

#include "engine/sampler.h"

namespace pyllm {

// A beam: its logits, what it said, and the sum of its log-probabilities.
struct BeamRow {
  const float* logits;
  History said;
  double score;
};

// A beam grown by a token: score is the beam's and the edited log-probability, logprob that of the model alone.
struct Continuation {
  double score, logprob;
  int64_t token;
  int32_t row;
};

// Of the rows [start[g], start[g + 1]) of every group g the `most` best continuations in descending order; equal ones
// in the order of rows, then of ids. Edits are made to log-probabilities, as Hugging Face's beam search does.
std::vector<std::vector<Continuation>> continuations(const std::vector<BeamRow>& rows, size_t vocab,
                                                     const std::vector<int32_t>& start, const Sampling& how,
                                                     size_t most);

}  // namespace pyllm
