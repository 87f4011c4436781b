// linear: y = residual + activation(x W^T + bias). Twin of src/ops/linear.rs.
//
// x [rows, inner], W [columns, inner] as PyTorch's nn.Linear, residual [residual_rows, columns] (row r mod residual_rows) or null, y [rows, columns]: bf16.
// bias [columns] f32 or null. With residual = y the product is added to what y holds. Sums in f32.
// Parallelisation: a block makes TILE_ROWS x TILE_COLUMNS of y with WARPS_DOWN x WARPS_ACROSS warps by mma.sync m16n8k16; operands come through a ring of STAGES
// swizzled stages of DEPTH in shared memory, by cp.async (VECTOR 8: inner a multiple of 8), or by plain stores (VECTOR 1: any inner).
// Flops: 2 rows columns inner. Bytes: 2 (rows inner ceil(columns / TILE_COLUMNS) + columns inner ceil(rows / TILE_ROWS) + rows columns), of which L2 serves most repeats.
// Registers: TILE_ROWS TILE_COLUMNS / threads for the sums, 4 per fragment; see registers.csv. Shared memory: 2 STAGES (TILE_ROWS + TILE_COLUMNS) DEPTH bytes.
// The sum over inner has one order whatever the tile, so rows do not depend on how many others there are.
// Tried: two barriers a step (before and after use of a stage); one suffices, since the stage that is refilled was read before it.
// Not tried: staging y through shared memory for 16-byte stores (a quad of lanes writes 16 contiguous bytes now).
#include "tile.cuh"

#ifndef ENTRY
#error "compile with -DENTRY, -DTILE_ROWS, -DTILE_COLUMNS, -DWARPS_DOWN, -DWARPS_ACROSS, -DSTAGES and -DVECTOR"
#endif
constexpr int DEPTH = 32;
constexpr int THREADS = WARPS_DOWN * WARPS_ACROSS * LANES;
constexpr int WARP_ROWS = TILE_ROWS / WARPS_DOWN, WARP_COLUMNS = TILE_COLUMNS / WARPS_ACROSS;
constexpr int BLOCKS_DOWN = WARP_ROWS / 16, BLOCKS_ACROSS = WARP_COLUMNS / 8;  // mma tiles of a warp
static_assert(WARP_ROWS * WARPS_DOWN == TILE_ROWS && WARP_ROWS % 16 == 0, "warps take whole blocks of 16 rows");
static_assert(WARP_COLUMNS * WARPS_ACROSS == TILE_COLUMNS && WARP_COLUMNS % 16 == 0, "warps take whole pairs of 8 columns");
static_assert(STAGES >= 2, "one stage is read while another is filled");

enum Activation { NONE = 0, RELU = 1, GELU = 2 };

DEV float activated(float v, int activation) {
    if (activation == RELU) return fmaxf(v, 0.f);
    return activation == GELU ? gelu(v) : v;
}

KERNEL __launch_bounds__(THREADS) ENTRY(const bf16* x, const bf16* weight, const float* bias, const bf16* residual, bf16* y, int rows, int columns, int inner, int residual_rows, int activation) {
    SMEM_DYN(shared);
    bf16* left = (bf16*)shared;                        // [STAGES, TILE_ROWS, DEPTH]
    bf16* right = left + STAGES * TILE_ROWS * DEPTH;   // [STAGES, TILE_COLUMNS, DEPTH]
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const int warp_row = warp / WARPS_ACROSS * WARP_ROWS, warp_column = warp % WARPS_ACROSS * WARP_COLUMNS;
    const int first_row = blockIdx.x * TILE_ROWS, first_column = blockIdx.y * TILE_COLUMNS;
    const int steps = (inner + DEPTH - 1) / DEPTH;

    auto load = [&](int step) {
        const int stage = step % STAGES;
        load_tile<TILE_ROWS, DEPTH, THREADS, VECTOR>(left + stage * TILE_ROWS * DEPTH, x, first_row, rows, step * DEPTH, inner);
        load_tile<TILE_COLUMNS, DEPTH, THREADS, VECTOR>(right + stage * TILE_COLUMNS * DEPTH, weight, first_column, columns, step * DEPTH, inner);
    };
    float sum[BLOCKS_DOWN][BLOCKS_ACROSS][4] = {};
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < steps) load(step);
        cp_async_commit();
    }
    for (int step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // this step's stage is there for all, and all have read the stage that is refilled now
        if (step + STAGES - 1 < steps) load(step + STAGES - 1);
        cp_async_commit();
        const bf16* a_tile = left + step % STAGES * TILE_ROWS * DEPTH;
        const bf16* b_tile = right + step % STAGES * TILE_COLUMNS * DEPTH;
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++) {
            u32 a[BLOCKS_DOWN][4], b[BLOCKS_ACROSS / 2][4];
#pragma unroll
            for (int i = 0; i < BLOCKS_DOWN; i++) load_left<DEPTH>(a[i], a_tile, warp_row + i * 16, k);
#pragma unroll
            for (int j = 0; j < BLOCKS_ACROSS / 2; j++) load_right<DEPTH>(b[j], b_tile, warp_column + j * 16, k);
#pragma unroll
            for (int i = 0; i < BLOCKS_DOWN; i++)
#pragma unroll
                for (int j = 0; j < BLOCKS_ACROSS; j++) mma_bf16(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
    }

    const bool in_pairs = columns % 2 == 0;  // then every pair of columns is 4-byte aligned
#pragma unroll
    for (int i = 0; i < BLOCKS_DOWN; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = first_row + warp_row + i * 16 + half * 8 + lane / 4;
            if (row >= rows) continue;
            const bf16* residual_row = residual ? residual + (size_t)(row % residual_rows) * columns : nullptr;
            bf16* y_row = y + (size_t)row * columns;
#pragma unroll
            for (int j = 0; j < BLOCKS_ACROSS; j++) {
                const int column = first_column + warp_column + j * 8 + lane % 4 * 2;
                float v[2];
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    if (column + e >= columns) continue;
                    v[e] = activated(sum[i][j][half * 2 + e] + (bias ? bias[column + e] : 0.f), activation);
                    if (residual) v[e] += to_f32(residual_row[column + e]);
                    if (!in_pairs) y_row[column + e] = to_bf16(v[e]);
                }
                if (in_pairs && column < columns) *(u32*)(y_row + column) = pack_bf16(v[0], v[1]);
            }
        }
}
