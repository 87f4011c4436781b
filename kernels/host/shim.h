// The device's language for a host compiler: included by common.cuh when no CUDA compiler reads it. Kernels compile as ordinary C++17;
// every CUDA thread is a fiber (fibers.hpp). Nothing here touches the emulator's state inline, so that kernels can be built with
// -fsanitize=thread instrumentation, which is served by our own checker (checker.hpp) instead of libtsan.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;
typedef unsigned long long u64;
#define __device__
#define __host__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __constant__ static
#define DEV static inline __attribute__((always_inline))
#define KERNEL static __attribute__((noinline)) void
struct uint3 {
    u32 x, y, z;
};
struct dim3 {
    u32 x, y, z;
    constexpr dim3(u32 a = 1, u32 b = 1, u32 c = 1) : x(a), y(b), z(c) {}
};
#define EMU_VEC(T, N)                                           \
    struct alignas(2 * sizeof(T)) N##2 { T x, y; };             \
    struct alignas(4 * sizeof(T)) N##4 { T x, y, z, w; };       \
    static inline N##2 make_##N##2(T x, T y) { return {x, y}; } \
    static inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VEC(float, float) EMU_VEC(int, int) EMU_VEC(u32, uint) struct bf16 {
    u16 bits;
};

struct EmuIdx {
    uint3 tid;
    dim3 bid, bdim, gdim;
};
extern "C" {
const EmuIdx* emu_idx(void) __attribute__((const));  // constant within one fiber
void emu_bar(int id, int n, const char* f, int l);
void emu_syncwarp(u32 mask, const char* f, int l);
u64 emu_shfl(int kind, u32 mask, u64 v, int arg, int width, const char* f, int l);
u32 emu_vote(int kind, u32 mask, int pred, const char* f, int l);
void emu_ldmatrix(u32* r, const void* p, int trans, const char* f, int l);
void emu_mma(int f16, float* d, const u32* a, u32 b0, u32 b1, const char* f, int l);
void emu_cp16(void* dst, const void* src, u32 n, const char* f, int l);
void emu_cp_commit(void);
void emu_cp_wait(int n);
u64 emu_atomic(int op, void* p, u64 v, u64 cmp, const char* f, int l);
void* emu_smem_static(const void* key, size_t bytes, const char* name);
void* emu_smem_dyn(void);
}
#define threadIdx (emu_idx()->tid)
#define blockIdx (emu_idx()->bid)
#define blockDim (emu_idx()->bdim)
#define gridDim (emu_idx()->gdim)
#define SMEM(T, name, dims)               \
    static const char emu_key_##name = 0; \
    typedef T emu_t_##name dims;          \
    emu_t_##name& name = *(emu_t_##name*)emu_smem_static(&emu_key_##name, sizeof(emu_t_##name), #name)
#define SMEM_DYN(name) u8* name = (u8*)emu_smem_dyn()
#define EMU_AT const char *f = __builtin_FILE(), int l = __builtin_LINE()

template <class To, class From>
static inline To emu_bits(From v) {
    To r{};
    memcpy(&r, &v, sizeof(v) < sizeof(r) ? sizeof(v) : sizeof(r));
    return r;
}
static inline float __uint_as_float(u32 v) { return emu_bits<float>(v); }
static inline u32 __float_as_uint(float v) { return emu_bits<u32>(v); }
static inline int __float_as_int(float v) { return emu_bits<int>(v); }
static inline u16 emu_f2bf(float v) {
    u32 u = emu_bits<u32>(v);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
}
DEV u32 pack_bf16(float low, float high) { return emu_f2bf(low) | (u32)emu_f2bf(high) << 16; }
DEV bf16 to_bf16(float v) { return {emu_f2bf(v)}; }
static inline float exp2_approx(float v) { return v < -126.f ? 0.f : exp2f(v); }
static inline u16 emu_f2h(float v) {
    if (v != v) return 0x7fff;  // the device knows one NaN
    _Float16 h = (_Float16)v;
    u16 r;
    memcpy(&r, &h, 2);
    return r;
}
static inline float emu_h2f(u16 v) {
    _Float16 h;
    memcpy(&h, &v, 2);
    return (float)h;
}
DEV u32 pack_f16(float low, float high) { return emu_f2h(low) | (u32)emu_f2h(high) << 16; }
// A sum of two f16 is exact enough in f32 that rounding it again gives the f16 sum.
DEV u32 add_f16(u32 a, u32 b) { return pack_f16(emu_h2f(a & 0xffff) + emu_h2f(b & 0xffff), emu_h2f(a >> 16) + emu_h2f(b >> 16)); }
static inline float rsqrtf(float v) { return 1.f / sqrtf(v); }
#define __expf(v) expf(v)  // glibc declares __expf itself
static inline float __fdividef(float a, float b) { return a / b; }
// Rounded each by itself: without the empty assembly the compiler may fuse a product with the sum it goes into, which these forbid.
static inline float emu_alone(float v) {
    u32 bits = emu_bits<u32>(v);
    __asm__("" : "+r"(bits));
    return emu_bits<float>(bits);
}
static inline float __fmul_rn(float a, float b) { return emu_alone(a * b); }
static inline float __fadd_rn(float a, float b) { return emu_alone(a + b); }
// The barriers keep the compiler from contracting a product and a sum into one rounding.
static inline double __dmul_rn(double a, double b) {
    double r = a * b;
    asm("" : "+x"(r));
    return r;
}
static inline double __dadd_rn(double a, double b) {
    asm("" : "+x"(a));
    return a + b;
}
static inline int __popc(u32 v) { return __builtin_popcount(v); }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __clz(int v) { return v ? __builtin_clz(v) : 32; }
template <class T>
static inline T __ldg(const T* p) {
    return *p;
}
template <class T>
static inline T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
static inline T max(T a, T b) {
    return a < b ? b : a;
}

static inline void __syncthreads(EMU_AT) { emu_bar(0, 0, f, l); }
static inline void bar_sync(int id, int n, EMU_AT) { emu_bar(id, n, f, l); }
static inline void __syncwarp(u32 m = ~0u, EMU_AT) { emu_syncwarp(m, f, l); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
template <class T>
static inline T __shfl_sync(u32 m, T v, int s, int w = 32, EMU_AT) {
    return emu_bits<T>(emu_shfl(0, m, emu_bits<u64>(v), s, w, f, l));
}
template <class T>
static inline T __shfl_xor_sync(u32 m, T v, int s, int w = 32, EMU_AT) {
    return emu_bits<T>(emu_shfl(1, m, emu_bits<u64>(v), s, w, f, l));
}
template <class T>
static inline T __shfl_down_sync(u32 m, T v, int s, int w = 32, EMU_AT) {
    return emu_bits<T>(emu_shfl(2, m, emu_bits<u64>(v), s, w, f, l));
}
template <class T>
static inline T __shfl_up_sync(u32 m, T v, int s, int w = 32, EMU_AT) {
    return emu_bits<T>(emu_shfl(3, m, emu_bits<u64>(v), s, w, f, l));
}
static inline u32 __ballot_sync(u32 m, int p, EMU_AT) { return emu_vote(0, m, p, f, l); }
static inline int __any_sync(u32 m, int p, EMU_AT) { return emu_vote(0, m, p, f, l) != 0; }
static inline int __all_sync(u32 m, int p, EMU_AT) { return emu_vote(0, m, p, f, l) == m; }
// local copies keep the caller's fragment arrays from escaping (they stay un-instrumented registers)
DEV void ldmatrix_x4(u32 (&r)[4], const void* p, EMU_AT) {
    u32 t[4];
    emu_ldmatrix(t, p, 0, f, l);
    for (int i = 0; i < 4; i++) r[i] = t[i];
}
DEV void ldmatrix_x4_trans(u32 (&r)[4], const void* p, EMU_AT) {
    u32 t[4];
    emu_ldmatrix(t, p, 1, f, l);
    for (int i = 0; i < 4; i++) r[i] = t[i];
}
DEV void emu_mma_(int h, float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, const char* f, int l) {
    float t[4];
    u32 s[4];
    for (int i = 0; i < 4; i++) t[i] = d[i], s[i] = a[i];
    emu_mma(h, t, s, b0, b1, f, l);
    for (int i = 0; i < 4; i++) d[i] = t[i];
}
DEV void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, EMU_AT) { emu_mma_(0, d, a, b0, b1, f, l); }
DEV void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, EMU_AT) { emu_mma_(1, d, a, b0, b1, f, l); }
DEV void cp_async16(void* d, const void* s, u32 n, EMU_AT) { emu_cp16(d, s, n, f, l); }
DEV void cp_async_commit() { emu_cp_commit(); }
template <int N>
DEV void cp_async_wait() {
    emu_cp_wait(N);
}
// Operations of emu_atomic; EMU_WIDE marks those on 64 bits.
enum { EMU_ADD_F32, EMU_ADD, EMU_MAX_INT, EMU_MIN_INT, EMU_MAX, EMU_MIN, EMU_CAS, EMU_LOAD, EMU_WIDE = 16 };
static inline float atomicAdd(float* p, float v, EMU_AT) { return emu_bits<float>((u32)emu_atomic(EMU_ADD_F32, p, emu_bits<u32>(v), 0, f, l)); }
static inline int atomicAdd(int* p, int v, EMU_AT) { return (int)emu_atomic(EMU_ADD, p, (u32)v, 0, f, l); }
static inline u32 atomicAdd(u32* p, u32 v, EMU_AT) { return (u32)emu_atomic(EMU_ADD, p, v, 0, f, l); }
static inline u64 atomicAdd(u64* p, u64 v, EMU_AT) { return emu_atomic(EMU_ADD | EMU_WIDE, p, v, 0, f, l); }
static inline int atomicMax(int* p, int v, EMU_AT) { return (int)emu_atomic(EMU_MAX_INT, p, (u32)v, 0, f, l); }
static inline u32 atomicMax(u32* p, u32 v, EMU_AT) { return (u32)emu_atomic(EMU_MAX, p, v, 0, f, l); }
static inline u64 atomicMax(u64* p, u64 v, EMU_AT) { return emu_atomic(EMU_MAX | EMU_WIDE, p, v, 0, f, l); }
static inline int atomicMin(int* p, int v, EMU_AT) { return (int)emu_atomic(EMU_MIN_INT, p, (u32)v, 0, f, l); }
static inline u32 atomicMin(u32* p, u32 v, EMU_AT) { return (u32)emu_atomic(EMU_MIN, p, v, 0, f, l); }
static inline u64 atomicMin(u64* p, u64 v, EMU_AT) { return emu_atomic(EMU_MIN | EMU_WIDE, p, v, 0, f, l); }
static inline u32 atomicCAS(u32* p, u32 c, u32 v, EMU_AT) { return (u32)emu_atomic(EMU_CAS, p, v, c, f, l); }
DEV u32 load_relaxed(const u32* p, EMU_AT) { return (u32)emu_atomic(EMU_LOAD, (void*)p, 0, 0, f, l); }
