// A recurrent layer as a step of a program.
#include "core/recurrent.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "engine/steps.h"

namespace pyllm {

// A phase makes the first h and c ready, then one goes through each step of time.
struct Program::RecurrentStep : Step {
  Cell cell;
  std::shared_ptr<Weight> weight;
  Floats inner_bias;
  int gates, h, c;       // values; c: LSTM's, or -1
  int64_t units, place;  // place: of its h among the numbers of a state; its c stands behind it
  const Walk* walk = nullptr;
  RecurrentArgs a{};

  void bind(Context& x) override {
    walk = x.walk;
    const int64_t sequences = (int64_t)walk->sequences.size();
    int64_t used = 0;
    const auto take = [&](int64_t bytes) {
      uint8_t* at = x.shared ? x.shared + used : nullptr;
      used += (bytes + 63) / 64 * 64;
      return at;
    };
    a = {};
    const int64_t stride = operand_stride(weight->type(), units, 1);
    a.shape = {cell, weight->type(), units, sequences, walk->start.data(), weight->panels(), {}, stride, 0};
    for (uint8_t*& operand : a.shape.operand) operand = take(stride * sequences);
    a.first = (float*)take(sequences * units * 4);
    if (cell == Cell::LSTM) a.first_c = (float*)take(sequences * units * 4);
    if (cell == Cell::GRU) a.inner = (float*)take(x.rows * units * 4);
    a.inner_bias = inner_bias ? inner_bias->data() : nullptr;
    a.gates = x.buffer[(size_t)gates], a.h = x.buffer[(size_t)h], a.c = c < 0 ? nullptr : x.buffer[(size_t)c];
    x.shared_bytes = std::max(x.shared_bytes, used);
  }
  int phases() const override { return (int)walk->start.size(); }
  double flops() const override {  // of the first step, which has the most rows
    return 2.0 * (double)a.shape.sequences * (double)units * (double)units * a.shape.gates();
  }
  void run(const Kernels& k, int phase, int s, int n, int) const override {
    RecurrentArgs own = a;
    if (phase == 0) load(s, n);
    own.step = phase - 1, own.before = phase - 2, own.shape.turn = phase ? (phase - 1) & 1 : -1;
    k.recurrent(own, s, n);
  }
  std::string describe() const override {
    return "recurrent " + std::string(info(weight->type()).name) + "(" + std::to_string(cell_gates(cell)) + " x " +
           std::to_string(units) + "," + std::to_string(units) + ")";
  }

 private:
  // The first h and c of a share of the sequences, the one that `recurrent` makes operands of.
  void load(int s, int n) const {
    const Share own = share(a.shape.sequences, s, n);
    const size_t bytes = (size_t)units * 4;
    for (int64_t i = own.first; i < own.last; ++i) {
      const float* state = walk->sequences[(size_t)i].state;
      for (const float* first : {a.first, a.first_c}) {
        if (!first) continue;
        float* to = (float*)first + i * units;
        if (state) std::memcpy(to, state + place + (first == a.first ? 0 : units), bytes);
        else std::memset(to, 0, bytes);
      }
    }
  }
};

int Program::recurrent(int gates, Cell cell, std::shared_ptr<Weight> weight, Floats inner_bias) {
  const int64_t units = weight->k(), each = panels(units) * kPanel, n = cell_gates(cell);
  if (cache_.heads) throw std::invalid_argument("recurrent: a program with attention has no other states");
  if ((weight->type() != Type::F32 && weight->type() != Type::BF16) || weight->n() != n * each ||
      width_of(gates) != n * units || (inner_bias && (int64_t)inner_bias->size() != units))
    throw std::invalid_argument("recurrent: weights (" + std::to_string(weight->n()) + ", " + std::to_string(units) +
                                ") for input products " + std::to_string(width_of(gates)) +
                                " wide, allowed are F32 and BF16 (" + std::to_string(n * each) + ", units) and " +
                                std::to_string(n) + " * units");
  auto s = std::make_shared<RecurrentStep>();
  use(gates);
  s->cell = cell, s->weight = std::move(weight), s->inner_bias = std::move(inner_bias);
  s->gates = gates, s->units = units, s->place = state_numbers_;
  s->h = value(units), s->c = cell == Cell::LSTM ? value(units) : -1;
  for (int each_value : {s->h, s->c})
    if (each_value >= 0) state_.push_back(each_value), state_numbers_ += units;
  steps_.push_back(s);
  return s->h;
}

int64_t Program::page_bytes() const {
  return std::max<int64_t>(64, state_numbers_ ? state_page_bytes(state_numbers_) : cache_.page_bytes());
}

}  // namespace pyllm
