// memory_mask: what the memory encoder is fed, f(resize(x)) scale + bias, with f the logistic function or, for prompted items, x > 0. Twin of src/ops/memory_mask.rs.
//
// x f32 planes [in_height, in_width], item n's at offsets[n] values, or the n-th if offsets is null; prompted [items] int, or null for none; y [items, height, width] bf16.
// Parallelisation: one thread per VECTOR pixels of a row of y; the plane is read through L1 and L2. The CPU op's bits, rounded to bf16.
// Flops: 32 per pixel. Bytes: 2 per pixel, 16 at a time (VECTOR 8: width a multiple of 8; 1: any), and 4 per value of x.
// Registers: see registers.csv. Tried: tables of taps, which cost more loads than the four operations they save.
#include "bilinear.cuh"

#ifndef ENTRY
#error "compile with -DENTRY and -DVECTOR (8 or 1)"
#endif
constexpr int THREADS = 256;

KERNEL __launch_bounds__(THREADS) ENTRY(const float* x, const int* offsets, const int* prompted, bf16* y, int items, int in_height, int in_width, int height, int width,
                                        float ratio_y, float ratio_x, float scale, float bias) {
    const int vectors = width / VECTOR;
    const u64 index = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (index >= (u64)items * height * vectors) return;
    const int column = index % vectors * VECTOR;
    const u64 line = index / vectors;  // of all items, one after the other
    const int row = line % height, item = line / height;
    const float* plane = x + (offsets ? (size_t)offsets[item] : (size_t)item * in_height * in_width);
    const bool sharp = prompted && prompted[item];
    const Tap down = tap(row, ratio_y, in_height);

    float v[VECTOR];
#pragma unroll
    for (int e = 0; e < VECTOR; e++) {
        const float logit = sample(plane, in_width, down, tap(column + e, ratio_x, in_width));
        const float mask = sharp ? (logit > 0.f ? 1.f : 0.f) : logistic(logit);
        v[e] = __fadd_rn(__fmul_rn(mask, scale), bias);
    }
    store_bf16<VECTOR>(y + (size_t)line * width + column, v);
}
