// components: the 26-connected components of one class of a label volume are counted, and all but the largest (of equals, the one whose first voxel comes first)
// are erased. Twin of largest_component of src/volume/components.rs.
//
// labels [depth, height, width] u8, in place, up to 2^31 voxels; found [3] u32: components, voxels of the largest, its first voxel (2^32 - 1: none).
// scratch, per cell of 2 x 2 x 2 voxels: parent u32, size u32, voxels u8 (one bit each): 9/8 byte per voxel, where a parent per voxel would take 4 to 8.
// Parallelisation: voxels of a cell all touch one another, so the forest (union_find.cuh) is over cells, one thread each. Six passes, a launch each (PASS):
//   LOCAL   tiles of 16 x 4 x 4 cells (rows of 32 bytes): voxels of the class, joined within the tile in shared memory; tile sizes at the tile's roots
//   MERGE   cells at the sides of tiles are joined with those of other tiles
//   COUNT   tile sizes are added to the roots', roots counted, paths shortened to one step
//   LARGEST the largest size      FIRST the first voxel of all components of that size      ERASE the others' voxels become 0
// All atomics are on integers and commute: the result does not depend on their order.
// Flops: none to speak of. Bytes: per voxel 1 read, 9/8 written, about 5/8 read in each later pass, and 1 written where voxels are erased.
// Registers: at most 32; see registers.csv. Shared memory: 9 bytes per cell of a tile, in LOCAL.
// Tried: the smallest cell as a component's first one; wrong, since cells are not in the order of their first voxels: hence FIRST.
// Not tried: leaving out joins in MERGE that follow from others (a solid joins each cell of a face up to nine times; all but the first find equal roots).
#include "union_find.cuh"

#ifndef ENTRY
#error "compile with -DENTRY and -DPASS (LOCAL, MERGE, COUNT, LARGEST, FIRST, ERASE)"
#endif
enum Pass { LOCAL, MERGE, COUNT, LARGEST, FIRST, ERASE };
constexpr int TILE_X = 16, TILE_Y = 4, TILE_Z = 4, THREADS = TILE_X * TILE_Y * TILE_Z;
constexpr u32 NONE = 0xffffffffu;
constexpr int EARLIER = 13;  // of the 26 directions, those to earlier cells

struct Cell {
    int z, y, x;
};
struct Volume {
    int depth, height, width;
    Cell cells;  // numbers of cells
};
DEV u32 index_of(const Volume& v, Cell c) { return ((u32)c.z * v.cells.y + c.y) * v.cells.x + c.x; }
DEV Cell cell_at(const Volume& v, u32 index) {
    const u32 row = index / v.cells.x;
    return {(int)(row / v.cells.y), (int)(row % v.cells.y), (int)(index % v.cells.x)};
}
DEV bool has_cell(const Volume& v, Cell c) { return c.z >= 0 && c.y >= 0 && c.x >= 0 && c.z < v.cells.z && c.y < v.cells.y && c.x < v.cells.x; }
// Voxel `bit` (4 z + 2 y + x) of a cell: whether the volume has it, and where.
DEV bool has_voxel(const Volume& v, Cell c, int bit) { return c.z * 2 + bit / 4 < v.depth && c.y * 2 + bit / 2 % 2 < v.height && c.x * 2 + bit % 2 < v.width; }
DEV u32 voxel_of(const Volume& v, Cell c, int bit) { return ((u32)(c.z * 2 + bit / 4) * v.height + (c.y * 2 + bit / 2 % 2)) * v.width + (c.x * 2 + bit % 2); }

DEV Cell direction(int number) { return {number / 9 - 1, number / 3 % 3 - 1, number % 3 - 1}; }

// The voxels of a cell that touch the neighbour in direction d.
DEV u32 side(int z, int y, int x) {
    const u32 of_z = z < 0 ? 0x0f : z > 0 ? 0xf0 : 0xff;
    const u32 of_y = y < 0 ? 0x33 : y > 0 ? 0xcc : 0xff;
    const u32 of_x = x < 0 ? 0x55 : x > 0 ? 0xaa : 0xff;
    return of_z & of_y & of_x;
}
DEV bool touch(u32 own, u32 other, Cell d) { return (own & side(d.z, d.y, d.x)) && (other & side(-d.z, -d.y, -d.x)); }

DEV void local(const u8* labels, u32* parent, u32* sizes, u8* voxels, Volume volume, int wanted) {
    SMEM(u32, tile_parent, [THREADS]);
    SMEM(u32, tile_size, [THREADS]);
    SMEM(u8, tile_voxels, [THREADS]);
    const int t = threadIdx.x;
    const u32 tiles_x = (volume.cells.x + TILE_X - 1) / TILE_X, tiles_y = (volume.cells.y + TILE_Y - 1) / TILE_Y;
    const Cell in_tile = {t / (TILE_X * TILE_Y), t / TILE_X % TILE_Y, t % TILE_X};
    const Cell first = {(int)(blockIdx.x / tiles_x / tiles_y) * TILE_Z, (int)(blockIdx.x / tiles_x % tiles_y) * TILE_Y, (int)(blockIdx.x % tiles_x) * TILE_X};
    const Cell cell = {first.z + in_tile.z, first.y + in_tile.y, first.x + in_tile.x};
    u32 own = 0;
    if (has_cell(volume, cell)) {
#pragma unroll
        for (int bit = 0; bit < 8; bit++)
            if (has_voxel(volume, cell, bit) && labels[voxel_of(volume, cell, bit)] == wanted) own |= 1u << bit;
    }
    tile_parent[t] = t;
    tile_size[t] = 0;
    tile_voxels[t] = own;
    __syncthreads();
    for (int i = 0; own && i < EARLIER; i++) {
        const Cell d = direction(i);
        const int z = in_tile.z + d.z, y = in_tile.y + d.y, x = in_tile.x + d.x;
        if (z < 0 || y < 0 || x < 0 || y >= TILE_Y || x >= TILE_X) continue;
        const int other = (z * TILE_Y + y) * TILE_X + x;
        if (touch(own, tile_voxels[other], d)) unite(tile_parent, t, other);
    }
    __syncthreads();
    const u32 root = find_root(tile_parent, t);
    if (own) atomicAdd(tile_size + root, __popc(own));
    __syncthreads();
    if (!has_cell(volume, cell)) return;
    const int r = root;
    const Cell root_cell = {first.z + r / (TILE_X * TILE_Y), first.y + r / TILE_X % TILE_Y, first.x + r % TILE_X};
    const u32 at = index_of(volume, cell);
    parent[at] = own ? index_of(volume, root_cell) : NONE;
    sizes[at] = tile_size[t];
    voxels[at] = own;
}

DEV void merge(u32* parent, const u8* voxels, Volume volume, u32 at) {
    const u32 own = voxels[at];
    const Cell cell = cell_at(volume, at);
    for (int i = 0; own && i < EARLIER; i++) {
        const Cell d = direction(i), other = {cell.z + d.z, cell.y + d.y, cell.x + d.x};
        const bool same_tile = other.z / TILE_Z == cell.z / TILE_Z && other.y / TILE_Y == cell.y / TILE_Y && other.x / TILE_X == cell.x / TILE_X;
        if (!has_cell(volume, other) || same_tile) continue;
        const u32 index = index_of(volume, other);
        if (touch(own, voxels[index], d)) unite(parent, at, index);
    }
}

// For a whole warp: `at` may lie beyond the cells.
DEV void count(u32* parent, u32* sizes, u32* found, u32 at, u32 cells) {
    bool is_root = false;
    if (at < cells && load_relaxed(parent + at) != NONE) {
        const u32 root = find_root(parent, at);
        is_root = root == at;
        if (!is_root) {
            atomicMin(parent + at, root);
            if (sizes[at]) atomicAdd(sizes + root, sizes[at]);  // nothing is added to a cell that is no root
        }
    }
    const u32 roots = __ballot_sync(WHOLE_WARP, is_root);
    if (roots && threadIdx.x % LANES == 0) atomicAdd(found, __popc(roots));
}

DEV void first_voxel(const u32* parent, const u32* sizes, const u8* voxels, u32* found, Volume volume, u32 at) {
    if (parent[at] == NONE || sizes[parent[at]] != found[1]) return;
    const u32 voxel = voxel_of(volume, cell_at(volume, at), __ffs(voxels[at]) - 1);
    if (voxel < load_relaxed(found + 2)) atomicMin(found + 2, voxel);
}

DEV void erase(u8* labels, const u32* parent, const u8* voxels, const u32* found, Volume volume, u32 at) {
    if (parent[at] == NONE) return;
    const u32 row = found[2] / volume.width;
    const Cell kept = {(int)(row / volume.height / 2), (int)(row % volume.height / 2), (int)(found[2] % volume.width / 2)};
    if (parent[at] == parent[index_of(volume, kept)]) return;
    const Cell cell = cell_at(volume, at);
#pragma unroll
    for (int bit = 0; bit < 8; bit++)
        if (voxels[at] >> bit & 1) labels[voxel_of(volume, cell, bit)] = 0;
}

KERNEL __launch_bounds__(THREADS) ENTRY(u8* labels, u32* parent, u32* sizes, u8* voxels, u32* found, int depth, int height, int width, int wanted) {
    const Volume volume = {depth, height, width, {depth / 2 + depth % 2, height / 2 + height % 2, width / 2 + width % 2}};
    const u32 cells = (u32)volume.cells.z * volume.cells.y * volume.cells.x;
    if (cells == 0) return;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    if constexpr (PASS == LOCAL) {
        if (blockIdx.x == 0 && threadIdx.x == 0) found[0] = 0, found[1] = 0, found[2] = NONE;
        local(labels, parent, sizes, voxels, volume, wanted);
        return;
    }
    if constexpr (PASS == COUNT) {
        count(parent, sizes, found, at, cells);
        return;
    }
    if (at >= cells) return;
    if constexpr (PASS == MERGE) merge(parent, voxels, volume, at);
    if constexpr (PASS == LARGEST) {
        if (parent[at] == at && sizes[at] > load_relaxed(found + 1)) atomicMax(found + 1, sizes[at]);
    }
    if constexpr (PASS == FIRST) first_voxel(parent, sizes, voxels, found, volume, at);
    if constexpr (PASS == ERASE) erase(labels, parent, voxels, found, volume, at);
}
