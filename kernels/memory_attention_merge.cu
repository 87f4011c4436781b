// memory_attention_merge: the unfinished attentions of all splits, and the state a lane goes on from, in one; finished, or kept as a state. Third of the three kernels
// of src/ops/memory_attention.rs.
//
// partial [splits, rows, m + 2] f32: weighted tokens, reference of the exponent (of two), sum of weights; lane l of `positions` rows fills the first `columns` parts_l of them.
// y [rows, m] bf16, or, if null, state [rows, m + 2] f32. lanes: see memory.cuh.
// Parallelisation: one warp per row, WARPS rows per block; the order is start, split 0, split 1, ...: always the same.
// Flops: 2 rows splits m. Bytes: 4 rows splits (m + 2) and 2 rows m. Registers: about 40; see registers.csv. Tried: nothing else; it is bound by memory.
#include "memory.cuh"

#ifndef ENTRY
#error "compile with -DENTRY and -DWARPS"
#endif

KERNEL __launch_bounds__(WARPS* LANES) ENTRY(const float* partial, const Memory* lanes, bf16* y, float* state, int rows, int positions, int columns, int m) {
    const int lane = threadIdx.x % LANES, row = blockIdx.x * WARPS + threadIdx.x / LANES;
    if (row >= rows) return;
    const Memory memory = lanes[row / positions];
    const float* start = memory.start ? memory.start + (size_t)(row % positions) * (m + 2) : nullptr;
    const int splits = memory.parts * columns;
    auto split = [&](int i) { return partial + ((size_t)i * rows + row) * (m + 2); };
    float most = start ? start[m] : NO_SCORE;
    for (int i = 0; i < splits; i++) most = fmaxf(most, split(i)[m]);
    float total = start ? start[m + 1] * exp2_approx(start[m] - most) : 0.f;
    for (int i = 0; i < splits; i++) total += split(i)[m + 1] * exp2_approx(split(i)[m] - most);
    for (int c = lane; c < m; c += LANES) {
        float sum = start ? start[c] * exp2_approx(start[m] - most) : 0.f;
        for (int i = 0; i < splits; i++) sum += split(i)[c] * exp2_approx(split(i)[m] - most);
        if (y) y[(size_t)row * m + c] = to_bf16(sum / total);
        else state[(size_t)row * (m + 2) + c] = sum;
    }
    if (!y && lane == 0) {
        state[(size_t)row * (m + 2) + m] = most;
        state[(size_t)row * (m + 2) + m + 1] = total;
    }
}
