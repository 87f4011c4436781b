//! `memory_attention` against its CPU op: both paths, states, and the independence of lanes.

#[path = "memory_attention/bugs.rs"]
mod bugs;

use super::conformance::{Bench, conforms, guarded, rounded, values};
use anyhow::{Context, Result, ensure};
pub use bugs::MUTATIONS;
use hpc_seg::cuda::arena::Buffer;
use hpc_seg::cuda::memory_attention::{KeyTables, Memory, Output, Part, Slices, memory_attention};
use hpc_seg::device::Device;
use hpc_seg::ops;
use hpc_seg::ops::memory_attention as op;
use hpc_seg::ops::rope::Rope;
use hpc_seg::tensor::Tensor;

/// Name, lanes, grid, [D, M, T], [conditioning slices, their slots, recent slices, pointers].
type Sizes = (&'static str, usize, (usize, usize), [usize; 3], [usize; 4]);

/// Besides the op's own table, which has no case of the tensor cores' widths outside the network: sizes of one, primes, a tile of 16 or 32 tokens less one, full, and one
/// more, eights of tokens, a strip of 4 columns and one more, 128 queries and more, pointers alone, two parts of the grid's rows.
const CASES: &[Sizes] = &[
    ("one", 1, (1, 1), [64, 64, 1], [1, 1, 0, 0]),
    ("pointers alone", 2, (3, 9), [64, 64, 2], [0, 0, 0, 37]),
    ("primes", 2, (5, 7), [64, 64, 7], [13, 17, 3, 5]),
    ("tile", 1, (2, 5), [256, 64, 3], [26, 26, 6, 1]),
    ("tile + 1", 1, (5, 4), [256, 64, 2], [33, 40, 0, 33]),
    ("half a tile - 1", 1, (1, 6), [64, 64, 2], [9, 9, 6, 0]),
    ("half a tile + 1", 1, (6, 1), [64, 64, 2], [11, 12, 6, 16]),
    ("eight", 1, (2, 5), [64, 64, 2], [6, 6, 2, 0]),
    ("eight + 1", 1, (5, 2), [64, 64, 2], [3, 5, 6, 1]),
    ("three eights", 1, (2, 3), [64, 64, 2], [18, 18, 6, 2]),
    ("three eights + 1", 1, (3, 2), [64, 64, 2], [19, 20, 6, 8]),
    ("a block and more", 1, (11, 12), [64, 64, 2], [1, 2, 1, 0]),
    ("two parts", 1, (3, 2), [64, 64, 2], [66, 67, 0, 3]),
    ("recent alone", 3, (4, 4), [64, 64, 7], [0, 2, 6, 4]),
];

/// What a case is made of, on both sides.
struct Problem {
    case: op::Case,
    host: op::KeyTables,
    device: KeyTables,
    q: Vec<f32>,
    lanes: Vec<Lane>,
}

struct Lane {
    tokens: [Vec<f32>; 2],
    times: [Vec<usize>; 2],
    pointers: [Vec<f32>; 2],
    buffers: [Buffer; 4],
}

impl Problem {
    /// `shift` is the mean of tokens.
    fn new(bench: &Bench, case: op::Case, shift: f32) -> Result<Self> {
        let p = case.grid.0 * case.grid.1;
        let cpu = Device::cpu(1)?;
        let rope = Rope::new(&cpu, case.d, case.grid, 10000.0)?;
        let narrow = |seed, len, factor: f32| -> Vec<f32> { values(seed, len).iter().map(|value| rounded(value * factor)).collect() };
        let weight = narrow(1, case.d * case.m, 1.0 / (case.m as f32).sqrt());
        let (bias, times, position) = (
            narrow(2, case.d, 0.5),
            narrow(3, case.times * case.m, 0.5),
            narrow(4, p * case.m, 0.7),
        );
        let device = KeyTables::new(&bench.arena, &weight, &bias, &times, &position, case.grid, [&rope.cos, &rope.sin])?;
        let lane = |index: usize| {
            let some = |seed: u64, len| -> Vec<f32> {
                let lane = seed + 10 * index as u64;
                values(lane, len).iter().map(|value| rounded(value + shift)).collect()
            };
            // Unused slots hold what would show.
            let slices = |seed, slots: usize, used: usize| {
                let mut tokens = some(seed, p * slots * case.m);
                for slice in tokens.chunks_exact_mut((slots * case.m).max(1)) {
                    slice[used * case.m..].fill(1000.0);
                }
                tokens
            };
            let tokens = [slices(6, case.slots, case.conditioning), slices(7, 6, case.recent)];
            let pointers = [some(8, case.pointers * case.m), some(9, case.pointers * case.m)];
            let times = [case.conditioning, case.recent].map(|count| (0..count).map(|i| (2 * i + index) % case.times).collect());
            let buffers = [&tokens[0], &tokens[1], &pointers[0], &pointers[1]].map(|content| bench.bf16(content));
            Lane {
                tokens,
                times,
                pointers,
                buffers,
            }
        };
        Ok(Self {
            q: values(5, case.lanes * p * case.d),
            host: op::KeyTables::new(&cpu, &weight, &bias, &times, &position, &rope)?,
            device,
            lanes: (0..case.lanes).map(lane).collect(),
            case,
        })
    }

    fn expected(&self) -> Result<Vec<f32>> {
        let device = Device::cpu(1)?;
        let rows = self.case.lanes * self.host.positions();
        let (positions, m) = (self.host.positions(), self.case.m);
        let mut rings = Vec::with_capacity(self.lanes.len());
        for lane in &self.lanes {
            let ring = |set: usize, slots| Tensor::from_slice(&device, &[1, positions, slots, m], &lane.tokens[set]);
            rings.push([ring(0, self.case.slots)?, ring(1, 6)?]);
        }
        let slices = |lane: usize, set: usize| op::Slices {
            tokens: Some((&rings[lane][set], 0)),
            times: &self.lanes[lane].times[set],
        };
        let memories: Vec<op::Memory<'_>> = (0..self.case.lanes)
            .map(|lane| op::Memory {
                conditioning: slices(lane, 0),
                recent: slices(lane, 1),
                pointer_keys: &self.lanes[lane].pointers[0],
                pointer_values: &self.lanes[lane].pointers[1],
                start: None,
            })
            .collect();
        let mut y = Tensor::empty(&device, &[rows, self.case.m])?;
        op::memory_attention(
            &Tensor::from_slice(&device, &[rows, self.case.d], &self.q)?,
            &self.host,
            &memories,
            &op::Pointers::of(&device, &memories)?,
            &mut y,
        )?;
        Ok(y.values().to_vec())
    }

    fn memory(&self, lane: usize) -> Memory<'_> {
        let lane = &self.lanes[lane];
        let set = |index: usize, slots| Slices {
            tokens: Some(Part::whole(&lane.buffers[index])),
            slots,
            times: &lane.times[index],
        };
        Memory {
            conditioning: set(0, self.case.slots),
            recent: set(1, 6),
            pointers: self.case.pointers,
            pointer_keys: Some(Part::whole(&lane.buffers[2])),
            pointer_values: Some(Part::whole(&lane.buffers[3])),
            start: None,
        }
    }

    fn run(&self, bench: &Bench, q: Part<'_>, memories: &[Memory<'_>]) -> Result<Vec<f32>> {
        let y = bench.output(memories.len() * self.host.positions() * self.case.m);
        memory_attention(
            &self.device,
            &bench.runtime,
            &bench.arena,
            q,
            memories,
            Output::Rows(Part::whole(&y)),
        )?;
        guarded(&y)
    }

    fn memories(&self) -> Vec<Memory<'_>> {
        (0..self.case.lanes).map(|lane| self.memory(lane)).collect()
    }
}

fn cases() -> impl Iterator<Item = op::Case> {
    let table = op::cases().into_iter().filter(|case| !ops::in_network(case.name));
    table.chain(CASES.iter().map(
        |&(name, lanes, grid, [d, m, times], [conditioning, slots, recent, pointers])| op::Case {
            name,
            lanes,
            grid,
            d,
            m,
            times,
            conditioning,
            slots,
            recent,
            pointers,
        },
    ))
}

/// A mean of tokens around zero cancels where one around two does not: the strict rule for single values holds for the latter, and for f32 kernels for both. What f16
/// operands err is a share of the mean of the tokens' magnitudes, not of their sum: here each value is held to 2^-10 of the largest output beside its own rounding;
/// the rule for all values together is the same.
fn cancelling_means_conform(kernel: &[f32], op: &[f32]) -> Result<()> {
    ensure!(kernel.len() == op.len(), "{} values for {}", kernel.len(), op.len());
    let energy = |error: &dyn Fn(usize) -> f32| (0..op.len()).map(|i| f64::from(error(i)).powi(2)).sum::<f64>().sqrt();
    let (own, allowed) = (energy(&|i| kernel[i] - op[i]), 2.0 * energy(&|i| rounded(op[i]) - op[i]));
    ensure!(own <= allowed, "error {own:.3e}, allowed {allowed:.3e}");
    let largest = op.iter().fold(0_f32, |most, value| most.max(value.abs()));
    for (at, (kernel, op)) in kernel.iter().zip(op).enumerate() {
        let allowed = op.abs() / 128.0 + largest / 1024.0;
        ensure!((kernel - op).abs() <= allowed, "value {at}: {kernel} for {op}");
    }
    Ok(())
}

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    for case in cases() {
        for shift in [0.0, 2.0] {
            check_case(bench, case, shift).with_context(|| format!("{case:?}, tokens around {shift}"))?;
        }
    }
    // A strip of 2 columns and one more, positions that share a tile and not, pointers, two parts.
    let small = bench.with_less_shared_memory();
    for case in cases().filter(|case| case.m == 64 && ["primes", "tile + 1", "half a tile + 1", "two parts"].contains(&case.name)) {
        check_case(&small, case, 2.0).with_context(|| format!("{case:?}, less shared memory"))?;
    }
    check_states(bench)
}

fn check_case(bench: &Bench, case: op::Case, shift: f32) -> Result<()> {
    let problem = Problem::new(bench, case, shift)?;
    let q = bench.bf16(&problem.q);
    let y = problem.run(bench, Part::whole(&q), &problem.memories())?;
    let expected = problem.expected()?;
    if std::env::var_os("HPC_SEG_TEST_ERRORS").is_some() {
        let square = |error: &dyn Fn(usize) -> f32| (0..y.len()).map(|i| f64::from(error(i)).powi(2)).sum::<f64>().sqrt();
        let (own, rounding) = (square(&|i| y[i] - expected[i]), square(&|i| rounded(expected[i]) - expected[i]));
        let largest = expected.iter().fold(0_f32, |most, value| most.max(value.abs()));
        let floor = y
            .iter()
            .zip(&expected)
            .fold(0_f32, |most, (y, op)| most.max((y - op).abs() - op.abs() / 128.0));
        println!(
            "{} m {} {shift}: {:.2} of the rounding of bf16, floor {:.1e}",
            case.name,
            case.m,
            own / rounding,
            floor / largest
        );
    }
    match case.m == 64 && shift == 0.0 {
        true => cancelling_means_conform(&y, &expected),
        false => conforms(&y, &expected),
    }
}

/// A state that is gone on from gives what one call gives; a lane gives the same bytes beside others.
fn check_states(bench: &Bench) -> Result<()> {
    for name in ["primes", "no conditioning", "recent alone"] {
        for case in cases().filter(|case| case.name == name) {
            let problem = Problem::new(bench, case, 2.0)?;
            let (q, expected) = (bench.bf16(&problem.q), problem.expected()?);
            let rows = problem.host.positions();
            let together = problem.run(bench, Part::whole(&q), &problem.memories())?;
            for lane in 0..case.lanes {
                // One lane's queries need not begin at a multiple of 16 bytes.
                let own = bench.bf16(&problem.q[lane * rows * case.d..][..rows * case.d]);
                let of_lane = lane * rows * case.m..(lane + 1) * rows * case.m;
                let alone = problem.run(bench, Part::whole(&own), &[problem.memory(lane)])?;
                ensure!(alone == together[of_lane.clone()], "{case:?}: lane {lane} depends on the others");
                let (first, rest) = halves(problem.memory(lane));
                let state = bench.f32(&vec![f32::NAN; problem.device.state_bytes() / 4]);
                let output = Output::States(Part::whole(&state));
                memory_attention(&problem.device, &bench.runtime, &bench.arena, Part::whole(&own), &[first], output)?;
                let rest = Memory {
                    start: Some(Part::whole(&state)),
                    ..rest
                };
                let continued = problem.run(bench, Part::whole(&own), &[rest])?;
                conforms(&continued, &expected[of_lane]).with_context(|| format!("{case:?}: a state gone on from"))?;
            }
        }
    }
    Ok(())
}

/// The conditioning tokens, or the pointers where there are none, and the rest.
fn halves(memory: Memory<'_>) -> (Memory<'_>, Memory<'_>) {
    let none = Memory {
        conditioning: Slices::NONE,
        recent: Slices::NONE,
        pointers: 0,
        ..memory
    };
    match memory.conditioning.times.is_empty() {
        false => (
            Memory {
                conditioning: memory.conditioning,
                ..none
            },
            Memory {
                conditioning: Slices::NONE,
                ..memory
            },
        ),
        true => (
            Memory {
                pointers: memory.pointers,
                ..none
            },
            Memory { pointers: 0, ..memory },
        ),
    }
}

#[cfg(feature = "emu")]
#[test]
fn memory_attention_conforms_to_its_cpu_op_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}

#[cfg(feature = "emu")]
#[test]
fn memory_attention_asks_the_arena_for_the_scratch_memory_it_says() {
    for case in cases() {
        let bench = Bench::all().next().unwrap();
        let problem = Problem::new(&bench, case, 0.0).unwrap();
        let (q, memories) = (bench.bf16(&problem.q), problem.memories());
        let y = bench.output(problem.q.len() / case.d * case.m);
        let before = bench.arena.usage().live;
        memory_attention(
            &problem.device,
            &bench.runtime,
            &bench.arena,
            Part::whole(&q),
            &memories,
            Output::Rows(Part::whole(&y)),
        )
        .unwrap();
        let tokens = memories[0].tokens(problem.host.positions());
        let said = hpc_seg::cuda::memory_attention::scratch_bytes(&problem.device, case.lanes, tokens, case.conditioning + case.recent);
        assert!(bench.arena.usage().peak <= before + said, "{case:?}: {} + {said}", before);
    }
}

#[cfg(feature = "emu")]
#[test]
fn memory_attention_refuses_what_does_not_belong_together() {
    let bench = Bench::all().next().unwrap();
    let case = cases().find(|case| case.name == "one" && case.m == 64).unwrap();
    let problem = Problem::new(&bench, case, 0.0).unwrap();
    let q = bench.bf16(&problem.q);
    let refused = |memory: Memory<'_>| problem.run(&bench, Part::whole(&q), &[memory]).unwrap_err().to_string();
    let memory = problem.memory(0);
    let none = Memory {
        conditioning: Slices::NONE,
        ..memory
    };
    assert!(refused(none).contains("a lane without any token"));
    let times = [1];
    let late = Slices {
        times: &times,
        ..memory.conditioning
    };
    assert!(
        refused(Memory {
            conditioning: late,
            ..memory
        })
        .contains("of 1 temporal indices")
    );
    assert!(
        refused(Memory {
            pointers: 1,
            pointer_keys: None,
            ..memory
        })
        .contains("pointer keys are used")
    );
    let odd = Slices {
        tokens: Some(Part { buffer: &q, offset: 8 }),
        ..memory.conditioning
    };
    assert!(
        refused(Memory {
            conditioning: odd,
            ..memory
        })
        .contains("a multiple of 16")
    );
}
