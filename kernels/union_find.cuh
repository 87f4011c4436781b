// A forest of disjoint sets that many threads join at once, without locks. parent[x] <= x always and only ever falls, so a set's root is its smallest member,
// whatever the order of the joins: the result is deterministic. `parent` lies in shared or in global memory.
#pragma once
#include "common.cuh"

// The root of x; the path is halved on the way: any ancestor is as good a parent.
DEV u32 find_root(u32* parent, u32 x) {
    for (;;) {
        const u32 above = load_relaxed(parent + x);
        if (above == x) return x;
        const u32 next = load_relaxed(parent + above);
        if (next == above) return above;
        atomicMin(parent + x, next);
        x = next;
    }
}

// Joins the sets of a and b. A link that another thread's smaller one replaces, or that loses to it, is made again from what stood there.
DEV void unite(u32* parent, u32 a, u32 b) {
    for (;;) {
        a = find_root(parent, a);
        b = find_root(parent, b);
        if (a == b) return;
        const u32 first = a < b ? a : b, second = a < b ? b : a;
        const u32 old = atomicMin(parent + second, first);
        if (old == second) return;
        a = old;
        b = first;
    }
}
