// depthwise: 7x7 depthwise convolution (padding 3) and bias, then LayerNorm over the channels. Twin of src/ops/depthwise.rs.
//
// x, y [items, height, width, channels] (y is not x), taps [49, channels] (tap by tap) bf16; bias, gamma, beta [channels] f32. Sums and statistics in f32.
// Parallelisation: a block makes LINES x COLUMNS pixels of y with all channels. It copies the tile of x under their windows to shared memory, zeros outside the map; a thread then
// makes WIDTH neighbouring channels of two lines of COLUMNS pixels in registers, so that a value from shared memory serves up to 14 of the 16 windows; the sums go to shared memory
// (SHARED 1: over the tile, which is done with; channels at most 256), and one warp a pixel makes the norm, in two passes.
// Flops: 98 items height width channels, on the ordinary units. Bytes: 4 items height width channels; tiles overlap 4.4 times in L2. Bound by arithmetic: 12.8 M multiply-adds
// for 1 MB at 32 x 32 x 256, and about half as many other instructions.
// Registers: 16 WIDTH sums and a line of values; see registers.csv. Shared memory: 280 channels bytes of tile; 128 channels of sums, if they have a place of their own.
// Tried: nothing else. Tensor cores do not help a depthwise window (one channel in, one out).
#include "common.cuh"

#ifndef ENTRY
#error "compile with -DENTRY, -DWIDTH (2: channels a multiple of 8; 1: any) and -DSHARED (1: sums over the tile)"
#endif
constexpr int THREADS = 256, SIDE = 7, HALO = SIDE / 2;
constexpr int LINES = 4, COLUMNS = 8, DEEP = 2;  // a thread makes DEEP lines
constexpr int TILE_LINES = LINES + SIDE - 1, TILE_COLUMNS = COLUMNS + SIDE - 1;
static_assert(WIDTH == 1 || WIDTH == 2, "channels of a thread");

// WIDTH values.
DEV void load(float (&v)[WIDTH], const bf16* p) {
    if constexpr (WIDTH == 2) {
        const u32 pair = *(const u32*)p;
        v[0] = low_f32(pair), v[1] = high_f32(pair);
    } else {
        v[0] = to_f32(*p);
    }
}

// The tile whose first pixel of y is at (line, column), from `image`.
DEV void load_input(bf16* tile, const bf16* image, int line, int column, int height, int width, int channels) {
    constexpr int ACCESS = WIDTH == 2 ? 8 : 1;
    const int chunks = channels / ACCESS;
    for (int i = threadIdx.x; i < TILE_LINES * TILE_COLUMNS * chunks; i += THREADS) {
        const int pixel = i / chunks, from_line = line - HALO + pixel / TILE_COLUMNS, from_column = column - HALO + pixel % TILE_COLUMNS;
        const bool inside = from_line >= 0 && from_line < height && from_column >= 0 && from_column < width;
        const bf16* source = inside ? image + ((size_t)from_line * width + from_column) * channels + i % chunks * ACCESS : image;
        if constexpr (ACCESS == 8) {
            cp_async16(tile + i * ACCESS, source, inside ? 16 : 0);
        } else {
            bf16 v = {0};
            if (inside) v = *source;
            tile[i] = v;
        }
    }
    cp_async_commit();
    cp_async_wait<0>();
}

// Windows of DEEP x COLUMNS pixels of y, whose window begins at `tile`, for the channels of `taps` on.
DEV void windows(float (&sum)[DEEP][COLUMNS][WIDTH], const bf16* tile, const bf16* taps, int channels) {
#pragma unroll 1
    for (int line = 0; line < SIDE + DEEP - 1; line++) {
        float v[TILE_COLUMNS][WIDTH];
#pragma unroll
        for (int i = 0; i < TILE_COLUMNS; i++) load(v[i], tile + (line * TILE_COLUMNS + i) * channels);
#pragma unroll
        for (int deep = 0; deep < DEEP; deep++) {
            if (line < deep || line - deep >= SIDE) continue;
#pragma unroll
            for (int dx = 0; dx < SIDE; dx++) {
                float tap[WIDTH];
                load(tap, taps + ((line - deep) * SIDE + dx) * channels);
#pragma unroll
                for (int i = 0; i < COLUMNS; i++)
#pragma unroll
                    for (int e = 0; e < WIDTH; e++) sum[deep][i][e] += tap[e] * v[i + dx][e];
            }
        }
    }
}

// LayerNorm of one pixel's sums by a warp, in the same order for every pixel.
DEV void normalise(bf16* y, const float* sums, const float* gamma, const float* beta, int channels, float eps) {
    const int lane = threadIdx.x % LANES;
    float sum = 0.f, squares = 0.f;
    for (int c = lane * WIDTH; c < channels; c += LANES * WIDTH)
        for (int e = 0; e < WIDTH; e++) sum += sums[c + e];
    const float mean = warp_sum(sum) / channels;
    for (int c = lane * WIDTH; c < channels; c += LANES * WIDTH)
        for (int e = 0; e < WIDTH; e++) squares += (sums[c + e] - mean) * (sums[c + e] - mean);
    const float scale = 1.f / sqrtf(warp_sum(squares) / channels + eps);
    for (int c = lane * WIDTH; c < channels; c += LANES * WIDTH) {
        float v[WIDTH];
        for (int e = 0; e < WIDTH; e++) v[e] = (sums[c + e] - mean) * scale * gamma[c + e] + beta[c + e];
        if constexpr (WIDTH == 2) *(u32*)(y + c) = pack_bf16(v[0], v[1]);
        else y[c] = to_bf16(v[0]);
    }
}

KERNEL __launch_bounds__(THREADS, 2) ENTRY(const bf16* x, const bf16* taps, const float* bias, const float* gamma, const float* beta, bf16* y, int height, int width, int channels, float eps) {
    SMEM_DYN(shared);
    bf16* tile = (bf16*)shared;  // [TILE_LINES, TILE_COLUMNS, channels]
    // [LINES, COLUMNS, channels]; 560 bytes of a channel's tile keep the 4-byte alignment
    float* sums = (float*)(SHARED ? shared : shared + TILE_LINES * TILE_COLUMNS * 2 * channels);
    const int across = (width + COLUMNS - 1) / COLUMNS;
    const int line = blockIdx.x / across * LINES, column = blockIdx.x % across * COLUMNS;
    const size_t item = (size_t)blockIdx.y * height * width * channels;
    const int groups = channels / WIDTH;

    load_input(tile, x + item, line, column, height, width, channels);
    __syncthreads();  // the tile is there
    for (int first = 0; first < groups * (LINES / DEEP); first += THREADS) {
        const int index = first + threadIdx.x, channel = index % groups * WIDTH, deep_line = index / groups * DEEP;
        const bool works = deep_line < LINES;
        float sum[DEEP][COLUMNS][WIDTH];
        if (works) {
#pragma unroll
            for (int deep = 0; deep < DEEP; deep++)
#pragma unroll
                for (int i = 0; i < COLUMNS; i++)
#pragma unroll
                    for (int e = 0; e < WIDTH; e++) sum[deep][i][e] = bias[channel + e];
            windows(sum, tile + deep_line * TILE_COLUMNS * channels + channel, taps + channel, channels);
        }
        if (SHARED) __syncthreads();  // the tile has been read; there is one round
        if (works) {
#pragma unroll
            for (int deep = 0; deep < DEEP; deep++)
#pragma unroll
                for (int i = 0; i < COLUMNS; i++)
#pragma unroll
                    for (int e = 0; e < WIDTH; e++) sums[((deep_line + deep) * COLUMNS + i) * channels + channel + e] = sum[deep][i][e];
        }
    }
    __syncthreads();  // the sums are there
    for (int pixel = threadIdx.x / LANES; pixel < LINES * COLUMNS; pixel += THREADS / LANES) {
        const int at_line = line + pixel / COLUMNS, at_column = column + pixel % COLUMNS;
        if (at_line < height && at_column < width)
            normalise(y + item + ((size_t)at_line * width + at_column) * channels, sums + pixel * channels, gamma, beta, channels, eps);
    }
}
