//! `memory_attention`: cross-attention of a slice's queries to memory tokens, softmax(q K^T / sqrt(D)) M with K = RoPE(W (M + position) + b), by axial absorption.
//!
//! Half of the pairs of a key at p = (x, y) turn by x alone, half by y alone, so q . R(p)(W k + b) = (X`[x]` + Y`[y]`) . k + constants, with X`[x]` = Wx^T R(x)^-1 q and
//! Y`[y]` likewise: no projected key is made or kept, all layers read the same M-wide tokens, and the value projection is left to the following `linear`
//! (W_v W_o folded). Shapes: q [lanes * P, D], turned by its own position; tokens [P, slots, M] per set; pointer keys (with position) and values [n, M]; y [lanes * P, M].
//! A set of tokens shared by lanes can be attended to once and continued (`partial`): running maximum, sum and weighted tokens per query. Source: SAM 2's memory
//! attention; algebra in the project's notes on exact savings.

use super::Cost;
use super::rope::Rope;
use crate::cpu::memory_attention as cpu;
use crate::cuda::arena::Buffer;
use crate::cuda::memory_attention as kernel;
use crate::device::Device;
use crate::tensor::Tensor;
use anyhow::Result;
use half::bf16;

/// A layer's key projection, folded with temporal positions, and the tokens' spatial position.
pub struct KeyTables {
    grid: (usize, usize),
    d: usize,
    m: usize,
    times: usize,
    tables: Tables,
}

enum Tables {
    Cpu(cpu::Tables),
    Cuda(kernel::KeyTables),
}

impl KeyTables {
    /// `weight` [D, M] and `bias` `[D]` of the key projection, `times` [T, M] the temporal positions, `position` [P, M] the spatial ones.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn new(device: &Device, weight: &[f32], bias: &[f32], times: &[f32], position: &[f32], rope: &Rope) -> Result<Self> {
        let d = bias.len();
        let m = weight.len() / d;
        assert_eq!(
            (rope.width, weight.len() % d, times.len() % m),
            (d, 0, 0),
            "memory_attention: widths of keys, tokens and rotation"
        );
        assert_eq!(
            position.len(),
            rope.grid.0 * rope.grid.1 * m,
            "memory_attention: positions of a {:?} grid",
            rope.grid
        );
        let tables = match device.cuda() {
            None => Tables::Cpu(on_cpu(weight, bias, times, position, rope)),
            Some(cuda) => Tables::Cuda(kernel::KeyTables::new(
                &cuda.arena,
                weight,
                bias,
                times,
                position,
                rope.grid,
                [&rope.cos, &rope.sin],
            )?),
        };
        Ok(Self {
            grid: rope.grid,
            d,
            m,
            times: times.len() / m,
            tables,
        })
    }

    /// Tokens per slice, P.
    pub fn positions(&self) -> usize {
        self.grid.0 * self.grid.1
    }

    /// Width of a token, M.
    pub fn token_width(&self) -> usize {
        self.m
    }

    fn cpu<'a>(&self, lanes: &[Memory<'a>]) -> Vec<cpu::Memory<'a>> {
        let (p, m) = (self.positions(), self.m);
        let lane = |memory: &Memory<'a>| cpu::Memory {
            conditioning: memory.conditioning.cpu(p, m),
            recent: memory.recent.cpu(p, m),
            pointer_keys: memory.pointer_keys,
            pointer_values: memory.pointer_values,
            start: memory
                .start
                .map(|state| state.of.values().chunks_exact(self.state_len()).nth(state.lane).unwrap_or_default()),
        };
        lanes.iter().map(lane).collect()
    }

    /// Floats of one lane's unfinished attention.
    pub fn state_len(&self) -> usize {
        match &self.tables {
            Tables::Cpu(_) => cpu::state_len(self.positions(), self.m),
            Tables::Cuda(on_device) => on_device.state_bytes() / 4,
        }
    }

    /// Bytes that a call takes of a CUDA device's memory, for every lane that attends to so many slices and pointer tokens; none on the CPU.
    pub fn scratch_bytes(&self, slices: usize, pointers: usize) -> usize {
        match &self.tables {
            Tables::Cpu(_) => 0,
            Tables::Cuda(tables) => kernel::scratch_bytes(tables, 1, slices * self.positions() + pointers, slices),
        }
    }

    fn check(&self, q: &Tensor, lanes: &[Memory<'_>]) {
        let positions = self.positions();
        assert_eq!(
            (q.rows(), q.width()),
            (lanes.len() * positions, self.d),
            "memory_attention: queries of {} lanes",
            lanes.len()
        );
        for memory in lanes {
            for set in [&memory.conditioning, &memory.recent] {
                let slots = set.slots(positions, self.m);
                assert!(
                    set.times.len() <= slots && set.times.iter().all(|&t| t < self.times),
                    "memory_attention: times {:?} of {slots} slots",
                    set.times
                );
            }
            let (keys, values) = (memory.pointer_keys.len(), memory.pointer_values.len());
            assert!(keys == values && keys % self.m == 0, "memory_attention: pointers");
            assert!(
                memory
                    .start
                    .is_none_or(|state| state.of.width() == self.state_len() && state.lane < state.of.rows()),
                "memory_attention: start state"
            );
        }
    }
}

/// What the CPU's kernel reads: each half of W^T, with the temporal positions pushed through it.
fn on_cpu(weight: &[f32], bias: &[f32], times: &[f32], position: &[f32], rope: &Rope) -> cpu::Tables {
    let d = bias.len();
    let (m, half) = (weight.len() / d, d / 2);
    let mut halves = Vec::with_capacity(2);
    for from in [0, half] {
        let mut rows = Vec::with_capacity((m + times.len() / m) * half);
        for c in 0..m {
            rows.extend((from..from + half).map(|e| weight[e * m + c]));
        }
        for time in times.chunks_exact(m) {
            rows.extend((from..from + half).map(|e| {
                let sum: f64 = (0..m).map(|c| f64::from(weight[e * m + c]) * f64::from(time[c])).sum();
                (sum + f64::from(bias[e])) as f32
            }));
        }
        halves.push(rows);
    }
    let mut rows_pointer: Vec<f32> = (0..m).flat_map(|c| (0..d).map(move |e| weight[e * m + c])).collect();
    rows_pointer.extend_from_slice(bias);
    let rows_y = halves.pop().unwrap_or_default();
    let rows_x = halves.pop().unwrap_or_default();
    cpu::Tables {
        width: rope.grid.1,
        height: rope.grid.0,
        d,
        m,
        times: times.len() / m,
        rows_x,
        rows_y,
        rows_pointer,
        position: position.to_vec(),
        cos: rope.cos.to_vec(),
        sin: rope.sin.to_vec(),
    }
}

/// Tokens of several slices, position by position, of which the first `times.len()` slots are used.
#[derive(Clone, Copy)]
pub struct Slices<'a> {
    /// Rings of tokens [rings, P, slots, M], unprojected and without any position, and the ring's number; none without slices.
    pub tokens: Option<(&'a Tensor, usize)>,
    /// Temporal index of each used slot.
    pub times: &'a [usize],
}

impl<'a> Slices<'a> {
    /// No slice.
    pub const NONE: Self = Slices { tokens: None, times: &[] };

    fn slots(&self, positions: usize, m: usize) -> usize {
        let Some((tokens, ring)) = self.tokens else { return 0 };
        let &[rings, rows, slots, width] = tokens.shape() else {
            panic!("memory_attention: tokens {tokens:?} are not [rings, P, slots, M]");
        };
        assert!(
            ring < rings && (rows, width) == (positions, m),
            "memory_attention: ring {ring} of {tokens:?}"
        );
        slots
    }

    fn cpu(&self, positions: usize, m: usize) -> cpu::Slices<'a> {
        let Some((tokens, ring)) = self.tokens else {
            return cpu::Slices::NONE;
        };
        let slots = self.slots(positions, m);
        let len = positions * slots * m;
        cpu::Slices {
            tokens: &tokens.values()[ring * len..][..len],
            slots,
            times: self.times,
        }
    }

    fn cuda(&self, positions: usize, m: usize) -> kernel::Slices<'a> {
        let Some((tokens, ring)) = self.tokens else {
            return kernel::Slices::NONE;
        };
        let slots = self.slots(positions, m);
        kernel::Slices {
            tokens: Some(kernel::Part {
                buffer: tokens.buffer(),
                offset: ring * positions * slots * m * tokens.dtype().bytes(),
            }),
            slots,
            times: self.times,
        }
    }
}

/// What one lane attends to.
#[derive(Clone, Copy)]
pub struct Memory<'a> {
    /// Conditioning slices, shared by the lanes of a support.
    pub conditioning: Slices<'a>,
    /// The lane's own recent slices.
    pub recent: Slices<'a>,
    /// Keys of the object pointer tokens [n, M], positions included.
    pub pointer_keys: &'a [f32],
    /// Their values [n, M].
    pub pointer_values: &'a [f32],
    /// A state of [`partial`] to go on from, instead of an empty one.
    pub start: Option<State<'a>>,
}

/// One lane's unfinished attention among those of [`partial`].
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct State<'a> {
    pub of: &'a Tensor,
    pub lane: usize,
}

impl<'a> Memory<'a> {
    /// The same memory with `state`, if any, in the place of the conditioning tokens it was made of.
    pub fn after(&self, state: Option<State<'a>>) -> Self {
        match state {
            Some(_) => Self {
                conditioning: Slices::NONE,
                start: state,
                ..*self
            },
            None => *self,
        }
    }
}

/// The pointer tokens of a step's lanes where ops read them, for all layers: on a CUDA device a copy in bf16.
pub struct Pointers {
    /// Keys, then values of each lane, each from a multiple of 16 bytes on.
    on_device: Option<(Buffer, Vec<[usize; 2]>)>,
}

impl Pointers {
    /// Those of these lanes.
    ///
    /// # Errors
    /// When the device's budget has no room for them.
    pub fn of(device: &Device, lanes: &[Memory<'_>]) -> Result<Self> {
        let Some(cuda) = device.cuda() else {
            return Ok(Self { on_device: None });
        };
        let (mut values, mut offsets) = (Vec::new(), Vec::with_capacity(lanes.len()));
        for lane in lanes {
            offsets.push([lane.pointer_keys, lane.pointer_values].map(|tokens| {
                values.resize(values.len().next_multiple_of(8), bf16::ZERO);
                let start = values.len();
                values.extend(tokens.iter().map(|value| bf16::from_f32(*value)));
                2 * start
            }));
        }
        Ok(Self {
            on_device: Some((cuda.arena.filled(bytemuck::cast_slice(&values))?, offsets)),
        })
    }
}

/// y = the attention of every lane; `pointers` are those of these lanes.
///
/// # Errors
/// Those of a CUDA device.
pub fn memory_attention(q: &Tensor, keys: &KeyTables, lanes: &[Memory<'_>], pointers: &Pointers, y: &mut Tensor) -> Result<()> {
    keys.check(q, lanes);
    assert_eq!(
        (y.rows(), y.width()),
        (q.rows(), keys.token_width()),
        "memory_attention: output {y:?}"
    );
    match &keys.tables {
        Tables::Cpu(tables) => cpu::memory_attention(q.values(), tables, &keys.cpu(lanes), cpu::Output::Rows(y.values_mut())),
        Tables::Cuda(tables) => {
            let rows = kernel::Output::Rows(kernel::Part::whole(y.buffer()));
            return keys.launch(tables, q, lanes, pointers, rows);
        }
    }
    Ok(())
}

/// The unfinished attention of every lane, [lanes, state_len], to be given as `start` later; f32 on every device.
///
/// # Errors
/// Those of a CUDA device.
pub fn partial(q: &Tensor, keys: &KeyTables, lanes: &[Memory<'_>]) -> Result<Tensor> {
    keys.check(q, lanes);
    let mut states = Tensor::empty_f32(q.device(), &[lanes.len(), keys.state_len()])?;
    match &keys.tables {
        Tables::Cpu(tables) => cpu::memory_attention(q.values(), tables, &keys.cpu(lanes), cpu::Output::States(states.values_mut())),
        Tables::Cuda(tables) => {
            let out = kernel::Output::States(kernel::Part::whole(states.buffer()));
            keys.launch(tables, q, lanes, &Pointers::of(q.device(), lanes)?, out)?;
        }
    }
    Ok(states)
}

impl KeyTables {
    fn launch(
        &self,
        tables: &kernel::KeyTables,
        q: &Tensor,
        lanes: &[Memory<'_>],
        pointers: &Pointers,
        output: kernel::Output<'_>,
    ) -> Result<()> {
        let (Some(cuda), Some((buffer, offsets))) = (q.device().cuda(), &pointers.on_device) else {
            panic!("memory_attention: queries or pointers are not on the tables' device");
        };
        assert_eq!(offsets.len(), lanes.len(), "memory_attention: pointers of other lanes");
        let lane = |(memory, &[keys, values]): (&Memory<'_>, &[usize; 2])| {
            let part = |offset: usize| (!memory.pointer_keys.is_empty()).then_some(kernel::Part { buffer, offset });
            (part(keys), part(values))
        };
        let parts: Vec<_> = lanes.iter().zip(offsets).map(lane).collect();
        let on_device: Vec<kernel::Memory<'_>> = lanes
            .iter()
            .zip(parts)
            .map(|(memory, (pointer_keys, pointer_values))| kernel::Memory {
                conditioning: memory.conditioning.cuda(self.positions(), self.m),
                recent: memory.recent.cuda(self.positions(), self.m),
                pointers: memory.pointer_keys.len() / self.m,
                pointer_keys,
                pointer_values,
                start: memory.start.map(|state| kernel::Part {
                    buffer: state.of.buffer(),
                    offset: state.lane * tables.state_bytes(),
                }),
            })
            .collect();
        kernel::memory_attention(
            tables,
            &cuda.runtime,
            &cuda.arena,
            kernel::Part::whole(q.buffer()),
            &on_device,
            output,
        )
    }
}

/// Cost of one lane of P queries of width D on `slices` slices and `pointers` pointer tokens of width M, T temporal positions, on a side x side grid.
pub fn cost(side: usize, d: usize, m: usize, times: usize, slices: usize, pointers: usize) -> Cost {
    let p = (side * side) as f64;
    let (d, m, times, slices, pointers) = (d as f64, m as f64, times as f64, slices as f64, pointers as f64);
    let tables = p * (2.0 * side as f64 * (m + times) * d + 2.0 * (m + 1.0) * d);
    Cost {
        flops: 4.0 * p * p * slices * m + 4.0 * p * pointers * m + tables,
        bytes: 4.0 * (p * slices * m + p * (d + m) + 2.0 * pointers * m),
    }
}

/// Lanes of a [height, width] grid: D-wide queries, `conditioning` slices in `slots` and `recent` ones of M-wide tokens, pointer tokens.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Case {
    pub name: &'static str,
    pub lanes: usize,
    pub grid: (usize, usize),
    pub d: usize,
    pub m: usize,
    pub times: usize,
    pub conditioning: usize,
    pub slots: usize,
    pub recent: usize,
    pub pointers: usize,
}

/// The op's table: awkward sizes, then the network's (see [`super::in_network`]).
pub fn cases() -> Vec<Case> {
    [
        ("one", 1, (1, 1), [4, 1, 1], [1, 1, 0, 0]),
        ("pointers alone", 1, (2, 3), [8, 3, 2], [0, 0, 0, 5]),
        ("primes", 2, (5, 7), [12, 5, 3], [2, 3, 1, 7]),
        ("block - 1", 1, (1, 31), [8, 4, 2], [3, 3, 2, 1]),
        ("block + 1", 1, (33, 1), [8, 4, 2], [3, 5, 2, 1]),
        ("key tile - 1", 1, (2, 3), [8, 11, 2], [127, 127, 1, 127]),
        ("key tile + 1", 1, (2, 3), [8, 13, 2], [129, 130, 1, 129]),
        ("no conditioning", 3, (4, 4), [16, 8, 7], [0, 2, 6, 4]),
        ("tracking.13 slices", 1, (32, 32), [256, 64, 7], [13, 13, 6, 64]),
        ("tracking.40 slices", 1, (32, 32), [256, 64, 7], [40, 40, 6, 64]),
        ("tracking.5 lanes, 13 slices", 5, (32, 32), [256, 64, 7], [13, 13, 6, 64]),
    ]
    .map(|(name, lanes, grid, [d, m, times], [conditioning, slots, recent, pointers])| Case {
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
    })
    .to_vec()
}
