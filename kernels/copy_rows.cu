// copy_rows: pieces of memory to where a list says: items gathered, tokens put into a slot of lanes' rings, a slot copied over another. Exact.
//
// Every entry e of the list copies `pieces` runs of `units` UNITs each, run p from start + p from_stride to goal + p to_stride. With FIELDS 1 the list is
// [entries] numbers of source items, start = list[e] from_item and goal = e to_item; with FIELDS 2 it is [entries, 2], start and goal themselves. All in UNITs of
// UNIT bytes, so that an int reaches 32 GiB. No goal overlaps another entry's source or goal.
// Parallelisation: one thread per UNIT, neighbouring threads on neighbouring units of a run. Flops: none. Bytes: 2 UNIT per unit, and the list from L2.
// Registers: see registers.csv. Tried: nothing else; it is bound by memory.
#include "common.cuh"

#ifndef ENTRY
#error "compile with -DENTRY, -DUNIT (16 or 2 bytes) and -DFIELDS (1 or 2)"
#endif
constexpr int THREADS = 256;
#if UNIT == 16
typedef uint4 Unit;
#else
typedef u16 Unit;
#endif
static_assert(sizeof(Unit) == UNIT, "bytes of a unit");

KERNEL __launch_bounds__(THREADS) ENTRY(const u8* x, u8* y, const int* list, int entries, int pieces, int units, int from_item, int from_stride, int to_item, int to_stride) {
    const u64 index = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (index >= (u64)entries * pieces * units) return;
    const int unit = index % units;
    const u64 run = index / units;
    const int piece = run % pieces, entry = run / pieces;
    const size_t start = FIELDS == 1 ? (size_t)list[entry] * from_item : (size_t)list[2 * entry];
    const size_t goal = FIELDS == 1 ? (size_t)entry * to_item : (size_t)list[2 * entry + 1];
    ((Unit*)y)[goal + (size_t)piece * to_stride + unit] = ((const Unit*)x)[start + (size_t)piece * from_stride + unit];
}
