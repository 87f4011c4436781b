// Stand-ins for ldmatrix, mma, cp.async and atomics (before which other threads may run). A cp.async happens at its issue (early) or at the wait (late): both are legal, and
// catch different bugs.
#pragma once

// Phases of ldmatrix (eight rows each) and the wavefronts they take: as many if no two rows lie in the same banks.
static std::atomic<u64> ld_phases, ld_wavefronts;
extern "C" void emu_stats(u64* o) {
    o[0] = ld_phases;
    o[1] = ld_wavefronts;
}
extern "C" void emu_ldmatrix(u32* r, const void* p, int trans, const char* f, int l) {
    struct S {
        const u16* p;
        u32* r;
        int t;
    } s = {(const u16*)p, r, trans};
    if ((up)p & 15) fail("ldmatrix row address %p not 16-byte aligned, %s:%d", p, f, l);
    if (opt.check) {
        if ((up)p - (up)W->smem >= SMEM_CAP) fail("ldmatrix from non-shared address, %s:%d", f, l);
        access(p, 16, {false, false, true, false, 0, f, l});
    }
    collective(3, ~0u, &s, f, l, [](Worker*, Warp& w) {
        if (opt.check)
            for (int m = 0; m < 4; m++) {
                int c[8] = {}, mx = 0;
                for (int i = 0; i < 8; i++) {
                    int b = (up)((S*)w.slot[m * 8 + i])->p >> 4 & 7;
                    if (++c[b] > mx) mx = c[b];
                }
                ld_phases++;
                ld_wavefronts += mx;
            }
        for (int m = 0; m < 4; m++)
            for (int i = 0; i < 32; i++) {
                S* s = (S*)w.slot[i];
                int g = i >> 2, t = i & 3;
                u32 lo, hi;
                if (!s->t) {
                    const u16* q = ((S*)w.slot[m * 8 + g])->p;
                    lo = q[2 * t];
                    hi = q[2 * t + 1];
                } else {
                    lo = ((S*)w.slot[m * 8 + 2 * t])->p[g];
                    hi = ((S*)w.slot[m * 8 + 2 * t + 1])->p[g];
                }
                s->r[m] = lo | hi << 16;
            }
    });
}
static inline float cvt(u16 v, int h) {
    if (!h) return emu_bits<float>((u32)v << 16);
    _Float16 x;
    memcpy(&x, &v, 2);
    return (float)x;
}
typedef float v8 __attribute__((vector_size(32)));
template <int H, class S>
static inline void mma_warp(Warp& w) {
    alignas(64) float A[16][16];
    alignas(64) v8 B[16], D[16];
    for (int i = 0; i < 32; i++) {
        S* s = (S*)w.slot[i];
        int g = i >> 2, t = i & 3;
        for (int k = 0; k < 4; k++) {
            u32 v = s->a[k];
            float* q = &A[g + (k & 1) * 8][2 * t + (k >> 1) * 8];
            q[0] = cvt(v & 0xffff, H);
            q[1] = cvt(v >> 16, H);
        }
        for (int k = 0; k < 2; k++) {
            ((float*)D)[g * 8 + k * 64 + 2 * t] = s->d[2 * k];
            ((float*)D)[g * 8 + k * 64 + 2 * t + 1] = s->d[2 * k + 1];
            u32 v = s->b[k];
            ((float*)B)[(2 * t + k * 8) * 8 + g] = cvt(v & 0xffff, H);
            ((float*)B)[(2 * t + 1 + k * 8) * 8 + g] = cvt(v >> 16, H);
        }
    }
    for (int r = 0; r < 16; r += 2) {
        v8 x = D[r], y = D[r + 1];
        for (int k = 0; k < 16; k++) {
            x += A[r][k] * B[k];
            y += A[r + 1][k] * B[k];
        }
        D[r] = x;
        D[r + 1] = y;
    }
    for (int i = 0; i < 32; i++) {
        S* s = (S*)w.slot[i];
        int g = i >> 2, t = i & 3;
        const float* q = (float*)D + g * 8 + 2 * t;
        s->d[0] = q[0];
        s->d[1] = q[1];
        s->d[2] = q[64];
        s->d[3] = q[65];
    }
}
extern "C" void emu_mma(int h, float* d, const u32* a, u32 b0, u32 b1, const char* f, int l) {
    struct S {
        float* d;
        const u32* a;
        u32 b[2];
        int h;
    } s = {d, a, {b0, b1}, h};
    collective(4, ~0u, &s, f, l, [](Worker*, Warp& w) {
        if (((S*)w.slot[0])->h) mma_warp<1, S>(w);
        else
            mma_warp<0, S>(w);
    });
}
static inline void cp_do(const Cp& c) {
    memcpy(c.d, c.s, c.n);
    memset((char*)c.d + c.n, 0, 16 - c.n);
}
extern "C" void emu_cp16(void* d, const void* s, u32 n, const char* f, int l) {
    Fiber* me = W->cur;
    if (((up)d | (up)s) & 15 || n > 16) fail("cp.async misaligned (dst %p src %p n %u), %s:%d", d, s, n, f, l);
    if (opt.check) {
        if ((up)d - (up)W->smem >= SMEM_CAP) fail("cp.async dst is not shared memory, %s:%d", f, l);
        if (n) access(s, n, {false, false, false, false, 0, f, l});
        access(d, 16, {true, false, false, true, 0, f, l});
    }
    Cp c = {d, s, n, me->cpg};
    if (opt.cp_early) cp_do(c);
    me->cpq.push_back(c);
}
extern "C" void emu_cp_commit() { W->cur->cpg++; }
extern "C" void emu_cp_wait(int n) {
    Worker* w = W;
    Fiber* me = w->cur;
    size_t i = 0;
    for (; i < me->cpq.size() && me->cpq[i].g + n < me->cpg; i++) {
        const Cp& c = me->cpq[i];
        if (!opt.cp_early) cp_do(c);
        if (opt.check) {
            Cell* q = w->scell + ((up)c.d - (up)w->smem);
            for (int b = 0; b < 16; b++) q[b].wt = me->lin, q[b].ws = w->clk;
        }
    }
    me->cpq.erase(me->cpq.begin(), me->cpq.begin() + i);
}
// One atomic on T, which is u32 or u64.
template <class T>
static T atomic_on(int op, T* p, T v, T cmp, const char* f, int l) {
    if ((up)p & (sizeof(T) - 1)) fail("misaligned atomic, %s:%d", f, l);
    access(p, sizeof(T), {op != EMU_LOAD, true, false, false, 0, f, l});
    T o = __atomic_load_n(p, __ATOMIC_RELAXED), n;
    if (op == EMU_LOAD) return o;
    do {
        switch (op) {
            case EMU_ADD_F32:
                n = emu_bits<u32>(emu_bits<float>((u32)o) + emu_bits<float>((u32)v));
                break;
            case EMU_ADD:
                n = o + v;
                break;
            case EMU_MAX_INT:
                n = (int)o > (int)v ? o : v;
                break;
            case EMU_MIN_INT:
                n = (int)o < (int)v ? o : v;
                break;
            case EMU_MAX:
                n = o > v ? o : v;
                break;
            case EMU_MIN:
                n = o < v ? o : v;
                break;
            default:
                n = o == cmp ? v : o;
        }
    } while (!__atomic_compare_exchange_n(p, &o, n, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    return o;
}
extern "C" u64 emu_atomic(int op, void* p, u64 v, u64 cmp, const char* f, int l) {
    interleave();
    if (op & EMU_WIDE) return atomic_on<u64>(op & ~EMU_WIDE, (u64*)p, v, cmp, f, l);
    return atomic_on<u32>(op, (u32*)p, (u32)v, (u32)cmp, f, l);
}
extern "C" void* emu_smem_static(const void* key, size_t n, const char* name) {
    Worker* w = W;
    for (Range& r : w->rng)
        if (r.key == key) return (void*)r.lo;
    up lo = ((up)w->smem + w->smem_used + 127) & ~127ull;
    w->smem_used = lo + n + 256 - (up)w->smem;
    w->smem_user += n;
    if ((int)w->smem_user > opt.max_smem || w->smem_used > SMEM_CAP) fail("shared memory exceeds %d B", opt.max_smem);
    memset((void*)lo, 0xff, n);
    w->rng.push_back({lo, lo + n, name, key});
    return (void*)lo;
}
extern "C" void* emu_smem_dyn() { return W->smem + 1024; }
