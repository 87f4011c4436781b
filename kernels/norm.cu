// norm: LayerNorm of every row, y = (x - mean) / sqrt(variance + eps) gamma + beta, then GELU if asked. Twin of src/ops/norm.rs.
//
// x, y [rows, channels] bf16 (y may be x), gamma, beta [channels] f32; statistics in f32, in two passes over registers.
// Parallelisation: one warp per row, WARPS rows per block, the row in the registers of its warp: no shared memory, no barrier.
// Flops: 8 rows channels. Bytes: 4 rows channels (one read, one write, 16 bytes at a time) and 8 channels per row of gamma and beta from L1.
// Registers: VECTORS x WIDTH values per lane and about 25 more; see registers.csv.
// Tried: variance as E[x^2] - mean^2 in one pass loses all digits when |mean| is much larger than the deviation.
#include "common.cuh"

#ifndef ENTRY
#error "compile with -DENTRY, -DWIDTH (8: channels a multiple of 8; 1: any) and -DVECTORS (channels <= 32 WIDTH VECTORS)"
#endif
constexpr int WARPS = 4;
static_assert(WIDTH == 1 || WIDTH == 8, "elements per access");
static_assert(WIDTH * VECTORS <= 40, "a row must fit into registers");

KERNEL __launch_bounds__(WARPS* LANES) ENTRY(const bf16* x, const float* gamma, const float* beta, bf16* y, int rows, int channels, float eps, int with_gelu) {
    const int lane = threadIdx.x % LANES;
    const int row = blockIdx.x * WARPS + threadIdx.x / LANES;
    if (row >= rows) return;  // a whole warp at once
    const size_t start = (size_t)row * channels;

    float v[VECTORS][WIDTH];
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = (i * LANES + lane) * WIDTH;
        if (at < channels) {
            load_f32<WIDTH>(v[i], x + start + at);
        } else {
            for (int e = 0; e < WIDTH; e++) v[i][e] = 0.f;
        }
#pragma unroll
        for (int e = 0; e < WIDTH; e++) sum += v[i][e];
    }
    const float mean = warp_sum(sum) / channels;

    float squares = 0.f;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        if ((i * LANES + lane) * WIDTH < channels) {
#pragma unroll
            for (int e = 0; e < WIDTH; e++) squares += (v[i][e] - mean) * (v[i][e] - mean);
        }
    }
    const float scale = 1.f / sqrtf(warp_sum(squares) / channels + eps);

#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const int at = (i * LANES + lane) * WIDTH;
        if (at < channels) {
#pragma unroll
            for (int e = 0; e < WIDTH; e++) {
                const float normal = (v[i][e] - mean) * scale * gamma[at + e] + beta[at + e];
                v[i][e] = with_gelu ? gelu(normal) : normal;
            }
            store_bf16<WIDTH>(y + start + at, v[i]);
        }
    }
}
