// The vector contract: 16 lanes on every instruction set. scalar.h is its specification and the portable fallback;
// avx2.h and avx512.h say the same in instructions, amx.h adds tiles of matrices. Kernels see nothing else of the
// machine.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(PYLLM_ISA_avx512vnni) || defined(PYLLM_ISA_avx512amx)
#define PYLLM_VNNI_BF16
#endif

#if defined(PYLLM_ISA_avx512) || defined(PYLLM_VNNI_BF16)
#include "simd/avx512.h"
#elif defined(PYLLM_ISA_avx2)
#include "simd/avx2.h"
#else
#include "simd/scalar.h"
#endif

#if defined(PYLLM_ISA_avx512amx)
#include "simd/amx.h"
#endif

namespace pyllm::PYLLM_ISA {

#if !defined(PYLLM_ISA_avx512amx)
constexpr int kMatrixRows = 0;  // no matrix tiles
struct Matrix {};
#endif

// Keeps a pointer a pointer: GCC otherwise makes one register of every sum that starts with it.
PYLLM_INLINE void pin_pointer(const uint8_t*& p) { asm("" : "+r"(p)); }

}  // namespace pyllm::PYLLM_ISA
