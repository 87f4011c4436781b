//! `linear` against its CPU op, and its independence of the tile.

#[path = "linear/bugs.rs"]
mod bugs;

#[cfg(feature = "emu")]
#[path = "linear/refusals.rs"]
mod refusals;

use super::conformance::{Bench, conforms, guarded, rounded, values};
use anyhow::{Context, Result, ensure};
pub use bugs::MUTATIONS;
use hpc_seg::cuda::arena::Buffer;
use hpc_seg::cuda::driver::SHARED_BYTES_OF_SM_80;
use hpc_seg::cuda::linear::{Activation, Linear, NormBuffers, Operands, Output, Prologue, Residual, TILES, Tile, choose};
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

/// A problem and the tile that does it.
#[derive(Clone, Copy, Debug)]
struct Case {
    tile: usize,
    per_block: usize,
    problem: Linear,
    bias: bool,
    added: Added,
}

const LARGE: usize = 0;
const MEDIUM: usize = 1;
const FLAT: usize = 2;
const ANY: usize = 3;
const SPAN: usize = 4;
const FLAT_SPAN: usize = 5;
const HELD: usize = 6;
const FLAT_HELD: usize = 7;
const HELD_SPAN: usize = 8;
const HELD_ANY: usize = 9;

const NORM: Prologue = Prologue::Norm { eps: 1e-5 };

impl Case {
    fn of(tile: usize, [rows, columns, inner]: [usize; 3]) -> Self {
        Self {
            tile,
            per_block: 1,
            problem: Linear::plain(rows, columns, inner),
            bias: false,
            added: Added::Nothing,
        }
    }

    fn biased(self) -> Self {
        Self { bias: true, ..self }
    }

    fn plus(self, added: Added) -> Self {
        Self { added, ..self }
    }

    fn per_block(self, per_block: usize) -> Self {
        Self { per_block, ..self }
    }

    fn with(mut self, change: impl Fn(&mut Linear)) -> Self {
        change(&mut self.problem);
        self
    }

    fn relu(self) -> Self {
        self.with(|problem| problem.activation = Activation::Relu)
    }

    fn gelu(self) -> Self {
        self.with(|problem| problem.activation = Activation::Gelu)
    }

    fn first(self, prologue: Prologue) -> Self {
        self.with(|problem| problem.prologue = prologue)
    }

    fn after(self, gelu: bool) -> Self {
        self.with(|problem| (problem.norm_after, problem.gelu) = (Some(1e-6), gelu))
    }

    fn gathered(self) -> Self {
        self.with(|problem| problem.gathered = true)
    }

    fn f32(self) -> Self {
        self.with(|problem| problem.output = Output::F32)
    }
}

/// Besides the op's own table: sizes of one, primes, a tile less one, a tile and one more, tails.
fn cases() -> Vec<Case> {
    let of = Case::of;
    vec![
        of(MEDIUM, [1, 1, 8]),
        of(MEDIUM, [63, 65, 64]).biased().relu(),
        of(MEDIUM, [65, 63, 40]).biased().plus(Added::Rows(7)),
        of(MEDIUM, [67, 72, 328]).biased().gelu().plus(Added::Rows(67)),
        of(MEDIUM, [64, 64, 192]).plus(Added::Old),
        of(FLAT, [1, 1, 8]).biased(),
        of(FLAT, [17, 65, 264]).biased().gelu().plus(Added::Rows(3)),
        of(FLAT, [15, 7, 32]).relu().plus(Added::Old),
        of(FLAT, [9, 24, 136]).biased().f32().plus(Added::Rows(2)),
        of(LARGE, [129, 131, 200]).biased().gelu().plus(Added::Rows(129)),
        of(LARGE, [127, 128, 96]),
        of(LARGE, [129, 136, 200]).biased().relu().plus(Added::Rows(129)),
        of(MEDIUM, [67, 72, 40]).biased().plus(Added::Rows(67)),
        of(HELD, [65, 264, 72]).biased().relu().first(NORM).per_block(2),
        of(ANY, [1, 1, 1]).biased(),
        of(ANY, [65, 67, 37]).biased().gelu().plus(Added::Old),
        of(ANY, [63, 64, 97]).relu().plus(Added::Rows(5)),
        of(ANY, [5, 7, 9]).biased().f32(),
        of(SPAN, [65, 256, 40]).biased().plus(Added::Old).after(false),
        of(SPAN, [3, 30, 104]).relu().after(true),
        of(FLAT_SPAN, [17, 248, 72]).biased().plus(Added::Rows(4)).after(false),
        of(FLAT_SPAN, [2, 255, 8]).biased().after(true).f32(),
        of(HELD, [65, 136, 72]).biased().gelu().first(NORM),
        of(HELD, [63, 300, 40]).biased().first(NORM).per_block(2),
        of(HELD, [2, 257, 96])
            .first(Prologue::Sum { rows: 2 })
            .per_block(3)
            .plus(Added::Rows(2)),
        of(FLAT_HELD, [17, 63, 256]).biased().relu().first(Prologue::Sum { rows: 5 }),
        of(FLAT_HELD, [5, 200, 40]).biased().gathered().per_block(3).f32(),
        of(FLAT_HELD, [18, 8, 1536]).first(NORM).gathered(),
        of(HELD_SPAN, [18, 64, 104]).biased().first(NORM).plus(Added::Old).after(true),
        of(HELD_SPAN, [3, 264, 24])
            .biased()
            .first(Prologue::Sum { rows: 1 })
            .gathered()
            .per_block(2),
        of(HELD_ANY, [17, 37, 53]).biased().first(NORM).plus(Added::Old),
        of(HELD_ANY, [5, 258, 33])
            .first(Prologue::Sum { rows: 3 })
            .gathered()
            .per_block(2)
            .relu(),
        of(HELD_ANY, [3, 67, 31]).biased().after(true),
    ]
}

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    let limits = bench.runtime.driver().limits();
    let small = |case: &op::Case| !ops::in_network(case.name) || case.m * case.n * case.k < 1 << 22;
    let table = op::cases().into_iter().filter(small).map(|case| {
        let chosen = choose(&Linear::plain(case.m, case.n, case.k), limits)?;
        let tile = TILES.iter().position(|tile| *tile == chosen).context("a tile of the table")?;
        Ok(Case::of(tile, [case.m, case.n, case.k]).biased())
    });
    let table: Vec<Case> = table.collect::<Result<_>>()?;
    let mut all = table
        .into_iter()
        .chain(cases())
        .filter(|case| is_for(bench, &TILES[case.tile], &case.problem));
    all.try_for_each(|case| check_case(bench, case).with_context(|| format!("{case:?}")))
}

/// Whether the device has a tile for its blocks; all are for those of sm_80 and more.
fn is_for(bench: &Bench, tile: &Tile, problem: &Linear) -> bool {
    let shared_bytes = bench.runtime.driver().limits().shared_bytes;
    shared_bytes >= SHARED_BYTES_OF_SM_80 || tile.takes(problem, shared_bytes as usize)
}

/// The values of a problem; those it does not ask for lie idle.
struct Values {
    x: Vec<f32>,
    index: Vec<usize>,
    norm: ops::norm::Norm,
    position: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    after: ops::norm::Norm,
    old: Vec<f32>,
}

/// Rows of x that a gather picks from.
const GATHERED_FROM: usize = 7;

impl Values {
    fn new(case: &Case) -> Result<Self> {
        let device = Device::cpu(1)?;
        let Linear { rows, columns, inner, .. } = case.problem;
        let scale = 1.0 / (inner as f32).sqrt();
        let shifted = |seed, len, by: f32| -> Vec<f32> { values(seed, len).iter().map(|value| rounded(value + by)).collect() };
        let norm = |seed, width, eps| ops::norm::Norm::new(&device, shifted(seed, width, 1.0), values(seed + 1, width), eps);
        let rows_of = |rows: usize| values(10, rows * columns);
        Ok(Self {
            // A mean that the one-pass formula would lose digits to, where there is a norm.
            x: shifted(
                1,
                rows.max(GATHERED_FROM) * inner,
                if matches!(case.problem.prologue, Prologue::Norm { .. }) {
                    3.0
                } else {
                    0.0
                },
            ),
            index: (0..rows)
                .map(|row| {
                    if case.problem.gathered {
                        (3 * row + 2) % GATHERED_FROM
                    } else {
                        row
                    }
                })
                .collect(),
            norm: norm(
                2,
                inner,
                if let Prologue::Norm { eps } = case.problem.prologue {
                    eps
                } else {
                    0.0
                },
            )?,
            position: values(
                4,
                inner
                    * if let Prologue::Sum { rows } = case.problem.prologue {
                        rows
                    } else {
                        0
                    },
            ),
            weight: values(5, columns * inner).iter().map(|value| rounded(value * scale)).collect(),
            bias: values(6, columns),
            residual: rows_of(if let Added::Rows(rows) = case.added { rows } else { 0 }),
            after: norm(7, columns, case.problem.norm_after.unwrap_or(0.0))?,
            old: values(9, rows * columns),
        })
    }

    /// What the op makes of them, with these rows and weights instead, without what follows the bias unless `whole`.
    fn by_op(&self, case: &Case, input: &dyn Fn(&Tensor) -> Result<Vec<f32>>, weight: &[f32], whole: bool) -> Result<Vec<f32>> {
        let Linear { rows, columns, inner, .. } = case.problem;
        let device = Device::cpu(1)?;
        let x: Vec<f32> = self.index.iter().flat_map(|row| &self.x[row * inner..][..inner]).copied().collect();
        let x = Tensor::from_slice(&device, &[rows, inner], &x)?;
        let x = Tensor::from_slice(&device, &[rows, inner], &input(&x)?)?;
        let bias = (case.bias && whole).then_some(&self.bias[..]);
        let residual = Tensor::from_slice(&device, &[self.residual.len() / columns, columns], &self.residual)?;
        let epilogue = op::Epilogue {
            activation: [op::Activation::None, op::Activation::Relu, op::Activation::Gelu][case.problem.activation as usize],
            residual: matches!(case.added, Added::Rows(_)).then_some(&residual),
            accumulate: case.added == Added::Old,
            norm: case.problem.norm_after.map(|_| &self.after),
            gelu: case.problem.gelu,
        };
        let epilogue = if whole { epilogue } else { op::Epilogue::NONE };
        let mut y = Tensor::from_slice(&device, &[rows, columns], &self.old)?;
        op::linear(
            op::Input::Plain(&x),
            &op::Linear::new(&device, weight, columns, inner, bias)?,
            epilogue,
            &mut y,
        )?;
        Ok(y.values().to_vec())
    }

    /// x' in f32.
    fn prepared(&self, case: &Case, x: &Tensor) -> Result<Vec<f32>> {
        let (inner, mut x) = (case.problem.inner, x.copy()?);
        match case.problem.prologue {
            Prologue::Plain => {}
            Prologue::Norm { .. } => ops::norm::norm(&mut x, &self.norm, false)?,
            Prologue::Sum { .. } => x
                .values_mut()
                .iter_mut()
                .enumerate()
                .for_each(|(at, value)| *value += self.position[at % self.position.len()]),
        }
        assert_eq!(x.width(), inner);
        Ok(x.values().to_vec())
    }
}

fn check_case(bench: &Bench, case: Case) -> Result<()> {
    let values = Values::new(&case)?;
    let expected = values.by_op(&case, &|x| values.prepared(&case, x), &values.weight, true)?;
    let y = launch(bench, &case, &values)?;
    if case.problem.prologue == Prologue::Plain {
        if case.problem.output == Output::F32 {
            // Nothing was rounded but the operands, which the op has in common.
            let largest = expected.iter().fold(0_f32, |most, value| most.max(value.abs()));
            let off = y
                .iter()
                .zip(&expected)
                .map(|(y, expected)| (y - expected).abs())
                .fold(0_f32, f32::max);
            ensure!(off <= largest * 1e-5, "off by {off:.3e} of {largest:.3e}");
        }
        return conforms(&y, &expected);
    }
    // x' is rounded to bf16 before the product, by a share of up to 2^-8: a value may be off by that much of the sum of |x'| |w|.
    let absolute: Vec<f32> = values.weight.iter().map(|value| value.abs()).collect();
    let slack = values.by_op(
        &case,
        &|x| Ok(values.prepared(&case, x)?.iter().map(|value| value.abs()).collect()),
        &absolute,
        false,
    )?;
    conforms_up_to_rounded_rows(&case, &y, &expected, &slack)
}

/// The rule for kernels that round within: errs at most twice as much as the op's own result rounded to bf16; each value within what rounding can do.
fn conforms_up_to_rounded_rows(case: &Case, kernel: &[f32], op: &[f32], slack: &[f32]) -> Result<()> {
    ensure!(kernel.len() == op.len(), "{} values for {}", kernel.len(), op.len());
    let energy = |error: &dyn Fn(usize) -> f32| (0..op.len()).map(|i| f64::from(error(i)).powi(2)).sum::<f64>().sqrt();
    let (own, allowed) = (energy(&|i| kernel[i] - op[i]), 2.0 * energy(&|i| rounded(op[i]) - op[i]));
    ensure!(own <= allowed, "error {own:.3e}, allowed {allowed:.3e}");
    // A norm after the product divides by the deviation of rows of about unit variance or more, and GELU is nowhere steeper than 1.13.
    let steepest = if case.problem.norm_after.is_some() { 4.0 } else { 1.13 };
    for (at, (kernel, op)) in kernel.iter().zip(op).enumerate() {
        let allowed = op.abs() / 128.0 + steepest * slack[at] / 256.0 + 1e-5;
        ensure!((kernel - op).abs() <= allowed, "value {at}: {kernel} for {op}");
    }
    Ok(())
}

/// What the kernel makes of them.
fn launch(bench: &Bench, case: &Case, values: &Values) -> Result<Vec<f32>> {
    let problem = case.problem;
    let len = problem.rows * problem.columns;
    let y = match problem.output {
        Output::Bf16 => bench.output(len),
        Output::F32 => bench.f32(&[vec![f32::NAN; len], vec![GUARD; 64]].concat()),
    };
    if case.added == Added::Old {
        y.copy_in(&bench.bf16(&values.old).to_vec()?)?;
    }
    let norm = [bench.f32(&values.norm.gamma), bench.f32(&values.norm.beta)];
    let after = [bench.f32(&values.after.gamma), bench.f32(&values.after.beta)];
    let index: Vec<i32> = values.index.iter().map(|row| i32::try_from(*row).unwrap()).collect();
    let index = bench.arena.filled(bytemuck::cast_slice(&index))?;
    let (x, weight, bias) = (bench.bf16(&values.x), bench.bf16(&values.weight), bench.f32(&values.bias));
    // Buffers of nothing cannot be had.
    let some = |values: &[f32]| bench.bf16(if values.is_empty() { &[0.0] } else { values });
    let (position, residual) = (some(&values.position), some(&values.residual));
    fn buffers([gamma, beta]: &[Buffer; 2]) -> NormBuffers<'_> {
        NormBuffers { gamma, beta }
    }
    let operands = Operands {
        index: problem.gathered.then_some(&index),
        norm: matches!(problem.prologue, Prologue::Norm { .. }).then_some(buffers(&norm)),
        position: matches!(problem.prologue, Prologue::Sum { .. }).then_some(&position),
        bias: case.bias.then_some(&bias),
        residual: match case.added {
            Added::Nothing => Residual::None,
            Added::Rows(rows) => Residual::Rows(&residual, rows),
            Added::Old => Residual::Accumulate,
        },
        norm_after: problem.norm_after.is_some().then_some(buffers(&after)),
        ..Operands::new(&x, &weight, &y)
    };
    let tile = Tile {
        per_block: case.per_block,
        ..TILES[case.tile]
    };
    problem.launch_tile(tile, &bench.runtime, &operands)?;
    if problem.output == Output::Bf16 {
        return guarded(&y);
    }
    let mut found: Vec<f32> = y
        .to_vec()?
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    ensure!(
        found.split_off(len).iter().all(|guard| *guard == GUARD),
        "values after the output were overwritten"
    );
    Ok(found)
}

const GUARD: f32 = 12345.0;

#[cfg(feature = "emu")]
#[test]
fn linear_conforms_to_its_cpu_op_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}

/// Also what makes results independent of lanes per step and of the device's size.
pub fn check_tiles_agree(bench: &Bench) -> Result<()> {
    let sizes = [19, 70, 136];
    let all: Vec<usize> = (0..TILES.len()).collect();
    let variants: [(Case, &[usize]); 5] = [
        (Case::of(0, sizes), &all),
        // Tiles of 256 columns never finish a row plainly, the others do.
        (Case::of(0, [19, 72, 136]).biased().relu().plus(Added::Rows(19)), &all),
        (Case::of(0, sizes).first(NORM).gelu(), &[HELD, FLAT_HELD, HELD_SPAN, HELD_ANY]),
        (
            Case::of(0, sizes).first(Prologue::Sum { rows: 3 }).gathered(),
            &[HELD, FLAT_HELD, HELD_SPAN, HELD_ANY],
        ),
        (Case::of(0, sizes).biased().after(true), &[SPAN, FLAT_SPAN, HELD_SPAN, HELD_ANY]),
    ];
    for (case, tiles) in variants {
        let values = Values::new(&case)?;
        let Linear { rows, columns, .. } = case.problem;
        let run = |tile: usize, per_block: usize, rows: usize| {
            let case = Case { tile, per_block, ..case }.with(|problem| problem.rows = rows);
            launch(bench, &case, &values)
        };
        let first = run(tiles[0], 1, rows)?;
        for tile in tiles.iter().filter(|tile| is_for(bench, &TILES[**tile], &case.problem)) {
            let name = TILES[*tile].name;
            ensure!(run(*tile, 1, rows)? == first, "{name} sums in another order: {case:?}");
            ensure!(
                run(*tile, 1, 5)? == first[..5 * columns],
                "{name}: rows depend on how many others there are: {case:?}"
            );
            if *tile == FLAT_HELD {
                ensure!(run(*tile, 2, rows)? == first, "{name}: columns depend on their block: {case:?}");
            }
        }
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
fn linear_conforms_where_blocks_have_less_shared_memory() {
    let bench = Bench::all().next().unwrap().with_less_shared_memory();
    check(&bench).and_then(|()| check_tiles_agree(&bench)).unwrap();
}

#[cfg(feature = "emu")]
#[test]
fn a_product_with_its_chosen_tile_is_the_tiles_product() {
    let bench = Bench::all().next().unwrap();
    let problem = Linear::plain(3, 9, 16);
    let (x, weight) = (bench.bf16(&values(1, 3 * 16)), bench.bf16(&values(2, 9 * 16)));
    let run = |launch: &dyn Fn(&Operands<'_>)| {
        let y = bench.bf16(&[0.0; 27]);
        launch(&Operands::new(&x, &weight, &y));
        super::conformance::all_values(&y).unwrap()
    };
    let limits = bench.runtime.driver().limits();
    let chosen = run(&|operands| problem.launch(&bench.runtime, operands).unwrap());
    let again = run(&|operands| {
        problem
            .launch_tile(choose(&problem, limits).unwrap(), &bench.runtime, operands)
            .unwrap()
    });
    assert_eq!(chosen, again);
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
