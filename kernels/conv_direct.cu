// conv_direct: the convolutions of few channels to few columns, whose product would leave tensor cores mostly idle: y = conv(x) + bias, then GELU of LayerNorm if asked.
// Twin of src/ops/conv.rs, beside conv.cu.
//
// x [items, height, width, CHANNELS], zeros outside, weight [COLUMNS, weight_row] (dy, dx, c, then zeros), y [items, out_height, out_width, COLUMNS]: bf16.
// bias [COLUMNS] f32 or null, gamma, beta [COLUMNS] f32 or null (no norm).
// Parallelisation: one thread per two neighbouring pixels of y and all their columns, which are in its registers, norm included. Weights are f32 in shared memory, read by all lanes at once
// and used for both pixels; x is read through L1, 8 bytes at a time with four channels. y leaves in 16 bytes (COLUMNS 4 or 16).
// Flops: 2 pixels COLUMNS SIDE^2 CHANNELS on the ordinary units. Bytes: 2 (items height width CHANNELS + pixels COLUMNS). Bound by memory from one channel; 4 -> 16 with SIDE 3 is 576
// multiply-adds a pixel for 64 bytes, and takes about twice the time of its bytes.
// Registers: 2 COLUMNS sums and one line of the window; see registers.csv. Tried: nothing else.
#include "common.cuh"

#ifndef ENTRY
#error "compile with -DENTRY, -DSIDE, -DSTRIDE, -DCHANNELS (1 or 4) and -DCOLUMNS (1, 4 or 16)"
#endif
constexpr int THREADS = 128, PIXELS = 2;
constexpr int INNER = SIDE * SIDE * CHANNELS, REACH = (PIXELS - 1) * STRIDE + SIDE;  // columns of x under the windows of a thread
static_assert(CHANNELS == 1 || CHANNELS == 4, "values of a pixel in one access");
static_assert(COLUMNS == 1 || COLUMNS == 4 || COLUMNS == 16, "accesses of y");

DEV void load_pixel(float (&v)[CHANNELS], const bf16* x) {
    if constexpr (CHANNELS == 4) {
        const uint2 raw = *(const uint2*)x;
        v[0] = low_f32(raw.x), v[1] = high_f32(raw.x), v[2] = low_f32(raw.y), v[3] = high_f32(raw.y);
    } else {
        v[0] = to_f32(*x);
    }
}

// GELU of LayerNorm over the columns of one pixel.
DEV void normalise(float (&v)[COLUMNS], const float* gamma, const float* beta, float eps) {
    float sum = 0.f, squares = 0.f;
#pragma unroll
    for (int o = 0; o < COLUMNS; o++) sum += v[o];
    const float mean = sum / COLUMNS;
#pragma unroll
    for (int o = 0; o < COLUMNS; o++) squares += (v[o] - mean) * (v[o] - mean);
    const float scale = 1.f / sqrtf(squares / COLUMNS + eps);
#pragma unroll
    for (int o = 0; o < COLUMNS; o++) v[o] = gelu((v[o] - mean) * scale * gamma[o] + beta[o]);
}

// `count` pixels from y on, in the widest accesses that they allow.
DEV void store(bf16* y, const float (&v)[PIXELS][COLUMNS], int count, bool is_aligned) {
    if constexpr (COLUMNS == 16) {
#pragma unroll
        for (int p = 0; p < PIXELS; p++)
#pragma unroll
            for (int o = 0; o < COLUMNS; o += 8)
                if (p < count)
                    *(uint4*)(y + p * COLUMNS + o) = {pack_bf16(v[p][o], v[p][o + 1]), pack_bf16(v[p][o + 2], v[p][o + 3]), pack_bf16(v[p][o + 4], v[p][o + 5]), pack_bf16(v[p][o + 6], v[p][o + 7])};
    } else if constexpr (COLUMNS == 4) {
        const uint2 a = {pack_bf16(v[0][0], v[0][1]), pack_bf16(v[0][2], v[0][3])}, b = {pack_bf16(v[1][0], v[1][1]), pack_bf16(v[1][2], v[1][3])};
        if (count == 2 && is_aligned) {
            *(uint4*)y = {a.x, a.y, b.x, b.y};
        } else {
            *(uint2*)y = a;
            if (count == 2) *(uint2*)(y + COLUMNS) = b;
        }
    } else {
        if (count == 2 && is_aligned) {
            *(u32*)y = pack_bf16(v[0][0], v[1][0]);
        } else {
            y[0] = to_bf16(v[0][0]);
            if (count == 2) y[1] = to_bf16(v[1][0]);
        }
    }
}

KERNEL __launch_bounds__(THREADS) ENTRY(const bf16* x, const bf16* weight, const float* bias, const float* gamma, const float* beta, bf16* y, int items, int height, int width, int out_height, int out_width, int padding, int weight_row, float eps) {
    SMEM(float, weights, [INNER][COLUMNS]);
    for (int i = threadIdx.x; i < INNER * COLUMNS; i += THREADS) weights[i / COLUMNS][i % COLUMNS] = to_f32(weight[i % COLUMNS * weight_row + i / COLUMNS]);
    __syncthreads();
    const int pairs = (out_width + PIXELS - 1) / PIXELS;
    const u64 index = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (index >= (u64)items * out_height * pairs) return;
    const int out_row = index / pairs, out_column = index % pairs * PIXELS;  // rows of all items, one after the other
    const int top = out_row % out_height * STRIDE - padding, left = out_column * STRIDE - padding;
    const bf16* image = x + (size_t)(out_row / out_height) * height * width * CHANNELS;

    float sum[PIXELS][COLUMNS];
#pragma unroll
    for (int o = 0; o < COLUMNS; o++) sum[0][o] = sum[1][o] = bias ? bias[o] : 0.f;
#pragma unroll
    for (int dy = 0; dy < SIDE; dy++) {
        const int line = top + dy;
        if (line < 0 || line >= height) continue;
        float v[REACH][CHANNELS];
#pragma unroll
        for (int dx = 0; dx < REACH; dx++) {
            const int column = left + dx;
#pragma unroll
            for (int c = 0; c < CHANNELS; c++) v[dx][c] = 0.f;
            if (column >= 0 && column < width) load_pixel(v[dx], image + ((size_t)line * width + column) * CHANNELS);
        }
#pragma unroll
        for (int dx = 0; dx < SIDE; dx++)
#pragma unroll
            for (int c = 0; c < CHANNELS; c++)
#pragma unroll
                for (int o = 0; o < COLUMNS; o++) {
                    const float w = weights[(dy * SIDE + dx) * CHANNELS + c][o];
#pragma unroll
                    for (int p = 0; p < PIXELS; p++) sum[p][o] += w * v[p * STRIDE + dx][c];
                }
    }
    if (gamma) {
#pragma unroll
        for (int p = 0; p < PIXELS; p++) normalise(sum[p], gamma, beta, eps);
    }
    const size_t pixel = (size_t)out_row * out_width + out_column;
    store(y + pixel * COLUMNS, sum, min(PIXELS, out_width - out_column), pixel % 2 == 0);
}
