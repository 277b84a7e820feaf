// What changes logits before temperature, in Hugging Face's order: bias, repetition penalty, then the bans; OpenAI's
// frequency and presence penalties stand after the repetition penalty. All of it touches few ids.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "engine/sampler.h"

namespace pyllm {
namespace {

constexpr float NEVER = -std::numeric_limits<float>::infinity();

float& at(float* row, size_t vocab, int64_t id, const char* what) {
  if (id < 0 || static_cast<uint64_t>(id) >= vocab) {
    throw std::invalid_argument(std::string("sample: ") + what + " names id " + std::to_string(id) +
                                ", the vocabulary has " + std::to_string(vocab));
  }
  return row[id];
}

// Extreme penalties must not make an infinity of a finite logit; -inf stays what it is.
float finite(double x) {
  constexpr double MOST = std::numeric_limits<float>::max();
  return static_cast<float>(std::clamp(x, -MOST, MOST));
}

struct Said {
  int64_t id;
  int64_t generated;  // how often since the prompt
};

// Every id of the history once, sorted.
std::vector<Said> counts(const History& said, size_t vocab) {
  std::vector<std::pair<int64_t, int64_t>> all;
  all.reserve(said.length);
  for (size_t i = 0; i < said.length; ++i) {
    const int64_t id = said.ids[i];
    if (id >= 0 && static_cast<uint64_t>(id) < vocab) all.push_back({id, i >= said.prompt});
  }
  std::sort(all.begin(), all.end());
  std::vector<Said> found;
  for (const auto& [id, generated] : all) {
    if (found.empty() || found.back().id != id) found.push_back({id, 0});
    found.back().generated += generated;
  }
  return found;
}

void penalise(float* row, size_t vocab, const Sampling& how, const History& said) {
  for (const Said& token : counts(said, vocab)) {
    float& x = row[token.id];
    if (!std::isfinite(x)) continue;
    if (how.repetition_penalty != 1) {
      x = finite(x < 0 ? x * how.repetition_penalty : x / how.repetition_penalty);
    }
    if (token.generated > 0) {
      const double less = how.frequency_penalty * static_cast<double>(token.generated) + how.presence_penalty;
      if (less != 0) x = finite(static_cast<double>(x) - less);
    }
  }
}

// -inf for each id that would complete an n-gram said before.
void ban_repeated(float* row, size_t vocab, size_t n, const History& said) {
  if (said.length + 1 < n) return;
  const int64_t* tail = said.ids + said.length + 1 - n;
  for (size_t i = 0; i + n <= said.length; ++i) {
    if (std::equal(tail, tail + (n - 1), said.ids + i)) at(row, vocab, said.ids[i + n - 1], "the history") = NEVER;
  }
}

void ban(float* row, size_t vocab, const std::vector<int64_t>& words, const History& said) {
  const size_t before = words.size() - 1;
  float& x = at(row, vocab, words.back(), "bad_words_ids");
  if (before <= said.length && std::equal(words.begin(), words.end() - 1, said.ids + said.length - before)) x = NEVER;
}

// -inf for all but these ids.
void force(float* row, size_t vocab, const std::vector<int64_t>& ids, const char* what) {
  if (ids.empty()) return;
  std::fill(row, row + vocab, NEVER);
  for (const int64_t id : ids) at(row, vocab, id, what) = 0;
}

}  // namespace

bool Sampling::edits() const {
  return !bias.empty() || repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0 ||
         no_repeat_ngram > 0 || !banned.empty() || (min_new_tokens > 0 && !ends.empty()) || !forced_first.empty() ||
         !forced_last.empty();
}

void edit_logits(float* row, size_t vocab, const Sampling& how, const History& said) {
  for (const auto& [id, value] : how.bias) {
    float& x = at(row, vocab, id, "logit_bias");
    x = value == NEVER || !std::isfinite(x) ? x + value : finite(static_cast<double>(x) + value);
  }
  if (how.repetition_penalty != 1 || how.presence_penalty != 0 || how.frequency_penalty != 0) {
    penalise(row, vocab, how, said);
  }
  if (how.no_repeat_ngram > 0) ban_repeated(row, vocab, static_cast<size_t>(how.no_repeat_ngram), said);
  for (const auto& words : how.banned) ban(row, vocab, words, said);
  if (said.length < said.prompt + static_cast<size_t>(std::max<int64_t>(how.min_new_tokens, 0))) {
    for (const int64_t id : how.ends) at(row, vocab, id, "eos_token_id") = NEVER;
  }
  if (said.length == 1) force(row, vocab, how.forced_first, "forced_bos_token_id");
  if (said.length + 1 == said.most) force(row, vocab, how.forced_last, "forced_eos_token_id");
}

}  // namespace pyllm
