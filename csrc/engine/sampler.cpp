// Choosing: one pass finds the largest logit of each block of 64, which then tells which few blocks can hold one of the
// k largest, so nothing is sorted but the survivors.
#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

// The two loops that read the whole row are compiled for wider vectors too, where the tool chain picks among copies by
// itself. The sums keep their order and nothing is contracted, so all copies give the same bits.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define PYLLM_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define PYLLM_CLONES
#endif
#if defined(__GNUC__) && !defined(__clang__)
#define PYLLM_INLINE inline __attribute__((always_inline))
#else
#define PYLLM_INLINE inline
#endif

namespace pyllm {
namespace {

constexpr size_t BLOCK = 64;
constexpr float NEVER = -std::numeric_limits<float>::infinity();

// exp(x) for x <= 0 within 1e-12 relative, exactly 1 at 0: arithmetic only, so that the loops around it become vectors.
PYLLM_INLINE double exp_negative(double x) {
  constexpr double LOG2E = 1.4426950408889634, LN2 = 0.6931471805599453, SHIFT = 6755399441055744.0;  // 1.5 * 2^52
  x = x > -700.0 ? x : -700.0;
  const double shifted = x * LOG2E + SHIFT;  // the nearest integer n sits in the low bits
  const double r = x - (shifted - SHIFT) * LN2;
  // Least largest relative error on |r| <= ln(2) / 2 among the polynomials of degree 8 that are 1 at 0.
  double p = 2.473297923592706e-05;
  p = p * r + 1.9914665871249756e-04;
  p = p * r + 1.3889154960162464e-03;
  p = p * r + 8.333268780977498e-03;
  p = p * r + 4.16666645373353e-02;
  p = p * r + 1.6666666873208774e-01;
  p = p * r + 5.000000000458018e-01;
  p = p * r + 9.999999999830732e-01;
  p = p * r + 1.0;
  const uint64_t scale = (std::bit_cast<uint64_t>(shifted) << 52) + (uint64_t{1023} << 52);  // 2^n
  return p * std::bit_cast<double>(scale);
}

// The same within 2e-7 relative in float, twice as many lanes and half the steps.
PYLLM_INLINE float exp_negative(float x) {
  constexpr float LOG2E = 1.44269504f, LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f, SHIFT = 12582912.0f;
  x = x > -87.0f ? x : -87.0f;
  const float shifted = x * LOG2E + SHIFT, n = shifted - SHIFT;
  const float r = (x - n * LN2_HIGH) - n * LN2_LOW;
  float p = 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + (uint32_t{127} << 23));
}

// What one reading of the row tells.
struct Survey {
  std::vector<float> maxima;  // per block of 64
  float largest = NEVER;
};

[[noreturn]] void refuse(const float* row, size_t vocab) {
  for (size_t i = 0; i < vocab; ++i) {
    if (std::isnan(row[i])) throw LogitsError("sample: logits hold NaN at id " + std::to_string(i));
    if (row[i] == -NEVER) throw LogitsError("sample: logits hold inf at id " + std::to_string(i));
  }
  throw LogitsError("sample: all " + std::to_string(vocab) + " logits are -inf: no token is left to choose");
}

// The largest logit of each whole block; true when one of the logits is NaN.
PYLLM_CLONES bool block_maxima(const float* row, size_t blocks, float* maxima) {
  int nan = 0;
  for (size_t b = 0; b < blocks; ++b) {
    const float* x = row + b * BLOCK;
    float most[BLOCK / 2];
    for (size_t i = 0; i < BLOCK; ++i) nan |= x[i] != x[i];
    for (size_t i = 0; i < 32; ++i) most[i] = x[i + 32] > x[i] ? x[i + 32] : x[i];
    for (size_t i = 0; i < 16; ++i) most[i] = most[i + 16] > most[i] ? most[i + 16] : most[i];
    for (size_t i = 0; i < 8; ++i) most[i] = most[i + 8] > most[i] ? most[i + 8] : most[i];
    for (size_t i = 0; i < 4; ++i) most[i] = most[i + 4] > most[i] ? most[i + 4] : most[i];
    maxima[b] = std::max(std::max(most[0], most[1]), std::max(most[2], most[3]));
  }
  return nan != 0;
}

// Per whole block the sum of exp((x - largest) * rate), in an order that no vector width changes.
PYLLM_CLONES void block_masses(const float* row, size_t blocks, double largest, double rate, double* masses) {
  for (size_t b = 0; b < blocks; ++b) {
    const float* x = row + b * BLOCK;
    double mass[BLOCK];
    for (size_t i = 0; i < BLOCK; ++i) mass[i] = exp_negative((static_cast<double>(x[i]) - largest) * rate);
    for (size_t half = BLOCK / 2; half > 0; half /= 2) {
      for (size_t i = 0; i < half; ++i) mass[i] += mass[i + half];
    }
    masses[b] = mass[0];
  }
}

// Per whole block the sum of exp(x - largest) in float.
PYLLM_CLONES void block_sums(const float* row, size_t blocks, float largest, float* sums) {
  for (size_t b = 0; b < blocks; ++b) {
    const float* x = row + b * BLOCK;
    float sum[BLOCK];
    for (size_t i = 0; i < BLOCK; ++i) sum[i] = exp_negative(x[i] - largest);
    for (size_t half = BLOCK / 2; half > 0; half /= 2) {
      for (size_t i = 0; i < half; ++i) sum[i] += sum[i + half];
    }
    sums[b] = sum[0];
  }
}

// The row's last, partial block as a whole one, filled up with -inf; false when there is none.
bool last_block(const float* row, size_t vocab, float (&block)[BLOCK]) {
  std::fill(std::copy(row + vocab / BLOCK * BLOCK, row + vocab, block), block + BLOCK, NEVER);
  return vocab % BLOCK != 0;
}

Survey survey(const float* row, size_t vocab) {
  Survey s;
  const size_t whole = vocab / BLOCK;
  float rest[BLOCK];
  const bool more = last_block(row, vocab, rest);
  s.maxima.resize(whole + more);
  bool nan = block_maxima(row, whole, s.maxima.data());
  if (more) nan |= block_maxima(rest, 1, s.maxima.data() + whole);
  for (const float most : s.maxima) s.largest = std::max(s.largest, most);
  if (nan || !std::isfinite(s.largest)) refuse(row, vocab);
  return s;
}

std::vector<double> masses_of(const float* row, size_t vocab, float largest, double rate) {
  const size_t whole = vocab / BLOCK;
  float rest[BLOCK];
  const bool more = last_block(row, vocab, rest);
  std::vector<double> masses(whole + more);
  block_masses(row, whole, largest, rate, masses.data());
  if (more) block_masses(rest, 1, largest, rate, masses.data() + whole);
  return masses;
}

double row_mass(const float* row, size_t vocab, float largest, double rate) {
  double sum = 0;
  for (const double mass : masses_of(row, vocab, largest, rate)) sum += mass;
  return sum;
}

// 1 / temperature, bounded: 0 * inf would make a NaN of the largest logit itself.
double rate_of(const Sampling& how) { return std::min(1.0 / how.temperature, 1e300); }

bool before(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; }

// Every logit >= floor (never -inf), in order of id.
std::vector<Candidate> at_least(const float* row, size_t vocab, const Survey& s, float floor) {
  std::vector<Candidate> found;
  for (size_t b = 0; b < s.maxima.size(); ++b) {
    if (s.maxima[b] < floor) continue;
    const size_t end = std::min(vocab, (b + 1) * BLOCK);
    for (size_t i = b * BLOCK; i < end; ++i) {
      if (row[i] >= floor && row[i] != NEVER) found.push_back({row[i], static_cast<int32_t>(i), 0});
    }
  }
  return found;
}

// The k largest, sorted; those equal to the k-th are all kept, as Hugging Face's top-k keeps them.
std::vector<Candidate> largest_of(const float* row, size_t vocab, const Survey& s, size_t k) {
  float floor = NEVER;
  if (k < s.maxima.size()) {  // k blocks reach the k-th largest maximum, so k logits do
    std::vector<float> maxima = s.maxima;
    std::nth_element(maxima.begin(), maxima.begin() + (k - 1), maxima.end(), std::greater<float>());
    floor = maxima[k - 1];
  }
  std::vector<Candidate> found = at_least(row, vocab, s, floor);
  if (found.size() > k) {
    std::nth_element(found.begin(), found.begin() + (k - 1), found.end(), before);
    const float kth = found[k - 1].logit;
    std::erase_if(found, [kth](const Candidate& c) { return c.logit < kth; });
  }
  std::sort(found.begin(), found.end(), before);
  return found;
}

void weigh(std::vector<Candidate>& of, float largest, double rate) {
  for (Candidate& c : of) c.weight = exp_negative((static_cast<double>(c.logit) - largest) * rate);
}

double mass_of(const std::vector<Candidate>& of) {
  double sum = 0;
  for (const Candidate& c : of) sum += c.weight;
  return sum;
}

// Of candidates in descending order: keep one when those before it hold less than `need`; the first stays always.
void keep_first(std::vector<Candidate>& of, double need) {
  double passed = 0;
  size_t kept = 0;
  while (kept < of.size() && (kept == 0 || passed < need)) passed += of[kept++].weight;
  of.resize(kept);
}

// The same of candidates in any order, sorting only where the limit falls: halves above it are kept as they are.
std::vector<Candidate> heaviest(std::vector<Candidate> rest, double need) {
  std::vector<Candidate> kept, upper, lower;
  while (rest.size() > 64) {
    Candidate a = rest.front(), pivot = rest[rest.size() / 2], c = rest.back();
    if (before(c, a)) std::swap(a, c);
    if (before(pivot, a)) pivot = a;
    if (before(c, pivot)) pivot = c;  // the median of three: both halves hold something
    upper.clear();
    lower.clear();
    for (const Candidate& each : rest) (before(each, pivot) ? upper : lower).push_back(each);
    const double mass = mass_of(upper);
    if (mass >= need) {
      rest.swap(upper);
    } else {
      kept.insert(kept.end(), upper.begin(), upper.end());
      need -= mass;
      rest.swap(lower);
    }
  }
  std::sort(rest.begin(), rest.end(), before);
  keep_first(rest, need);
  kept.insert(kept.end(), rest.begin(), rest.end());
  return kept;
}

// Keep the tokens whose surprise is nearest to the entropy, until they hold typical_p of the mass (Meister et al.
// 2022).
std::vector<Candidate> typical(const std::vector<Candidate>& of, double typical_p) {
  const double total = mass_of(of);
  std::vector<double> surprise(of.size());
  double entropy = 0;
  for (size_t i = 0; i < of.size(); ++i) {
    surprise[i] = -std::log(std::max(of[i].weight / total, 1e-300));
    entropy += of[i].weight / total * surprise[i];
  }
  std::vector<Candidate> near(of.size());  // ordered by nearness; id is the place in `of`
  for (size_t i = 0; i < of.size(); ++i) {
    near[i] = {static_cast<float>(-std::abs(surprise[i] - entropy)), static_cast<int32_t>(i), of[i].weight};
  }
  std::vector<Candidate> kept;
  for (const Candidate& c : heaviest(std::move(near), typical_p * total)) kept.push_back(of[c.id]);
  return kept;
}

// Every logit whose weight may reach `least`; a little below, because weights are what decides.
std::vector<Candidate> weighing(const float* row, size_t vocab, const Survey& s, const Sampling& how, double least) {
  const double reach = least > 0 ? how.temperature * (std::log(least) - 1e-6) : -INFINITY;
  const double floor = s.largest + reach - 1e-6 * std::abs(s.largest);
  auto found = at_least(row, vocab, s, floor > -std::numeric_limits<float>::max() ? static_cast<float>(floor) : NEVER);
  weigh(found, s.largest, rate_of(how));
  return found;
}

// What top-k, top-p, min-p and typical-p leave, with weights.
std::vector<Candidate> survivors(const float* row, size_t vocab, const Survey& s, const Sampling& how) {
  std::vector<Candidate> kept;
  if (how.top_k > 0 && static_cast<uint64_t>(how.top_k) < vocab) {
    kept = largest_of(row, vocab, s, static_cast<size_t>(how.top_k));
    weigh(kept, s.largest, rate_of(how));
    if (how.top_p < 1) keep_first(kept, how.top_p * mass_of(kept));
  } else if (how.top_p < 1) {
    // Tokens lighter than this hold less than 1 - top_p together, so none of them is in the nucleus.
    const double total = row_mass(row, vocab, s.largest, rate_of(how));
    const double least = (1 - how.top_p) * total / static_cast<double>(vocab);
    kept = heaviest(weighing(row, vocab, s, how, std::min(least, 1.0)), how.top_p * total);
  } else {
    kept = weighing(row, vocab, s, how, how.min_p);
  }
  if (how.min_p > 0) std::erase_if(kept, [&](const Candidate& c) { return c.weight < how.min_p; });
  if (how.typical_p < 1) kept = typical(kept, how.typical_p);
  return kept;
}

int64_t draw(const std::vector<Candidate>& from, double u) {
  const double target = u * mass_of(from);
  double passed = 0;
  for (const Candidate& c : from) {
    passed += c.weight;
    if (passed > target) return c.id;
  }
  return from.front().id;  // rounding only: the sum above ends at the mass, and u < 1
}

// A draw from the whole row, in order of id: the block first, then the token in it.
int64_t draw_any(const float* row, size_t vocab, const Survey& s, double rate, double u) {
  const std::vector<double> mass = masses_of(row, vocab, s.largest, rate);
  double total = 0;
  for (const double block : mass) total += block;
  double left = u * total;
  size_t b = 0;
  while (b + 1 < mass.size() && left >= mass[b]) left -= mass[b++];
  int64_t last = -1;
  for (size_t i = b * BLOCK; i < std::min(vocab, (b + 1) * BLOCK); ++i) {
    if (row[i] == NEVER) continue;
    last = static_cast<int64_t>(i);
    left -= exp_negative((static_cast<double>(row[i]) - s.largest) * rate);
    if (left < 0) return last;
  }
  return last >= 0 ? last : std::max_element(row, row + vocab) - row;
}

int64_t first_of(const float* row, const Survey& s) {
  const size_t block = std::find(s.maxima.begin(), s.maxima.end(), s.largest) - s.maxima.begin();
  size_t i = block * BLOCK;
  while (row[i] != s.largest) ++i;
  return static_cast<int64_t>(i);
}

int64_t token_of(const float* row, size_t vocab, const Survey& s, const Sampling& how, double u) {
  if (how.greedy()) return first_of(row, s);
  const bool all = how.top_k <= 0 || static_cast<uint64_t>(how.top_k) >= vocab;
  if (all && how.top_p >= 1 && how.min_p <= 0 && how.typical_p >= 1) {
    return draw_any(row, vocab, s, rate_of(how), u);
  }
  return draw(survivors(row, vocab, s, how), u);
}

std::vector<Candidate> exactly(const float* row, size_t vocab, const Survey& s, size_t k, double logsum) {
  std::vector<Candidate> found;
  if (k == 0) return found;
  found = largest_of(row, vocab, s, std::min(k, vocab));
  found.resize(std::min(found.size(), k));
  for (Candidate& c : found) c.weight = static_cast<double>(c.logit) - logsum;
  return found;
}

}  // namespace

Choice choose(const float* raw, const float* row, size_t vocab, const Sampling& how, double u, size_t top,
              bool logprob) {
  const Survey seen = survey(row, vocab);
  Choice choice;
  choice.token = token_of(row, vocab, seen, how, u);
  if (!logprob && top == 0) return choice;
  const Survey plain = raw == row ? seen : survey(raw, vocab);
  const double logsum = plain.largest + std::log(row_mass(raw, vocab, plain.largest, 1.0));
  choice.logprob = static_cast<double>(raw[choice.token]) - logsum;
  choice.top = exactly(raw, vocab, plain, top, logsum);
  return choice;
}

void warp_logits(float* row, size_t vocab, const Sampling& how) {
  const Survey seen = survey(row, vocab);
  if (how.greedy()) return;
  const std::vector<Candidate> kept = survivors(row, vocab, seen, how);
  std::fill(row, row + vocab, NEVER);
  for (const Candidate& c : kept) row[c.id] = static_cast<float>(c.logit / how.temperature);
}

std::vector<Candidate> likeliest(const float* row, size_t vocab, size_t k) {
  const Survey seen = survey(row, vocab);
  return exactly(row, vocab, seen, k, seen.largest + std::log(row_mass(row, vocab, seen.largest, 1.0)));
}

std::vector<Candidate> nearly_likeliest(const float* row, size_t vocab, size_t k) {
  const Survey seen = survey(row, vocab);
  const size_t whole = vocab / BLOCK;
  std::vector<float> sums(seen.maxima.size());
  float rest[BLOCK];
  block_sums(row, whole, seen.largest, sums.data());
  if (last_block(row, vocab, rest)) block_sums(rest, 1, seen.largest, sums.data() + whole);
  double sum = 0;
  for (const float block : sums) sum += block;
  return exactly(row, vocab, seen, k, seen.largest + std::log(sum));
}

std::vector<Candidate> largest(const float* row, size_t vocab, size_t k) {
  return exactly(row, vocab, survey(row, vocab), k, 0);
}

double log_sum_exp(const float* row, size_t vocab) {
  const Survey seen = survey(row, vocab);
  return seen.largest + std::log(row_mass(row, vocab, seen.largest, 1.0));
}

}  // namespace pyllm
