// take: a finished class into the result: mean probability, the largest binary entropy, the most probable label; and how far the runs agree.
// Twin of Ensemble::take of src/tffs/ensemble.rs.
//
// sum [voxels] u32 in units of 2^-24 of `runs` runs, votes [voxels] u16; best, uncertainty [voxels] f32, label [voxels] u8: in place, zeros at first; mean [voxels] f32, or null.
// partial [blocks, 2] u32: of each block's CHUNK voxels the sums of votes (votes - 1) and of votes (below 2^32 while votes <= 255); the host adds them in 64 bits.
// Mean and entropy in f64, as there: the mean, and with it the label, has the same bits; the entropy may differ by one unit in its last place (log).
// Parallelisation: a block takes CHUNK voxels, a thread 4 at a time; sums by shuffles, then over warps in shared memory. Integers: no order to keep.
// Flops: about 100 in f64 per voxel (two logarithms). Bytes: 24 per voxel (28 with mean), 16 at a time but for labels and votes.
// Registers: see registers.csv. Tried: nothing else. f64 costs about as much as the memory on a 14-multiprocessor slice of an A100.
#include "common.cuh"

#ifndef ENTRY
#error "compile with -DENTRY and -DCHUNK (voxels of a block, a multiple of 1024)"
#endif
constexpr int THREADS = 256;
constexpr int STEP = 4 * THREADS;
static_assert(CHUNK % STEP == 0 && CHUNK <= 65536, "the sums of a block must fit into 32 bits");

DEV float entropy(float mean) {
    const double p = mean, q = 1.0 - p;
    return (float)fmax(-(p * log(p + 1e-8) + q * log(q + 1e-8)), 0.0);
}

DEV void take_voxel(u32 sum, double unit, int kind, float threshold, float& best, u8& label, float& uncertainty, float& mean) {
    mean = unit > 0.0 ? (float)(sum / unit) : 0.f;
    uncertainty = fmaxf(uncertainty, entropy(mean));
    if (mean > fmaxf(best, threshold)) best = mean, label = (u8)kind;
}

DEV u32 warp_total(u32 v) {
    for (int offset = LANES / 2; offset; offset >>= 1) v += __shfl_xor_sync(WHOLE_WARP, v, offset);
    return v;
}

KERNEL __launch_bounds__(THREADS) ENTRY(const u32* sum, const u16* votes, float* best, u8* label, float* uncertainty, float* mean, u32* partial, int voxels, int runs, int kind, float threshold) {
    SMEM(u32, totals, [2][THREADS / LANES]);
    const double unit = 16777216.0 * runs;
    u32 shared = 0, all = 0;
    for (int step = 0; step < CHUNK; step += STEP) {
        const u64 at = (u64)blockIdx.x * CHUNK + step + 4 * threadIdx.x;
        if (at + 4 <= (u64)voxels) {
            const uint4 sums = *(const uint4*)(sum + at);
            const uint2 packed = *(const uint2*)(votes + at);
            float4 b = *(const float4*)(best + at), u = *(const float4*)(uncertainty + at), m;
            u32 labels = *(const u32*)(label + at);
            u8 l[4] = {(u8)labels, (u8)(labels >> 8), (u8)(labels >> 16), (u8)(labels >> 24)};
            take_voxel(sums.x, unit, kind, threshold, b.x, l[0], u.x, m.x);
            take_voxel(sums.y, unit, kind, threshold, b.y, l[1], u.y, m.y);
            take_voxel(sums.z, unit, kind, threshold, b.z, l[2], u.z, m.z);
            take_voxel(sums.w, unit, kind, threshold, b.w, l[3], u.w, m.w);
            *(float4*)(best + at) = b;
            *(float4*)(uncertainty + at) = u;
            *(u32*)(label + at) = l[0] | (u32)l[1] << 8 | (u32)l[2] << 16 | (u32)l[3] << 24;
            if (mean) *(float4*)(mean + at) = m;
            const u32 v[4] = {packed.x & 0xffff, packed.x >> 16, packed.y & 0xffff, packed.y >> 16};
#pragma unroll
            for (int e = 0; e < 4; e++) shared += v[e] * (v[e] - (v[e] > 0)), all += v[e];
        } else {
            for (u64 i = at; i < (u64)voxels; i++) {
                float m;
                take_voxel(sum[i], unit, kind, threshold, best[i], label[i], uncertainty[i], m);
                if (mean) mean[i] = m;
                const u32 v = votes[i];
                shared += v * (v - (v > 0)), all += v;
            }
        }
    }
    shared = warp_total(shared), all = warp_total(all);
    if (threadIdx.x % LANES == 0) totals[0][threadIdx.x / LANES] = shared, totals[1][threadIdx.x / LANES] = all;
    __syncthreads();
    if (threadIdx.x < 2) {
        u32 total = 0;
        for (int warp = 0; warp < THREADS / LANES; warp++) total += totals[threadIdx.x][warp];
        partial[(size_t)2 * blockIdx.x + threadIdx.x] = total;
    }
}
