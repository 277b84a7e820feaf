#include "engine/program.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "engine/steps.h"

namespace pyllm {

struct Program::EmbeddingStep : Step {
  std::shared_ptr<Weight> tokens;
  Floats positions;
  int out;
  float scale;
  EmbeddingArgs a{};
  void bind(Context& c) override {
    a = {c.tokens,
         c.row.data(),
         tokens->panels(),
         positions ? positions->data() : nullptr,
         c.buffer[(size_t)out],
         c.rows,
         tokens->k(),
         tokens->k(),
         tokens->type(),
         scale};
  }
  void run(const Kernels& k, int, int s, int n, int w) const override { run_share(k.embedding, a, s, n, w); }
  std::string describe() const override { return "embedding"; }
};

struct Program::LinearStep : Step {
  Program& p;
  int x, layer, terms, rotary = kUnturned;
  NormOf norm;
  std::vector<Part> parts;
  std::vector<int> outs;
  Act act = Act::None;
  bool gated = false, last = false;
  LinearArgs a{};
  explicit LinearStep(Program& owner) : p(owner) {}

  void bind(Context& c) override {
    a = {};
    a.x = c.buffer[(size_t)x];
    a.rows = last ? (int64_t)c.wanted.size() : c.rows;
    a.gather = last ? c.wanted.data() : nullptr;
    a.k = parts[0].weight->k();
    a.x_stride = a.k;
    a.norm = norm.kind, a.eps = norm.eps;
    a.norm_weight = norm.weight ? norm.weight->data() : nullptr;
    a.norm_bias = norm.bias ? norm.bias->data() : nullptr;
    a.act = act, a.gated = gated, a.workers = c.workers, a.terms = terms, a.parts = (int)parts.size(),
    a.ahead = c.ahead;
    a.row = c.row.data(), a.layer = layer, a.cache = &p.cache_;
    a.rotary = p.table(rotary);
    for (size_t i = 0; i < parts.size(); ++i) {
      const Weight& w = *parts[i].weight;
      float* out = last ? c.out : outs[i] >= 0 ? c.buffer[(size_t)outs[i]] : nullptr;
      const float *bias = parts[i].bias ? parts[i].bias->data() : nullptr,
                  *more = parts[i].more >= 0 ? c.buffer[(size_t)parts[i].more] : nullptr;
      a.part[i] = {w.panels(), bias, out, w.n(), w.n(), w.type(), parts[i].epilogue, more, nullptr, nullptr, 0};
    }
    // Once, in a phase of its own; but one row each worker prepares itself, which is cheaper than meeting.
    if (a.rows > 1) {
      a.prepared = c.shared ? c.shared : (uint8_t*)64;
      c.shared_bytes = std::max(c.shared_bytes, c.k.prepared_bytes(a));
    }
    a.scratch_stride = c.k.linear_scratch(a);
    a.scratch = c.own;
    c.worker_bytes = std::max(c.worker_bytes, a.scratch_stride);
  }
  int phases() const override { return a.prepared ? 2 : 1; }
  double flops() const override {
    double n = 0;
    for (const Part& part : parts) n += 2.0 * (double)a.rows * (double)a.k * (double)part.weight->n();
    return n;
  }
  void run(const Kernels& k, int phase, int s, int n, int w) const override {
    run_share(a.prepared && phase == 0 ? k.prepare : k.linear, a, s, n, w);
  }
  std::string describe() const override {
    std::string out = last ? "logits" : gated ? "gated_linear" : "linear";
    for (const Part& part : parts)
      out += " " + std::string(info(part.weight->type()).name) + "(" + std::to_string(part.weight->n()) + "," +
             std::to_string(part.weight->k()) + ")";
    return out;
  }
};

struct Program::HeadsStep : Step {
  Program& p;
  int q, k, layer, rotary;
  Floats q_weight, k_weight;
  float eps;
  HeadsArgs a{};
  explicit HeadsStep(Program& owner) : p(owner) {}
  void bind(Context& c) override {
    a = {c.buffer[(size_t)q],
         c.buffer[(size_t)k],
         q_weight->data(),
         k_weight->data(),
         eps,
         c.row.data(),
         c.rows,
         p.width_of(q) / p.cache_.dim,
         p.table(rotary),
         &p.cache_,
         layer};
  }
  void run(const Kernels& k, int, int s, int n, int w) const override { run_share(k.heads, a, s, n, w); }
  std::string describe() const override { return "heads"; }
};

struct Program::AttentionStep : Step {
  Program& p;
  int q, out, layer, heads;
  float scale, softcap;
  int64_t window;
  int64_t positions = 0;
  AttentionArgs a{};
  explicit AttentionStep(Program& owner) : p(owner) {}

  // So few rows have too few (head, tile) tasks for the team: their chunks become tasks, merged in a second phase.
  static constexpr int64_t kSplitRows = 16;

  void bind(Context& c) override {
    a = {};
    const int64_t width = (int64_t)heads * p.cache_.dim;
    a.q = c.buffer[(size_t)q], a.out = c.buffer[(size_t)out], a.q_stride = a.out_stride = width;
    a.row = c.row.data(), a.rows = c.rows, a.cache = &p.cache_, a.layer = layer, a.heads = heads;
    a.scale = scale, a.softcap = softcap, a.causal = true, a.window = window;
    a.segment = c.segment.data(), a.segments = (int64_t)c.segment.size() - 1;
    a.split = c.rows <= kSplitRows && c.positions > kChunk;
    positions = c.positions;
    a.chunks = a.split ? (c.positions + kChunk - 1) / kChunk : 1;
    const int64_t slot = 16 + panels(p.cache_.dim) * 16;
    a.partial = (float*)c.shared;
    c.shared_bytes = std::max(c.shared_bytes, a.rows * heads * a.chunks * slot * 4);
    a.scratch_stride = c.k.attention_scratch(a);
    a.scratch = c.own;
    c.worker_bytes = std::max(c.worker_bytes, a.scratch_stride);
  }
  int phases() const override { return a.split ? 2 : 1; }
  double flops() const override { return 4.0 * (double)a.rows * heads * p.cache_.dim * (double)positions; }
  void run(const Kernels& k, int phase, int s, int n, int w) const override {
    run_share(phase == 0 ? k.attention : k.merge, a, s, n, w);
  }
  std::string describe() const override { return "attention heads=" + std::to_string(heads); }
};

static NormArgs norm_args(const NormOf& n, const float* x, float* out, int64_t rows, int64_t k, bool add) {
  const auto data = [](const Floats& f) { return f ? f->data() : nullptr; };
  return {x, data(n.weight), data(n.bias), out, rows, k, n.eps, n.kind, add};
}

// residual += norm(x).
struct Program::NormStep : Step {
  Program& p;
  int residual, x;
  NormOf norm;
  NormArgs a{};
  explicit NormStep(Program& owner) : p(owner) {}
  void bind(Context& c) override {
    a = norm_args(norm, c.buffer[(size_t)x], c.buffer[(size_t)residual], c.rows, p.width_of(x), true);
  }
  void run(const Kernels& k, int, int s, int n, int w) const override { run_share(k.norm, a, s, n, w); }
  std::string describe() const override { return "add_norm"; }
};

struct Program::MapStep : Step {
  int x, up, out;
  int64_t width;
  Act act;
  MapArgs a{};
  void bind(Context& c) override {
    a.x = c.buffer[(size_t)x], a.up = up >= 0 ? c.buffer[(size_t)up] : nullptr, a.out = c.buffer[(size_t)out];
    a.n = c.rows * width, a.act = act;
  }
  void run(const Kernels& k, int, int s, int n, int w) const override { run_share(k.map, a, s, n, w); }
  std::string describe() const override { return "map"; }
};

// Logits, where they stand.
struct Program::SoftcapStep : Step {
  Program& p;
  float cap;
  MapArgs a{};
  SoftcapStep(Program& owner, float limit) : p(owner), cap(limit) {}
  void bind(Context& c) override {
    a.x = a.out = c.out, a.n = (int64_t)c.wanted.size() * p.vocabulary_, a.act = Act::Softcap, a.cap = cap;
  }
  void run(const Kernels& k, int, int s, int n, int w) const override { run_share(k.map, a, s, n, w); }
  std::string describe() const override { return "softcap"; }
};

// The wanted rows as the head would see them.
struct Program::HiddenStep : Step {
  int x;
  int64_t width;
  NormOf norm;
  NormArgs a{};
  std::vector<int32_t> wanted;
  void bind(Context& c) override {
    a = norm_args(norm, c.buffer[(size_t)x], c.out, 1, width, false);
    wanted = c.wanted;
  }
  void run(const Kernels& k, int, int s, int n, int) const override {
    const Share own = share((int64_t)wanted.size(), s, n);
    for (int64_t i = own.first; i < own.last; ++i) {
      NormArgs row = a;
      row.x += wanted[(size_t)i] * width, row.out += i * width;
      if (norm.kind == Norm::None) std::copy(row.x, row.x + width, row.out);
      else k.norm(row, 0, 1);
    }
  }
  std::string describe() const override { return "hidden"; }
};

Program::Program(int layers, int heads, int dim, Type cache, int64_t context, bool high_precision)
    : cache_{layers, heads, dim, cache}, context_(context), terms_(high_precision ? 2 : 1) {
  if (cache != Type::F32 && cache != Type::BF16 && cache != Type::Q8_0)
    throw std::invalid_argument("program: the cache is F32, BF16 or Q8_0");
  if (cache == Type::Q8_0 && dim % 16)
    throw std::invalid_argument("program: a cache of Q8_0 needs heads a multiple of 16 wide, found " +
                                std::to_string(dim));
  if (heads && (layers < 1 || dim < 2 || dim % 2)) throw std::invalid_argument("program: head width must be even");
}

int Program::rotary(Rotary rotary) {
  if ((int64_t)rotary.frequency.size() * 2 > cache_.dim)
    throw std::invalid_argument("rotary: more angles than features");
  rotary_.push_back({std::move(rotary), {}});
  return (int)rotary_.size() - 1;
}

const float* Program::table(int rotary) const {
  return rotary == kUnturned ? nullptr : rotary_[(size_t)rotary].numbers.data();
}

int Program::value(int64_t width) {
  if (finished_) throw std::logic_error("program: recording has ended");
  int step = (int)steps_.size();
  values_.push_back({width, -1, step, step});
  return (int)values_.size() - 1;
}

void Program::use(int v) { values_.at((size_t)v).last = (int)steps_.size(); }

int Program::embedding(std::shared_ptr<Weight> tokens, Floats positions, float scale) {
  auto s = std::make_shared<EmbeddingStep>();
  s->out = value(tokens->k());
  s->tokens = std::move(tokens), s->positions = std::move(positions), s->scale = scale;
  steps_.push_back(s);
  return s->out;
}

std::vector<int> Program::linear(int x, NormOf norm, std::vector<Part> parts, Act act, bool gated, int residual,
                                 int layer, int rotary) {
  if (parts.empty() || (int)parts.size() > kParts || (gated && parts.size() != 2))
    throw std::invalid_argument("linear: one to three weights share an input, a gate has two");
  const int64_t k = values_.at((size_t)x).width;
  for (const Part& p : parts) {
    if (p.more >= 0 && width_of(p.more) != p.weight->n())
      throw std::invalid_argument("linear: what is added is not as wide as the product");
    if (p.more >= 0) use(p.more);
    if (p.weight->k() != k)
      throw std::invalid_argument("linear: x (rows, " + std::to_string(k) + ") @ W (" + std::to_string(p.weight->n()) +
                                  ", " + std::to_string(p.weight->k()) + "): " + std::to_string(k) + " and " +
                                  std::to_string(p.weight->k()) + " differ");
  }
  auto s = std::make_shared<LinearStep>(*this);
  use(x);
  if (residual >= 0) use(residual);
  std::vector<int> results;
  for (const Part& p : parts) {
    bool cached = p.epilogue == Epilogue::Key || p.epilogue == Epilogue::Value;
    int out = cached ? -1 : residual >= 0 ? residual : value(p.weight->n());
    s->outs.push_back(out);
    if (out >= 0) results.push_back(out);
    if (gated) {
      s->outs.push_back(-1);
      break;
    }
  }
  s->x = x, s->layer = layer, s->terms = terms_, s->norm = std::move(norm), s->parts = std::move(parts);
  s->act = act, s->gated = gated, s->rotary = rotary;
  steps_.push_back(s);
  return results;
}

void Program::heads(int q, int k, Floats q_weight, Floats k_weight, float eps, int layer, int rotary) {
  const int64_t dim = cache_.dim;
  if (width_of(q) % dim || width_of(k) != cache_.heads * dim || (int64_t)q_weight->size() != dim ||
      (int64_t)k_weight->size() != dim)
    throw std::invalid_argument("heads: queries, keys and their norms must be heads of " + std::to_string(dim));
  auto s = std::make_shared<HeadsStep>(*this);
  use(q), use(k);
  s->q = q, s->k = k, s->layer = layer, s->rotary = rotary;
  s->q_weight = std::move(q_weight), s->k_weight = std::move(k_weight), s->eps = eps;
  steps_.push_back(s);
}

void Program::add_norm(int residual, int x, NormOf norm) {
  if (width_of(residual) != width_of(x)) throw std::invalid_argument("add_norm: two widths");
  auto s = std::make_shared<NormStep>(*this);
  use(residual), use(x);
  s->residual = residual, s->x = x, s->norm = std::move(norm);
  steps_.push_back(s);
}

int Program::attention(int q, int layer, int heads, float scale, int64_t window, float softcap) {
  if (!cache_.heads || heads % cache_.heads)
    throw std::invalid_argument("attention: query heads must be a multiple of key heads");
  auto s = std::make_shared<AttentionStep>(*this);
  use(q);
  s->q = q, s->layer = layer, s->heads = heads, s->scale = scale, s->softcap = softcap, s->window = window;
  s->out = value((int64_t)heads * cache_.dim);
  steps_.push_back(s);
  return s->out;
}

int Program::map(int x, int up, Act act) {
  auto s = std::make_shared<MapStep>();
  use(x);
  if (up >= 0) use(up);
  s->x = x, s->up = up, s->act = act, s->width = values_.at((size_t)x).width;
  s->out = value(s->width);
  steps_.push_back(s);
  return s->out;
}

void Program::logits(int x, NormOf norm, Part head, float softcap) {
  vocabulary_ = head.weight->n();
  auto s = std::make_shared<LinearStep>(*this);
  use(x);
  // Two int8 terms always: rounding here goes straight into the logits, and the head is bound by memory when decoding.
  s->x = x, s->layer = 0, s->terms = 2, s->norm = std::move(norm), s->parts = {std::move(head)}, s->outs = {-1};
  s->last = true;
  auto bare = std::make_shared<LinearStep>(*s);
  bare->norm = {};
  auto hidden = std::make_shared<HiddenStep>();
  hidden->x = x, hidden->width = width_ = values_.at((size_t)x).width, hidden->norm = s->norm;
  head_ = bare, hidden_ = hidden, trunk_ = steps_.size();
  steps_.push_back(s);
  if (softcap != 0) steps_.push_back(std::make_shared<SoftcapStep>(*this, softcap));
}

// Values whose lives do not overlap share a buffer.
void Program::finish() {
  for (int each : state_) use(each);  // read when all steps are done
  std::vector<int> free_after;        // per buffer: the last step that uses it
  for (Value& v : values_) {
    int chosen = -1;
    for (size_t b = 0; b < free_after.size() && chosen < 0; ++b)
      if (free_after[b] < v.first) chosen = (int)b;
    if (chosen < 0) {
      chosen = (int)free_after.size();
      free_after.push_back(-1);
      buffer_width_.push_back(0);
    }
    v.buffer = chosen;
    free_after[(size_t)chosen] = v.last;
    buffer_width_[(size_t)chosen] = std::max(buffer_width_[(size_t)chosen], v.width);
  }
  finished_ = true;
}

void RotaryTable::grow(int64_t positions, int64_t context, int64_t dim) {
  const int64_t known = (int64_t)numbers.size() / (2 * dim);
  if (positions <= known) return;
  int64_t n = std::min(context, std::max(positions, std::max<int64_t>(256, 2 * known)));
  numbers.resize((size_t)(n * 2 * dim));
  for (int64_t p = known; p < n; ++p) {
    float *c = numbers.data() + p * 2 * dim, *s = c + dim;
    std::fill(c, c + dim, 1.0f);
    std::fill(s, s + dim, 0.0f);
    for (size_t i = 0; i < rotary.frequency.size(); ++i) {
      double angle = (double)p * rotary.frequency[i];
      c[2 * i] = c[2 * i + 1] = (float)(std::cos(angle) * rotary.magnitude);
      s[2 * i + 1] = (float)(std::sin(angle) * rotary.magnitude);
      s[2 * i] = -s[2 * i + 1];
    }
  }
}

void Program::run(const int32_t* tokens, const std::vector<Segment>& segments, const std::vector<int32_t>& wanted,
                  bool hidden, float* out) {
  Context c{kernels(), threads(), 0, tokens, {}, {0}, wanted, out, {}};
  std::optional<Walk> walk;
  if (state_numbers_) {
    c.walk = &walk.emplace(segments, tokens, wanted, state_numbers_);
    c.tokens = walk->tokens.data(), c.row = walk->row, c.wanted = walk->wanted;
  }
  for (const Segment& s : segments) {
    for (int64_t i = 0; i < s.count && !walk; ++i) c.row.push_back({s.sequence->length() + i, s.sequence->table()});
    c.segment.push_back((int32_t)c.row.size());
    c.positions = std::max(c.positions, s.sequence->length() + s.count);
  }
  c.rows = (int64_t)c.row.size();
  for (RotaryTable& each : rotary_) each.grow(c.positions, context_, cache_.dim);

  std::vector<size_t> start;
  size_t total = 0;
  for (int64_t width : buffer_width_) {
    start.push_back(total);
    total += (size_t)((c.rows * width * 4 + 127) / 64 * 64);
  }
  if (arena_.size() < total) arena_ = Buffer(total);
  for (const Value& v : values_) c.buffer.push_back((float*)(arena_.data() + start[(size_t)v.buffer]));
  Steps steps(steps_.begin(), steps_.begin() + (long)trunk_);
  if (hidden) steps.push_back(hidden_);
  else steps.insert(steps.end(), steps_.begin() + (long)trunk_, steps_.end());
  replay(steps, c);
  if (walk) {
    std::vector<Walk::Part> parts;
    for (int each : state_) parts.push_back({c.buffer[(size_t)each], width_of(each)});
    walk->keep(parts);
  }
  for (const Segment& s : segments) s.sequence->append(s.count);
}

void Program::head(const float* hidden, int64_t rows, float* out) {
  Context c{kernels(), threads(), rows, nullptr, {}, {0}, {}, out, {}};
  for (int64_t i = 0; i < rows; ++i) c.wanted.push_back((int32_t)i);
  c.buffer.assign(values_.size(), const_cast<float*>(hidden));  // only read: the head is not a value's step
  Steps steps(steps_.begin() + (long)trunk_, steps_.end());
  steps.front() = head_;
  replay(steps, c);
}

// Binds the steps, which says how much scratch they need, and runs them on the team.
void Program::replay(const Steps& steps, Context& c) {
  for (auto& s : steps) s->bind(c);
  const size_t own = (size_t)((c.worker_bytes + 63) / 64 * 64), shared = (size_t)((c.shared_bytes + 63) / 64 * 64);
  if (scratch_.size() < shared + own * (size_t)c.workers) scratch_ = Buffer(shared + own * (size_t)c.workers);
  c.shared = scratch_.data();
  c.own = scratch_.data() + shared;
  for (auto& s : steps) s->bind(c);

  std::vector<std::pair<const Step*, int>> phases;
  for (const auto& s : steps)
    for (int phase = 0; phase < s->phases(); ++phase) phases.emplace_back(s.get(), phase);
  const auto at = [&](int i) { return phases[(size_t)i]; };
  run_team(c.workers, {(int)phases.size(), [&](int i) { return c.workers * slices(at(i).first->flops()); },
                       [&](int i, int share, int shares, int worker) {
                         at(i).first->run(c.k, at(i).second, share, shares, worker);
                       }});
}

std::string Program::describe() const {
  std::string out;
  for (const auto& s : steps_) out += s->describe() + "\n";
  return out;
}

}  // namespace pyllm
