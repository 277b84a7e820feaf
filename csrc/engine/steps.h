// What the steps of a program have in common. For the engine's own files.
#pragma once
#include "core/cpu.h"
#include "core/workers.h"
#include "engine/program.h"
#include "engine/walk.h"

namespace pyllm {

// What one replay knows. Offsets into the shared scratch are given out while steps are bound.
struct Program::Context {
  const Kernels& k;
  int workers;
  int64_t rows;
  const int32_t* tokens;
  std::vector<Row> row;
  std::vector<int32_t> segment;
  std::vector<int32_t> wanted;
  float* out;
  std::vector<float*> buffer;  // by value
  const Walk* walk = nullptr;  // of a recurrent program
  int64_t shared_bytes = 0, worker_bytes = 0;
  uint8_t *shared = nullptr, *own = nullptr;
  int64_t positions = 0;                 // longest sequence after this step
  const int64_t ahead = stream_ahead();  // see LinearArgs
};

// Measured twice: once to learn the scratch it needs (shared and own are null), then to get its addresses.
struct Program::Step {
  virtual ~Step() = default;
  virtual void bind(Context& c) = 0;
  virtual int phases() const { return 1; }  // each begins when the one before is done
  virtual double flops() const { return 0; }
  virtual void run(const Kernels& k, int phase, int share, int shares, int worker) const = 0;
  virtual std::string describe() const = 0;
};

}  // namespace pyllm
