// nearest_add: y += x enlarged twice by nearest neighbour, the neck's top-down join. Twin of src/ops/nearest_add.rs.
//
// x [items, height, width, channels], y [items, 2 height, 2 width, channels]: bf16, y in place; one rounding per value.
// Parallelisation: one thread per VECTOR channels of a pixel of x, and the four pixels of y under it: x is read once.
// Flops: 1 per value of y. Bytes: 4.5 per value of y, 16 at a time (VECTOR 8: channels a multiple of 8; 1: any).
// Registers: see registers.csv. Tried: nothing else; it is bound by memory.
#include "common.cuh"

#ifndef ENTRY
#error "compile with -DENTRY and -DVECTOR (8 or 1)"
#endif
constexpr int THREADS = 256;

KERNEL __launch_bounds__(THREADS) ENTRY(const bf16* x, bf16* y, int pixels, int width, int channels) {
    const int vectors = channels / VECTOR;
    const u64 index = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (index >= (u64)pixels * vectors) return;
    const int pixel = index / vectors, channel = index % vectors * VECTOR;
    const int row = pixel / width, column = pixel % width;  // rows of all items, one after the other
    const size_t line = (size_t)2 * width * channels;
    bf16* corner = y + (size_t)2 * row * line + (size_t)2 * column * channels + channel;

    float lower[VECTOR], upper[4][VECTOR];
    load_f32<VECTOR>(lower, x + (size_t)pixel * channels + channel);
#pragma unroll
    for (int k = 0; k < 4; k++) load_f32<VECTOR>(upper[k], corner + k / 2 * line + k % 2 * channels);
#pragma unroll
    for (int k = 0; k < 4; k++) {
#pragma unroll
        for (int e = 0; e < VECTOR; e++) upper[k][e] += lower[e];
        store_bf16<VECTOR>(corner + k / 2 * line + k % 2 * channels, upper[k]);
    }
}
