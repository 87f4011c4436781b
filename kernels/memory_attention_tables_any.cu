// memory_attention_tables_any: memory_attention_tables.cu for any widths, in f32.
//
// q [rows, 2 half] bf16; weight [2, m + 1, half] f32: of each half W^T, then the bias; turns [longest side, half / 2] of (cosine, sine) f32.
// tables [rows, width + height, m + 1] f32, times `scale`. Parallelisation: one thread per value. Flops: 6 per value and channel of a half.
// Bytes: 4 per value. Registers: see registers.csv. Tried: nothing else; it serves small networks and tests.
#include "common.cuh"

#ifndef ENTRY
#error "compile with -DENTRY and -DTHREADS"
#endif

KERNEL __launch_bounds__(THREADS) ENTRY(const bf16* q, const float* weight, const float* turns, float* tables, int rows, int width, int height, int half, int m, float scale) {
    const u64 index = (u64)blockIdx.x * THREADS + threadIdx.x;
    const int coordinates = width + height;
    if (index >= (u64)rows * coordinates * (m + 1)) return;
    const int channel = index % (m + 1), row = index / (m + 1) / coordinates;
    int coordinate = index / (m + 1) % coordinates;
    const int side = coordinate >= width;
    coordinate -= side * width;
    const bf16* x = q + ((size_t)row * 2 + side) * half;
    const float* w = weight + (size_t)(side * (m + 1) + channel) * half;
    const float* turn = turns + (size_t)coordinate * half;
    float sum = 0.f;
    for (int i = 0; i < half; i += 2) {
        const float even = to_f32(x[i]), odd = to_f32(x[i + 1]), cosine = turn[i], sine = turn[i + 1];
        sum += w[i] * (even * cosine + odd * sine) + w[i + 1] * (odd * cosine - even * sine);
    }
    tables[index] = sum * scale;
}
