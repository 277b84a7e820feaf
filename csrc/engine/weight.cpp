#include "engine/weight.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "core/cpu.h"
#include "core/workers.h"

namespace pyllm {
namespace {

// One block of one feature as a file stores it, taken apart: codes of all inputs, factors of the sub-blocks.
struct Block {
  uint8_t code[256];
  uint8_t scale[16], minimum[16];  // int8 where the type has signed factors
};

void read_2bit(const uint8_t* q, Block& b) {
  for (int i = 0; i < 256; ++i) b.code[i] = q[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

void read_6bit_pairs(const uint8_t* s, Block& b) {
  for (int j = 0; j < 8; ++j) {
    b.scale[j] = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6 << 4);
    b.minimum[j] = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6 << 4);
  }
}

const uint8_t* read_q2k(const uint8_t* p, Block& b) {
  std::memcpy(b.scale, p, 16);  // scale and minimum share a byte
  read_2bit(p + 16, b);
  return p + 80;
}
const uint8_t* read_q3k(const uint8_t* p, Block& b) {
  read_2bit(p + 32, b);
  for (int i = 0; i < 256; ++i) b.code[i] |= (p[i % 32] >> (i / 32) & 1) << 2;
  const uint8_t* s = p + 96;
  for (int i = 0; i < 16; ++i) {
    int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4, high = s[8 + i % 4] >> (2 * (i / 4)) & 3;
    b.scale[i] = (uint8_t)(int8_t)((low | high << 4) - 32);
  }
  return p + 108;
}
const uint8_t* read_q4k(const uint8_t* p, Block& b) {
  read_6bit_pairs(p + 4, b);
  for (int i = 0; i < 256; ++i) b.code[i] = p[16 + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
  return p;
}
const uint8_t* read_q5k(const uint8_t* p, Block& b) {
  read_6bit_pairs(p + 4, b);
  for (int i = 0; i < 256; ++i) {
    int low = p[48 + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
    b.code[i] = (uint8_t)(low | (p[16 + i % 32] >> (i / 32) & 1) << 4);
  }
  return p;
}
const uint8_t* read_q6k(const uint8_t* p, Block& b) {
  for (int i = 0; i < 256; ++i) {
    int half = i / 128, j = i % 128;
    int low = p[half * 64 + j % 64] >> (j / 64 * 4) & 15, high = p[128 + half * 32 + j % 32] >> (j / 32 * 2) & 3;
    b.code[i] = (uint8_t)(low | high << 4);
  }
  std::memcpy(b.scale, p + 192, 16);
  return p + 208;
}

// Legacy blocks of 32: f16 scale, f16 minimum where there is one, fifth bits, nibbles.
const uint8_t* read_legacy(Type t, const uint8_t* p, Block& b) {
  const uint8_t* q = p + (info(t).minimum ? 4 : 2);
  uint32_t fifth = 0;
  if (t == Type::Q5_0 || t == Type::Q5_1) {
    std::memcpy(&fifth, q, 4);
    q += 4;
  }
  for (int i = 0; i < 32; ++i) b.code[i] = (uint8_t)((q[i % 16] >> (i / 16 * 4) & 15) | (fifth >> i & 1) << 4);
  return p;
}

// Fills b; gives where the block's f16 scale stands (the minimum follows it).
const uint8_t* read_block(Type t, const uint8_t* p, Block& b) {
  switch (t) {
    case Type::Q2_K: return read_q2k(p, b);
    case Type::Q3_K: return read_q3k(p, b);
    case Type::Q4_K: return read_q4k(p, b);
    case Type::Q5_K: return read_q5k(p, b);
    case Type::Q6_K: return read_q6k(p, b);
    default: return read_legacy(t, p, b);
  }
}

// Codes into the planes of a panel block (zeroed before), as core/types.h describes them.
void place_codes(Type t, const Block& b, int lane, uint8_t* out) {
  const PanelLayout l = layout(t);
  for (int i = 0; i < info(t).block; ++i) {
    int s = i / 32, q = i % 32 / 4, at = lane * 4 + i % 4, c = b.code[i];
    if (l.bytes >= 0) out[l.bytes + s * 512 + q * 64 + at] = (uint8_t)c;
    if (l.nibbles >= 0) out[l.nibbles + s * 256 + (q & 3) * 64 + at] |= (uint8_t)((c & 15) << (q < 4 ? 0 : 4));
    int above = l.nibbles >= 0 ? c >> 4 : c;
    if (l.twos >= 0) out[l.twos + s * 128 + (q & 1) * 64 + at] |= (uint8_t)((above & 3) << (2 * (q >> 1)));
    int top = l.nibbles >= 0 ? c >> 4 : c >> 2;
    if (l.ones >= 0) out[l.ones + s * 64 + at] |= (uint8_t)((top & 1) << q);
  }
}

void place_block(Type t, const uint8_t* file, int lane, uint8_t* out) {
  const PanelLayout l = layout(t);
  if (t == Type::Q4_0 || t == Type::Q4_1) {  // the file's words are the panel's words
    const uint8_t* q = file + (t == Type::Q4_1 ? 4 : 2);
    for (int j = 0; j < 4; ++j) std::memcpy(out + j * 64 + lane * 4, q + j * 4, 4);
    std::memcpy(out + l.scale + lane * 2, file, 2);
    if (l.minimum >= 0) std::memcpy(out + l.minimum + lane * 2, file + 2, 2);
    return;
  }
  if (t == Type::Q8_0) {
    for (int q = 0; q < 8; ++q) {
      uint32_t word;
      std::memcpy(&word, file + 2 + q * 4, 4);
      word ^= 0x80808080u;
      std::memcpy(out + q * 64 + lane * 4, &word, 4);
    }
    std::memcpy(out + l.scale + lane * 2, file, 2);
    return;
  }
  Block b;
  const uint8_t* scale = read_block(t, file, b);
  place_codes(t, b, lane, out);
  std::memcpy(out + l.scale + lane * 2, scale, 2);
  if (l.minimum >= 0) std::memcpy(out + l.minimum + lane * 2, scale + 2, 2);
  if (l.sub_scales >= 0) {
    int subs = info(t).block / info(t).sub;
    for (int s = 0; s < subs; ++s) {
      out[l.sub_scales + s * 16 + lane] = b.scale[s];
      if (l.sub_minima >= 0 && l.sub_minima != l.sub_scales) out[l.sub_minima + s * 16 + lane] = b.minimum[s];
    }
  }
}

void place_float_row(Type t, const uint8_t* file, int64_t k, int lane, uint8_t* panel) {
  for (int64_t i = 0; i < k; ++i) {
    if (t == Type::F32) std::memcpy(panel + (i * 16 + lane) * 4, file + i * 4, 4);
    else if (t == Type::F16) std::memcpy(panel + (i * 16 + lane) * 2, file + i * 2, 2);
    else std::memcpy(panel + ((i / 2 * 16 + lane) * 2 + i % 2) * 2, file + i * 2, 2);
  }
}

struct FillArgs {
  Type type;
  int64_t rows, k;
  const uint8_t* file;
  uint8_t* panels;
};

void fill_share(const FillArgs& a, int worker, int workers) {
  Share s = share(panels(a.rows), worker, workers);
  const int64_t row_bytes = file_row_bytes(a.type, a.k), bytes = panel_bytes(a.type, a.k);
  const TypeInfo& t = info(a.type);
  for (int64_t p = s.first; p < s.last; ++p) {
    uint8_t* panel = a.panels + p * bytes;
    const int lanes = (int)std::min<int64_t>(16, a.rows - p * 16);
    if (!quantised(a.type)) {
      for (int l = 0; l < lanes; ++l) place_float_row(a.type, a.file + (p * 16 + l) * row_bytes, a.k, l, panel);
      continue;
    }
    for (int64_t b = 0; b < a.k / t.block; ++b)
      for (int l = 0; l < lanes; ++l)
        place_block(a.type, a.file + (p * 16 + l) * row_bytes + b * t.file_bytes, l, panel + b * t.panel_bytes);
  }
}

}  // namespace

Type type_named(const std::string& name) {
  std::string all;
  for (int i = 0; i < kTypes; ++i) {
    if (name == kTypeInfo[i].name) return (Type)i;
    all += std::string(i ? ", " : "") + kTypeInfo[i].name;
  }
  throw std::invalid_argument("weight: storage type '" + name + "' is not known; known are " + all);
}

Weight::Weight(Type type, int64_t n, int64_t k) : type_(type), n_(n), k_(k) {
  const TypeInfo& t = info(type);
  if (n < 1 || k < 1 || n > (int64_t(1) << 40) / k)
    throw std::invalid_argument("weight: shape (" + std::to_string(n) + ", " + std::to_string(k) +
                                ") is empty or too large");
  if (quantised(type) && k % t.block)
    throw std::invalid_argument("weight: " + std::string(t.name) + " needs rows of a multiple of " +
                                std::to_string(t.block) + " inputs, found " + std::to_string(k));
  if (type == Type::Int8 && k > kMostInt8)
    throw std::invalid_argument(std::string("weight: INT8 has ").append(std::to_string(k)) + " inputs, allowed are " +
                                std::to_string(kMostInt8));
  memory_ = Buffer::lasting((size_t)(pyllm::panels(n) * panel_bytes(type, k)));
}

void Weight::check_rows(int64_t row, int64_t rows) const {
  if (row % 16 || row < 0 || rows < 1 || rows > n_ - row || (rows % 16 && row + rows != n_))
    throw std::invalid_argument("weight: rows " + std::to_string(row) + " to " + std::to_string(row + rows) + " of " +
                                std::to_string(n_) + "; whole groups of 16 are filled");
}

void Weight::fill(int64_t row, int64_t rows, const uint8_t* bytes) {
  if (type_ == Type::Int8) throw std::invalid_argument("weight: no file stores INT8, it is filled with floats");
  check_rows(row, rows);
  FillArgs a = {type_, rows, k_, bytes, memory_.data() + row / 16 * panel_bytes(type_, k_)};
  // Below some megabytes waking the team costs more than the copying.
  run_kernel<FillArgs>(fill_share, a, rows * k_ < (int64_t(4) << 20) ? 0 : (double)rows * (double)k_);
}

void Weight::fill_floats(const float* x, int64_t stride, bool transposed, int64_t row, int64_t rows) {
  if (quantised(type_) || type_ == Type::F16 || (transposed && type_ == Type::Int8))
    throw std::invalid_argument("weight: floats are packed as F32, BF16 and INT8, INT8 not transposed; found " +
                                std::string(info(type_).name));
  check_rows(row, rows);
  PackArgs a = {x, memory_.data() + row / 16 * panel_bytes(type_, k_), rows, k_, stride, type_, transposed};
  run_kernel(kernels().pack, a, (double)rows * (double)k_);
}

void Weight::fill_turned(const Weight& other, int64_t row) {
  if (row % 16 || row < 0 || row > other.n() - k_ || n_ != other.k())
    throw std::invalid_argument("weight: rows " + std::to_string(row) + " to " + std::to_string(row + k_) + " of (" +
                                std::to_string(other.n()) + ", " + std::to_string(other.k()) + ") turned into (" +
                                std::to_string(n_) + ", " + std::to_string(k_) + "), which start at a multiple of 16");
  if (type_ != Type::BF16 && (type_ != Type::F32 || other.type() != Type::F32))
    throw std::invalid_argument("weight: " + std::string(info(other.type()).name) + " turned into " + info(type_).name +
                                ", allowed are BF16, and F32 of F32");
  TurnArgs a = {other.panels(), memory_.data(), row, k_, n_, other.type(), type_};
  run_kernel(kernels().turn, a, 4.0 * (double)n_ * (double)k_);
}

}  // namespace pyllm
