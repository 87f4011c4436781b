// normalise: raw voxels of slices to the network's 0..255, and the horizontal pass of their resize. Twin of src/ops/normalise.rs; resize_u8.cu is the vertical pass.
//
// raw: VOXEL (i16, u8, float); voxel (slice, row, column) lies at slice slice_step + row row_step + column column_step from `raw`: any view of a stored volume.
// map [8] f64: slope, intercept, lower, upper, min, max - min, keep zeros (0 or 1), unused; in f64 as on the CPU, product and sum rounded one by one:
//   v = f32(stored slope + intercept), y = f32((clip(v, lower, upper) - min) / (max - min) 255); zeros if max <= min, and where v = 0 if zeros are kept.
// WHOLE=1: y bf16 [slices, height, width], for slices that have the network's size. WHOLE=0: y u8 [slices, height, columns], truncated, then resized along x as
// src/ops/resize_u8.rs: taps [columns, 3] (first, number, where its weights begin), then the weights, i32; taps null: width = columns, no filter.
// Parallelisation: one block per row; a row is made once, as bytes in shared memory, then each thread sums the taps of its columns.
// Flops: 6 f64 per voxel (a division among them), 2 taps per output. Bytes: voxel read and byte (bf16: 2) written once; coalesced where column_step is 1, else a
// sector of 32 bytes per voxel, of which L2 serves the next rows.
// Registers: about 40; see registers.csv. Shared memory: width bytes (WHOLE=0 with taps).
// Not tried: a table of all 65536 values for i16, which saves the f64 division at the cost of gathers.
#include "common.cuh"

#ifndef ENTRY
#error "compile with -DENTRY, -DVOXEL and -DWHOLE"
#endif
typedef short i16;
typedef long long i64;
constexpr int THREADS = 128;
enum Map { SLOPE, INTERCEPT, LOWER, UPPER, MIN, RANGE, KEEP_ZEROS };

DEV float mapped(double stored, const double* map) {
    const double range = map[RANGE];
    if (range <= 0.0) return 0.f;
    const double value = (float)__dadd_rn(__dmul_rn(stored, map[SLOPE]), map[INTERCEPT]);
    if (value == 0.0 && map[KEEP_ZEROS] != 0.0) return 0.f;
    const double raised = value < map[LOWER] ? map[LOWER] : value;
    const double clipped = raised > map[UPPER] ? map[UPPER] : raised;
    return (float)((clipped - map[MIN]) / range * 255.0);
}

KERNEL __launch_bounds__(THREADS) ENTRY(const VOXEL* raw, const double* map, const int* taps, void* y, int height, int width, int columns, int slice_step, int row_step, int column_step) {
    if (height == 0) return;
    const int slice = blockIdx.x / height, row = blockIdx.x % height;
    const VOXEL* line = raw + ((i64)slice * slice_step + (i64)row * row_step);
    if constexpr (WHOLE) {
        bf16* out = (bf16*)y + (size_t)blockIdx.x * width;
        for (int x = threadIdx.x; x < width; x += THREADS) out[x] = to_bf16(mapped(line[(i64)x * column_step], map));
        return;
    }
    SMEM_DYN(bytes);  // [width]
    u8* out = (u8*)y + (size_t)blockIdx.x * columns;
    u8* made = taps ? bytes : out;
    for (int x = threadIdx.x; x < width; x += THREADS) made[x] = (u8)(int)mapped(line[(i64)x * column_step], map);
    if (!taps) return;
    __syncthreads();
    const int* weights = taps + 3 * columns;
    for (int x = threadIdx.x; x < columns; x += THREADS) {
        const int first = taps[3 * x], number = taps[3 * x + 1], start = taps[3 * x + 2];
        int sum = HALF_PIXEL;
        for (int j = 0; j < number; j++) sum += bytes[first + j] * weights[start + j];
        out[x] = to_pixel(sum);
    }
}
