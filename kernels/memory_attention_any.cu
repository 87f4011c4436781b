// memory_attention_any: memory_attention.cu for any widths, in f32, as one split.
//
// tables [lanes * positions, width + height, m + 1] f32 of memory_attention_tables_any.cu; places [times, positions, m] f32; the rest as memory_attention.cu.
// m is at most 32 VECTORS. partial [lanes * positions, m + 2] f32.
// Parallelisation: one warp per query, WARPS per block; scores with a lane per token, 32 at a time, then weighted tokens with a lane per channel.
// Flops: 6 m per query and token. Bytes: 4 m per query and token, from L1 and L2. Registers: see registers.csv.
// Tried: nothing else; it serves small networks and tests.
#include "memory.cuh"

#ifndef ENTRY
#error "compile with -DENTRY, -DWARPS and -DVECTORS"
#endif

KERNEL __launch_bounds__(WARPS* LANES) ENTRY(const float* tables, const float* places, const Memory* lanes, const int* times, float* partial, int rows, int width, int height, int m) {
    const int lane = threadIdx.x % LANES, row = blockIdx.x * WARPS + threadIdx.x / LANES;
    if (row >= rows) return;  // a whole warp at once
    const int positions = width * height, stride = m + 1;
    const Memory memory = lanes[row / positions];
    const float* table = tables + (size_t)row * (width + height) * stride;
    const int conditioning = positions * memory.conditioning_count, spatial = conditioning + positions * memory.recent_count;
    const int count = spatial + memory.pointers;
    float most = NO_SCORE, total = 0.f, sum[VECTORS] = {};
    for (int first = 0; first < count; first += LANES) {
        const int token = first + lane;
        const bf16 *key = memory.pointer_keys, *value = memory.pointer_values;
        const float* place = nullptr;
        int position = 0;
        if (token < spatial) {
            const bool recent = token >= conditioning;
            const int used = recent ? memory.recent_count : memory.conditioning_count;
            const int slots = recent ? memory.recent_slots : memory.conditioning_slots;
            const int index = recent ? token - conditioning : token, slot = index % used;
            position = index / used;
            key = value = (recent ? memory.recent : memory.conditioning) + ((size_t)position * slots + slot) * m;
            place = places + ((size_t)times[memory.times + (recent ? memory.conditioning_count : 0) + slot] * positions + position) * m;
        } else if (token < count) {
            key += (size_t)(token - spatial) * m;
            value += (size_t)(token - spatial) * m;
        }
        float score = NO_SCORE;
        if (token < count) {
            const float *x = table + (size_t)(position % width) * stride, *y = table + (size_t)(width + position / width) * stride;
            score = x[m] + y[m];
            for (int c = 0; c < m; c++) score += (x[c] + y[c]) * (to_f32(key[c]) + (place ? place[c] : 0.f));
        }
        float larger = fmaxf(most, score);
        for (int offset = LANES / 2; offset; offset >>= 1) larger = fmaxf(larger, __shfl_xor_sync(WHOLE_WARP, larger, offset));
        const float factor = exp2_approx(most - larger), weight = exp2_approx(score - larger);
        most = larger;
        total = total * factor + warp_sum(weight);
#pragma unroll
        for (int i = 0; i < VECTORS; i++) sum[i] *= factor;
        for (int k = 0; k < min(LANES, count - first); k++) {
            const float w = __shfl_sync(WHOLE_WARP, weight, k);
            const bf16* from = (const bf16*)__shfl_sync(WHOLE_WARP, (u64)value, k);
#pragma unroll
            for (int i = 0; i < VECTORS; i++)
                if (lane + i * LANES < m) sum[i] += w * to_f32(from[lane + i * LANES]);
        }
    }
    float* out = partial + (size_t)row * (m + 2);
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        if (lane + i * LANES < m) out[lane + i * LANES] = sum[i];
    if (lane == 0) out[m] = most, out[m + 1] = total;
}
