// add_rows: x[r] += y[r mod the rows of y], for all rows, or for those of items whose flag is 0.
//
// x [rows, channels] bf16, in place, one rounding per value; y [y_rows, channels], f32 if WIDE else bf16; flags [rows / item_rows] int, or null for all rows.
// Parallelisation: one thread per VECTOR channels of a row, neighbouring threads on neighbouring channels. Flops: 1 per value.
// Bytes: 4 per value of a row that is added to, 16 at a time (VECTOR 8: channels a multiple of 8; 1: any), and y, mostly from L2.
// Registers: see registers.csv. Tried: nothing else; it is bound by memory.
#include "common.cuh"

#ifndef ENTRY
#error "compile with -DENTRY, -DVECTOR (8 or 1) and -DWIDE (0: y bf16, 1: y f32)"
#endif
constexpr int THREADS = 256;

KERNEL __launch_bounds__(THREADS) ENTRY(bf16* x, const u8* y, const int* flags, int rows, int channels, int y_rows, int item_rows) {
    const int vectors = channels / VECTOR;
    const u64 index = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (index >= (u64)rows * vectors) return;
    const int row = index / vectors, channel = index % vectors * VECTOR;
    if (flags && flags[row / item_rows]) return;
    bf16* values = x + (size_t)row * channels + channel;
    const size_t at = (size_t)(row % y_rows) * channels + channel;

    float a[VECTOR], b[VECTOR];
    load_f32<VECTOR>(a, values);
    if constexpr (!WIDE) {
        load_f32<VECTOR>(b, (const bf16*)y + at);
    } else if constexpr (VECTOR == 8) {
        const float4 low = ((const float4*)((const float*)y + at))[0], high = ((const float4*)((const float*)y + at))[1];
        b[0] = low.x, b[1] = low.y, b[2] = low.z, b[3] = low.w;
        b[4] = high.x, b[5] = high.y, b[6] = high.z, b[7] = high.w;
    } else {
        b[0] = ((const float*)y)[at];
    }
#pragma unroll
    for (int e = 0; e < VECTOR; e++) a[e] += b[e];
    store_bf16<VECTOR>(values, a);
}
