// This instruction set's kernels, by name: the only symbol that leaves its sources.
#include "kernels/attention.h"
#include "kernels/cache.h"
#include "kernels/linear.h"
#include "kernels/recurrent.h"
#include "kernels/rows.h"
#include "kernels/training_rows.h"

#define PYLLM_STRING2(x) #x
#define PYLLM_STRING(x) PYLLM_STRING2(x)

namespace pyllm::PYLLM_ISA {

extern const Kernels table;
const Kernels table = {
    PYLLM_STRING(PYLLM_ISA),
    prepare,
    linear,
    attention,
    merge,
    step_attention,
    embedding,
    norm,
    map,
    softmax,
    rotary,
    heads,
    pack,
    unpack,
    turn,
    cache_write,
    cache_fill,
    attention_backward,
    norm_backward,
    map_backward,
    softmax_backward,
    column_sums,
    outer,
    embedding_backward,
    cross_entropy,
    dropout,
    squares,
    adamw,
    sgd,
    axpy,
    recurrent,
    recurrent_backward,
    linear_scratch,
    prepared_bytes,
    attention_scratch,
    step_attention_scratch,
    attention_backward_scratch,
    peak,
};

}  // namespace pyllm::PYLLM_ISA
