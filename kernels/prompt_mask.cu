// prompt_mask: what a prompted slice's mask is to the network: bf16 for the prompt encoder, and the low-resolution logits that become memory. Twin of
// src/ops/prompt_mask.rs.
//
// masks u8 [items, 4 side, 4 side], zeros and ones; square bf16 of the same shape, their values; logits f32 [items, side, side]: 20 mask - 10, shrunk four times along
// both axes by a triangle of eight taps, 1 3 5 7 7 5 3 1, less those beyond the edges, divided by their sum (antialiased bilinear, src/ops/resize.rs). The CPU op's bits:
// along x first, from left to right, products and sums rounded one by one.
// Parallelisation: one thread per logit, neighbouring threads on neighbouring columns. It reads 8 x 8 bytes around its 4 x 4, a word of 4 at a time, and writes those 4 x 4.
// Flops: 144 per logit. Bytes: per pixel 1 read, which L1 serves again to the neighbours, and 2 written, 8 at a time; 4 per logit.
// Registers: see registers.csv. About 1090 instructions a thread (sm_90a): 0.6 us of an H100's issue slots for a mask of 512 x 512, whose bytes take 0.3; before, with the weights'
// division by a number known at run time only, 2190. Tried: nothing else. Rows summed once in shared memory would save half of the flops, of what costs less than its launch.
#include "common.cuh"

#ifndef ENTRY
#error "compile with -DENTRY and -DTHREADS"
#endif
constexpr int SHRINK = 4, TAPS = 2 * SHRINK;
constexpr int BEFORE = SHRINK / 2;  // taps before the pixels that a logit stands for

// Weight of a tap of output `at`, and whether the tap is on the mask.
DEV bool tap(int tap, int at, int side, float& weight) {
    const int pixel = SHRINK * at - BEFORE + tap;
    const float triangle = (float)min(2 * tap + 1, 2 * (TAPS - tap) - 1) / TAPS;
    weight = at == 0 || at == side - 1 ? triangle / 3.5f : triangle / 4.f;  // constants, rounded as on the host: no division is left
    return pixel >= 0 && pixel < SHRINK * side;
}

DEV float pixel_of(u32 word, int byte) { return (float)(word >> (8 * byte) & 255); }

KERNEL __launch_bounds__(THREADS) ENTRY(const u8* masks, bf16* square, float* logits, int items, int side) {
    const u64 index = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (index >= (u64)items * side * side) return;
    const int column = index % side;
    const u64 line = index / side;  // of all items, one after the other
    const int row = line % side;
    const size_t first_row = line / side * (SHRINK * side);

    float sum = 0.f;
#pragma unroll
    for (int j = 0; j < TAPS; j++) {
        float down;
        if (!tap(j, row, side, down)) continue;
        const size_t word = (first_row + SHRINK * row - BEFORE + j) * side + column;
        const u32* words = (const u32*)masks + word;
        const u32 here = words[0], left = column > 0 ? words[-1] : 0, right = column + 1 < side ? words[1] : 0;
        float across = 0.f;
#pragma unroll
        for (int i = 0; i < TAPS; i++) {
            float weight;
            if (!tap(i, column, side, weight)) continue;
            const float mask = i < BEFORE ? pixel_of(left, i + BEFORE) : i < BEFORE + SHRINK ? pixel_of(here, i - BEFORE) : pixel_of(right, i - BEFORE - SHRINK);
            across = __fadd_rn(across, __fmul_rn(weight, __fadd_rn(__fmul_rn(20.f, mask), -10.f)));
        }
        sum = __fadd_rn(sum, __fmul_rn(down, across));
        if (j >= BEFORE && j < BEFORE + SHRINK) {
            uint2 four;
            four.x = pack_bf16(pixel_of(here, 0), pixel_of(here, 1)), four.y = pack_bf16(pixel_of(here, 2), pixel_of(here, 3));
            ((uint2*)square)[word] = four;
        }
    }
    logits[index] = sum;
}
