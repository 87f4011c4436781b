// attention: y = softmax(q k^T / sqrt(E)) v per head, without a score matrix in memory. Twin of src/ops/attention.rs.
//
// q, k, v: heads of width E (`width`), one after the other in columns of wider rows (`*_stride` elements apart), y [rows of q, heads * E]: bf16. Each window of queries
// sees a window of keys: all of an item's rows (window 0), or a square of a side x side map, of which the queries may come from a map of half the side (pool 2).
// What a window has beyond the map are n equal keys (padding_k, padding_v [heads * E]): one key whose score is raised by ln n.
// Parallelisation: a unit is (item, window, head, 16 TEAM queries). A TEAM of warps takes it, 16 queries per warp, and passes over the keys in tiles of KEYS, two of them in
// shared memory: one is used while cp.async (VECTOR 8) fills the other. TEAM 1: a block holds WARPS units, so that windows of 16 or 49 rows fill it; teams meet in
// __syncwarp only. SPLIT 1 (few queries, many keys): the WARPS teams of a block share one unit, each takes a range of its keys, and the partial sums are merged in the
// order of the keys; ranges follow from the number of keys alone. WIDTH is E rounded up, with zeros. Nothing depends on the number of items.
// mma m16n8k16 with sums in f32, reference of the exponent and sum of weights in f32. The weights p go into the second product as two bf16, p = high + low (PARTS 2): rounded to one they err
// by 2^-9 each, and where the sum over keys cancels, that is not small against the result (the rule of the tests fails there). It costs half a product more.
// Flops: 4 Q L E per head (6 are done). Bytes: 2 E (2 Q + 2 L ceil(Q / 16 TEAM)) per window and head, of which L2 serves the repeats.
// Registers: WIDTH / 2 for the sums, WIDTH / 4 for q unless it stays in shared memory (beyond WIDTH 128, and for teams beyond 64), KEYS / 2 for the scores; see
// registers.csv. Shared memory: 8 KEYS WIDTH per team, and 32 TEAM WIDTH for q if it stays there: 128 KiB at WIDTH 256, or 96 with half the KEYS, for sm_86, sm_89, sm_120.
// Instructions of a warp (benches/sass.py, sm_90a) per 32 keys: 552 at WIDTH 256, of which 192 are mma, and 127 to fetch the next; 292 and 55 at WIDTH 96 (103 in windows and at the end), 72 of them mma. Where sums were scaled at
// every tile and addresses worked out for each ldmatrix, 923 and about 260, 415 and about 190. Not timed on a GPU since.
// Tried: PARTS 1 (see above: in the smallest case an output of -0.0479 came out as -0.0474); q of WIDTH 96 in registers, which spills on sm_90a with three blocks per
// multiprocessor. Not tried: 32 queries per warp, which would halve the reads of shared memory (now 1 ldmatrix for 2 to 4 mma).
#include "common.cuh"

#ifndef ENTRY
#error "compile with -DENTRY, -DWIDTH, -DKEYS, -DWARPS, -DTEAM, -DSPLIT, -DVECTOR and -DPARTS"
#endif
constexpr int TEAMS = WARPS / TEAM, TEAM_THREADS = TEAM * LANES, QUERIES = TEAM * 16;
constexpr int CHUNKS = WIDTH / 8, STEPS = WIDTH / 16;  // of a row: 16 bytes, and one mma deep
constexpr int TILE = KEYS * WIDTH;
constexpr bool SHARED_QUERIES = WIDTH > 128 || (WIDTH > 64 && TEAM > 1);
constexpr int TEAM_ELEMENTS = 4 * TILE + (SHARED_QUERIES ? QUERIES * WIDTH : 0);
constexpr int BLOCKS = WIDTH == 96 ? 3 : 1;  // that a multiprocessor shall hold at least
constexpr float LOWEST = -1e30f, SLACK = 8.f;
static_assert(WIDTH % 16 == 0 && KEYS % 16 == 0, "fragments are 16 x 16");
static_assert(TEAM == 1 || TEAM == WARPS, "a team is a warp or the block");
static_assert(!SPLIT || TEAM == 1, "ranges of keys are taken by warps");
static_assert(KEYS * CHUNKS % TEAM_THREADS == 0 && QUERIES * CHUNKS % TEAM_THREADS == 0, "threads of a team copy equally much");
static_assert(VECTOR == 8 || VECTOR == 1, "16 bytes or one element");

// Rows of a rectangle of a map, counted line by line.
struct Rows {
    int first, side, width, count;
    float inverse;  // of width
};

DEV Rows rectangle(int side, int top, int left, int height, int width) {
    return {top * side + left, side, width, height * width, 1.f / width};
}

// Queries, the keys they see, and how many padding tokens there are besides.
struct Window {
    Rows queries, keys;
    int copies;
};

// Square number `index` of a side x side map.
DEV Window window_of(int index, int side, int window, int pool) {
    const int across = (side + window - 1) / window;
    const int top = index / across * window, left = index % across * window, bottom = min(top + window, side), right = min(left + window, side);
    const Rows queries = rectangle(side / pool, top / pool, left / pool, bottom / pool - top / pool, right / pool - left / pool);
    return {queries, rectangle(side, top, left, bottom - top, right - left), window * window - (bottom - top) * (right - left)};
}

// Row number i. The quotient is exact for maps of less than 2^21 rows: i + 0.5 is further from a multiple of width than the product errs.
DEV int row_of(const Rows& rows, int i) {
    const int line = (int)((i + 0.5f) * rows.inverse);
    return rows.first + line * rows.side + i - line * rows.width;
}

// By how much the chunks of row `row` of a tile are turned, so that the eight rows an ldmatrix phase reads lie in eight different groups of banks.
constexpr int TURNS = CHUNKS % 8 == 0 ? 8 : CHUNKS % 4 == 0 ? 4 : 2;
DEV int turn_of(int row) { return TURNS == 8 ? row & 7 : TURNS == 4 ? row >> 1 & 3 : row >> 2 & 1; }

// Offset of chunk `chunk` of row `row` in a tile.
DEV int place(int row, int chunk) { return row * WIDTH + ((chunk ^ turn_of(row)) << 3); }

// Chunk 2 `step` + `lane_chunk` (0 or 1) of row `row` + `lane_row` of a tile. Turns repeat every eight rows, of which `row` is a multiple: what depends on the lane is the same
// for all of them but for the lowest bits of the step.
DEV const bf16* piece(const bf16* tile, int row, int lane_row, int step, int lane_chunk) {
    const int chunk = lane_chunk ^ turn_of(lane_row) ^ (2 * step & (TURNS - 1));
    return tile + (lane_row * WIDTH + (chunk << 3)) + (row * WIDTH + 2 * step / TURNS * TURNS * 8);
}

DEV void team_sync() {
    if constexpr (TEAM == 1) __syncwarp();
    else __syncthreads();
}

// `elements` (8, or fewer with VECTOR 1) of `from`, then zeros.
DEV void copy_chunk(bf16* to, const bf16* from, int elements) {
    if constexpr (VECTOR == 8) {
        cp_async16(to, from, elements > 0 ? 16 : 0);
    } else {
#pragma unroll
        for (int e = 0; e < 8; e++) {
            bf16 v = {0};
            if (e < elements) v = from[e];
            to[e] = v;
        }
    }
}

// Two neighbouring elements of a row of `width` from `column` on.
DEV u32 load_pair(const bf16* row, int column, int width) {
    if constexpr (VECTOR == 8) return column < width ? *(const u32*)(row + column) : 0;
    const u32 low = column < width ? row[column].bits : 0, high = column + 1 < width ? row[column + 1].bits : 0;
    return low | high << 16;
}

DEV void store_pair(bf16* row, int column, int width, float a, float b) {
    if constexpr (VECTOR == 8) {
        if (column < width) *(u32*)(row + column) = pack_bf16(a, b);
    } else {
        if (column < width) row[column] = to_bf16(a);
        if (column + 1 < width) row[column + 1] = to_bf16(b);
    }
}

// s [16 queries, KEYS] = q k^T; q in registers, or from row `row` of shared memory.
DEV void product_scores(float (&s)[KEYS / 8][4], const u32 (&q)[SHARED_QUERIES ? 1 : STEPS][4], const bf16* queries, int row, const bf16* keys) {
    const int lane = threadIdx.x % LANES;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        u32 a[4];
        if constexpr (SHARED_QUERIES) {
            ldmatrix_x4(a, piece(queries + row * WIDTH, 0, lane % 16, step, lane / 16));
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = q[step][i];
        }
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            u32 b[4];
            ldmatrix_x4(b, piece(keys, j * 16, lane % 8 + lane / 16 * 8, step, lane / 8 % 2));
            mma_bf16(s[2 * j], a, b[0], b[1]);
            mma_bf16(s[2 * j + 1], a, b[2], b[3]);
        }
    }
}

// Of the last tile, which begins with key `first`: padding's key stands for `copies` of them, and after it there is none.
DEV void bound(float (&s)[KEYS / 8][4], int first, int count, int copies, float scale) {
    const float raised = copies > 0 ? __fdividef(log2f((float)copies), scale) : 0.f;
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int key = first + j * 8 + threadIdx.x % LANES % 4 * 2 + e % 2;
            if (key >= count + (copies > 0)) s[j][e] = LOWEST;
            else if (key >= count) s[j][e] += raised;
        }
}

// Scores to weights 2^(scale (s - top)), and their sum. `top` follows the maximum when a score is far beyond it, and what was summed before with it: weights stay below
// 2^SLACK. Each row decides for itself, so that results do not depend on the others of its warp.
DEV void soften(float (&s)[KEYS / 8][4], float (&o)[WIDTH / 8][4], float (&top)[2], float (&sum)[2], float scale) {
    float most[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {  // rows lane / 4 and lane / 4 + 8, each in the four lanes of a quad
        most[half] = fmaxf(s[0][half * 2], s[0][half * 2 + 1]);
#pragma unroll
        for (int j = 1; j < KEYS / 8; j++) most[half] = fmaxf(most[half], fmaxf(s[j][half * 2], s[j][half * 2 + 1]));
    }
    if (__any_sync(WHOLE_WARP, fmaxf(most[0] - top[0], most[1] - top[1]) * scale > SLACK)) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            most[half] = fmaxf(most[half], __shfl_xor_sync(WHOLE_WARP, most[half], 1));
            most[half] = fmaxf(most[half], __shfl_xor_sync(WHOLE_WARP, most[half], 2));
            if ((most[half] - top[half]) * scale <= SLACK) continue;
            const float shrink = exp2_approx((top[half] - most[half]) * scale);
            top[half] = most[half];
            sum[half] *= shrink;
#pragma unroll
            for (int j = 0; j < WIDTH / 8; j++) o[j][half * 2] *= shrink, o[j][half * 2 + 1] *= shrink;
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float reference = top[half] * scale;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int e = half * 2; e < half * 2 + 2; e++) {
                s[j][e] = exp2_approx(s[j][e] * scale - reference);
                sum[half] += s[j][e];
            }
    }
}

// What the rounded pair leaves of a and b.
DEV u32 remainder_bf16(u32 rounded, float a, float b) { return pack_bf16(a - low_f32(rounded), b - high_f32(rounded)); }

// o [16 queries, WIDTH] += p v.
DEV void product_values(float (&o)[WIDTH / 8][4], const float (&p)[KEYS / 8][4], const bf16* values) {
    const int lane = threadIdx.x % LANES;
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
        u32 high[4], low[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float a = p[2 * k + i / 2][i % 2 * 2], b = p[2 * k + i / 2][i % 2 * 2 + 1];
            high[i] = pack_bf16(a, b);
            low[i] = remainder_bf16(high[i], a, b);
        }
#pragma unroll
        for (int j = 0; j < STEPS; j++) {
            u32 b[4];
            ldmatrix_x4_trans(b, piece(values, k * 16, lane % 16, j, lane / 16));
            mma_bf16(o[2 * j], high, b[0], b[1]);
            mma_bf16(o[2 * j + 1], high, b[2], b[3]);
            if constexpr (PARTS == 2) {
                mma_bf16(o[2 * j], low, b[0], b[1]);
                mma_bf16(o[2 * j + 1], low, b[2], b[3]);
            }
        }
    }
}

// Partial results of one query: WIDTH sums, the reference of the exponent and the sum of weights. Merged over the ranges of keys, first to last, into a pair of columns of y.
constexpr int PARTIAL = WIDTH + 2;
DEV void store_merged(const float* partial, bf16* y_row, int column, int width, float scale) {
    float most = LOWEST, total = 0.f, a = 0.f, b = 0.f;
    for (int w = 0; w < WARPS; w++) most = fmaxf(most, partial[w * 16 * PARTIAL + WIDTH]);
    for (int w = 0; w < WARPS; w++) {
        const float* part = partial + w * 16 * PARTIAL;
        const float weight = exp2_approx((part[WIDTH] - most) * scale);  // of a range without keys: 0
        total += part[WIDTH + 1] * weight;
        a += part[column] * weight, b += part[column + 1] * weight;
    }
    store_pair(y_row, column, width, a / total, b / total);
}

KERNEL __launch_bounds__(WARPS* LANES, BLOCKS) ENTRY(const bf16* q, const bf16* k, const bf16* v, const bf16* padding_k, const bf16* padding_v, bf16* y, int q_stride, int k_stride, int v_stride, int heads, int width, int query_rows, int key_rows, int side, int window, int pool, int query_tiles, int units, float scale) {
    SMEM_DYN(shared);
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const int team = TEAM == 1 ? warp : 0, team_thread = threadIdx.x % TEAM_THREADS;
    const int unit = SPLIT ? blockIdx.x : blockIdx.x * TEAMS + team;
    if (unit >= units) return;  // a whole team
    const int across = window ? (side + window - 1) / window : 1;
    const int first_query = unit % query_tiles * QUERIES, head = unit / query_tiles % heads, index = unit / query_tiles / heads % (across * across);
    const size_t item = unit / query_tiles / heads / (across * across);
    const Window seen = window ? window_of(index, side, window, pool) : Window{rectangle(query_rows, 0, 0, 1, query_rows), rectangle(key_rows, 0, 0, 1, key_rows), 0};
    const Rows queries = seen.queries, keys = seen.keys;
    if (first_query >= queries.count) return;  // windows at the border may have fewer queries
    const int total = keys.count + (seen.copies > 0);

    bf16* ring = (bf16*)shared + team * TEAM_ELEMENTS;  // two stages of [2, KEYS, WIDTH]: keys and values
    bf16* query_tile = ring + 4 * TILE;                 // [QUERIES, WIDTH]
    q += item * query_rows * q_stride + head * width;
    k += item * key_rows * k_stride + head * width;
    v += item * key_rows * v_stride + head * width;
    auto load = [&](int tile) {
        bf16* stage = ring + tile % 2 * 2 * TILE;
        if (VECTOR == 8 && TEAM > 1 && WIDTH <= 128 && !window && (tile + 1) * KEYS <= keys.count) {  // whole tiles of neighbouring rows; beyond WIDTH 128 it spills
#pragma unroll
            for (int i = 0; i < KEYS * CHUNKS / TEAM_THREADS; i++) {
                const int at = team_thread + i * TEAM_THREADS, chunk = at % CHUNKS, to = place(at / CHUNKS, chunk);
                const u64 row = tile * KEYS + at / CHUNKS;
                const u32 bytes = chunk * 8 < width ? 16 : 0;
                cp_async16(stage + to, (const u8*)(k + chunk * 8) + row * (u32)(2 * k_stride), bytes);  // 32 x 32 bits and a sum: one instruction
                cp_async16(stage + TILE + to, (const u8*)(v + chunk * 8) + row * (u32)(2 * v_stride), bytes);
            }
            return;
        }
#pragma unroll (VECTOR == 8 ? 8 : 1)  // side by side: a row's address is a chain of conversions
        for (int i = 0; i < KEYS * CHUNKS / TEAM_THREADS; i++) {
            const int at = team_thread + i * TEAM_THREADS, chunk = at % CHUNKS, key = tile * KEYS + at / CHUNKS;
            const int elements = key < total ? width - chunk * 8 : 0;  // what is beyond is not read
            const u64 row = (u32)row_of(keys, min(key, keys.count - 1));
            const bf16 *key_row = k + row * (u32)k_stride, *value_row = v + row * (u32)v_stride;  // 32 x 32 bits: one instruction
            if (key >= keys.count) key_row = padding_k + head * width, value_row = padding_v + head * width;
            key_row += chunk * 8, value_row += chunk * 8;
            copy_chunk(stage + place(at / CHUNKS, chunk), key_row, elements);
            copy_chunk(stage + TILE + place(at / CHUNKS, chunk), value_row, elements);
        }
    };

    // This lane's two queries, and the first tiles.
    int row[2];
    u32 a[SHARED_QUERIES ? 1 : STEPS][4];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int query = first_query + (TEAM == 1 ? 0 : warp) * 16 + half * 8 + lane / 4;
        row[half] = query < queries.count ? row_of(queries, query) : -1;
        if constexpr (!SHARED_QUERIES) {
#pragma unroll
            for (int step = 0; step < STEPS; step++)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    a[step][half + 2 * i] = row[half] < 0 ? 0 : load_pair(q + (size_t)row[half] * q_stride, step * 16 + i * 8 + lane % 4 * 2, width);
        }
    }
    if constexpr (SHARED_QUERIES) {
        for (int at = team_thread; at < QUERIES * CHUNKS; at += TEAM_THREADS) {
            const int query = first_query + at / CHUNKS, chunk = at % CHUNKS;
            const int elements = query < queries.count ? width - chunk * 8 : 0;
            copy_chunk(query_tile + place(at / CHUNKS, chunk), elements > 0 ? q + (size_t)row_of(queries, query) * q_stride + chunk * 8 : q, elements);
        }
    }
    const int tiles = (total + KEYS - 1) / KEYS, range = SPLIT ? (tiles + WARPS - 1) / WARPS : tiles;
    const int begin = SPLIT ? warp * range : 0, end = min(begin + range, tiles);
    float o[WIDTH / 8][4] = {}, top[2] = {LOWEST, LOWEST}, sum[2] = {0.f, 0.f};
    if (begin < end) load(begin);
    cp_async_commit();
    for (int tile = begin; tile < end; tile++) {
        cp_async_wait<0>();
        team_sync();  // this tile is there for all, and all have read the stage that is refilled now
        if (tile + 1 < end) load(tile + 1);
        cp_async_commit();
        const bf16* stage = ring + tile % 2 * 2 * TILE;
        float s[KEYS / 8][4] = {};
        product_scores(s, a, query_tile, (TEAM == 1 ? 0 : warp) * 16, stage);
        if ((tile + 1) * KEYS > keys.count) bound(s, tile * KEYS, keys.count, seen.copies, scale);
        soften(s, o, top, sum, scale);
        product_values(o, s, stage + TILE);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        sum[half] += __shfl_xor_sync(WHOLE_WARP, sum[half], 1);
        sum[half] += __shfl_xor_sync(WHOLE_WARP, sum[half], 2);
    }

    y += item * query_rows * heads * width + head * width;
    if constexpr (SPLIT) {
        float* partial = (float*)shared;  // [WARPS, 16, PARTIAL]
        __syncthreads();                  // all have read their tiles
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float* mine = partial + (warp * 16 + half * 8 + lane / 4) * PARTIAL;
#pragma unroll
            for (int j = 0; j < WIDTH / 8; j++) mine[j * 8 + lane % 4 * 2] = o[j][half * 2], mine[j * 8 + lane % 4 * 2 + 1] = o[j][half * 2 + 1];
            if (lane % 4 == 0) mine[WIDTH] = top[half], mine[WIDTH + 1] = sum[half];
        }
        __syncthreads();
        for (int at = threadIdx.x; at < 16 * WIDTH / 2; at += WARPS * LANES) {
            const int query = first_query + at / (WIDTH / 2), column = at % (WIDTH / 2) * 2;
            if (query < queries.count) store_merged(partial + at / (WIDTH / 2) * PARTIAL, y + (size_t)row_of(queries, query) * heads * width, column, width, scale);
        }
    } else {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if (row[half] < 0) continue;
            const float factor = 1.f / sum[half];
#pragma unroll
            for (int j = 0; j < WIDTH / 8; j++)
                store_pair(y + (size_t)row[half] * heads * width, j * 8 + lane % 4 * 2, width, o[j][half * 2] * factor, o[j][half * 2 + 1] * factor);
        }
    }
}
