//! The launch function and what it refuses.

use super::conformance::Bench;
use hpc_seg::cuda::driver::{Arguments, Shape};
use hpc_seg::cuda::launch::Work;
use hpc_seg::cuda::linear::{Linear, Operands, TILES};
use hpc_seg::cuda::norm::Norm;
use hpc_seg::cuda::sources::{Specialisation, specialisations};

fn bench() -> Bench {
    Bench::all().next().unwrap()
}

const SHAPE: Shape = Shape {
    blocks: [1, 1, 1],
    threads: 128,
    shared_bytes: 0,
};

#[track_caller]
fn refused(bench: &Bench, entry: &str, shape: Shape, arguments: Arguments, expected: &[&str]) {
    let error = bench
        .runtime
        .launch(entry, shape, arguments, "rows 2", Work::default())
        .unwrap_err();
    let message = format!("{error:#}");
    assert!(expected.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn an_unknown_kernel_and_foreign_arguments_are_refused_by_name() {
    let bench = bench();
    refused(&bench, "norm_9x9", SHAPE, Arguments::new(), &["no kernel norm_9x9"]);
    let few = Arguments::new().int(1);
    refused(
        &bench,
        "max_pool_1",
        SHAPE,
        few,
        &["kernel max_pool_1 (rows 2)", "arguments of [4] bytes", "[8, 8, 4, 4, 4, 4, 4]"],
    );
}

#[test]
fn a_shape_beyond_the_device_is_refused_before_the_launch() {
    let bench = bench();
    let buffer = bench.bf16(&[0.0; 4]);
    let arguments = || {
        Arguments::new()
            .pointer(buffer.pointer())
            .pointer(buffer.pointer())
            .int(1)
            .int(1)
            .int(1)
            .int(0)
            .int(1)
    };
    let wide = Shape { threads: 2048, ..SHAPE };
    refused(
        &bench,
        "max_pool_1",
        wide,
        arguments(),
        &["kernel max_pool_1 (rows 2) cannot be launched", "may have 1024 threads"],
    );
    let tall = Shape {
        blocks: [1, 70000, 1],
        ..SHAPE
    };
    refused(&bench, "max_pool_1", tall, arguments(), &["1 x 70000 x 1 blocks"]);
}

#[test]
fn the_signatures_read_from_the_sources_are_those_of_the_compiled_kernels() {
    let bench = bench();
    let buffer = bench.bf16(&[0.0; 512]);
    // What a graph records is compared with the C++ types and not run.
    let record = |kernel: &Specialisation| {
        let add = |arguments: Arguments, size: &usize| match *size {
            8 => arguments.pointer(buffer.pointer()),
            _ => arguments.int(0),
        };
        let arguments = kernel.parameters.iter().fold(Arguments::new(), add);
        assert_eq!(arguments.sizes(), kernel.parameters, "{}", kernel.name);
        bench.runtime.launch(kernel.name, SHAPE, arguments, "nothing", Work::default())
    };
    let all = bench.runtime.capture(|| specialisations().iter().try_for_each(record)).unwrap();
    assert_eq!(all.steps(), Some(specialisations().len()));
    let more = || {
        let arguments = Arguments::new().pointer(buffer.pointer());
        bench.runtime.driver().launch("ptx_probe", SHAPE, arguments)
    };
    let refused = bench.runtime.capture(more).err().unwrap();
    assert!(
        format!("{refused:#}").contains("arguments of [8] bytes for C++ parameters of [8, 8, 4]"),
        "{refused:#}"
    );
}

#[test]
fn a_buffer_that_is_too_small_is_named_with_its_size() {
    let bench = bench();
    let (small, large) = (bench.bf16(&[0.0; 15]), bench.bf16(&[0.0; 16]));
    let weight = bench.f32(&[0.0; 8]);
    let norm = Norm {
        rows: 2,
        channels: 8,
        eps: 1e-6,
        gelu: false,
    };
    let message = norm
        .launch(&bench.runtime, &large, &weight, &weight, &small)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("rows 2 channels 8: y of [2, 8, 2] bytes in a buffer of 30"),
        "{message}"
    );
    assert!(norm.launch(&bench.runtime, &large, &weight, &weight, &large).is_ok());
    let message = Linear::plain(1, 1, 12)
        .launch_tile(TILES[1], &bench.runtime, &Operands::new(&large, &large, &large))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("rows 1 columns 1 inner 12") && message.contains("not a problem for linear_64x64"),
        "{message}"
    );
}

#[test]
fn nothing_to_do_is_done_without_a_launch() {
    let bench = bench();
    let buffer = bench.bf16(&[0.0; 8]);
    let norm = Norm {
        rows: 0,
        channels: 8,
        eps: 1e-6,
        gelu: false,
    };
    norm.launch(&bench.runtime, &buffer, &buffer, &buffer, &buffer).unwrap();
    Linear::plain(0, 1, 8)
        .launch(&bench.runtime, &Operands::new(&buffer, &buffer, &buffer))
        .unwrap();
}

#[cfg(feature = "emu-check")]
#[test]
fn the_checker_names_kernel_shapes_line_and_cause() {
    let bench = bench();
    let tile = TILES[1];
    let (x, y) = (bench.bf16(&[1.0; 64 * 32]), bench.output(64 * 64));
    let none = |arguments: Arguments, count| (0..count).fold(arguments, |arguments, _| arguments.optional(None));
    let arguments = none(Arguments::new().pointer(x.pointer()), 4).pointer(x.pointer());
    let arguments = none(arguments, 4).pointer(y.pointer()).int(64).int(64).int(32);
    let arguments = arguments.int(1).int(1).int(0).int(0).int(0).int(1).float(0.0).float(0.0);
    let shape = Shape {
        blocks: [1, 1, 1],
        threads: tile.threads() as u32,
        shared_bytes: 1024,
    };
    refused(
        &bench,
        tile.name,
        shape,
        arguments,
        &[
            "kernel linear_64x64 (rows 2) failed",
            "out of bounds: write 16 B at shared",
            "linear.cu:",
        ],
    );
}
