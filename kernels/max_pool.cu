// max_pool: 2x2 maximum with stride 2 over columns `from .. from + taken` of a map. Twin of src/ops/max_pool.rs.
//
// x [items, height, width, channels], y [items, height / 2, width / 2, taken]: bf16; height and width even. Exact: it only chooses.
// Parallelisation: one thread per VECTOR output channels of a pixel, neighbouring threads on neighbouring channels.
// Flops: 3 per output value. Bytes: 10 per output value, read and written once, 16 at a time (VECTOR 8: channels, from, taken multiples of 8; 1: any).
// Registers: about 40; see registers.csv. Tried: nothing else; it is bound by memory.
#include "common.cuh"

#ifndef ENTRY
#error "compile with -DENTRY and -DVECTOR (8 or 1)"
#endif
constexpr int THREADS = 256;

KERNEL __launch_bounds__(THREADS) ENTRY(const bf16* x, bf16* y, int out_pixels, int out_width, int channels, int from, int taken) {
    const int vectors = taken / VECTOR;
    const u64 index = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (index >= (u64)out_pixels * vectors) return;
    const int pixel = index / vectors, channel = index % vectors * VECTOR;
    const int out_row = pixel / out_width, out_column = pixel % out_width;  // rows of all items, one after the other
    const size_t line = (size_t)out_width * 2 * channels;
    const bf16* corner = x + (size_t)out_row * 2 * line + (size_t)out_column * 2 * channels + from + channel;

    float a[VECTOR], b[VECTOR], c[VECTOR], d[VECTOR];
    load_f32<VECTOR>(a, corner);
    load_f32<VECTOR>(b, corner + channels);
    load_f32<VECTOR>(c, corner + line);
    load_f32<VECTOR>(d, corner + line + channels);
#pragma unroll
    for (int e = 0; e < VECTOR; e++) a[e] = fmaxf(fmaxf(a[e], b[e]), fmaxf(c[e], d[e]));
    store_bf16<VECTOR>(y + (size_t)pixel * taken + channel, a);
}
