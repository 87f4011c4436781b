// mask_product: mask logits as the product of each mask's token with the upscaled features, y[n, m, p] = sum over c of x[n, p, c] token[n, m, c].
// Twin of src/ops/mask_product.rs.
//
// x [items, pixels, channels], tokens [items, masks, channels] bf16; y [items, masks, pixels] f32. Where absent[n] is not 0, y of item n is `filling` and x is not read;
// `absent` null: none is.
// Parallelisation: a block takes THREADS pixels of one item and all its masks. CHANNELS 32: a quad of lanes holds a pixel, 8 channels each (16 bytes), four pixels in registers; each mask's
// token comes from shared memory, sums go round the quad, and lane q keeps pixel q, so that a warp stores 128 bytes at once. CHANNELS 0: any number, one lane per pixel.
// Flops: 2 items masks pixels channels. Bytes: items pixels (2 channels + 4 masks), each read or written once. Bound by memory for up to about ten masks.
// Registers: 32 values of x and 4 sums; see registers.csv. Shared memory: 4 TOKENS bytes (masks in rounds, if they are more).
// Tried: nothing else. Tensor cores would pad three masks to eight.
#include "rows.cuh"

#ifndef ENTRY
#error "compile with -DENTRY and -DCHANNELS (32, or 0: any)"
#endif
constexpr int THREADS = 256, TOKENS = 1024;  // values of tokens in shared memory at a time
static_assert(CHANNELS == 32 || CHANNELS == 0, "a quad of lanes has 32 channels");

KERNEL __launch_bounds__(THREADS) ENTRY(const bf16* x, const bf16* tokens, const int* absent, float* y, int pixels, int masks, int channels, float filling) {
    SMEM(float, shared, [TOKENS]);
    const int item = blockIdx.y, first = blockIdx.x * THREADS;
    const int lane = threadIdx.x % LANES, warp_first = first + threadIdx.x / LANES * LANES;
    float* out = y + (size_t)item * masks * pixels;
    if (absent && absent[item]) {  // all of the block
        const int pixel = first + threadIdx.x;
        for (int mask = 0; mask < masks && pixel < pixels; mask++) out[(size_t)mask * pixels + pixel] = filling;
        return;
    }
    x += (size_t)item * pixels * channels;
    tokens += (size_t)item * masks * channels;
    const bool whole = CHANNELS == 32;
    // The pixel that this lane stores.
    const int pixel = whole ? warp_first + lane % 4 * 8 + lane / 4 : first + threadIdx.x;

    float v[4][8] = {};
    if constexpr (whole) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int from = warp_first + i * 8 + lane / 4;
            if (from < pixels) load_f32<8>(v[i], x + (size_t)from * CHANNELS + lane % 4 * 8);
        }
    }
    // Rounds of masks, or of channels of one mask after the other.
    const int round = whole ? TOKENS / 32 : 1;
    for (int begin = 0; begin < masks; begin += round) {
        const int count = min(round, masks - begin);
        float sum = 0.f;
        for (int part = 0; part < channels; part += TOKENS) {
            const int values = whole ? count * 32 : min(TOKENS, channels - part);
            __syncthreads();  // the values before these have been read
            for (int i = threadIdx.x; i < values; i += THREADS) shared[i] = to_f32(tokens[(size_t)begin * channels + part + i]);
            __syncthreads();
            if constexpr (!whole) {
                for (int c = 0; c < values && pixel < pixels; c++) sum += shared[c] * to_f32(x[(size_t)pixel * channels + part + c]);
            }
        }
        for (int mask = 0; mask < count; mask++) {
            if constexpr (whole) {
                float token[8];
#pragma unroll
                for (int c = 0; c < 8; c++) token[c] = shared[mask * 32 + lane % 4 * 8 + c];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float mine = 0.f;
#pragma unroll
                    for (int c = 0; c < 8; c++) mine += token[c] * v[i][c];
                    mine = quad_sum(mine);
                    if (lane % 4 == i) sum = mine;
                }
            }
            if (pixel < pixels) out[(size_t)(begin + mask) * pixels + pixel] = sum;
        }
    }
}
