// Numbers that are dropped, and those that are kept times a factor; see kernels/draws.h.
#include "kernels/draws.h"
#include "kernels/training_rows.h"

namespace pyllm::PYLLM_ISA {

void dropout(const DropoutArgs& a, int worker, int workers) {
  const Share s = vector_share(a.n, worker, workers);
  alignas(64) float factor[kPlaces];
  for (int64_t i = s.first; i < s.last;) {
    const uint64_t place = a.draw.offset + (uint64_t)i;
    const int skip = (int)(place % kPlaces);
    factors(a.draw, place / kPlaces, factor);
    const int64_t count = kPlaces - skip < s.last - i ? kPlaces - skip : s.last - i;
    vectors(0, count,
            [&](int64_t j, auto at) { at.put(a.y + i + j, mul(at.get(a.x + i + j), at.get(factor + skip + j))); });
    i += count;
  }
}

}  // namespace pyllm::PYLLM_ISA
