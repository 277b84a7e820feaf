// The arguments of recurrent kernels. A layer's input products are made for all steps at once by `linear`; these
// kernels do one step of time each, all shares of it before those of the next.
//
// Rows of sequences lie step after step: step t has rows [start[t], start[t + 1]), one for each sequence that is as
// long, the longest sequence first. So the sequences of a step are the first ones of the batch.
#pragma once
#include "core/kernels.h"

namespace pyllm {

enum class Cell : uint8_t { Tanh, ReLU, LSTM, GRU };
// Gates of a unit: LSTM input, forget, cell, output; GRU reset, update, new.
constexpr int cell_gates(Cell c) { return c == Cell::LSTM ? 4 : c == Cell::GRU ? 3 : 1; }

// Recurrent weights: for every gate the panels of a matrix (units, units), backward of its transpose.
inline int64_t gate_panels(Type t, int64_t units) { return panels(units) * panel_bytes(t, units); }
// The operands of a step's products: one row for each sequence, gate after gate, each in whole lines. Rows are an odd
// number of lines apart: 4 KiB apart, those of a tile would share a cache set.
inline int64_t operand_bytes(Type t, int64_t units) {
  return ((units + 1) / 2 * (t == Type::F32 ? 8 : 4) + 63) / 64 * 64;
}
inline int64_t operand_stride(Type t, int64_t units, int gates) {
  return ((operand_bytes(t, units) * gates / 64) | 1) * 64;
}

struct RecurrentShape {
  Cell cell;
  Type type;  // of the products: F32 or BF16
  int64_t units, sequences;
  const int64_t* start;
  const uint8_t* weights;
  uint8_t* operand[2];  // one is read, the other is written, by turns
  int64_t operand_stride;
  int turn;  // which is read; -1: nothing is computed, both are filled with what they hold at first
  int gates() const { return cell_gates(cell); }
  int64_t count(int64_t step) const { return step < 0 ? 0 : start[step + 1] - start[step]; }
};

// One step: gates (rows, gates * units) holds the input products and becomes the gates, h (rows, units) and LSTM's c
// are written.
struct RecurrentArgs {
  RecurrentShape shape;
  int64_t step, before;  // before: the step that was computed before this one, or -1
  float *gates, *h, *c;
  float* inner;                  // GRU: (rows, units), what reset multiplies
  const float* inner_bias;       // GRU: (units), or null
  const float *first, *first_c;  // (sequences, units): h and c before the first step, or null: zeros
};

// One step of the way back: dh (rows, units) and the products of what came before give the gradients of the gates,
// which take their places. step -1 ends: what is left are the gradients of the first state.
struct RecurrentBackwardArgs {
  RecurrentShape shape;
  int64_t step, before, after;  // in the order of forward; before or after -1: there is none
  const float *dh, *h, *c, *inner, *first, *first_c;
  float *gates, *hidden;  // hidden: GRU, (rows, 3 * units), gradients of what the recurrent product gave
  float* carry;           // (sequences, units): LSTM's gradient of c, GRU's of h past the gates
  float* dfirst;          // (sequences, units): gradient of h before the first step
};

}  // namespace pyllm
