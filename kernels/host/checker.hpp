// The checker: bounds, uninitialised reads, races, reads before a cp.async was waited for, misalignment, bad arithmetic. The compiler's
// -fsanitize=thread inserts the calls; happens-before is exact for __syncthreads (the block's clock) and __syncwarp (the warp's); shuffles
// and mma order no memory, as in PTX.
#pragma once

static std::vector<Range> host_ranges;
static int phdr_cb(dl_phdr_info* i, size_t, void*) {
    for (int k = 0; k < i->dlpi_phnum; k++)
        if (i->dlpi_phdr[k].p_type == PT_LOAD) {
            up lo = i->dlpi_addr + i->dlpi_phdr[k].p_vaddr;
            host_ranges.push_back({lo, lo + i->dlpi_phdr[k].p_memsz, "", 0});
        }
    return 0;
}
struct Acc {
    bool wr, at, warp, pend;
    void* pc;
    const char* f;
    int l;
};
static std::string who_s(u32 t) {
    t &= WHO;
    return t == MANY ? "several threads" : t >= 1024 ? "warp " + std::to_string(t - 1024) : "thread " + std::to_string(t);
}
static std::string at_s(const Acc& a) { return a.f ? std::string(a.f) + ":" + std::to_string(a.l) : where_pc(a.pc); }
static inline bool before(Worker* w, Fiber* me, u32 stamp, u32 who) {  // is the recorded access ordered before (or by) me?
    who &= WHO;
    if (who == me->lin || stamp < w->tb) return true;
    u32 ww = who < 1024 ? who >> 5 : who - 1024;
    return who != MANY && ww == me->warp && stamp < w->warp[ww].tw;
}
static inline void cell(Worker* w, Fiber* me, Cell& c, const Acc& a, u32 code, bool shared, const char* name, size_t off, u32 n) {
    bool wold = c.ws >= (shared ? w->block_t : w->launch_t);  // write recorded in this block / launch
    if (!a.wr || a.at) {
        if (shared ? !wold : !(c.ws || c.wt & INIT)) fail("uninitialised read of %u B at %s+%zu, %s", n, name, off, at_s(a).c_str());
    }
    if (wold && c.wt & PEND)
        fail("%s %u B at %s+%zu while a cp.async by %s into it has not been waited for, %s", a.wr ? "write" : "read", n, name, off,
             who_s(c.wt).c_str(), at_s(a).c_str());
    if (wold && !(a.at && c.wt & ATOM)) {
        bool other = c.ws < w->block_t;
        if (other || !before(w, me, c.ws, c.wt))
            fail("race: %s %u B at %s+%zu after unsynchronised %s by %s%s, %s", a.wr ? "write" : "read", n, name, off,
                 c.wt & ATOM ? "atomic" : "write", other ? "another block, " : "", who_s(c.wt).c_str(), at_s(a).c_str());
    }
    bool rold = c.rs >= (shared ? w->block_t : w->launch_t);
    if (a.wr) {
        if (rold && !(a.at && c.rt & ATOM)) {
            bool other = c.rs < w->block_t;
            if (other || !before(w, me, c.rs, c.rt))
                fail("race: write %u B at %s+%zu after unsynchronised read by %s%s, %s", n, name, off, other ? "another block, " : "",
                     who_s(c.rt).c_str(), at_s(a).c_str());
        }
        c.ws = w->clk;
        c.wt = (c.wt & INIT) | code | (a.at ? ATOM : 0) | (a.pend ? PEND : 0);
        if (!shared) c.wt |= INIT;
    } else {
        u16 who = code, atom = a.at ? ATOM : 0;
        if (rold && c.rs >= w->tb) atom &= c.rt;  // several reads count as atomic if all are
        if (rold && c.rs >= w->tb && (c.rt & WHO) != code) {
            u32 o = c.rt & WHO, ow = o < 1024 ? o >> 5 : o - 1024, nw = code < 1024 ? code >> 5 : code - 1024;
            who = o != MANY && ow == nw ? 1024 + nw : MANY;
        }
        c.rs = w->clk;
        c.rt = who | atom;
    }
}
static void access(const void* ptr, u32 n, Acc a) {
    Worker* w = W;
    if (!w || !w->cur || !opt.check) return;
    Fiber* me = w->cur;
    up p = (up)ptr;
    u32 code = a.warp ? 1024 + me->warp : me->lin;
    if (p - (up)w->stacks < w->nfib * STACK) {
        if ((p - (up)w->stacks) / STACK != me->lin) fail("access to another thread's local memory, %s", at_s(a).c_str());
        return;
    }
    if (p - (up)w->smem < SMEM_CAP) {
        for (Range& r : w->rng)
            if (p >= r.lo && p < r.hi) {
                if (p + n > r.hi) break;
                Cell* c = w->scell + (p - (up)w->smem);
                for (u32 i = 0; i < n; i++) cell(w, me, c[i], a, code, true, r.name, p - r.lo, n);
                return;
            }
        Range* best = nullptr;
        for (Range& r : w->rng)
            if (r.lo <= p && (!best || r.lo > best->lo)) best = &r;
        fail("out of bounds: %s %u B at shared %s+%zd (size %zu), %s", a.wr ? "write" : "read", n, best ? best->name : "?",
             best ? (ssize_t)(p - best->lo) : 0, best ? best->hi - best->lo : 0, at_s(a).c_str());
    }
    if (p - va_base < VA) {
        Alloc* al = w->last;
        if (!al || p - al->lo >= al->n) al = w->last = find_alloc(p);
        if (!al || p + n > al->lo + al->n)
            fail("out of bounds: %s %u B at global %p%s%s, %s", a.wr ? "write" : "read", n, ptr, al ? ", buffer+" : " (no buffer / freed)",
                 al ? (std::to_string(p - al->lo) + " of " + std::to_string(al->n)).c_str() : "", at_s(a).c_str());
        if (al->cells) {
            Cell* c = al->cells + (p - al->lo);
            for (u32 i = 0; i < n; i++) cell(w, me, c[i], a, code, false, "global", p - al->lo, n);
        }
        return;
    }
    if (!a.wr)
        for (Range& r : host_ranges)
            if (p >= r.lo && p + n <= r.hi) return;  // constants
    fail("wild %s of %u B at %p, %s", a.wr ? "write" : "read", n, ptr, at_s(a).c_str());
}
static inline void aligned(const void* p, u32 n, const char* what, void* pc) {
    if ((up)p & (n - 1)) {
        if (W && W->cur) fail("misaligned %u B %s at %p, %s", n, what, p, where_pc(pc).c_str());
    }
}
#define RA __builtin_return_address(0)
#define TS(N)                                                 \
    extern "C" void __tsan_read##N(void* p) {                 \
        aligned(p, N, "read", RA);                            \
        access(p, N, {false, false, false, false, RA, 0, 0}); \
    }                                                         \
    extern "C" void __tsan_write##N(void* p) {                \
        aligned(p, N, "write", RA);                           \
        access(p, N, {true, false, false, false, RA, 0, 0});  \
    }
#define TU(N)                                                                                                   \
    extern "C" void __tsan_unaligned_read##N(void* p) { access(p, N, {false, false, false, false, RA, 0, 0}); } \
    extern "C" void __tsan_unaligned_write##N(void* p) { access(p, N, {true, false, false, false, RA, 0, 0}); }
TS(1) TS(2) TS(4) TS(8) TS(16) TU(2) TU(4) TU(8) TU(16) extern "C" void __tsan_read_range(void* p, size_t n) {
    access(p, n, {false, false, false, false, RA, 0, 0});
}
extern "C" void __tsan_write_range(void* p, size_t n) { access(p, n, {true, false, false, false, RA, 0, 0}); }
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}

// UBSan minimal handlers (-fsanitize=bounds,alignment,... without libubsan): every *_abort/_v1 data record starts with {file, line, col}
struct UbLoc {
    const char* file;
    u32 line, col;
};
static void ub(const char* what, void* d) {
    UbLoc* l = (UbLoc*)d;
    if (W && W->cur) fail("%s, %s:%u", what, l->file, l->line);
    fprintf(stderr, "%s %s:%u\n", what, l->file, l->line);
    abort();
}
#define UB(name, what)                                              \
    extern "C" void __ubsan_handle_##name(void* d) { ub(what, d); } \
    extern "C" void __ubsan_handle_##name##_abort(void* d) { ub(what, d); }
UB(out_of_bounds, "array index out of bounds")
UB(type_mismatch_v1, "misaligned or null access") UB(shift_out_of_bounds, "shift out of range")
    UB(divrem_overflow, "division by zero or overflow") UB(add_overflow, "signed overflow") UB(sub_overflow, "signed overflow")
        UB(mul_overflow, "signed overflow") UB(negate_overflow, "signed overflow") UB(float_cast_overflow, "float to int overflow")
