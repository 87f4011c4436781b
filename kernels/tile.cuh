// Tiles of bf16 in shared memory: DEPTH elements of `ROWS` rows, in chunks of 8 elements (16 bytes) that are swizzled, so that the eight rows
// an ldmatrix phase reads lie in eight different groups of banks.
#pragma once
#include "common.cuh"

// Offset, in elements, of chunk `chunk` of row `row`.
template <int DEPTH> DEV int swizzled(int row, int chunk) {
    static_assert(DEPTH == 32 || DEPTH == 64, "rows of 64 or 128 bytes");
    const int turn = DEPTH == 64 ? row & 7 : (row >> 1) & 3;
    return row * DEPTH + ((chunk ^ turn) << 3);
}

// Starts the copy of rows first .. first + ROWS and columns column .. column + DEPTH of `source` [rows, width] into `tile`; what lies outside is zero.
// ACCESS 8: asynchronously, 16 bytes at a time (width a multiple of 8). ACCESS 1: any width, element by element, done on return.
template <int ROWS, int DEPTH, int THREADS, int ACCESS>
DEV void load_tile(bf16* tile, const bf16* source, int first, int rows, int column, int width) {
    constexpr int CHUNKS = DEPTH / 8;
    static_assert(ACCESS == 8 || ACCESS == 1, "16 bytes or one element");
#pragma unroll
    for (int i = 0; i < (ROWS * CHUNKS + THREADS - 1) / THREADS; i++) {
        const int index = threadIdx.x + i * THREADS;
        if (ROWS * CHUNKS % THREADS && index >= ROWS * CHUNKS) break;
        const int row = index / CHUNKS, chunk = index % CHUNKS, from = column + chunk * 8;
        bf16* to = tile + swizzled<DEPTH>(row, chunk);
        const bool has_row = first + row < rows;
        if constexpr (ACCESS == 8) {
            const bool inside = has_row && from < width;
            cp_async16(to, inside ? source + (size_t)(first + row) * width + from : source, inside ? 16 : 0);
        } else {
#pragma unroll
            for (int e = 0; e < 8; e++) {
                bf16 v = {0};
                if (has_row && from + e < width) v = source[(size_t)(first + row) * width + from + e];
                to[e] = v;
            }
        }
    }
}

// Fragments of 16 rows x 16 columns for the left operand of mma, at row `row`, a multiple of 8, and 16-column step `step`. The swizzle repeats every eight rows and a step
// changes bits of its own: what a lane adds to the row is worked out once.
template <int DEPTH> DEV void load_left(u32 (&a)[4], const bf16* tile, int row, int step) {
    const int lane = threadIdx.x % LANES;
    ldmatrix_x4(a, tile + (swizzled<DEPTH>(lane % 16, lane / 16) ^ step * 16) + row * DEPTH);
}

// Fragments of two 8-row blocks x 16 columns for the right operand (stored row per output column): {b[0], b[1]} and {b[2], b[3]}; likewise.
template <int DEPTH> DEV void load_right(u32 (&b)[4], const bf16* tile, int row, int step) {
    const int lane = threadIdx.x % LANES;
    ldmatrix_x4(b, tile + (swizzled<DEPTH>(lane % 8 + lane / 16 * 8, lane / 8 % 2) ^ step * 16) + row * DEPTH);
}
