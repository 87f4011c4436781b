// resize_u8: the vertical pass of an 8-bit resize, and bf16. Twin of the columns of src/ops/resize_u8.rs; normalise.cu is the horizontal pass.
//
// x u8 [items, height, columns], y bf16 [items, rows, columns], values 0..255. taps [rows, 3] (first input row, number, where its weights begin), then the
// weights, i32; taps null: height = rows, no filter. Exact: sums in 32-bit integers from one half, shifted right by 22, clamped.
// Parallelisation: one thread per VECTOR pixels of a row (VECTOR 8: columns a multiple of 8; 1: any), neighbouring threads on neighbouring pixels.
// Flops: 2 taps per output. Bytes: 1 per input, which L2 serves again for the other taps, 2 per output.
// Registers: about 40; see registers.csv. Tried: nothing else; it is bound by memory.
#include "common.cuh"

#ifndef ENTRY
#error "compile with -DENTRY and -DVECTOR (8 or 1)"
#endif
constexpr int THREADS = 128;

KERNEL __launch_bounds__(THREADS) ENTRY(const u8* x, const int* taps, bf16* y, int items, int height, int rows, int columns) {
    const u32 vectors = columns / VECTOR;
    const u64 index = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (index >= (u64)items * rows * vectors) return;
    const int column = index % vectors * VECTOR, row = index / vectors % rows;
    const size_t item = index / vectors / rows;
    const int first = taps ? taps[3 * row] : row, number = taps ? taps[3 * row + 1] : 1;
    const int* weights = taps ? taps + 3 * rows + taps[3 * row + 2] : nullptr;
    const u8* from = x + (item * height + first) * columns + column;

    int sum[VECTOR];
#pragma unroll
    for (int e = 0; e < VECTOR; e++) sum[e] = HALF_PIXEL;
    for (int j = 0; j < number; j++) {
        const int weight = weights ? weights[j] : 1 << PIXEL_SHIFT;
        const u8* line = from + (size_t)j * columns;
        if constexpr (VECTOR == 8) {
            const uint2 pixels = *(const uint2*)line;
#pragma unroll
            for (int e = 0; e < 8; e++) sum[e] += (int)((e < 4 ? pixels.x : pixels.y) >> (e % 4 * 8) & 255) * weight;
        } else {
            sum[0] += line[0] * weight;
        }
    }
    float v[VECTOR];
#pragma unroll
    for (int e = 0; e < VECTOR; e++) v[e] = to_pixel(sum[e]);
    store_bf16<VECTOR>(y + (item * rows + row) * columns + column, v);
}
