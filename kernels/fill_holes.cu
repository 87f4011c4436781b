// fill_holes: background components (logit <= 0, 8-connected) of at most `area` pixels of a mask become `fill`. Twin of fill_holes_2d of src/volume/components.rs.
//
// logits [items, height, width] f32, in place. A NaN is no background. Exact: it compares and stores.
// Parallelisation: one block per mask. The pixels of a cell of 2 x 2 all touch one another, so the forest (union_find.cuh) is over cells, in shared memory: a thread
// takes every THREADS-th, joins each with its four earlier neighbours, and counts pixels per root (in the root's own word, which is no parent any more). A count
// stops growing once it is above `area`, so that thousands of cells of one background do not queue at one address; whether it is does not depend on the order.
// Flops: none to speak of. Bytes: 4 per pixel read, 4 per filled pixel written (and those pixels' cells are known from shared memory).
// Registers: about 30; see registers.csv. Shared memory: 5 bytes per cell, CELLS of them.
// Tried: roots in registers, in unrolled loops: their convergence barriers spill. Not tried: joining runs of a row by ballots first.
#include "union_find.cuh"

#ifndef ENTRY
#error "compile with -DENTRY, -DTHREADS and -DCELLS (the most a mask may have)"
#endif
constexpr u32 COUNT = 1u << 31;                            // marks the word of a root as its count
constexpr u32 LEFT = 5, RIGHT = 10, TOP = 3, BOTTOM = 12;  // pixels of a cell, bit 2 y + x

// Joins cell a to its earlier neighbour b if pixels of theirs touch: those of a on `side`, those of b facing them.
DEV void join(u32* parent, const u8* pixels, int a, int b, u32 side, u32 facing) {
    if ((pixels[a] & side) && (pixels[b] & facing)) unite(parent, a, b);
}

// Where the pixels of a cell's component are counted, once every cell's parent is its root.
DEV u32* counter(u32* parent, int cell) {
    const u32 word = load_relaxed(parent + cell);
    return parent + (word & COUNT ? cell : word);
}

KERNEL __launch_bounds__(THREADS) ENTRY(float* logits, int height, int width, int area, float fill) {
    SMEM_DYN(shared);
    u32* parent = (u32*)shared;          // [CELLS]
    u8* pixels = (u8*)(parent + CELLS);  // [CELLS], a bit each
    const int across = (width + 1) / 2, cells = across * ((height + 1) / 2);
    float* mask = logits + (size_t)blockIdx.x * height * width;

    for (int cell = threadIdx.x; cell < cells; cell += THREADS) {
        const int y = cell / across * 2, x = cell % across * 2;
        u32 background = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = y + i / 2, column = x + i % 2;
            if (row < height && column < width && mask[row * width + column] <= 0.f) background |= 1u << i;
        }
        parent[cell] = cell;
        pixels[cell] = background;
    }
    __syncthreads();
    for (int cell = threadIdx.x; cell < cells; cell += THREADS) {
        const int x = cell % across;
        if (!pixels[cell]) continue;
        if (x > 0) join(parent, pixels, cell, cell - 1, LEFT, RIGHT);
        if (cell < across) continue;  // the first row of cells
        if (x > 0) join(parent, pixels, cell, cell - across - 1, LEFT & TOP, RIGHT & BOTTOM);
        join(parent, pixels, cell, cell - across, TOP, BOTTOM);
        if (x + 1 < across) join(parent, pixels, cell, cell - across + 1, RIGHT & TOP, LEFT & BOTTOM);
    }
    __syncthreads();
    for (int cell = threadIdx.x; cell < cells; cell += THREADS) {
        const u32 root = find_root(parent, cell);
        if (root != cell) atomicMin(parent + cell, root);
    }
    __syncthreads();
    for (int cell = threadIdx.x; cell < cells; cell += THREADS)
        if (parent[cell] == cell) parent[cell] = COUNT;
    __syncthreads();
    for (int cell = threadIdx.x; cell < cells; cell += THREADS) {
        if (!pixels[cell]) continue;
        u32* count = counter(parent, cell);
        if ((load_relaxed(count) & ~COUNT) <= area) atomicAdd(count, __popc(pixels[cell]));
    }
    __syncthreads();
    for (int cell = threadIdx.x; cell < cells; cell += THREADS) {
        if (!pixels[cell] || (*counter(parent, cell) & ~COUNT) > area) continue;
        const int y = cell / across * 2, x = cell % across * 2;
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (pixels[cell] >> i & 1) mask[(y + i / 2) * width + x + i % 2] = fill;
    }
}
