#include "engine/beams.h"

#include <algorithm>
#include <string>

#include "core/workers.h"

namespace pyllm {
namespace {

// The best of one beam. Without edits one reading finds the largest logits and the sum of all; the row stays as it is.
std::vector<Continuation> best_of(const BeamRow& beam, int32_t row, size_t vocab, const Sampling& how, size_t most) {
  std::vector<Candidate> found;
  const float* logits = beam.logits;
  double sum = 0;
  if (how.edits()) {
    sum = log_sum_exp(logits, vocab);
    static thread_local std::vector<float> edited;
    edited.resize(vocab);
    const float shift = static_cast<float>(sum);
    for (size_t i = 0; i < vocab; ++i) edited[i] = logits[i] - shift;
    edit_logits(edited.data(), vocab, how, beam.said);
    found = largest(edited.data(), vocab, most);
    for (Candidate& c : found) c.weight = c.logit;
  } else {
    found = likeliest(logits, vocab, most);
  }
  std::vector<Continuation> out;
  for (const Candidate& c : found) {
    const double logprob = how.edits() ? logits[c.id] - sum : c.weight;
    out.push_back({beam.score + c.weight, logprob, c.id, row});
  }
  return out;
}

}  // namespace

std::vector<std::vector<Continuation>> continuations(const std::vector<BeamRow>& rows, size_t vocab,
                                                     const std::vector<int32_t>& start, const Sampling& how,
                                                     size_t most) {
  std::vector<std::vector<Continuation>> of(rows.size()), best(start.size() - 1);
  const int workers = rows.size() > 1 ? threads() : 1;
  std::vector<std::string> wrong(rows.size()), refused(rows.size());  // none may throw in the team
  const auto run = [&](int, int row, int, int) {
    const size_t i = static_cast<size_t>(row);
    try {
      of[i] = best_of(rows[i], row, vocab, how, most);
    } catch (const LogitsError& error) {
      wrong[i] = error.what();
    } catch (const std::exception& error) {
      refused[i] = error.what();
    }
  };
  if (!rows.empty()) run_team(workers, {1, [&](int) { return static_cast<int>(rows.size()); }, run});
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!wrong[i].empty()) throw LogitsError(wrong[i]);
    if (!refused[i].empty()) throw std::invalid_argument(refused[i]);
  }
  for (size_t g = 0; g + 1 < start.size(); ++g) {
    std::vector<Continuation>& all = best[g];
    for (int32_t i = start[g]; i < start[g + 1]; ++i) {
      const std::vector<Continuation>& own = of[static_cast<size_t>(i)];
      all.insert(all.end(), own.begin(), own.end());
    }
    std::stable_sort(all.begin(), all.end(),
                     [](const Continuation& a, const Continuation& b) { return a.score > b.score; });
    if (all.size() > most) all.resize(most);
  }
  return best;
}

}  // namespace pyllm
