// upscale: transposed convolution 2x2 with stride 2, plus a skip map, then GELU of LayerNorm over the channels, or GELU alone. Twin of src/ops/upscale.rs.
//
// x [items, height, width, inner], weight [4 columns, inner] (row (dy, dx, o)), skip [maps, 2 height, 2 width, columns], y [items, 2 height, 2 width, columns]: bf16.
// bias, gamma, beta [columns] f32; gamma null: no norm. Item n takes the skip map slices[n], or n if `slices` is null. Sums in f32.
// Parallelisation: a block makes TILE_ROWS pixels of x times all four places (dy, dx) by mma.sync m16n8k16; a warp has all the columns (at most GROUP) of one place, so that the
// norm stays within a quad of lanes. Operands come through a ring of STAGES swizzled stages, by cp.async (VECTOR 8: inner and columns multiples of 8), or by plain stores (VECTOR 1).
// Flops: 8 rows inner columns. Bytes: 2 rows (inner + 8 columns), each read or written once; 2 * 4 columns inner per block of weights from L2.
// It is bound by memory: skip and y move 16 bytes a lane, 64 contiguous bytes a quad, by a transposition within quads.
// Registers: BLOCKS_DOWN x BLOCKS_ACROSS x 4 sums; see registers.csv. Shared memory: 2 STAGES (TILE_ROWS + 4 GROUP) DEPTH bytes.
// Not tried: the two upscalings in one kernel (the map between them is 1 MB an item and stays in L2 for a few items).
#include "rows.cuh"

#ifndef ENTRY
#error "compile with -DENTRY, -DTILE_ROWS, -DWARPS_DOWN, -DGROUP (columns at most), -DSTAGES and -DVECTOR"
#endif
constexpr int DEPTH = 32, PLACES = 4;
constexpr int THREADS = WARPS_DOWN * PLACES * LANES;
constexpr int WARP_ROWS = TILE_ROWS / WARPS_DOWN;
constexpr int BLOCKS_DOWN = WARP_ROWS / 16, BLOCKS_ACROSS = GROUP / 8;
static_assert(WARP_ROWS * WARPS_DOWN == TILE_ROWS && WARP_ROWS % 16 == 0 && GROUP % 32 == 0, "whole blocks");

KERNEL __launch_bounds__(THREADS) ENTRY(const bf16* x, const bf16* weight, const float* bias, const bf16* skip, const int* slices, const float* gamma, const float* beta, bf16* y, int rows, int height, int width, int inner, int columns, float eps) {
    SMEM_DYN(shared);
    bf16* left = (bf16*)shared;                       // [STAGES, TILE_ROWS, DEPTH]
    bf16* right = left + STAGES * TILE_ROWS * DEPTH;  // [STAGES, PLACES, GROUP, DEPTH]
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const int warp_row = warp / PLACES * WARP_ROWS, place = warp % PLACES;
    const int first_row = blockIdx.x * TILE_ROWS;
    const int steps = (inner + DEPTH - 1) / DEPTH;

    auto load = [&](int step) {
        const int stage = step % STAGES;
        load_tile<TILE_ROWS, DEPTH, THREADS, VECTOR>(left + stage * TILE_ROWS * DEPTH, x, first_row, rows, step * DEPTH, inner);
#pragma unroll
        for (int p = 0; p < PLACES; p++)
            load_tile<GROUP, DEPTH, THREADS, VECTOR>(right + (stage * PLACES + p) * GROUP * DEPTH, weight + (size_t)p * columns * inner, 0, columns, step * DEPTH, inner);
    };
    float sum[BLOCKS_DOWN][BLOCKS_ACROSS][4];
    begin_with(sum, bias, 0, columns);
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
        const bf16* b_tile = right + (step % STAGES * PLACES + place) * GROUP * DEPTH;
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++) {
            u32 a[BLOCKS_DOWN][4];
#pragma unroll
            for (int i = 0; i < BLOCKS_DOWN; i++) load_left<DEPTH>(a[i], a_tile, warp_row + i * 16, k);
#pragma unroll
            for (int j = 0; j < BLOCKS_ACROSS; j += 2) {
                u32 b[4];
                load_right<DEPTH>(b, b_tile, j * 8, k);
#pragma unroll
                for (int i = 0; i < BLOCKS_DOWN; i++) mma_bf16(sum[i][j], a[i], b[0], b[1]), mma_bf16(sum[i][j + 1], a[i], b[2], b[3]);
            }
        }
    }

    size_t pixels[BLOCKS_DOWN][2];  // of y
    float mean[BLOCKS_DOWN][2], scale[BLOCKS_DOWN][2];
#pragma unroll
    for (int i = 0; i < BLOCKS_DOWN; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = first_row + warp_row + i * 16 + half * 8 + lane / 4;
            const bool there = row < rows;
            const int item = row / (height * width), line = row / width % height, column = row % width;
            const size_t pixel = (size_t)(2 * line + place / 2) * 2 * width + 2 * column + place % 2;  // of its item
            const size_t item_pixels = (size_t)4 * height * width;
            pixels[i][half] = item * item_pixels + pixel;
            const int map = there && slices ? slices[item] : item;
            add_row<VECTOR>(sum[i], half, skip + (map * item_pixels + pixel) * columns, there, 0, columns);
            if (gamma) {
                mean[i][half] = row_sum(sum[i], half) / columns;
                scale[i][half] = 1.f / sqrtf(row_squares(sum[i], half, mean[i][half], 0, columns) / columns + eps);
            }
        }
    if (gamma) {
        normalise(sum, mean, scale, gamma, beta, 0, columns);
    } else {
#pragma unroll
        for (int i = 0; i < BLOCKS_DOWN; i++)
#pragma unroll
            for (int j = 0; j < BLOCKS_ACROSS; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) sum[i][j][e] = gelu(sum[i][j][e]);
    }
#pragma unroll
    for (int i = 0; i < BLOCKS_DOWN; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = first_row + warp_row + i * 16 + half * 8 + lane / 4;
            store_row<VECTOR>(sum[i], half, y + pixels[i][half] * columns, row < rows, 0, columns);
        }
}
