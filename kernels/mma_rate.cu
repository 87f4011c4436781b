// mma_rate: the rate of mma.sync with operands in registers, against which kernels are judged. Twin: none; the test knows the sums.
//
// sums [blocks, 256, 4] f32: after `rounds` rounds, CHAINS rounds times row sums of small whole numbers, added over the chains.
// Parallelisation: 8 warps per block, each with CHAINS independent sums, so that no product waits for the one before; every multiprocessor gets several blocks.
// Flops: blocks 8 rounds CHAINS 4096. Bytes: the sums alone. Registers: CHAINS x 4 sums and 6 operands; see registers.csv.
#include "common.cuh"

#ifndef ENTRY
#error "compile with -DENTRY and -DCHAINS (sums of a warp)"
#endif

KERNEL __launch_bounds__(256) ENTRY(float* sums, int rounds) {
    const u32 one = 0x3f803f80u;  // a pair of bf16 ones
    const u32 a[4] = {one, one, one, one};
    float d[CHAINS][4] = {};
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int chain = 0; chain < CHAINS; chain++) mma_bf16(d[chain], a, one, one);
    }
    float4 total = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
    for (int chain = 0; chain < CHAINS; chain++) total.x += d[chain][0], total.y += d[chain][1], total.z += d[chain][2], total.w += d[chain][3];
    *(float4*)(sums + 4 * ((size_t)blockIdx.x * blockDim.x + threadIdx.x)) = total;
}
