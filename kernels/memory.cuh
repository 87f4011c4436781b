// What one lane of memory attention attends to, as the launcher (src/cuda/memory_attention) lays it out.
// Without `#pragma once`: the emulator includes it in the namespace of every specialisation anew.
#include "common.cuh"

struct Memory {
    const bf16* conditioning;     // [positions, conditioning_slots, M], of which the first conditioning_count slots are used
    const bf16* recent;           // [positions, recent_slots, M]
    const bf16* pointer_keys;     // [pointers, M], positions included
    const bf16* pointer_values;   // [pointers, M]
    const float* start;           // [positions, M + 2] or null: an unfinished attention to go on from
    int conditioning_count, conditioning_slots, recent_count, recent_slots, pointers;
    int times;                    // where this lane's temporal indices begin: of the conditioning slices, then of the recent ones
    int parts;                    // into which the rows of the grid are divided
    int unused;
};

constexpr float NO_SCORE = -1e30f;  // the reference of the exponent before any token, and the score of none
