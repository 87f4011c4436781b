// Launching: blocks one after the other (or over threads, unchecked), each with its fibers started anew and its shared memory poisoned.
#pragma once

extern "C" const EmuKernel* const emu_table[];  // generated
extern "C" const EmuKernel* emu_find(const char* n) {
    for (const EmuKernel* const* k = emu_table; *k; k++)
        if (!strcmp((*k)->name, n)) return *k;
    return nullptr;
}
static void run_block(Worker* w, u32 bx, u32 by, u32 bz) {
    w->tb = w->block_t = ++w->clk;
    w->rng.clear();
    w->smem_user = w->dyn;
    w->smem_used = 1024 + w->dyn + 1024;
    if (w->dyn) {
        memset(w->smem + 1024, 0xff, w->dyn);
        w->rng.push_back({(up)w->smem + 1024, (up)w->smem + 1024 + w->dyn, "dynamic", nullptr});
    }
    w->nw = (w->nt + 31) / 32;
    w->ndone = 0;
    w->wready = w->nw == 32 ? ~0u : (1u << w->nw) - 1;
    memset(w->bar, 0, sizeof w->bar);
    for (u32 i = 0; i < w->nw; i++) {
        Warp& p = w->warp[i];
        u32 n = w->nt - i * 32;
        p.all = p.ready = n >= 32 ? ~0u : (1u << n) - 1;
        p.coll = p.done = 0;
        p.tw = 0;
        memset(p.bar, 0, sizeof p.bar);
    }
    u32 lin = 0;
    for (u32 z = 0; z < w->block.z; z++)
        for (u32 y = 0; y < w->block.y; y++)
            for (u32 x = 0; x < w->block.x; x++, lin++) {
                Fiber* f = w->fib[lin];
                f->ix = {{x, y, z}, dim3(bx, by, bz), w->block, w->grid};
                f->lin = lin;
                f->lane = lin & 31;
                f->warp = lin >> 5;
                f->cpg = 0;
                f->cpq.clear();
                f->what = "ready";
                f->file = "";
                f->line = 0;
                void** sp = (void**)((up)f & ~63ull);
                *--sp = nullptr;
                *--sp = (void*)fiber_main;
                for (int i = 0; i < 6; i++) *--sp = nullptr;
                f->sp = sp;
            }
    w->curw = pick_bit(w, w->wready);
    switch_to(nullptr, w->fib[w->curw * 32 + pick_bit(w, w->warp[w->curw].ready)]);
}
// A stack's lowest bytes are zeros until something overflows. (Guard pages would cost two mappings per thread, and a process has 65530 for
// all the emulators that the mutation test loads.)
static void check_stacks(Worker* w) {
    for (u32 i = 0; i < w->nt && w->err.empty(); i++)
        for (u32 b = 0; b < 256; b++)
            if (w->stacks[i * STACK + b]) w->err = std::string(w->k->name) + ": a thread needs more than " + std::to_string(STACK) + " B of stack";
}
static std::mutex pool_mu;
static std::vector<Worker*> pool;
static Worker* worker() {
    {
        std::lock_guard<std::mutex> g(pool_mu);
        if (!pool.empty()) {
            Worker* w = pool.back();
            pool.pop_back();
            return W = w;
        }
    }
    Worker* w = new Worker;
    const u32 N = 1024;
    w->nfib = N;
    w->stacks = (u8*)mmap(0, N * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (u32 i = 0; i < N; i++) w->fib[i] = new (top(w, i)) Fiber();
    w->smem = (u8*)mmap(0, SMEM_CAP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    w->scell = (Cell*)mmap(0, SMEM_CAP * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return W = w;
}
extern "C" int emu_launch(const EmuKernel* k, const u32 grid[3], const u32 block[3], u32 smem, void** args, char* err, size_t elen) {
    static std::mutex mu;
    std::lock_guard<std::mutex> g(mu);
    static u32 clk = 1;
    dim3 G(grid[0], grid[1], grid[2]), B(block[0], block[1], block[2]);
    u64 nb = (u64)G.x * G.y * G.z, nt = (u64)B.x * B.y * B.z;
    std::string e;
    if (!nb || !nt || nt > 1024 || G.y > 65535 || G.z > 65535 || (int)smem > opt.max_smem) {
        snprintf(err, elen, "%s: invalid launch configuration", k->name);
        return 1;
    }
    if (host_ranges.empty()) dl_iterate_phdr(phdr_cb, nullptr);
    u32 nthr = opt.check ? 1 : opt.threads;
    std::atomic<u64> next{0};
    std::mutex em;
    auto body = [&] {
        Worker* w = worker();
        w->k = k;
        w->args = args;
        w->grid = G;
        w->block = B;
        w->nt = nt;
        w->dyn = smem;
        w->err.clear();
        w->last = nullptr;
        if (opt.check) w->clk = clk;
        w->launch_t = ++w->clk;
        w->rs = opt.seed * 0x9E3779B97F4A7C15ull | 1;
        for (u64 i; (i = next++) < nb;) {
            u64 j = opt.order == 1 ? nb - 1 - i : i;
            run_block(w, j % G.x, j / G.x % G.y, j / G.x / G.y);
            if (i + 1 >= nb) check_stacks(w);
            if (!w->err.empty()) {
                std::lock_guard<std::mutex> l(em);
                e = w->err;
                next = nb;
            }
        }
        if (opt.check) clk = w->clk;
        w->cur = nullptr;
        W = nullptr;
        std::lock_guard<std::mutex> l(pool_mu);
        pool.push_back(w);
    };
    if (nthr <= 1) body();
    else {
        std::vector<std::thread> t;
        for (u32 i = 0; i < nthr; i++) t.emplace_back(body);
        for (auto& x : t) x.join();
    }
    if (!e.empty()) {
        snprintf(err, elen, "%s", e.c_str());
        return 2;
    }
    return 0;
}
