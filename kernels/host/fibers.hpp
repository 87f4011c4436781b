// One fiber per CUDA thread, the scheduler of a block, barriers and warp collectives. A fiber runs until it blocks; which one is next is
// the order under test.
#pragma once

#ifndef __x86_64__
#error "the emulator switches fibers with x86-64 instructions"
#endif
// Saves the callee-saved registers and the stack pointer at *save, and goes on where `to` was saved.
extern "C" void emu_switch(void** save, void* to);
asm(".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\nmov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n.size emu_switch,.-emu_switch\n");
// A cp.async that is under way, of group g.
struct Cp {
    void* d;
    const void* s;
    u32 n, g;
};
// A CUDA thread: indices, saved stack pointer, what it waits for and where, its copies.
struct Fiber {
    EmuIdx ix;
    void* sp;
    u32 lin, lane, warp;
    const char *what, *file;
    int line;
    u32 cpg;
    std::vector<Cp> cpq;
};
// Masks over lanes: ready to run, waiting in a collective, at barrier b, exited; the operands of the collective; the clock of the last __syncwarp.
struct Warp {
    u32 all, ready, coll, done, kind, mask;
    const char* file;
    int line;
    u32 bar[16];
    void* slot[32];
    u32 tw;
};
struct Bar {
    int cnt, n;
    const char* file;
    int line;
};
// An array in shared memory.
struct Range {
    up lo, hi;
    const char* name;
    const void* key;
};
static const size_t STACK = 128 * 1024, SMEM_CAP = 1 << 20;
// All of one block's state; tb, launch_t and block_t are the clock at the last barrier, the launch and the start of the block.
struct Worker {
    u8* stacks = nullptr;
    u32 nfib = 0;
    Fiber* fib[1024];
    Fiber* cur = nullptr;
    void* main_sp;
    Warp warp[32];
    u32 nw, nt, curw, wready, ndone;
    Bar bar[16];
    u8* smem = nullptr;
    Cell* scell = nullptr;
    size_t smem_used, smem_user;
    std::vector<Range> rng;
    const EmuKernel* k;
    void** args;
    u32 clk = 1, tb, launch_t, block_t;
    dim3 grid, block;
    u32 dyn;
    u64 rs;
    Alloc* last = nullptr;
    std::string err;
};
static thread_local Worker* W;
// Top of a fiber's stack. Staggered: at equal offsets all stacks would share a few sets of the caches.
static inline Fiber* top(Worker* w, u32 i) {
    return (Fiber*)(w->stacks + (i + 1) * STACK - ((sizeof(Fiber) + 63) & ~63ull) - (i & 63) * 960);
}

static void switch_to(Fiber* from, Fiber* to) {  // to == nullptr: back to the scheduler's caller
    Worker* w = W;
    w->cur = to;
    void** save = from ? &from->sp : &w->main_sp;
    void* sp = to ? to->sp : w->main_sp;
    emu_switch(save, sp);
}
static std::string where_pc(void* pc) {
    Dl_info di;
    if (!pc || !dladdr(pc, &di)) return "?";
    char cmd[600];
    snprintf(cmd, sizeof cmd, "addr2line -s -i -e '%s' 0x%zx 2>/dev/null", di.dli_fname, (size_t)((up)pc - (up)di.dli_fbase - 1));
    std::string r;
    if (FILE* p = popen(cmd, "r")) {
        char b[256];
        while (fgets(b, sizeof b, p)) {
            b[strcspn(b, "\n")] = 0;
            if (!r.empty()) r += " < ";
            r += b;
        }
        pclose(p);
    }
    return r.empty() ? "?" : r;
}
__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char* fmt, ...) {
    char b[1024];
    va_list v;
    va_start(v, fmt);
    vsnprintf(b, sizeof b, fmt, v);
    va_end(v);
    Worker* w = W;
    char h[160] = "";
    if (Fiber* f = w->cur)
        snprintf(h, sizeof h, "%s block(%u,%u,%u) thread %u: ", w->k->name, f->ix.bid.x, f->ix.bid.y, f->ix.bid.z, f->lin);
    w->err = std::string(h) + b;
    switch_to(w->cur, nullptr);
    __builtin_unreachable();
}
static inline int random_bit(Worker* w, u32 m) {
    w->rs ^= w->rs << 13;
    w->rs ^= w->rs >> 7;
    w->rs ^= w->rs << 17;
    u32 n = (w->rs >> 20) % __builtin_popcount(m);
    while (n--) m &= m - 1;
    return __builtin_ctz(m);
}
static inline int pick_bit(Worker* w, u32 m) {
    if (opt.order == 0) return __builtin_ctz(m);
    if (opt.order == 1) return 31 - __builtin_clz(m);
    return random_bit(w, m);
}
static void stuck(Worker* w) {
    std::string s = "deadlock / divergent barrier:";
    int n = 0;
    for (u32 i = 0; i < w->nt && n < 6; i++) {
        Fiber* f = w->fib[i];
        Warp& p = w->warp[f->warp];
        bool d = p.done >> f->lane & 1;
        const char* st = d ? "exited" : f->what;
        if (i && !((i & 31) == 0 || i == w->nt - 1)) {
            Fiber* q = w->fib[i - 1];
            bool qd = w->warp[q->warp].done >> q->lane & 1;
            if (qd == d && q->line == f->line) continue;
        }
        char b[200];
        if (d) snprintf(b, sizeof b, " [t%u %s]", i, st);
        else
            snprintf(b, sizeof b, " [t%u %s %s:%d]", i, st, f->file, f->line);
        s += b;
        n++;
    }
    fail("%s", s.c_str());
}
static void resched(Fiber* me) {
    Worker* w = W;
    if (!w->warp[w->curw].ready) {
        if (!w->wready) {
            if (w->ndone == w->nt) {
                switch_to(me, nullptr);
                return;
            }
            stuck(w);
        }
        w->curw = pick_bit(w, w->wready);
    }
    Fiber* n = w->fib[w->curw * 32 + pick_bit(w, w->warp[w->curw].ready)];
    if (n != me) switch_to(me, n);
}
// Any other threads may run between the atomics of one: now and then they do, whatever the order (the same ones in every run).
static inline void interleave() {
    Worker* w = W;
    if (random_bit(w, 0xf)) return;
    Fiber* me = w->cur;
    w->curw = random_bit(w, w->wready);
    Fiber* n = w->fib[w->curw * 32 + random_bit(w, w->warp[w->curw].ready)];
    if (n != me) switch_to(me, n);
}
static inline void block_self(Worker* w, Fiber* me, const char* what, const char* f, int l) {
    Warp& p = w->warp[me->warp];
    p.ready &= ~(1u << me->lane);
    if (!p.ready) w->wready &= ~(1u << me->warp);
    me->what = what;
    me->file = f;
    me->line = l;
}
static void fiber_main() {
    Worker* w = W;
    w->k->call(w->args);
    Fiber* me = W->cur;
    block_self(w, me, "exited", "", 0);
    w->warp[me->warp].done |= 1u << me->lane;
    w->ndone++;
    me->cpq.clear();
    resched(me);
    __builtin_unreachable();
}
extern "C" const EmuIdx* emu_idx(void) { return &W->cur->ix; }

static const char* kinds[] = {"syncwarp", "shfl", "vote", "ldmatrix", "mma"};
template <class Fn>
static inline void collective(u32 kind, u32 mask, void* slot, const char* f, int l, Fn fn) {
    Worker* w = W;
    Fiber* me = w->cur;
    Warp& p = w->warp[me->warp];
    u32 bit = 1u << me->lane;
    if (__builtin_expect(!(mask & bit), 0)) fail("%s at %s:%d: lane not in its own mask %08x", kinds[kind], f, l, mask);
    if (!p.coll) {
        p.kind = kind;
        p.mask = mask;
        p.file = f;
        p.line = l;
    } else if (__builtin_expect(p.kind != kind || p.mask != mask || p.line != l, 0))
        fail("warp divergence: %s %s:%d vs %s %s:%d", kinds[kind], f, l, kinds[p.kind], p.file, p.line);
    p.slot[me->lane] = slot;
    p.coll |= bit;
    block_self(w, me, kinds[kind], f, l);
    if ((p.coll & mask) == mask) {
        fn(w, p);
        p.ready |= p.coll;
        p.coll = 0;
        w->wready |= 1u << me->warp;
    }
    resched(me);
}
extern "C" void emu_bar(int id, int n, const char* f, int l) {
    Worker* w = W;
    Fiber* me = w->cur;
    Bar& b = w->bar[id];
    if (!n) n = w->nt;
    if (!b.cnt) {
        b.n = n;
        b.file = f;
        b.line = l;
    } else if (b.n != n || b.line != l)
        fail("divergent barrier: %s:%d vs %s:%d", f, l, b.file, b.line);
    w->warp[me->warp].bar[id] |= 1u << me->lane;
    block_self(w, me, "barrier", f, l);
    if (++b.cnt == n) {
        b.cnt = 0;
        w->tb = ++w->clk;
        for (u32 i = 0; i < w->nw; i++)
            if (u32 m = w->warp[i].bar[id]) {
                w->warp[i].ready |= m;
                w->warp[i].bar[id] = 0;
                w->wready |= 1u << i;
            }
        w->curw = pick_bit(w, w->wready);
    }
    resched(me);
}
extern "C" void emu_syncwarp(u32 m, const char* f, int l) {
    collective(0, m, nullptr, f, l, [](Worker* w, Warp& p) { p.tw = ++w->clk; });
}
extern "C" u64 emu_shfl(int kind, u32 mask, u64 v, int arg, int width, const char* f, int l) {
    struct S {
        u64 in, out;
        int kind, arg, width;
    } s = {v, v, kind, arg, width};
    collective(1, mask, &s, f, l, [](Worker*, Warp& p) {
        for (int i = 0; i < 32; i++)
            if (p.coll >> i & 1) {
                S* s = (S*)p.slot[i];
                int seg = i & ~(s->width - 1), src;
                switch (s->kind) {
                    case 0:
                        src = seg + (s->arg & (s->width - 1));
                        break;
                    case 1:
                        src = i ^ s->arg;
                        if (src >= seg + s->width) src = i;
                        break;
                    case 2:
                        src = i + s->arg;
                        if (src >= seg + s->width) src = i;
                        break;
                    default:
                        src = i - s->arg;
                        if (src < seg) src = i;
                }
                if (!(p.coll >> src & 1)) fail("shfl reads lane %d outside mask %08x", src, p.mask);
                s->out = ((S*)p.slot[src])->in;
            }
    });
    return s.out;
}
extern "C" u32 emu_vote(int, u32 mask, int pred, const char* f, int l) {
    struct S {
        int p;
        u32 out;
    } s = {pred, 0};
    collective(2, mask, &s, f, l, [](Worker*, Warp& p) {
        u32 r = 0;
        for (int i = 0; i < 32; i++)
            if (p.coll >> i & 1 && ((S*)p.slot[i])->p) r |= 1u << i;
        for (int i = 0; i < 32; i++)
            if (p.coll >> i & 1) ((S*)p.slot[i])->out = r;
    });
    return s.out;
}
