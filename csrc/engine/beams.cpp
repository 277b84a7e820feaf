#include "engine/beams.h"

#include <algorithm>
#include <limits>
#include <string>

#include "core/workers.h"

namespace pyllm {
namespace {

constexpr size_t FEW = 512;  // ids that may be edited apart from the others

// A row of log-probabilities, of which only what is asked for has been written.
float* scratch(size_t vocab) {
  static thread_local std::vector<float> row;
  if (row.size() < vocab) row.resize(vocab);
  return row.data();
}

// The largest after edits of the whole row, with their values as weights; `sum`: of the exponentials, its logarithm.
std::vector<Candidate> edited_whole(const BeamRow& beam, size_t vocab, const Sampling& how, size_t most, double& sum) {
  float* row = scratch(vocab);
  sum = log_sum_exp(beam.logits, vocab);
  const float shift = static_cast<float>(sum);
  for (size_t i = 0; i < vocab; ++i) row[i] = beam.logits[i] - shift;
  edit_logits(row, vocab, how, beam.said);
  std::vector<Candidate> found = largest(row, vocab, most);
  for (Candidate& c : found) c.weight = c.logit;
  return found;
}

// The same where edits reach few ids: the others' largest are found in the row as it is.
std::vector<Candidate> edited_apart(const BeamRow& beam, size_t vocab, const Sampling& how, size_t most, double& sum,
                                    const std::vector<int64_t>& ids) {
  std::vector<Candidate> found = nearly_likeliest(beam.logits, vocab, most + ids.size());
  sum = found.front().logit - found.front().weight;
  const float shift = static_cast<float>(sum);
  std::erase_if(found, [&](const Candidate& c) { return std::binary_search(ids.begin(), ids.end(), c.id); });
  for (Candidate& c : found) c.weight = c.logit - sum;
  float* row = scratch(vocab);
  const auto known = [&](int64_t id) { return id >= 0 && static_cast<size_t>(id) < vocab; };
  for (const int64_t id : ids)
    if (known(id)) row[id] = beam.logits[id] - shift;
  edit_logits(row, vocab, how, beam.said);
  for (const int64_t id : ids)
    if (known(id) && row[id] >= std::numeric_limits<float>::lowest())
      found.push_back({row[id], static_cast<int32_t>(id), row[id]});
  std::sort(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  });
  if (found.size() > most) found.resize(most);
  return found;
}

// The best of one beam. Without edits one reading finds the largest logits and the sum of all.
std::vector<Continuation> best_of(const BeamRow& beam, int32_t row, size_t vocab, const Sampling& how, size_t most) {
  std::vector<Candidate> found;
  double sum = 0;
  std::vector<int64_t> ids;
  const bool edits = how.edits();
  if (!edits) found = nearly_likeliest(beam.logits, vocab, most);
  else if (edited_ids(how, beam.said, ids) && ids.size() <= FEW) found = edited_apart(beam, vocab, how, most, sum, ids);
  if (edits && found.empty()) found = edited_whole(beam, vocab, how, most, sum);
  std::vector<Continuation> out;
  for (const Candidate& c : found) {
    const double logprob = edits ? beam.logits[c.id] - sum : c.weight;
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
