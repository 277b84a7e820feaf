// Matrix tiles of AMX: up to 16 rows of 64 bytes each. Tiles 0 to 3 hold sums, 4 and 5 rows, 6 and 7 panels.
//
// Written out and not with the compiler's intrinsics: those do not say that they read and write memory.
#pragma once
#include <stdint.h>

namespace pyllm::PYLLM_ISA {

constexpr int kMatrixRows = 32;  // rows of a product at once: two tiles

// How many rows the tiles have; they are the thread's own as long as this lives.
class Matrix {
 public:
  Matrix() = default;
  Matrix(const Matrix&) = delete;
  // Called for every product, but changed only where rows end: it takes 60 ns.
  void shape(int rows) {
    if (rows == rows_) return;
    rows_ = rows;
    const uint8_t upper = (uint8_t)(rows < 16 ? rows : 16), lower = (uint8_t)(rows < 16 ? 0 : rows - 16);
    struct {
      uint8_t palette, start, none[14];
      uint16_t bytes[16];
      uint8_t rows[16];
    } shape = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {upper, upper, 16, 16, upper, 16, 16, 16}};
    shape.rows[2] = shape.rows[3] = shape.rows[5] = lower ? lower : 16;  // no rows: never used, but 0 is not allowed
    asm volatile("ldtilecfg %0" ::"m"(shape) : "memory");
  }
  ~Matrix() {
    if (rows_) asm volatile("tilerelease" ::: "memory");
  }

 private:
  int rows_ = 0;
};

// As long as it lives vectors of this thread take tiny numbers for zero, and make zero of them: so do matrix tiles.
class TinyIsZero {
 public:
  TinyIsZero() {
    asm volatile("stmxcsr %0" : "=m"(was_)::"memory");
    set(was_ | 0x8040);
  }
  ~TinyIsZero() { set(was_); }
  TinyIsZero(const TinyIsZero&) = delete;

 private:
  static void set(uint32_t state) { asm volatile("ldmxcsr %0" ::"m"(state) : "memory"); }
  uint32_t was_;
};

template <int TILE> PYLLM_INLINE void tile_zero() { asm volatile("tilezero %%tmm%c0" ::"i"(TILE)); }
template <int TILE> PYLLM_INLINE void tile_load(const void* p, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(TILE) : "memory");
}
template <int TILE> PYLLM_INLINE void tile_store(void* p, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(TILE) : "memory");
}
// SUM += ROWS PANEL: the 16 products of first, then those of second numbers of pairs are summed, then both added.
template <int SUM, int ROWS, int PANEL> PYLLM_INLINE void tile_dot_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(ROWS), "i"(PANEL));
}

// The first, and the second numbers of pairs.
PYLLM_INLINE f32v first_numbers(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
PYLLM_INLINE f32v second_numbers(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
}

}  // namespace pyllm::PYLLM_ISA
