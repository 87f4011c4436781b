// Rows of a product in the registers of mma: of block (i, j) a lane holds columns 2 (lane % 4) + {0, 1} of rows lane / 4 (`half` 0) and lane / 4 + 8 (`half` 1).
// Four lanes, a quad, hold a row between them. `first` is the column where the warp's blocks begin, `columns` the length of a row.
#pragma once
#include "tile.cuh"

// Sum over a quad; each of its lanes gets it, and the same bits.
DEV float quad_sum(float v) {
    v += __shfl_xor_sync(WHOLE_WARP, v, 1);
    return v + __shfl_xor_sync(WHOLE_WARP, v, 2);
}

// Word k of lane q of a quad goes to word q of lane k: between 16 contiguous bytes a lane, and the layout of mma over four blocks.
DEV void quad_transpose(u32 (&w)[4]) {
    const int lane = threadIdx.x % LANES;
#pragma unroll
    for (int bit = 1; bit < 4; bit *= 2)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i & bit) continue;
            const bool upper = lane & bit;
            const u32 other = __shfl_xor_sync(WHOLE_WARP, upper ? w[i] : w[i | bit], bit);
            if (upper) w[i] = other;
            else w[i | bit] = other;
        }
}

// Every row begins as the bias (zero beyond the columns, or if there is none).
template <int DOWN, int ACROSS> DEV void begin_with(float (&sum)[DOWN][ACROSS][4], const float* bias, int first, int columns) {
#pragma unroll
    for (int j = 0; j < ACROSS; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int column = first + j * 8 + threadIdx.x % 4 * 2 + e;
            const float v = bias && column < columns ? bias[column] : 0.f;
#pragma unroll
            for (int i = 0; i < DOWN; i++) sum[i][j][e] = sum[i][j][2 + e] = v;
        }
}

// Adds `row`, if it is there. ACCESS 8: 16 bytes a lane (columns a multiple of 8, blocks of four); 1: any.
template <int ACCESS, int ACROSS> DEV void add_row(float (&sum)[ACROSS][4], int half, const bf16* row, bool there, int first, int columns) {
    const int quarter = threadIdx.x % 4;
    if constexpr (ACCESS == 8) {
        static_assert(ACROSS % 4 == 0, "blocks of four");
#pragma unroll
        for (int j = 0; j < ACROSS; j += 4) {
            const int column = first + (j + quarter) * 8;
            uint4 raw = {0, 0, 0, 0};
            if (there && column < columns) raw = *(const uint4*)(row + column);
            u32 w[4] = {raw.x, raw.y, raw.z, raw.w};
            quad_transpose(w);
#pragma unroll
            for (int k = 0; k < 4; k++) sum[j + k][half * 2] += low_f32(w[k]), sum[j + k][half * 2 + 1] += high_f32(w[k]);
        }
    } else {
#pragma unroll
        for (int j = 0; j < ACROSS; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int column = first + j * 8 + quarter * 2 + e;
                if (there && column < columns) sum[j][half * 2 + e] += to_f32(row[column]);
            }
    }
}

// Stores to `row`, if it is there.
template <int ACCESS, int ACROSS> DEV void store_row(const float (&sum)[ACROSS][4], int half, bf16* row, bool there, int first, int columns) {
    const int quarter = threadIdx.x % 4;
    if constexpr (ACCESS == 8) {
        static_assert(ACROSS % 4 == 0, "blocks of four");
#pragma unroll
        for (int j = 0; j < ACROSS; j += 4) {
            u32 w[4];
#pragma unroll
            for (int k = 0; k < 4; k++) w[k] = pack_bf16(sum[j + k][half * 2], sum[j + k][half * 2 + 1]);
            quad_transpose(w);
            const int column = first + (j + quarter) * 8;
            if (there && column < columns) *(uint4*)(row + column) = {w[0], w[1], w[2], w[3]};
        }
    } else {
#pragma unroll
        for (int j = 0; j < ACROSS; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int column = first + j * 8 + quarter * 2 + e;
                if (there && column < columns) row[column] = to_bf16(sum[j][half * 2 + e]);
            }
    }
}

// The quad's sum of a row's values in this warp; those beyond the columns must be zero.
template <int ACROSS> DEV float row_sum(const float (&sum)[ACROSS][4], int half) {
    float total = 0.f;
#pragma unroll
    for (int j = 0; j < ACROSS; j++) total += sum[j][half * 2] + sum[j][half * 2 + 1];
    return quad_sum(total);
}

// The same of squared distances from the mean.
template <int ACROSS> DEV float row_squares(const float (&sum)[ACROSS][4], int half, float mean, int first, int columns) {
    float total = 0.f;
#pragma unroll
    for (int j = 0; j < ACROSS; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const float distance = sum[j][half * 2 + e] - mean;
            if (first + j * 8 + threadIdx.x % 4 * 2 + e < columns) total += distance * distance;
        }
    return quad_sum(total);
}

// GELU(LayerNorm), with the mean and 1 / deviation of row `half` of block i at [i][half].
template <int DOWN, int ACROSS>
DEV void normalise(float (&sum)[DOWN][ACROSS][4], const float (&mean)[DOWN][2], const float (&scale)[DOWN][2], const float* gamma, const float* beta, int first, int columns) {
#pragma unroll
    for (int j = 0; j < ACROSS; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int column = first + j * 8 + threadIdx.x % 4 * 2 + e;
            if (column >= columns) continue;
            const float factor = gamma[column], shift = beta[column];
#pragma unroll
            for (int i = 0; i < DOWN; i++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float& v = sum[i][j][half * 2 + e];
                    v = gelu((v - mean[i][half]) * scale[i][half] * factor + shift);
                }
        }
}
