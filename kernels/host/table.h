// What the emulator knows of a kernel: one exported descriptor per specialisation, made by the generated wrappers (build.rs) and collected
// in a generated table.
#pragma once
#include "shim.h"

struct EmuKernel {
    const char* name;
    void (*call)(void** args);
    u32 nargs;
    const u16* sizes;
};
template <size_t... I>
struct EmuSeq {};
template <size_t N, size_t... I>
struct EmuMk : EmuMk<N - 1, N - 1, I...> {};
template <size_t... I>
struct EmuMk<0, I...> {
    typedef EmuSeq<I...> T;
};
template <class F, F f>
struct EmuReg;
template <class... A, void (*F)(A...)>
struct EmuReg<void (*)(A...), F> {
    template <size_t... I>
    __attribute__((no_sanitize_thread)) static void go(void** a, EmuSeq<I...>) {
        F(*(A*)a[I]...);
    }
    static void call(void** a) { go(a, typename EmuMk<sizeof...(A)>::T()); }
    static constexpr u16 sizes[] = {(u16)sizeof(A)..., 0};
    static constexpr u32 nargs = sizeof...(A);
};
#define EMU_EXPORT(fn)                             \
    typedef EmuReg<decltype(&fn), &fn> emu_r_##fn; \
    extern "C" const EmuKernel emu_k_##fn;         \
    const EmuKernel emu_k_##fn = {#fn, emu_r_##fn::call, emu_r_##fn::nargs, emu_r_##fn::sizes};
