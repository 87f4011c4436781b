// Device memory: one reserved range of addresses, never reused, with guard gaps between allocations, and a shadow cell per byte for the
// checker.
#pragma once

struct Cell {
    u32 ws, rs;
    u16 wt, rt;
};  // last write / read: stamp + who (0..1023 thread, 1024+w warp, 2047 many)
enum { WHO = 0x7ff, MANY = 0x7ff, ATOM = 0x800, PEND = 0x1000, INIT = 0x8000 };
struct Alloc {
    up lo;
    size_t n;
    Cell* cells;
};
static std::mutex mem_mu;
static std::map<up, Alloc> allocs;
static const size_t VA = 1ull << 38;  // mutants reserve as much each, in one process
static up va_base, va_next;
static Alloc* find_alloc(up a) {
    auto it = allocs.upper_bound(a);
    if (it == allocs.begin()) return nullptr;
    --it;
    return a < it->second.lo + it->second.n + 2048 ? &it->second : nullptr;
}
extern "C" void* emu_malloc(size_t n) {
    std::lock_guard<std::mutex> g(mem_mu);
    if (!va_base) {
        void* range = mmap(0, VA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (range == MAP_FAILED) return nullptr;
        va_base = (up)range;
        va_next = va_base + 4096;
    }
    if (n >= VA - 16384 || va_next + n + 16384 > va_base + VA) return nullptr;
    size_t pages = (n + 4095) & ~4095ull;
    up lo = va_next;
    va_next += pages + 8192;
    if (mprotect((void*)lo, pages, PROT_READ | PROT_WRITE)) return nullptr;
    memset((void*)lo, 0xff, n);
    Cell* c = nullptr;
    if (opt.check) c = (Cell*)mmap(0, n * sizeof(Cell) + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    allocs[lo] = {lo, n, c};
    return (void*)lo;
}
extern "C" void emu_free(void* p) {
    std::lock_guard<std::mutex> g(mem_mu);
    auto it = allocs.find((up)p);
    if (it == allocs.end()) return;
    Alloc a = it->second;
    allocs.erase(it);
    if (a.cells) munmap(a.cells, a.n * sizeof(Cell) + 1);
    mmap((void*)a.lo, (a.n + 4095) & ~4095ull, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}
extern "C" void emu_mark_init(void* p, size_t n) {  // host-to-device copy / memset
    std::lock_guard<std::mutex> g(mem_mu);
    Alloc* a = find_alloc((up)p);
    if (!a || !a->cells) return;
    for (size_t i = (up)p - a->lo, e = i + n; i < e && i < a->n; i++) a->cells[i].wt |= INIT;
}
