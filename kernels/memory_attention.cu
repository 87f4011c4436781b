// memory_attention: softmax(q K^T / sqrt(D)) M over the tokens of several lanes' memories, by axial absorption, unfinished: per query weighted tokens, reference of
// the exponent and sum of weights. Twin of src/ops/memory_attention.rs, between memory_attention_tables.cu and memory_attention_merge.cu.
//
// The score of query i, token m at (x, y) with temporal index t is, in powers of two, (X_i[x] + Y_i[y]) . (m + place[t][x, y]) + bX_i[x] + bY_i[y], with the tables of
// memory_attention_tables.cu and place [times, positions, 64] f16 = spatial + temporal position. A pointer's key is a token without rotation: since R(0) = 1 it stands
// at position 0, without a place. tables, biases: see there. lanes: see memory.cuh. partial [splits, lanes * positions, 66] f32: weighted tokens, reference, sum.
//
// Parallelisation: a block takes 32 WARPS queries of one lane and one split: STRIP columns of the grid, of the rows of one part. Every thread keeps its own
// fragments of X of the strip in shared memory (16-byte slots of its own: no conflict, no barrier) and of Y[y] in registers; their f16 sum is the left operand
// for all tokens of a position, which come in tiles of TOKENS: of up to 16 or 32 tokens four or two positions of a row at a time, so that a barrier, a wait and the
// turning of a tile serve them all; of more, one position or a part of one. All threads start the copy of the next tile while this one is computed, and then turn it, in place, into
// keys (token + place) and values. Splits follow from the grid and the number of tokens alone. Splits of the same queries and lanes run side by side, so that
// tables and tokens are read from memory about once and else from L2.
// Flops: 4 . 64 per query and token (the first product by eights, the second by sixteens: 19 tokens at a position cost 24 and 32). Bytes from L2 per query and position: 128 / STRIP (Y) + 128 / height (X)
// + 1 per token; from shared memory 64 bytes per clock at the full rate of the tensor cores (half of what there is, because a fragment of tokens serves 32 queries).
// Registers: 64 sums, 32 Y, 32 X + Y, 32 scores; on sm_120 a few bytes are spilled (NVRTC 12.9: 8 stored, 8 loaded). Shared memory 160 KiB: one block of 8 warps per multiprocessor of sm_80; 96 KiB with
// strips of 2 columns, for sm_86, sm_89 and sm_120, which read Y twice as often and share a tile between two positions at most.
// Accuracy: operands are f16, not bf16, at the same speed: tokens are bf16, which f16 holds exactly (from 6e-5 to 65504), and X + Y, token + place, and weights gain 3 bits. With bf16
// weights alone the rule of the tests would be at its limit. The reference of the exponent is moved only when a score exceeds it by 8: weights stay below 2^8.
// Each row decides for itself, so that results do not depend on the others of its warp. The sums of the first product start from a position's biases less the reference.
// Instructions of a warp (benches/sass.py, sm_90a): 62 for a position's X + Y and biases, and for its tokens 210 (17 to 24), 239 (to 32), 383 (41 to 48), 478 (57 to 64); before, with
// the shift added later, tails by sixteen and an address worked out for each ldmatrix: 84 (of which four loads of biases, each of eight cache lines, were waited for), and 385, 333, 541, 666. A position of 17 to 32 tokens has half a tile's 131 besides (165 before).
// Not timed on a GPU since.
// Tried (H200): fewer instructions per token, by packed maxima, sums through mma and products of neighbouring chunks side by side: 4 % faster at 46 tokens a position, 4 to 6 % slower at 19.
// A position then cost 1.6 us per block whatever its tokens, see benches/runs/2026-11-27-h200; that several share a tile is since then, and has not been timed on a GPU.
// Tried and counted: weights too large found by their sums, which spares the maxima but keeps exponentials and the second product apart: as many instructions.
// Several lanes in a block would read no less: a tile serves 256 queries, be they of one lane or of several.
// Not tried: m16n8k8 for an odd group of 8 tokens; reaching for tokens and Y more than a tile ahead; tokens in f16 in the memory bank, which would not have to be turned.
#include "memory.cuh"
#include "tile.cuh"

#ifndef ENTRY
#error "compile with -DENTRY, -DSTRIP, -DWARPS and -DTOKENS (of a tile)"
#endif
constexpr int M = 64, THREADS = WARPS * LANES, QUERIES = 32 * WARPS;
constexpr int TILE = TOKENS * M;
constexpr int ROUNDS = TOKENS * (M / 8) / THREADS;  // 16-byte pieces of a tile per thread
static_assert(ROUNDS * THREADS == TOKENS * (M / 8) && TOKENS == 64, "every thread has as many pieces; a quarter of a tile is 16 tokens");
constexpr int STRIDE = THREADS / (M / 8);               // slots between a thread's pieces, which does not change their swizzle
static_assert(STRIDE % 8 == 0, "the swizzle repeats every eight rows");
constexpr float SLACK = 8.f;
constexpr float ANY_SCORE = 2.f * NO_SCORE;  // a limit that is below all scores, of rows without a token yet

// A tile of tokens: from `first` on those at column x, row y, and, where a tile has room for several positions, all at the columns after it.
struct Cursor {
    int x, y, first;
};

DEV u32 f16_of(u32 pair) { return pack_f16(low_f32(pair), high_f32(pair)); }
DEV uint4 f16_of(uint4 v) { return make_uint4(f16_of(v.x), f16_of(v.y), f16_of(v.z), f16_of(v.w)); }
DEV uint4 sum_of(uint4 a, uint4 b) { return make_uint4(add_f16(a.x, b.x), add_f16(a.y, b.y), add_f16(a.z, b.z), add_f16(a.w, b.w)); }

// Where a thread's piece of the first tile of a position comes from: the token at position 0, how much further it is at the next, and its place. Without a token: nowhere.
struct Source {
    const u8* value;
    int step, place;  // bytes, elements
};

DEV Source source_of(const Memory& memory, const int* times, const bf16* places, int positions, int token, int ahead) {
    const int column = threadIdx.x % 8 * 8, recent = token - memory.conditioning_count;
    if (recent >= memory.recent_count) return {(const u8*)places, 0, 0};
    const int place = (times[memory.times + token] * positions + ahead) * M + column;
    if (recent >= 0) return {(const u8*)(memory.recent + (ahead * memory.recent_slots + recent) * M + column), memory.recent_slots * M * 2, place};
    return {(const u8*)(memory.conditioning + (ahead * memory.conditioning_slots + token) * M + column), memory.conditioning_slots * M * 2, place};
}

// Starts the copies of this thread's pieces of a tile: tokens to `values`, what their keys are made with to `keys`. Tokens from `count` on are zeros.
DEV void fetch(bf16* keys, bf16* values, const Memory& memory, const int* times, const bf16* places, int position, int positions, int first, int count) {
    const int chunk = threadIdx.x % 8;
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const int slot = threadIdx.x / 8 + i * STRIDE, token = first + slot;
        const int recent = token - memory.conditioning_count, pointer = recent - memory.recent_count;
        const bf16 *value = places, *other = places;
        const bool inside = token < count;
        if (inside && pointer >= 0) {
            value = memory.pointer_values + (size_t)pointer * M;
            other = memory.pointer_keys + (size_t)pointer * M;
        } else if (inside) {
            value = recent < 0 ? memory.conditioning + ((size_t)position * memory.conditioning_slots + token) * M
                               : memory.recent + ((size_t)position * memory.recent_slots + recent) * M;
            other = places + ((size_t)times[memory.times + token] * positions + position) * M;
        }
        const int at = swizzled<M>(slot, chunk);
        cp_async16(values + at, value + chunk * 8, inside ? 16 : 0);
        cp_async16(keys + at, other + chunk * 8, inside ? 16 : 0);
    }
    cp_async_commit();
}

// Turns this thread's pieces, which have arrived, into keys and values. Of slot `spatial` on the keys are a pointer's. All are read before the first is written, so that one wait serves them.
template <bool POINTERS> DEV void convert(bf16* keys, bf16* values, int spatial) {
    uint4 token[ROUNDS], other[ROUNDS];
    const int at = swizzled<M>(threadIdx.x / 8, threadIdx.x % 8);
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) token[i] = *(const uint4*)(values + at + i * STRIDE * M), other[i] = *(const uint4*)(keys + at + i * STRIDE * M);
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        token[i] = f16_of(token[i]);
        *(uint4*)(values + at + i * STRIDE * M) = token[i];
        *(uint4*)(keys + at + i * STRIDE * M) = POINTERS && (int)threadIdx.x / 8 + i * STRIDE >= spatial ? f16_of(other[i]) : sum_of(token[i], other[i]);
    }
}

// What a thread keeps of its rows, first_query + 8 i, i < 4.
struct Rows {
    float shift[4];       // of the scores at a position: its biases less the reference
    float reference[4];   // of the exponent
    float total[4];       // of this thread's weights
    float sum[2][8][4];   // weighted tokens
    u32 left[2][4][4];    // X + Y of 2 x 16 queries, by steps of 16 channels
    float limit;          // the score, less the reference, beyond which the reference is moved: any, before the first tokens
};

// Moves the reference of rows with a score beyond the limit to their highest, which is brought from `most` of the quad's lanes.
template <int EIGHTS> DEV void move_reference(float (&score)[2][EIGHTS][4], float (&most)[4], Rows& rows) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        most[i] = fmaxf(most[i], __shfl_xor_sync(WHOLE_WARP, most[i], 1));
        most[i] = fmaxf(most[i], __shfl_xor_sync(WHOLE_WARP, most[i], 2));
        if (most[i] > rows.limit) {
            const int h = i % 2 * 2;
            const float factor = exp2_approx(fminf(-most[i], 0.f));  // of nothing, at first
            rows.reference[i] += most[i];
            rows.shift[i] -= most[i];
            rows.total[i] *= factor;
#pragma unroll
            for (int j = 0; j < 8; j++) rows.sum[i / 2][j][h] *= factor, rows.sum[i / 2][j][h + 1] *= factor;
#pragma unroll
            for (int j = 0; j < EIGHTS; j++) score[i / 2][j][h] -= most[i], score[i / 2][j][h + 1] -= most[i];
        }
    }
    rows.limit = SLACK;
}

// Attends to 8 EIGHTS tokens of a tile from `from` on, a multiple of 16; of the last eight, those from `count` on do not count, which counts from there.
template <int EIGHTS> DEV void attend(const bf16* keys, const bf16* values, int from, int count, Rows& rows) {
    constexpr int GROUPS = (EIGHTS + 1) / 2;
    const int lane = threadIdx.x % LANES;
    // Rows of `from` are multiples of what the swizzle repeats after: it is worked out once, and columns of steps differ from it in bits of their own.
    const int key_at = from * M + swizzled<M>(lane % 8 + lane / 16 * 8, lane / 8 % 2), value_at = from * M + swizzled<M>(lane % 16, lane / 16);
    float score[2][EIGHTS][4];
#pragma unroll
    for (int j = 0; j < EIGHTS; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const bool counts = j + 1 < EIGHTS || j * 8 + lane % 4 * 2 + e % 2 < count;
            score[0][j][e] = counts ? rows.shift[e / 2] : NO_SCORE;
            score[1][j][e] = counts ? rows.shift[2 + e / 2] : NO_SCORE;
        }
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            u32 b[4];
            ldmatrix_x4(b, keys + (key_at ^ k * 16) + g * 16 * M);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                mma_f16(score[i][2 * g], rows.left[i][k], b[0], b[1]);
                if (2 * g + 1 < EIGHTS) mma_f16(score[i][2 * g + 1], rows.left[i][k], b[2], b[3]);
            }
        }
    float most[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int h = i % 2 * 2;
        most[i] = fmaxf(score[i / 2][0][h], score[i / 2][0][h + 1]);
#pragma unroll
        for (int j = 1; j < EIGHTS; j++) most[i] = fmaxf(most[i], fmaxf(score[i / 2][j][h], score[i / 2][j][h + 1]));
    }
    if (__any_sync(WHOLE_WARP, fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3])) > rows.limit)) move_reference(score, most, rows);
    u32 weight[GROUPS][2][4] = {};  // left operands of the next product
#pragma unroll
    for (int j = 0; j < EIGHTS; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float first = exp2_approx(score[i / 2][j][i % 2 * 2]), second = exp2_approx(score[i / 2][j][i % 2 * 2 + 1]);
            rows.total[i] += first + second;
            weight[j / 2][i / 2][j % 2 * 2 + i % 2] = pack_f16(first, second);
        }
#pragma unroll
    for (int g = 0; g < GROUPS; g++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            u32 b[4];
            ldmatrix_x4_trans(b, values + (value_at ^ j * 16) + g * 16 * M);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                mma_f16(rows.sum[i][2 * j], weight[g][i], b[0], b[1]);
                mma_f16(rows.sum[i][2 * j + 1], weight[g][i], b[2], b[3]);
            }
        }
}

// Attends to up to 32 of `count` tokens from `from` on.
DEV void attend_to_some(const bf16* keys, const bf16* values, int from, int count, Rows& rows) {
    if (count > 24) attend<4>(keys, values, from, count, rows);
    else if (count > 16) attend<3>(keys, values, from, count, rows);
    else if (count > 8) attend<2>(keys, values, from, count, rows);
    else attend<1>(keys, values, from, count, rows);
}

KERNEL __launch_bounds__(THREADS, BLOCKS) ENTRY(const bf16* tables, const float* biases, const bf16* places, const Memory* lanes, const int* times, float* partial, int lane_count, int width, int height) {
    SMEM_DYN(shared);
    uint4* strip = (uint4*)shared;                            // [STRIP, 8, THREADS]: each thread's fragments of X
    bf16* keys = (bf16*)(strip + STRIP * 8 * THREADS);        // [2, TOKENS, M] f16
    bf16* values = keys + 2 * TILE;                           // the same
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const int positions = width * height, coordinates = width + height;
    if (!lane_count || !positions) return;
    const int groups = (positions + QUERIES - 1) / QUERIES;
    const Memory& memory = lanes[blockIdx.y / groups];
    const int strips = (width + STRIP - 1) / STRIP, part = blockIdx.x / strips;
    if (part >= memory.parts) return;
    const int spatial = memory.conditioning_count + memory.recent_count;
    const int x0 = blockIdx.x % strips * STRIP, y0 = height * part / memory.parts;
    int x1 = min(x0 + STRIP, width), y1 = height * (part + 1) / memory.parts;
    if (!spatial) {  // pointers alone, or nothing: the first position, or none
        x1 = 1;
        y1 = x0 == 0 && y0 == 0 && memory.pointers ? 1 : y0;
    }
    auto tokens_at = [&](const Cursor& at) { return at.x || at.y ? spatial : spatial + memory.pointers; };
    // Up to 16 tokens of a position take a quarter of a tile, up to 32 a half, so that a tile has two or four positions of a row; else it has one, or a part of one.
    const int shift = spatial <= 16 ? 4 : spatial <= 32 ? 5 : 6, most = TOKENS >> shift;
    auto span_of = [&](const Cursor& at) { return at.first || tokens_at(at) > spatial ? 1 : min(most, x1 - at.x); };
    // Most tiles begin with their positions, without pointers: where they come from is known once.
    Source source[ROUNDS];
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const int slot = threadIdx.x / 8 + i * STRIDE;
        source[i] = source_of(memory, times, places, positions, slot & ((1 << shift) - 1), slot >> shift);
    }
    auto fetch_at = [&](int buffer, const Cursor& at) {
        const int position = at.y * width + at.x;
        if (at.first || (position == 0 && memory.pointers)) {
            fetch(keys + buffer * TILE, values + buffer * TILE, memory, times, places, position, positions, at.first, tokens_at(at));
            return;
        }
        const int span = span_of(at), to = buffer * TILE + swizzled<M>(threadIdx.x / 8, threadIdx.x % 8);
#pragma unroll
        for (int i = 0; i < ROUNDS; i++) {
            const int slot = threadIdx.x / 8 + i * STRIDE, bytes = source[i].step && slot >> shift < span ? 16 : 0;
            cp_async16(values + to + i * STRIDE * M, source[i].value + (long long)position * source[i].step, bytes);  // 32 x 32 bits and a sum: one instruction
            cp_async16(keys + to + i * STRIDE * M, places + (source[i].place + position * M), bytes);
        }
        cp_async_commit();
    };

    // Rows of this thread beyond the last are computed like the last and not written.
    const int first_query = blockIdx.y % groups * QUERIES + warp * 32 + lane / 4, lane_row = blockIdx.y / groups * positions;
    // Worked out at each use: registers are dear.
    auto row = [&](int i) { return (lane_row + min(first_query + 8 * i, positions - 1)) * coordinates; };
    auto fragment = [&](int i, int coordinate, int part) { return ((const uint4*)(tables + (size_t)(row(i) + coordinate) * M))[part * 4 + lane % 4]; };
    // Lane t of a quad fetches the biases of row t of the four, and the others ask it: rows are neighbours in memory, so that a warp's are one access.
    const float* own_biases = biases + lane_row + min(first_query + lane % 4 * 8, positions - 1);
    auto own_bias = [&](int coordinate) { return own_biases[coordinate * (lane_count * positions)]; };
    Cursor at = {x0, y0, 0};
    if (at.y < y1) fetch_at(0, at);
    for (int x = x0; x < x1; x++)
#pragma unroll
        for (int i = 0; i < 8; i++) strip[((x - x0) * 8 + i) * THREADS + threadIdx.x] = fragment(i / 2, x, i % 2);

    Rows rows = {};
    rows.limit = ANY_SCORE;
    uint4 of_y[8];
    float bias_y = 0.f;  // and of_y: of the next row, on their way while this one is computed
    auto start_row = [&](int y) {
#pragma unroll
        for (int i = 0; i < 8; i++) of_y[i] = fragment(i / 2, width + y, i % 2);
        bias_y = own_bias(width + y);
    };
    if (at.y < y1) start_row(at.y);
    for (int buffer = 0; at.y < y1; buffer ^= 1) {
        const int count = tokens_at(at) - at.first, span = span_of(at);
        Cursor next = {at.x, at.y, at.first + TOKENS};
        if (count <= TOKENS) {
            next = {at.x + span, at.y, 0};
            if (next.x == x1) next.x = x0, next.y++;
        }
        bf16 *key_tile = keys + buffer * TILE, *value_tile = values + buffer * TILE;
        float bias_x = own_bias(at.x);  // of the next position: on its way while a tile is turned
        cp_async_wait<0>();
        if (count > spatial - at.first) convert<true>(key_tile, value_tile, spatial - at.first);
        else convert<false>(key_tile, value_tile, TOKENS);
        __syncthreads();  // the tile is there for all, and all have read the one before, whose place is filled next
        if (next.y < y1) fetch_at(buffer ^ 1, next);
#pragma unroll 1
        for (int ahead = 0; ahead < span; ahead++) {
            if (at.first == 0) {
                const uint4* of_x = strip + (at.x - x0 + ahead) * (8 * THREADS) + threadIdx.x;
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    // Row i / 2 of the thread is half i / 2 % 2 of 16 queries; a piece has the two pairs of each of two steps.
                    const uint4 v = sum_of(of_x[i * THREADS], of_y[i]);
                    u32(&first)[4] = rows.left[i / 4][i % 2 * 2];
                    u32(&second)[4] = rows.left[i / 4][i % 2 * 2 + 1];
                    first[i / 2 % 2] = v.x, first[i / 2 % 2 + 2] = v.y;
                    second[i / 2 % 2] = v.z, second[i / 2 % 2 + 2] = v.w;
                }
#pragma unroll
                for (int i = 0; i < 4; i++) rows.shift[i] = __shfl_sync(WHOLE_WARP, bias_x + bias_y, i, 4) - rows.reference[i];
            }
            if (ahead + 1 == span && next.y != at.y && next.y < y1) start_row(next.y);
            if (ahead + 1 < span) bias_x = own_bias(at.x + ahead + 1);
            int from = ahead << shift;
            for (int left = min(count, TOKENS); left > 0; left -= 32, from += 32) attend_to_some(key_tile, value_tile, from, left, rows);
        }
        at = next;
    }

#pragma unroll
    for (int i = 0; i < 4; i++) {
        float total = rows.total[i];
        total += __shfl_xor_sync(WHOLE_WARP, total, 1);
        total += __shfl_xor_sync(WHOLE_WARP, total, 2);
        if (first_query + 8 * i >= positions) continue;
        float* out = partial + ((size_t)blockIdx.x * lane_count * positions + lane_row + first_query + 8 * i) * (M + 2);
#pragma unroll
        for (int j = 0; j < 8; j++) *(float2*)(out + 8 * j + lane % 4 * 2) = make_float2(rows.sum[i / 2][j][i % 2 * 2], rows.sum[i / 2][j][i % 2 * 2 + 1]);
        if (lane % 4 == 0) *(float2*)(out + M) = make_float2(rows.limit == ANY_SCORE ? NO_SCORE : rows.reference[i], total);
    }
}
