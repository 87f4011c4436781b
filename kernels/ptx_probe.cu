// ptx_probe: what the wrappers of ptx.cuh and a few built-in functions do with fixed values. For tests/cuda/ptx.rs, which holds them against the PTX manual,
// and the emulator's twins against what a GPU answered. The program itself never launches it. There is no CPU op.
//
// in, out: words, laid out as each section says. Parallelisation: one warp. Flops, bytes: few. Registers: 22; see registers.csv. Tried: nothing else.
#include "common.cuh"

#ifndef ENTRY
#error "compile with -DENTRY and -DSECTIONS"
#endif
static_assert(SECTIONS == 11, "the number of sections below");

// in [32][2] f32 -> out [32] pairs, [32] single ones in the low half.
DEV void conversions(const u32* in, u32* out, int lane) {
    const float low = __uint_as_float(in[2 * lane]), high = __uint_as_float(in[2 * lane + 1]);
    out[lane] = pack_bf16(low, high);
    out[LANES + lane] = to_bf16(low).bits;
}

// in [4][8][4]: four matrices of eight rows of eight 16-bit elements -> out [32][4].
template <bool TRANSPOSED> DEV void matrices(const u32* in, u32* out, int lane, u32* shared) {
    for (int i = 0; i < 4; i++) shared[i * LANES + lane] = in[i * LANES + lane];
    __syncwarp();
    u32 r[4];
    if (TRANSPOSED) ldmatrix_x4_trans(r, shared + lane * 4);
    else ldmatrix_x4(r, shared + lane * 4);
    for (int i = 0; i < 4; i++) out[lane * 4 + i] = r[i];
}

// in a [32][4], b [32][2], c [32][4] as fragments -> out [32][4].
template <bool F16> DEV void products(const u32* in, u32* out, int lane) {
    u32 a[4];
    float d[4];
    for (int i = 0; i < 4; i++) a[i] = in[lane * 4 + i], d[i] = __uint_as_float(in[192 + lane * 4 + i]);
    if (F16) mma_f16(d, a, in[128 + lane * 2], in[128 + lane * 2 + 1]);
    else mma_bf16(d, a, in[128 + lane * 2], in[128 + lane * 2 + 1]);
    for (int i = 0; i < 4; i++) out[lane * 4 + i] = __float_as_uint(d[i]);
}

// in [2][32][4] -> out the same, of which lane l copied l % 17 bytes in the first group and 16 - l % 17 in the second; the rest is zero.
DEV void copies(const u32* in, u32* out, int lane, u32* shared) {
    for (int i = 0; i < 8; i++) shared[lane * 8 + i] = ~0u;
    __syncwarp();
    u32 *first = shared + lane * 4, *second = first + LANES * 4;
    cp_async16(first, in + lane * 4, lane % 17);
    cp_async_commit();
    cp_async16(second, in + (LANES + lane) * 4, 16 - lane % 17);
    cp_async_commit();
    cp_async_wait<1>();
    for (int i = 0; i < 4; i++) out[lane * 4 + i] = first[i];
    cp_async_wait<0>();
    for (int i = 0; i < 4; i++) out[(LANES + lane) * 4 + i] = second[i];
}

// in [32] -> out [4][32].
DEV void shuffles(const u32* in, u32* out, int lane) {
    const u32 v = in[lane];
    out[lane] = __shfl_xor_sync(WHOLE_WARP, v, 5);
    out[LANES + lane] = __shfl_down_sync(WHOLE_WARP, v, 3);
    out[2 * LANES + lane] = __shfl_up_sync(WHOLE_WARP, v, 3);
    out[3 * LANES + lane] = __shfl_sync(WHOLE_WARP, v, lane * 7 % LANES);
}

// in [32][2] f32 -> out [32] pairs in f16, [32] sums of each and (high, 1).
DEV void halves(const u32* in, u32* out, int lane) {
    const float low = __uint_as_float(in[2 * lane]), high = __uint_as_float(in[2 * lane + 1]);
    out[lane] = pack_f16(low, high);
    out[LANES + lane] = add_f16(pack_f16(low, high), pack_f16(high, 1.f));
}

// in [32] -> out [32] from global memory, [32] from shared memory, where the words lie the other way round.
DEV void loads(const u32* in, u32* out, int lane, u32* shared) {
    out[lane] = load_relaxed(in + lane);
    shared[LANES - 1 - lane] = in[lane];
    __syncwarp();
    out[LANES + lane] = load_relaxed(shared + lane);
}

KERNEL __launch_bounds__(LANES) ENTRY(const u32* in, u32* out, int section) {
    SMEM(uint4, tile, [2 * LANES]);
    u32* shared = (u32*)&tile;
    const int lane = threadIdx.x;
    switch (section) {
        case 1: conversions(in, out, lane); break;
        case 2: matrices<false>(in, out, lane, shared); break;
        case 3: products<false>(in, out, lane); break;
        case 4: copies(in, out, lane, shared); break;
        case 5: shuffles(in, out, lane); break;
        case 6: out[lane] = __float_as_uint(rsqrtf(__uint_as_float(in[lane]))); break;  // in [32] f32 -> out [32] f32
        case 7: out[lane] = __float_as_uint(exp2_approx(__uint_as_float(in[lane]))); break;  // the same
        case 8: matrices<true>(in, out, lane, shared); break;
        case 9: products<true>(in, out, lane); break;
        case 10: halves(in, out, lane); break;
        case 11: loads(in, out, lane, shared); break;
    }
}
