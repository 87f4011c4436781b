//! `linear` against its CPU op, and its independence of the tile.

use super::conformance::{Bench, conforms, guarded, rounded, values};
use anyhow::{Context, Result, ensure};
use hpc_seg::cuda::linear::{Activation, Linear, Residual, TILES, Tile, choose};
use hpc_seg::device::Device;
use hpc_seg::ops;
use hpc_seg::ops::linear as op;
use hpc_seg::tensor::Tensor;

/// What is added.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Added {
    Nothing,
    Rows(usize),
    Old,
}

/// Besides the op's own table: tile, rows, columns, inner, bias, activation, residual; sizes of one, primes, a tile less one, a tile and one more, tails.
type Case = (usize, usize, usize, usize, bool, Activation, Added);
const LARGE: usize = 0;
const MEDIUM: usize = 1;
const FLAT: usize = 2;
const ANY: usize = 3;
const CASES: &[Case] = &[
    (MEDIUM, 1, 1, 8, false, Activation::None, Added::Nothing),
    (MEDIUM, 63, 65, 64, true, Activation::Relu, Added::Nothing),
    (MEDIUM, 65, 63, 40, true, Activation::None, Added::Rows(7)),
    (MEDIUM, 67, 70, 328, true, Activation::Gelu, Added::Rows(67)),
    (MEDIUM, 64, 64, 192, false, Activation::None, Added::Old),
    (FLAT, 1, 1, 8, true, Activation::None, Added::Nothing),
    (FLAT, 17, 65, 264, true, Activation::Gelu, Added::Rows(3)),
    (FLAT, 15, 7, 32, false, Activation::Relu, Added::Old),
    (LARGE, 129, 131, 200, true, Activation::Gelu, Added::Rows(129)),
    (LARGE, 127, 128, 96, false, Activation::None, Added::Nothing),
    (ANY, 1, 1, 1, true, Activation::None, Added::Nothing),
    (ANY, 65, 67, 37, true, Activation::Gelu, Added::Old),
    (ANY, 63, 64, 97, false, Activation::Relu, Added::Rows(5)),
];

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    let small = |case: &op::Case| !ops::in_network(case.name) || case.m * case.n * case.k < 1 << 22;
    let table = op::cases().into_iter().filter(small).map(|case| {
        let tile = TILES.iter().position(|tile| *tile == choose(case.m, case.n, case.k, 108)).unwrap();
        (tile, case.m, case.n, case.k, true, Activation::None, Added::Nothing)
    });
    let mut cases = table.chain(CASES.iter().copied());
    cases.try_for_each(|case| check_case(bench, case).with_context(|| format!("{case:?}")))
}

fn check_case(bench: &Bench, (tile, rows, columns, inner, with_bias, activation, added): Case) -> Result<()> {
    let device = Device::cpu(1)?;
    let scale = 1.0 / (inner as f32).sqrt();
    let (x, old) = (values(1, rows * inner), values(2, rows * columns));
    let weight: Vec<f32> = values(3, columns * inner).iter().map(|value| rounded(value * scale)).collect();
    let bias = with_bias.then(|| values(4, columns));
    let weights = op::Linear::new(&weight, columns, inner, bias.as_deref());
    let residual_rows = if let Added::Rows(rows) = added { rows } else { 1 };
    let residual = values(5, residual_rows * columns);
    let residual_tensor = Tensor::from_slice(&device, &[residual_rows, columns], &residual);
    let epilogue = op::Epilogue {
        activation: [op::Activation::None, op::Activation::Relu, op::Activation::Gelu][activation as usize],
        residual: matches!(added, Added::Rows(_)).then_some(&residual_tensor),
        accumulate: added == Added::Old,
        ..op::Epilogue::NONE
    };
    let mut expected = Tensor::from_slice(&device, &[rows, columns], &old);
    op::linear(
        op::Input::Plain(&Tensor::from_slice(&device, &[rows, inner], &x)),
        &weights,
        epilogue,
        &mut expected,
    );

    let y = bench.output(rows * columns);
    if added == Added::Old {
        y.copy_in(&bench.bf16(&old).to_vec()?)?;
    }
    let residual = bench.bf16(&residual);
    let residual = match added {
        Added::Nothing => Residual::None,
        Added::Rows(rows) => Residual::Rows(&residual, rows),
        Added::Old => Residual::Accumulate,
    };
    let (x, weight, bias) = (bench.bf16(&x), bench.bf16(&weight), bias.map(|bias| bench.f32(&bias)));
    let linear = Linear {
        rows,
        columns,
        inner,
        activation,
    };
    linear.launch_tile(TILES[tile], &bench.runtime, &x, &weight, bias.as_ref(), residual, &y)?;
    conforms(&guarded(&y)?, expected.values())
}

#[cfg(feature = "emu")]
#[test]
fn linear_conforms_to_its_cpu_op_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}

/// Also what makes results independent of lanes per step and of the device's size.
pub fn check_tiles_agree(bench: &Bench) -> Result<()> {
    let (rows, columns, inner) = (19, 70, 136);
    let (x, weight) = (bench.bf16(&values(1, rows * inner)), bench.bf16(&values(2, columns * inner)));
    let run = |tile: Tile, rows: usize| -> Result<Vec<f32>> {
        let y = bench.output(rows * columns);
        let linear = Linear {
            rows,
            columns,
            inner,
            activation: Activation::None,
        };
        linear.launch_tile(tile, &bench.runtime, &x, &weight, None, Residual::None, &y)?;
        guarded(&y)
    };
    let first = run(TILES[FLAT], rows)?;
    for tile in TILES {
        ensure!(run(tile, rows)? == first, "{} sums in another order", tile.name);
        ensure!(
            run(tile, 5)? == first[..5 * columns],
            "{}: rows depend on how many others there are",
            tile.name
        );
    }
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn every_tile_gives_the_same_bytes_for_any_number_of_rows() {
    check_tiles_agree(&Bench::all().next().unwrap()).unwrap();
}

#[cfg(feature = "emu")]
#[test]
fn a_product_with_its_chosen_tile_is_the_tiles_product() {
    let bench = Bench::all().next().unwrap();
    let (rows, columns, inner) = (3, 9, 16);
    let (x, weight, y) = (
        bench.bf16(&values(1, rows * inner)),
        bench.bf16(&values(2, columns * inner)),
        bench.bf16(&[0.0; 27]),
    );
    let linear = Linear {
        rows,
        columns,
        inner,
        activation: Activation::None,
    };
    linear.launch(&bench.runtime, &x, &weight, None, Residual::None, &y).unwrap();
    let chosen = super::conformance::all_values(&y).unwrap();
    let again = bench.bf16(&[0.0; 27]);
    linear
        .launch_tile(
            choose(rows, columns, inner, 108),
            &bench.runtime,
            &x,
            &weight,
            None,
            Residual::None,
            &again,
        )
        .unwrap();
    assert_eq!(chosen, super::conformance::all_values(&again).unwrap());
    assert!(chosen.iter().any(|value| *value != 0.0));
}

#[cfg(feature = "emu-check")]
#[test]
fn fragments_are_read_from_shared_memory_without_bank_conflicts() {
    use hpc_seg::cuda::emulator::{Emulator, Schedule};
    let emulator = Emulator::new(Schedule::ALL[0]).unwrap();
    check_tiles_agree(&Bench::over(Emulator::new(Schedule::ALL[0]).unwrap())).unwrap();
    let (phases, wavefronts) = emulator.ldmatrix_phases_and_wavefronts();
    assert!(phases > 1000);
    assert_eq!(wavefronts, phases);
}
