// conv: a small square convolution as a product of patch rows with weights, plus bias, then residual rows, or LayerNorm over the columns and GELU.
// Twin of src/ops/conv.rs; conv_direct.cu has the convolutions that are too small for tensor cores.
//
// x [items, height, width, channels], zeros outside; weight [columns, weight_row], a row being (dy, dx, c) and then zeros, weight_row its length rounded up to a multiple of 8;
// y [items, out_height, out_width, columns]: bf16. residual [residual_rows, columns] f32 (row r mod residual_rows) or null; bias, gamma, beta [columns] f32 or null.
// Parallelisation: a block makes TILE_ROWS pixels x TILE_COLUMNS columns of y by mma.sync m16n8k16 (all columns, if there is a norm: its sums go round quads, then through shared memory).
// Patches are never stored: each thread gathers the chunks of its own rows into a ring of STAGES swizzled stages, 16 bytes at a time by cp.async (VECTOR 8: channels a multiple of 8), or
// value by value (VECTOR 1; then SIDE and CHANNELS may be constants, so that an index divides cheaply). Weights come by cp.async. STORE 8: columns a multiple of 8.
// Flops: 2 rows columns side^2 channels. Bytes: 2 (items height width channels + rows columns), neighbouring patches overlapping in L1 and L2; weights once per block from L2.
// Registers: TILE_ROWS TILE_COLUMNS / threads sums; see registers.csv. Shared memory: 2 STAGES (TILE_ROWS + TILE_COLUMNS) DEPTH bytes, and 8 WARPS_ACROSS TILE_ROWS for the norm.
// The sum over a patch has one order, whatever the number of items. Not tried: the input tile of a block in shared memory (L1 holds it; the 7x7 reads each value about three times).
#include "rows.cuh"

#ifndef ENTRY
#error "compile with -DENTRY, -DTILE_ROWS, -DTILE_COLUMNS, -DWARPS_DOWN, -DWARPS_ACROSS, -DSTAGES, -DVECTOR, -DSTORE, -DSIDE and -DCHANNELS (0: any)"
#endif
constexpr int DEPTH = 32, CHUNKS = DEPTH / 8;
constexpr int THREADS = WARPS_DOWN * WARPS_ACROSS * LANES;
constexpr int WARP_ROWS = TILE_ROWS / WARPS_DOWN, WARP_COLUMNS = TILE_COLUMNS / WARPS_ACROSS;
constexpr int BLOCKS_DOWN = WARP_ROWS / 16, BLOCKS_ACROSS = WARP_COLUMNS / 8;
constexpr int LOADS = TILE_ROWS * CHUNKS / THREADS;  // chunks of patches of a thread and step
static_assert(WARP_ROWS * WARPS_DOWN == TILE_ROWS && WARP_ROWS % 16 == 0, "warps take whole blocks of 16 rows");
static_assert(WARP_COLUMNS * WARPS_ACROSS == TILE_COLUMNS && WARP_COLUMNS % 32 == 0, "warps take whole groups of four blocks of columns");
static_assert(LOADS * THREADS == TILE_ROWS * CHUNKS && THREADS % CHUNKS == 0, "whole chunks a thread");

// Sizes of the input and the window.
struct Map {
    const bf16* x;
    int height, width, channels, side;
};

// The window of one row of the product: the first value of its image and where it begins there; below all images if there is no such row.
struct Window {
    int image, top, left;
};

// Values `from` .. `from + 8` of a patch to a chunk of shared memory.
DEV void gather(bf16* to, const Map& map, const Window& window, int from) {
    if constexpr (VECTOR == 8) {
        const int tap = from / map.channels, c = from % map.channels;
        const int line = window.top + tap / map.side, column = window.left + tap % map.side;
        const bool inside = tap < map.side * map.side && line >= 0 && line < map.height && column >= 0 && column < map.width;
        const bf16* source = map.x + ((size_t)(window.image + line) * map.width + column) * map.channels + c;
        cp_async16(to, inside ? source : map.x, inside ? 16 : 0);
    } else {
        const int side = SIDE ? SIDE : map.side, channels = CHANNELS ? CHANNELS : map.channels;
        u32 words[4];
#pragma unroll
        for (int e = 0; e < 8; e++) {
            const int tap = (from + e) / channels, c = (from + e) % channels;
            const int line = window.top + tap / side, column = window.left + tap % side;
            bf16 v = {0};
            if (tap < side * side && line >= 0 && line < map.height && column >= 0 && column < map.width) v = map.x[((size_t)(window.image + line) * map.width + column) * channels + c];
            if (e % 2) words[e / 2] |= (u32)v.bits << 16;
            else words[e / 2] = v.bits;
        }
        *(uint4*)to = {words[0], words[1], words[2], words[3]};
    }
}

// Sum over the warps that share a row: `mine` is this warp's part of row `half` of block i, and the total takes its place; always in the order of the warps.
DEV void across_warps(float (&mine)[BLOCKS_DOWN][2], float (*shared)[TILE_ROWS], int warp_row, int warp_across) {
    const int lane = threadIdx.x % LANES;
    if constexpr (WARPS_ACROSS > 1) {
#pragma unroll
        for (int i = 0; i < BLOCKS_DOWN; i++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                if (lane % 4 == 0) shared[warp_across][warp_row + i * 16 + half * 8 + lane / 4] = mine[i][half];
        __syncthreads();  // all parts are there
#pragma unroll
        for (int i = 0; i < BLOCKS_DOWN; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                mine[i][half] = 0.f;
#pragma unroll
                for (int w = 0; w < WARPS_ACROSS; w++) mine[i][half] += shared[w][warp_row + i * 16 + half * 8 + lane / 4];
            }
    }
}

// Adds a row; a quad reads 32 bytes of it at a time.
DEV void add_f32_row(float (&sum)[BLOCKS_ACROSS][4], int half, const float* row, int first, int columns) {
#pragma unroll
    for (int j = 0; j < BLOCKS_ACROSS; j++) {
        const int column = first + j * 8 + threadIdx.x % 4 * 2;
        if constexpr (STORE == 8) {
            if (column >= columns) continue;
            const float2 v = *(const float2*)(row + column);
            sum[j][half * 2] += v.x, sum[j][half * 2 + 1] += v.y;
        } else {
#pragma unroll
            for (int e = 0; e < 2; e++)
                if (column + e < columns) sum[j][half * 2 + e] += row[column + e];
        }
    }
}

KERNEL __launch_bounds__(THREADS) ENTRY(const bf16* x, const bf16* weight, const float* bias, const float* residual, const float* gamma, const float* beta, bf16* y, int rows, int height, int width, int channels, int out_height, int out_width, int columns, int side, int stride, int padding, int weight_row, int residual_rows, float eps) {
    SMEM_DYN(shared);
    SMEM(float, parts, [2][WARPS_ACROSS][TILE_ROWS]);
    bf16* left = (bf16*)shared;                        // [STAGES, TILE_ROWS, DEPTH]
    bf16* right = left + STAGES * TILE_ROWS * DEPTH;   // [STAGES, TILE_COLUMNS, DEPTH]
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const int warp_row = warp / WARPS_ACROSS * WARP_ROWS, warp_column = warp % WARPS_ACROSS * WARP_COLUMNS;
    const int first_row = blockIdx.x * TILE_ROWS, first_column = blockIdx.y * TILE_COLUMNS;
    const int steps = (weight_row + DEPTH - 1) / DEPTH;
    const Map map = {x, height, width, channels, side};

    Window windows[LOADS];
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
        const int row = first_row + (threadIdx.x + i * THREADS) / CHUNKS;
        const int item = row / (out_height * out_width), line = row / out_width % out_height;
        windows[i] = {item * height, row < rows ? line * stride - padding : height, row % out_width * stride - padding};
    }
    auto load = [&](int step) {
        const int stage = step % STAGES;
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            const int row = (threadIdx.x + i * THREADS) / CHUNKS, chunk = threadIdx.x % CHUNKS;
            gather(left + stage * TILE_ROWS * DEPTH + swizzled<DEPTH>(row, chunk), map, windows[i], step * DEPTH + chunk * 8);
        }
        load_tile<TILE_COLUMNS, DEPTH, THREADS, 8>(right + stage * TILE_COLUMNS * DEPTH, weight, first_column, columns, step * DEPTH, weight_row);
    };
    float sum[BLOCKS_DOWN][BLOCKS_ACROSS][4];
    begin_with(sum, bias, first_column + warp_column, columns);
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
            u32 a[BLOCKS_DOWN][4];
#pragma unroll
            for (int i = 0; i < BLOCKS_DOWN; i++) load_left<DEPTH>(a[i], a_tile, warp_row + i * 16, k);
#pragma unroll
            for (int j = 0; j < BLOCKS_ACROSS; j += 2) {
                u32 b[4];
                load_right<DEPTH>(b, b_tile, warp_column + j * 8, k);
#pragma unroll
                for (int i = 0; i < BLOCKS_DOWN; i++) mma_bf16(sum[i][j], a[i], b[0], b[1]), mma_bf16(sum[i][j + 1], a[i], b[2], b[3]);
            }
        }
    }

    const int column = first_column + warp_column;
    if (gamma) {
        float mean[BLOCKS_DOWN][2], scale[BLOCKS_DOWN][2];
#pragma unroll
        for (int i = 0; i < BLOCKS_DOWN; i++) mean[i][0] = row_sum(sum[i], 0), mean[i][1] = row_sum(sum[i], 1);
        across_warps(mean, parts[0], warp_row, warp % WARPS_ACROSS);
#pragma unroll
        for (int i = 0; i < BLOCKS_DOWN; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                mean[i][half] /= columns;
                scale[i][half] = row_squares(sum[i], half, mean[i][half], column, columns);
            }
        across_warps(scale, parts[1], warp_row, warp % WARPS_ACROSS);
#pragma unroll
        for (int i = 0; i < BLOCKS_DOWN; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) scale[i][half] = 1.f / sqrtf(scale[i][half] / columns + eps);
        normalise(sum, mean, scale, gamma, beta, column, columns);
    }
#pragma unroll
    for (int i = 0; i < BLOCKS_DOWN; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = first_row + warp_row + i * 16 + half * 8 + lane / 4;
            if (residual && row < rows) add_f32_row(sum[i], half, residual + (size_t)(row % residual_rows) * columns, column, columns);
            store_row<STORE>(sum[i], half, y + (size_t)row * columns, row < rows, column, columns);
        }
}
