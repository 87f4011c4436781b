// linear: y = residual + activation(x' W^T + bias), then LayerNorm (+ GELU) of the finished row if asked; x' = x, LayerNorm(x) or x + second. Twin of src/ops/linear.rs.
//
// x [.., inner], W [columns, inner] as PyTorch's nn.Linear, second [second_rows, inner] (row r mod second_rows), residual [residual_rows, columns] (likewise), y [rows, columns]: bf16
// (y f32 if asked). Row r reads row index[r] of x, or row r where index is null. bias [columns], gamma, beta [inner], gamma_after, beta_after [columns]: f32; null = without. With residual = y
// the product is added to what y holds. Sums and statistics (two passes) in f32; x' is rounded to bf16.
// Parallelisation: a block makes TILE_ROWS rows of tiles_per_block tiles of TILE_COLUMNS columns with WARPS_DOWN x WARPS_ACROSS warps by mma.sync m16n8k16. Blocks of the same rows are
// neighbours, so that x comes from DRAM once and W stays in L2. RESIDENT 0: both operands come through a ring of STAGES swizzled stages of DEPTH in shared memory, by cp.async (VECTOR 8:
// inner a multiple of 8) or plain stores (VECTOR 1). RESIDENT 1: the rows of x' are made once, in shared memory, and only W streams, without a pause from one tile of columns to the next.
// The sums of 16 rows per warp at a time go through a slab of f32 in shared memory, so that a lane finishes 8 neighbouring columns: 16-byte loads and stores, and rows of 256 columns in
// one warp, which normalises them.
// Flops: 2 rows columns inner. Bytes: 2 (rows inner + columns inner + rows columns) from DRAM; from L2 x once per tile of columns (RESIDENT: per block), W once per TILE_ROWS rows.
// Shared memory per step of 16 of the 128 x 128 tile: 4 warps of 64 x 64 read 4 KiB each for 32 mma (64 cycles of an A100's tensor cores, 32 of its shared memory) and fill 2 KiB (16 cycles).
// Registers: TILE_ROWS TILE_COLUMNS / threads for the sums, 4 per fragment; see registers.csv. Shared memory: 2 STAGES (TILE_ROWS + TILE_COLUMNS) DEPTH bytes, or, RESIDENT,
// 2 TILE_ROWS inner + 2 STAGES TILE_COLUMNS DEPTH + the slab; 64 x 128 with 3 stages leaves room for two blocks on an A100 up to inner = 384.
// The sum over inner has one order whatever the tile, and so have the norms, so that rows do not depend on how many others there are.
// Instructions of a warp (benches/sass.py, sm_90a) per step of the 128 x 128 tile, with its 64 mma: 140, of which 41 refill a stage (277 and 163 where addresses were worked out anew for each
// chunk); about 20 per eight finished numbers without residual or activation. Not timed on a GPU since.
// Tried: addresses from load_tile, 185 instructions to refill a stage. Two barriers a step (before and after use of a stage); one suffices, since the stage that is refilled was read before it. Warps of 64 x 32 in the 128 x 128 tile (8 of them): as many
// cycles of shared memory as of tensor cores. Those were not timed. Timed on an H200: tiles of 128 x 256 by 8 warps, one block per multiprocessor, as fast as two blocks of 128 x 128 at best, half as fast at worst.
#include "tile.cuh"

#ifndef ENTRY
#error "compile with -DENTRY, -DTILE_ROWS, -DTILE_COLUMNS, -DWARPS_DOWN, -DWARPS_ACROSS, -DTILE_DEPTH, -DSTAGES, -DVECTOR, -DRESIDENT and -DBLOCKS (per multiprocessor, at least)"
#endif
constexpr int DEPTH = TILE_DEPTH;
constexpr int WARPS = WARPS_DOWN * WARPS_ACROSS, THREADS = WARPS * LANES;
constexpr int WARP_ROWS = TILE_ROWS / WARPS_DOWN, WARP_COLUMNS = TILE_COLUMNS / WARPS_ACROSS;
constexpr int BLOCKS_DOWN = WARP_ROWS / 16, BLOCKS_ACROSS = WARP_COLUMNS / 8;  // mma tiles of a warp
constexpr int CHUNKS = DEPTH / 8;                                              // of 16 bytes in a row of a stage
constexpr int LEFT = RESIDENT ? 0 : TILE_ROWS * DEPTH, STAGE = LEFT + TILE_COLUMNS * DEPTH;
static_assert(WARP_ROWS * WARPS_DOWN == TILE_ROWS && WARP_ROWS % 16 == 0, "warps take whole blocks of 16 rows");
static_assert(WARP_COLUMNS * WARPS_ACROSS == TILE_COLUMNS && WARP_COLUMNS % 16 == 0, "warps take whole pairs of 8 columns");
static_assert(STAGES >= 2, "one stage is read while another is filled");

#include "linear_finish.cuh"

// A thread's chunks of a tile's stages: of one column of chunks, STRIDE rows apart, which does not change their swizzle. Rows beyond the last are the last of them again:
// what comes of them is not written.
constexpr int STRIDE = THREADS / CHUNKS;
static_assert(VECTOR == 1 || (THREADS % CHUNKS == 0 && STRIDE % 8 == 0), "the swizzle repeats every eight rows");
template <int ROWS> struct Copies {
    const bf16* stage;                          // where the next one begins in the tile's first row
    int further[(ROWS + STRIDE - 1) / STRIDE];  // from there to the chunks
};

// Those of the tile that begins at row `first` of `source` [rows, width].
template <int ROWS> DEV void start_tile(Copies<ROWS>& copies, const bf16* source, int first, int rows, int width) {
    copies.stage = source + (size_t)first * width;
#pragma unroll
    for (int i = 0; i * STRIDE < ROWS; i++) copies.further[i] = min((int)threadIdx.x / CHUNKS + i * STRIDE, rows - 1 - first) * width + threadIdx.x % CHUNKS * 8;
}

// Starts the copy of the next stage, from column `column` on; columns beyond the last are zero.
template <int ROWS> DEV void load_stage(bf16* tile, Copies<ROWS>& copies, int column, int width) {
    const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS, bytes = column + chunk * 8 < width ? 16 : 0;
    bf16* to = tile + swizzled<DEPTH>(row, chunk);
#pragma unroll
    for (int i = 0; i * STRIDE < ROWS; i++)
        if (ROWS % STRIDE == 0 || row + i * STRIDE < ROWS) cp_async16(to + i * STRIDE * DEPTH, copies.stage + copies.further[i], bytes);
    copies.stage += DEPTH;
}

// Sum over the four lanes of a quad; each gets it, and the same bits.
DEV float quad_sum(float v) {
    v += __shfl_xor_sync(WHOLE_WARP, v, 2);
    return v + __shfl_xor_sync(WHOLE_WARP, v, 1);
}

// Chunk `chunk` of a resident row: tiles of DEPTH columns, one after the other.
DEV bf16* resident_chunk(bf16* resident, int row, int chunk) {
    return resident + chunk / CHUNKS * (TILE_ROWS * DEPTH) + swizzled<DEPTH>(row, chunk % CHUNKS);
}

// Starts the copy of the block's rows of x; what lies outside is zero.
DEV void copy_rows(bf16* resident, const bf16* x, const int* index, int first, int rows, int inner, int chunks) {
    for (int i = threadIdx.x; i < TILE_ROWS * chunks; i += THREADS) {
        const int row = i / chunks, chunk = i % chunks, from = chunk * 8;
        bf16* to = resident_chunk(resident, row, chunk);
        const bool has_row = first + row < rows;
        const bf16* source = x;
        if (has_row) source += (size_t)(index ? index[first + row] : first + row) * inner;
        if constexpr (VECTOR == 8) {
            const bool inside = has_row && from < inner;
            cp_async16(to, inside ? source + from : x, inside ? 16 : 0);
        } else {
#pragma unroll
            for (int e = 0; e < 8; e++) {
                bf16 v = {0};
                if (has_row && from + e < inner) v = source[from + e];
                to[e] = v;
            }
        }
    }
}

// The resident rows, normalised in place. A quad of lanes takes a row, so that 8 lanes read two rows' 64 bytes: all banks once.
DEV void normalise_rows(bf16* resident, const float* gamma, const float* beta, float eps, int inner, int chunks) {
    const int lane = threadIdx.x % LANES;
    for (int row = threadIdx.x / 4; row < TILE_ROWS; row += THREADS / 4) {
        float v[8], sum = 0.f, squares = 0.f;
        for (int chunk = lane % 4; chunk < chunks; chunk += 4) {
            load_f32<8>(v, resident_chunk(resident, row, chunk));
#pragma unroll
            for (int e = 0; e < 8; e++) sum += v[e];
        }
        const float mean = quad_sum(sum) / inner;
        for (int chunk = lane % 4; chunk < chunks; chunk += 4) {
            load_f32<8>(v, resident_chunk(resident, row, chunk));
#pragma unroll
            for (int e = 0; e < 8; e++)
                if (VECTOR == 8 ? chunk * 8 < inner : chunk * 8 + e < inner) squares += (v[e] - mean) * (v[e] - mean);
        }
        const float scale = 1.f / sqrtf(quad_sum(squares) / inner + eps);
        for (int chunk = lane % 4; chunk < chunks; chunk += 4) {
            const int count = inner - chunk * 8;
            if (count <= 0) break;
            bf16* at = resident_chunk(resident, row, chunk);
            float factor[8], offset[8];
            load_f32<8>(v, at);
            load_eight(factor, gamma + chunk * 8, count, VECTOR == 8);
            load_eight(offset, beta + chunk * 8, count, VECTOR == 8);
#pragma unroll
            for (int e = 0; e < 8; e++) v[e] = (v[e] - mean) * scale * factor[e] + offset[e];  // zero beyond the row's end
            store_bf16<8>(at, v);
        }
    }
}

// The resident rows plus rows of `second`, in place.
DEV void add_rows(bf16* resident, const bf16* second, int second_rows, int first, int inner, int chunks) {
    for (int i = threadIdx.x; i < TILE_ROWS * chunks; i += THREADS) {
        const int row = i / chunks, chunk = i % chunks, count = inner - chunk * 8;
        if (count <= 0) continue;
        bf16* at = resident_chunk(resident, row, chunk);
        float v[8], other[8];
        load_f32<8>(v, at);
        load_eight(other, second + (size_t)((first + row) % second_rows) * inner + chunk * 8, count, VECTOR == 8);
#pragma unroll
        for (int e = 0; e < 8; e++) v[e] += other[e];
        store_bf16<8>(at, v);
    }
}

// sum += a b^T over one stage.
DEV void multiply(float (&sum)[BLOCKS_DOWN][BLOCKS_ACROSS][4], const bf16* a_tile, const bf16* b_tile, int warp_row, int warp_column) {
    a_tile += warp_row * DEPTH, b_tile += warp_column * DEPTH;
#pragma unroll
    for (int k = 0; k < DEPTH / 16; k++) {
        u32 a[BLOCKS_DOWN][4], b[BLOCKS_ACROSS / 2][4];
#pragma unroll
        for (int i = 0; i < BLOCKS_DOWN; i++) load_left<DEPTH>(a[i], a_tile, i * 16, k);
#pragma unroll
        for (int j = 0; j < BLOCKS_ACROSS / 2; j++) load_right<DEPTH>(b[j], b_tile, j * 16, k);
#pragma unroll
        for (int i = 0; i < BLOCKS_DOWN; i++)
#pragma unroll
            for (int j = 0; j < BLOCKS_ACROSS; j++) mma_bf16(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
}

KERNEL __launch_bounds__(THREADS, BLOCKS) ENTRY(const bf16* x, const int* index, const float* gamma, const float* beta, const bf16* second, const bf16* weight, const float* bias, const bf16* residual,
                                                const float* gamma_after, const float* beta_after, void* y, int rows, int columns, int inner, int second_rows, int residual_rows, int activation,
                                                int gelu_after, int y_is_f32, int tiles_per_block, float eps, float eps_after) {
    SMEM_DYN(shared);
    if (rows == 0) return;
    const int steps = (inner + DEPTH - 1) / DEPTH;
    bf16* resident = (bf16*)shared;                                     // [steps, TILE_ROWS, DEPTH] if RESIDENT
    bf16* ring = resident + (RESIDENT ? steps * TILE_ROWS * DEPTH : 0);  // [STAGES, TILE_ROWS (unless RESIDENT) + TILE_COLUMNS, DEPTH]
    float* slab = (float*)(RESIDENT ? ring + STAGES * STAGE : ring);     // [SLAB_ROWS, SLAB_WIDTH]
    const int warp = threadIdx.x / LANES, warp_row = warp / WARPS_ACROSS * WARP_ROWS, warp_column = warp % WARPS_ACROSS * WARP_COLUMNS;
    const int tiles = (columns + TILE_COLUMNS - 1) / TILE_COLUMNS, groups = (tiles + tiles_per_block - 1) / tiles_per_block;
    const int first_row = blockIdx.x / groups * TILE_ROWS, first_tile = blockIdx.x % groups * tiles_per_block;
    const int last_tile = RESIDENT ? min(first_tile + tiles_per_block, tiles) : first_tile + 1, all_steps = (last_tile - first_tile) * steps;

    int left = all_steps, column = 0, ahead_tile = first_tile;  // stages to be loaded, and the next one
    Copies<TILE_ROWS> of_x;
    Copies<TILE_COLUMNS> of_weight;
    start_tile(of_x, x, first_row, rows, inner);
    start_tile(of_weight, weight, first_tile * TILE_COLUMNS, columns, inner);
    auto load = [&](int slot) {
        bf16* stage = ring + slot * STAGE;
        if constexpr (VECTOR == 1) {
            if constexpr (!RESIDENT) load_tile<TILE_ROWS, DEPTH, THREADS, 1>(stage, x, first_row, rows, column, inner);
            load_tile<TILE_COLUMNS, DEPTH, THREADS, 1>(stage + LEFT, weight, ahead_tile * TILE_COLUMNS, columns, column, inner);
        } else {
            if constexpr (!RESIDENT) load_stage(stage, of_x, column, inner);
            load_stage(stage + LEFT, of_weight, column, inner);
        }
        column += DEPTH;
        if (--left && RESIDENT && column >= inner) {
            column = 0, ahead_tile++;
            start_tile(of_weight, weight, ahead_tile * TILE_COLUMNS, columns, inner);
        }
    };
    if constexpr (RESIDENT) {
        copy_rows(resident, x, index, first_row, rows, inner, steps * CHUNKS);
        cp_async_commit();
    }
#pragma unroll 1
    for (int i = 0; i < STAGES - 1; i++) {
        if (left) load(i);
        cp_async_commit();
    }
    if constexpr (RESIDENT) {
        if (gamma || second) {
            cp_async_wait<STAGES - 1>();  // all but the stages
            __syncthreads();              // the rows are there for all
            if (gamma) normalise_rows(resident, gamma, beta, eps, inner, steps * CHUNKS);
            if (second) add_rows(resident, second, second_rows, first_row, inner, steps * CHUNKS);
        }
    }
    const Finish to = {bias, gamma_after, beta_after, residual, y, rows, columns, residual_rows, activation, gelu_after, y_is_f32, eps_after};
    int in_use = 0;
    for (int tile = first_tile; tile < last_tile; tile++) {
        float sum[BLOCKS_DOWN][BLOCKS_ACROSS][4] = {};
        for (int step = 0; step < steps; step++) {
            cp_async_wait<STAGES - 2>();
            __syncthreads();  // this step's stage is there for all, and all have read the stage that is refilled now
            if (left) load(in_use ? in_use - 1 : STAGES - 1);
            cp_async_commit();
            const bf16* stage = ring + in_use * STAGE;
            in_use = in_use + 1 == STAGES ? 0 : in_use + 1;
            multiply(sum, RESIDENT ? resident + step * TILE_ROWS * DEPTH : stage, stage + LEFT, warp_row, warp_column);
        }
        write_tile(sum, slab, to, first_row, tile * TILE_COLUMNS, warp_row, warp_column);
        if (!RESIDENT) break;  // its only tile, which the compiler does not see
    }
}
