// rope: axial rotary position, in place: pairs (2i, 2i + 1) of `turned` columns turn by the row's x in the first half, by its y in the second.
// Twin of src/ops/rope.rs.
//
// x [items * height * width, channels] bf16, of which columns from .. from + turned turn; cos, sin [longest side, turned / 4] f32.
// Parallelisation: one thread per VECTOR columns of a row (VECTOR / 2 pairs), neighbouring threads on neighbouring columns; no thread reads another's columns.
// Flops: 3 per value. Bytes: 4 per value, 16 at a time (VECTOR 8: channels and from multiples of 8, turned of 16; 2: any), and the tables from L2.
// Registers: see registers.csv. Tried: nothing else; it is bound by memory. Sines in the kernel would cost more than the tables' loads.
#include "common.cuh"

#ifndef ENTRY
#error "compile with -DENTRY and -DVECTOR (8 or 2)"
#endif
constexpr int THREADS = 256;
constexpr int PAIRS = VECTOR / 2;
static_assert(VECTOR == 8 || VECTOR == 2, "columns of a thread");

KERNEL __launch_bounds__(THREADS) ENTRY(bf16* x, const float* cos, const float* sin, int rows, int height, int width, int channels, int from, int turned) {
    const int vectors = turned / VECTOR, quarter = turned / 4;
    const u64 index = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (index >= (u64)rows * vectors) return;
    const int row = index / vectors, column = index % vectors * VECTOR;
    const bool second = column >= 2 * quarter;  // a vector never straddles the halves
    const int coordinate = second ? row / width % height : row % width;
    const int pair = column / 2 - (second ? quarter : 0);
    const float* c = cos + (size_t)coordinate * quarter + pair;
    const float* s = sin + (size_t)coordinate * quarter + pair;
    bf16* values = x + (size_t)row * channels + from + column;

    float v[8];  // the first VECTOR of them
    if constexpr (VECTOR == 8) {
        load_f32<8>(v, values);
    } else {
        v[0] = to_f32(values[0]), v[1] = to_f32(values[1]);  // an odd `from` leaves pairs unaligned
    }
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        const float a = v[2 * i], b = v[2 * i + 1];
        v[2 * i] = a * c[i] - b * s[i];
        v[2 * i + 1] = a * s[i] + b * c[i];
    }
    if constexpr (VECTOR == 8) {
        store_bf16<8>(values, v);
    } else {
        values[0] = to_bf16(v[0]), values[1] = to_bf16(v[1]);
    }
}
