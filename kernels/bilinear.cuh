// Bilinear sampling of a plane of f32 as ResizePlan::bilinear of src/ops/resize.rs computes it, and the logistic function of src/cpu/math.rs: the same operations
// in the same order, each rounded once (no multiply and add is fused that is not fused there), so that the results have the same bits.
// Without `#pragma once`: the emulator includes it in the namespace of every specialisation anew.
#include "common.cuh"

// Where output i of an axis lies in the input: between `left` and `right`, `t` of the way.
struct Tap {
    int left, right;
    float t;
};

// `ratio` is f32(input) / f32(output).
DEV Tap tap(int i, float ratio, int input) {
    const float centre = fmaxf(fmaf(ratio, i + 0.5f, -0.5f), 0.f);
    const int left = min((int)centre, input - 1);
    return {left, min(left + 1, input - 1), fminf(fmaxf(centre - left, 0.f), 1.f)};
}

DEV float between(float a, float b, float t) { return t == 0.f ? a : __fadd_rn(__fmul_rn(1.f - t, a), __fmul_rn(t, b)); }

// The value of `plane` [.., width] at (y, x): along x first.
DEV float sample(const float* plane, int width, Tap y, Tap x) {
    const float* upper = plane + (size_t)y.left * width;
    const float* lower = plane + (size_t)y.right * width;
    return between(between(upper[x.left], upper[x.right], x.t), between(lower[x.left], lower[x.right], x.t), y.t);
}

// 1 / (1 + e^-x).
DEV float logistic(float x) {
    const float power = fmaxf(fminf(__fmul_rn(x, -1.44269504088896341f), 126.f), -126.f);
    const float whole = rintf(power), f = power - whole;
    float e = 0.001327647f;
    e = fmaf(e, f, 0.009675542f);
    e = fmaf(e, f, 0.055507133f);
    e = fmaf(e, f, 0.2402212f);
    e = fmaf(e, f, 0.69314697f);
    e = fmaf(e, f, 1.0000001f);
    return 1.f / __fadd_rn(1.f, __fmul_rn(e, __uint_as_float((u32)((int)whole + 127) << 23)));
}
