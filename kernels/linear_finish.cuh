// What becomes of a tile's sums in linear.cu: 16 rows of each warp at a time go through a slab of f32 in shared memory, so that a lane finishes eight neighbouring columns.
// Of THREADS threads in WARPS_DOWN x WARPS_ACROSS warps, with sums of BLOCKS_DOWN x BLOCKS_ACROSS mma tiles each, as linear.cu has them.
// Without `#pragma once`: the emulator includes it in the namespace of every specialisation anew.
#include "tile.cuh"

constexpr int SLAB_ROWS = WARPS_DOWN * 16, SLAB_WIDTH = TILE_COLUMNS + 8;  // 8 more, so that four rows lie in different banks
constexpr int ROW_LANES = TILE_COLUMNS / 8;                                // lanes that finish a row
constexpr int ROW_STEP = THREADS / ROW_LANES;                              // from a row of the slab to the next one of a thread
static_assert(SLAB_ROWS % ROW_STEP == 0 && (ROW_STEP % 16 == 0 || 16 % ROW_STEP == 0), "all lanes finish as many rows");
static_assert(WARP_COLUMNS % 32 == 0 || 32 % WARP_COLUMNS == 0, "a warp's columns begin within or at 32 of the slab's");

enum Activation { NONE = 0, RELU = 1, GELU = 2 };

// What becomes of the sums.
struct Finish {
    const float *bias, *gamma, *beta;
    const bf16* residual;
    void* y;
    int rows, columns, residual_rows, activation, gelu_after, y_is_f32;
    float eps;
};

DEV float activated(float v, int activation) {
    if (activation == RELU) return fmaxf(v, 0.f);
    return activation == GELU ? gelu(v) : v;
}

// The first `count` of eight consecutive numbers, 16 bytes at a time if `aligned` (then all eight count); the others are zero.
DEV void load_eight(float (&v)[8], const float* p, int count, bool aligned) {
    if (aligned) {
        const float4 low = *(const float4*)p, high = *(const float4*)(p + 4);
        v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w, v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
        return;
    }
#pragma unroll
    for (int e = 0; e < 8; e++) v[e] = e < count ? p[e] : 0.f;
}
DEV void load_eight(float (&v)[8], const bf16* p, int count, bool aligned) {
    if (aligned) return load_f32<8>(v, p);
#pragma unroll
    for (int e = 0; e < 8; e++) v[e] = e < count ? to_f32(p[e]) : 0.f;
}

// Where column `column` of a row lies in the slab: every other 32 columns have their halves of eight swapped, so that eight lanes read 16 bytes each from all banks.
DEV int slab_column(int column) { return column ^ (column >> 5 & 1) << 2; }

// The eight columns of a row that a thread finishes, the same in all rows of a tile.
struct Columns {
    int first, count;  // of which count are there, if any
    bool aligned;      // then all eight, or none
};

// LayerNorm of a row whose columns are eight to a lane.
DEV void normalise_finished(float (&v)[8], const Finish& to, const Columns& at) {
    float sum = 0.f, squares = 0.f, factor[8] = {}, offset[8] = {};
#pragma unroll
    for (int e = 0; e < 8; e++)
        if (e < at.count) sum += v[e];
    const float mean = warp_sum(sum) / to.columns;
#pragma unroll
    for (int e = 0; e < 8; e++)
        if (e < at.count) squares += (v[e] - mean) * (v[e] - mean);
    const float scale = 1.f / sqrtf(warp_sum(squares) / to.columns + to.eps);
    if (at.count > 0) {
        load_eight(factor, to.gamma + at.first, at.count, at.aligned);
        load_eight(offset, to.beta + at.first, at.count, at.aligned);
    }
#pragma unroll
    for (int e = 0; e < 8; e++) {
        v[e] = (v[e] - mean) * scale * factor[e] + offset[e];
        if (to.gelu_after) v[e] = gelu(v[e]);
    }
}

// Eight columns of a row, from their sums to y. Where y ends within the tile, lanes without columns come along for the norm.
DEV void finish(float (&v)[8], const Finish& to, const Columns& at, int row) {
    const size_t offset = (size_t)row * to.columns + at.first;
    if (at.count > 0) {
        float other[8];
        if (to.bias) {
            load_eight(other, to.bias + at.first, at.count, at.aligned);
#pragma unroll
            for (int e = 0; e < 8; e++) v[e] += other[e];
        }
#pragma unroll
        for (int e = 0; e < 8; e++) v[e] = activated(v[e], to.activation);
        if (to.residual) {
            const int from = row < to.residual_rows ? row : row % to.residual_rows;
            load_eight(other, to.residual + (size_t)from * to.columns + at.first, at.count, at.aligned);
#pragma unroll
            for (int e = 0; e < 8; e++) v[e] += other[e];
        }
    }
    if constexpr (ROW_LANES == LANES)
        if (to.gamma) normalise_finished(v, to, at);
    if (at.count <= 0) return;
    if (to.y_is_f32) {
        float* y = (float*)to.y + offset;
        if (at.aligned) {
            *(float4*)y = make_float4(v[0], v[1], v[2], v[3]);
            *(float4*)(y + 4) = make_float4(v[4], v[5], v[6], v[7]);
            return;
        }
#pragma unroll
        for (int e = 0; e < 8; e++)
            if (e < at.count) y[e] = v[e];
        return;
    }
    bf16* y = (bf16*)to.y + offset;
    if (at.aligned) return store_bf16<8>(y, v);
#pragma unroll
    for (int e = 0; e < 8; e++)
        if (e < at.count) y[e] = to_bf16(v[e]);
}

// The row of the tile, in its first block of 16 rows per warp, that row `row` of the slab is.
DEV constexpr int row_of_slab(int row) { return row / 16 * WARP_ROWS + row % 16; }

// Eight columns of a row of the slab, whose halves are at `low` and `high`.
DEV void load_slab(float (&v)[8], const float* low, const float* high) {
    const float4 first = *(const float4*)low, second = *(const float4*)high;
    v[0] = first.x, v[1] = first.y, v[2] = first.z, v[3] = first.w, v[4] = second.x, v[5] = second.y, v[6] = second.z, v[7] = second.w;
}

// Eight columns of the residual of each of a thread's rows of the slab, whose first is row `first` of y.
typedef uint4 Residual[SLAB_ROWS / ROW_STEP];
DEV void load_residual(Residual& residual, const Finish& to, const Columns& at, int first) {
    const bf16* from = to.residual + (size_t)first * to.columns + at.first;
#pragma unroll
    for (int n = 0; n < SLAB_ROWS; n += ROW_STEP)
        if (first + row_of_slab(n) < to.rows) residual[n / ROW_STEP] = *(const uint4*)(from + row_of_slab(n) * to.columns);
}

// A thread's rows of the slab, whose first is row `first` of y, to y: what most layers want, with few branches.
template <int ACTIVATION>
DEV void finish_plainly(const float* low, const float* high, const float (&bias)[8], const Residual& residual, const Finish& to, const Columns& at, int first) {
    bf16* y = (bf16*)to.y + (size_t)first * to.columns + at.first;
#pragma unroll
    for (int n = 0; n < SLAB_ROWS; n += ROW_STEP) {
        const int further = row_of_slab(n);
        if (first + further >= to.rows) continue;
        float v[8];
        load_slab(v, low + n * SLAB_WIDTH, high + n * SLAB_WIDTH);
#pragma unroll
        for (int e = 0; e < 8; e++) v[e] = activated(v[e] + bias[e], ACTIVATION);
        if (to.residual) {
            float other[8];
            load_f32<8>(other, (const bf16*)&residual[n / ROW_STEP]);
#pragma unroll
            for (int e = 0; e < 8; e++) v[e] += other[e];
        }
        store_bf16<8>(y + further * to.columns, v);
    }
}

// A tile's sums through the slab to y: 16 rows of each warp at a time.
DEV void write_tile(const float (&sum)[BLOCKS_DOWN][BLOCKS_ACROSS][4], float* slab, const Finish& to, int first_row, int first_column, int warp_row, int warp_column) {
    const int lane = threadIdx.x % LANES, column = threadIdx.x % ROW_LANES * 8, slab_row = threadIdx.x / ROW_LANES;
    const Columns columns = {first_column + column, to.columns - first_column - column, to.columns % 8 == 0};
    const bool plain = ROW_LANES < LANES && columns.aligned && !to.y_is_f32 && (!to.residual || to.residual_rows >= to.rows);
    float bias[8] = {};
    if (plain && to.bias && columns.count > 0) load_eight(bias, to.bias + columns.first, 8, true);
    const float *low = slab + slab_row * SLAB_WIDTH + slab_column(column), *high = slab + slab_row * SLAB_WIDTH + slab_column(column + 4);
    float* const mine = slab + (warp_row / WARP_ROWS * 16 + lane / 4) * SLAB_WIDTH + warp_column;
    const int swapped = WARP_COLUMNS % 64 ? warp_column >> 5 & 1 : 0;  // halves of this warp's first 32 columns
    float* const of_columns[2] = {mine + (lane % 4 * 2 ^ swapped << 2), mine + (lane % 4 * 2 ^ (swapped ^ 1) << 2)};
#pragma unroll 1
    for (int block = 0; block < BLOCKS_DOWN; block++) {
        const int first = first_row + block * 16 + row_of_slab(slab_row);
        Residual residual = {};  // on its way while the slab is written: behind stores to what may be the same, each load would be waited for
        if (plain && to.residual && columns.count > 0) load_residual(residual, to, columns, first);
        __syncthreads();  // the slab, or the stages in its place, have been read by all
        // Registers have no index: only this is there once per block of rows.
#pragma unroll
        for (int i = 0; i < BLOCKS_DOWN; i++) {
            if (i != block) continue;
#pragma unroll
            for (int j = 0; j < BLOCKS_ACROSS; j++) {
                float* at = of_columns[j / 4 % 2] + j * 8;  // slab_column(warp_column + j * 8 + lane % 4 * 2)
                *(float2*)at = make_float2(sum[i][j][0], sum[i][j][1]);
                *(float2*)(at + 8 * SLAB_WIDTH) = make_float2(sum[i][j][2], sum[i][j][3]);
            }
        }
        __syncthreads();  // the slab is written
        if (plain) {
            if (columns.count <= 0) continue;
            if (to.activation == RELU) finish_plainly<RELU>(low, high, bias, residual, to, columns, first);
            else if (to.activation == GELU) finish_plainly<GELU>(low, high, bias, residual, to, columns, first);
            else finish_plainly<NONE>(low, high, bias, residual, to, columns, first);
            continue;
        }
#pragma unroll 1
        for (int n = 0; n < SLAB_ROWS; n += ROW_STEP) {
            const int row = first + row_of_slab(n);
            if (row >= to.rows) continue;
            float v[8];
            load_slab(v, low + n * SLAB_WIDTH, high + n * SLAB_WIDTH);
            finish(v, to, columns, row);
        }
    }
}
