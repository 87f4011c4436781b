//! What the launcher of `linear` refuses.

use crate::cuda::conformance::Bench;
use hpc_seg::cuda::linear::{Linear, NormBuffers, Operands, Output, Prologue, Residual, TILES};

#[test]
fn operands_that_are_missing_unasked_for_or_too_small_are_refused_by_name() {
    let bench = Bench::all().next().unwrap();
    let (x, weight, y) = (bench.output(16), bench.output(16), bench.output(4));
    let (one, tiny) = (bench.f32(&[1.0; 64]), bench.f32(&[1.0]));
    let both = |beta| Some(NormBuffers { gamma: &one, beta });
    let plain = Linear::plain(2, 2, 8);
    let operands = Operands::new(&x, &weight, &y);
    let complaint = |problem: Linear, operands: Operands<'_>| problem.launch(&bench.runtime, &operands).unwrap_err().to_string();
    let normed = Linear {
        prologue: Prologue::Norm { eps: 1e-6 },
        ..plain
    };
    let summed = |rows| Linear {
        prologue: Prologue::Sum { rows },
        ..plain
    };
    let index = Operands {
        index: Some(&one),
        ..operands
    };
    let accumulated = Operands {
        residual: Residual::Accumulate,
        ..operands
    };
    let position = Operands {
        position: Some(&tiny),
        ..operands
    };
    let f32 = Linear {
        output: Output::F32,
        ..plain
    };
    let huge = Linear { rows: 500, ..plain };
    let wide = Linear { inner: 1 << 23, ..plain };
    for (problem, operands, words) in [
        (normed, operands, "norm is asked for, but not given"),
        (plain, index, "index is given, but not asked for"),
        (
            normed,
            Operands {
                norm: both(&tiny),
                ..operands
            },
            "norm of [8, 4] bytes",
        ),
        (summed(0), position, "a position without rows"),
        (summed(3), position, "position of [3, 8, 2] bytes"),
        (Linear { gelu: true, ..plain }, operands, "GELU after a norm that is not there"),
        (f32, accumulated, "f32 is not accumulated"),
        (huge, operands, "y of [500, 2, 2] bytes"),
        (wide, operands, "at most 8388607 numbers in a row"),
    ] {
        let message = complaint(problem, operands);
        assert!(message.contains(words), "{message} without {words}");
    }
    let wrong = Linear { inner: 7, ..plain };
    let message = wrong.launch_tile(TILES[0], &bench.runtime, &operands).unwrap_err().to_string();
    assert!(message.contains("not a problem for linear_128x128"), "{message}");
}
