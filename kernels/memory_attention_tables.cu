// memory_attention_tables: what a query's dot products with tokens at column x, or row y, of the grid become: X[x] = Wx^T R(x)^-1 q_x, Y[y] = Wy^T R(y)^-1 q_y.
// First of the three kernels of src/ops/memory_attention.rs.
//
// q [rows, D] bf16; weight [2, 80, D / 2] f16: of each half 64 rows of W^T, the bias, and zeros; turns [longest side, D / 4] of (cosine, sine) f32.
// tables [rows, width + height, 64] f16, all X and then all Y, and biases [width + height, rows] f32 (b R^-1 q), both times `scale` = log2(e) / sqrt(D).
// The 128 bytes of a row and coordinate stand as memory_attention.cu's fragments want them: [half of the channels][lane of a quad][4 pairs], where pair i of lane t
// holds channels 32 half + 8 i + 2 t + {0, 1}: exactly what this kernel's sums are, so that both sides move 16 bytes at a time.
// Parallelisation: a block takes 64 rows (16 per warp), one half and COORDINATES coordinates; the weights stay in shared memory, q in registers as fragments, in which
// each register is a pair that turns: R^-1 is four multiply-adds between registers, then f16 mma.sync m16n8k16. Two coordinates at a time, so that a fragment of weights serves
// both: 5 ldmatrix for 18 mma. With one, shared memory alone took 141 us of an H200's 350 for 51200 rows (by its 128 bytes a clock; the kernel has not been timed since).
// Flops: 2 rows (width + height) 72 D / 2; bytes: rows (width + height) 132 written, which is most. 1024 rows, D 256, 32 x 32: 1.2 GFLOP, 8.6 MB.
// Registers: D / 4 for q, 72 for the sums; see registers.csv. Shared memory: 80 D bytes. f16 and not bf16: see memory_attention.cu.
#include "tile.cuh"

#ifndef ENTRY
#error "compile with -DENTRY and -DHALF (D / 2: 32 or a multiple of 64)"
#endif
constexpr int WARPS = 4, THREADS = WARPS * LANES, ROWS = 16 * WARPS, COORDINATES = 8;
constexpr int WEIGHT_ROWS = 80, STEPS = HALF / 16;
constexpr int DEPTH = HALF < 64 ? HALF : 64, PANEL_STEPS = DEPTH / 16;  // columns of a panel of weights in shared memory

KERNEL __launch_bounds__(THREADS) ENTRY(const bf16* q, const bf16* weight, const float* turns, bf16* tables, float* biases, int rows, int width, int height, float scale) {
    SMEM_DYN(shared);
    bf16* panels = (bf16*)shared;  // [HALF / DEPTH, WEIGHT_ROWS, DEPTH]
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, half = blockIdx.y;
    const int coordinates = width + height, side = half ? height : width;
    const int first = blockIdx.z * COORDINATES, last = min(first + COORDINATES, side);
    if (first >= side) return;
#pragma unroll
    for (int panel = 0; panel < HALF / DEPTH; panel++) load_tile<WEIGHT_ROWS, DEPTH, THREADS, 8>(panels + panel * WEIGHT_ROWS * DEPTH, weight, half * WEIGHT_ROWS, 2 * WEIGHT_ROWS, panel * DEPTH, HALF);
    cp_async_commit();

    const int row = blockIdx.x * ROWS + warp * 16 + lane / 4;  // and the one 8 further on
    u32 pairs[STEPS][4];
#pragma unroll
    for (int k = 0; k < STEPS; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = min(row + i % 2 * 8, rows - 1);
            pairs[k][i] = *(const u32*)(q + (size_t)r * 2 * HALF + half * HALF + k * 16 + i / 2 * 8 + lane % 4 * 2);
        }
    cp_async_wait<0>();
    __syncthreads();

    for (int coordinate = first; coordinate < last; coordinate += 2) {
        const float2* turn = (const float2*)turns + (size_t)coordinate * (HALF / 2) + lane % 4;
        const int next = coordinate + 1 < last ? HALF / 2 : 0;  // beyond the last: the last again, which is not written
        float sum[2][9][4] = {};
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            u32 a[2][4];
#pragma unroll
            for (int c = 0; c < 2; c++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float2 at = turn[c * next + k * 8 + i / 2 * 4];
                    const float even = low_f32(pairs[k][i]), odd = high_f32(pairs[k][i]);
                    a[c][i] = pack_f16(even * at.x + odd * at.y, odd * at.x - even * at.y);
                }
            const bf16* panel = panels + k / PANEL_STEPS * WEIGHT_ROWS * DEPTH;
#pragma unroll
            for (int j = 0; j < 5; j++) {
                u32 b[4];
                load_right<DEPTH>(b, panel, j * 16, k % PANEL_STEPS);
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    mma_f16(sum[c][2 * j], a[c], b[0], b[1]);
                    if (j < 4) mma_f16(sum[c][2 * j + 1], a[c], b[2], b[3]);
                }
            }
        }
#pragma unroll
        for (int c = 0; c < 2; c++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                if (row + 8 * h >= rows || coordinate + c >= last) continue;
                const size_t at = (size_t)(row + 8 * h) * coordinates + half * width + coordinate + c;
                uint4* out = (uint4*)(tables + at * 64) + lane % 4;
#pragma unroll
                for (int part = 0; part < 2; part++) {
                    u32 v[4];
#pragma unroll
                    for (int i = 0; i < 4; i++) v[i] = pack_f16(sum[c][part * 4 + i][2 * h] * scale, sum[c][part * 4 + i][2 * h + 1] * scale);
                    out[part * 4] = make_uint4(v[0], v[1], v[2], v[3]);
                }
                if (lane % 4 == 0) biases[(size_t)(half * width + coordinate + c) * rows + row + 8 * h] = sum[c][8][2 * h] * scale;
            }
    }
}
