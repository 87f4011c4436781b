// ensemble: the running sum of probabilities, logistic(resize(x)), in integers, and the votes for logits above 0. Twin of src/ops/ensemble.rs.
//
// logits: f32 planes [in_height, in_width] anywhere in one buffer; sum [slices, height, width] u32 in units of 2^-24, votes [slices, height, width] u16.
// plan: int [groups, 3] of (slice, first, end), no slice twice, then [pairs] of where a plane begins, in values; group g adds the planes first .. end to its slice.
// Parallelisation: a thread takes VECTOR pixels of a group's slice and all planes of the group: no two threads share a pixel, sums are read and written once.
// The CPU op's bits: the same operations in the same order, and integers do not mind the order of planes.
// Flops: 32 per pixel and plane. Bytes: 12 per pixel and group (VECTOR 4: 16 at a time, width a multiple of 4; 1: any), and 4 per logit from L2.
// Registers: see registers.csv. Tried: nothing else.
#include "bilinear.cuh"

#ifndef ENTRY
#error "compile with -DENTRY and -DVECTOR (4 or 1)"
#endif
constexpr int THREADS = 256;
static_assert(VECTOR == 4 || VECTOR == 1, "pixels of a thread");

KERNEL __launch_bounds__(THREADS) ENTRY(const float* logits, const int* plan, u32* sum, u16* votes, int groups, int in_height, int in_width, int height, int width,
                                        float ratio_y, float ratio_x) {
    const int vectors = width / VECTOR;
    const int index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= height * vectors) return;
    const int* group = plan + 3 * blockIdx.y;
    const int* offsets = plan + 3 * groups;
    const int row = index / vectors, column = index % vectors * VECTOR;
    const Tap down = tap(row, ratio_y, in_height);
    u32 total[VECTOR] = {}, above[VECTOR] = {};
    for (int pair = group[1]; pair < group[2]; pair++) {
        const float* plane = logits + (size_t)offsets[pair];
#pragma unroll
        for (int e = 0; e < VECTOR; e++) {
            const float logit = sample(plane, in_width, down, tap(column + e, ratio_x, in_width));
            above[e] += logit > 0.f;
            total[e] += (u32)__fadd_rn(__fmul_rn(logistic(logit), 16777216.f), 0.5f);
        }
    }
    const size_t at = ((size_t)group[0] * height + row) * width + column;
    if constexpr (VECTOR == 4) {
        uint4 sums = *(const uint4*)(sum + at);
        sums.x += total[0], sums.y += total[1], sums.z += total[2], sums.w += total[3];
        *(uint4*)(sum + at) = sums;
        uint2 packed = *(const uint2*)(votes + at);  // two votes per word; at most 255 each, so no carry
        packed.x += above[0] | above[1] << 16, packed.y += above[2] | above[3] << 16;
        *(uint2*)(votes + at) = packed;
    } else {
        sum[at] += total[0];
        votes[at] = (u16)(votes[at] + above[0]);
    }
}
