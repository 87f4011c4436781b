//! `attention` against its CPU op: windows, padding, columns of wider tensors, and its independence of the number of items.

use super::conformance::{Bench, conforms, guarded, rounded, values};
use anyhow::{Context, Result, ensure};
#[cfg(feature = "emu")]
use hpc_seg::cuda::arena::Buffer;
use hpc_seg::cuda::attention::{Attention, Columns, Layout, TILES};
use hpc_seg::device::Device;
use hpc_seg::ops;
use hpc_seg::ops::attention::{self as op, Windows};
use hpc_seg::tensor::Tensor;

const fn whole(queries: usize, keys: usize) -> Layout {
    Layout::Whole { queries, keys }
}

const fn split(side: usize, window: usize, pools: bool) -> Layout {
    Layout::Partition { side, window, pools }
}

/// Besides the op's own table: the specialisation it must choose, items, layout, heads, width. A tile less one, a tile and one more, windows as the network has them on
/// maps that they do not divide, widths that fill a tile, fall short of it by one access, or by one element.
const CASES: &[(&str, usize, Layout, usize, usize)] = &[
    ("attention_256", 1, whole(129, 33), 1, 256),
    ("attention_256", 2, whole(7, 64), 1, 136),
    ("attention_256_small", 1, whole(129, 33), 1, 256),
    ("attention_256_small", 2, whole(7, 48), 1, 136),
    ("attention_96", 2, split(9, 7, false), 2, 96),
    ("attention_96", 1, split(10, 8, false), 2, 72),
    ("attention_96", 1, split(20, 14, true), 1, 96),
    ("attention_96", 1, whole(65, 97), 1, 64),
    ("attention_96", 1, whole(63, 31), 1, 40),
    ("attention_96_few", 2, split(8, 4, false), 2, 96),
    ("attention_96_few", 1, split(10, 8, true), 2, 96),
    ("attention_96_few", 1, split(6, 4, true), 3, 56),
    ("attention_96_few", 1, whole(33, 15), 1, 48),
    ("attention_32_few", 3, whole(8, 8), 8, 32),
    ("attention_32_few", 1, whole(17, 47), 1, 24),
    ("attention_16_few", 2, whole(33, 8), 8, 16),
    ("attention_16_few", 1, whole(15, 33), 3, 8),
    ("attention_16_split", 2, whole(8, 257), 8, 16),
    ("attention_16_split", 1, whole(16, 289), 1, 8),
    ("attention_16_split", 1, whole(1, 767), 2, 16),
    ("attention_16_any", 2, whole(8, 300), 8, 4),
    ("attention_16_any", 1, split(10, 4, true), 2, 6),
    ("attention_96_any", 1, split(9, 7, false), 2, 17),
    ("attention_96_any", 1, whole(17, 17), 1, 95),
    ("attention_256_any", 1, whole(17, 33), 1, 97),
    ("attention_256_any", 1, whole(3, 5), 1, 255),
];

/// Bugs that [`check`] must notice.
pub const MUTATIONS: &[super::suites::Mutation] = &[
    ("teams do not meet", "attention.cu", "team_sync();  // this", "// this"),
    (
        "copies are not waited for",
        "attention.cu",
        "cp_async_wait<0>();",
        "cp_async_wait<1>();",
    ),
    ("the stage in use is refilled", "attention.cu", "ring + tile % 2 * 2 * TILE", "ring"),
    (
        "the last tile is fetched as a whole one",
        "attention.cu",
        "(tile + 1) * KEYS <= keys.count",
        "tile * KEYS <= keys.count",
    ),
    (
        "values of a whole tile are its keys",
        "attention.cu",
        "(const u8*)(v + chunk * 8)",
        "(const u8*)(k + chunk * 8)",
    ),
    (
        "no barrier before merging",
        "attention.cu",
        "__syncthreads();                  // all",
        "// all",
    ),
    (
        "ranges are merged without their references",
        "attention.cu",
        "exp2_approx((part[WIDTH] - most) * scale)",
        "1.f",
    ),
    (
        "what was summed before is not scaled",
        "attention.cu",
        "o[j][half * 2] *= shrink",
        "o[j][half * 2] *= 1.f",
    ),
    ("the sum of weights is not scaled", "attention.cu", "sum[half] *= shrink;", ""),
    (
        "keys beyond the last count",
        "attention.cu",
        "if (key >= count + (copies > 0)) s[j][e] = LOWEST;",
        "if (false) ;",
    ),
    ("padding tokens count once", "attention.cu", "s[j][e] += raised", "s[j][e] += 0.f"),
    (
        "padding tokens of a whole window",
        "attention.cu",
        "window * window - (bottom - top) * (right - left)",
        "window * window",
    ),
    (
        "queries of the large map",
        "attention.cu",
        "rectangle(side / pool, top",
        "rectangle(side, top",
    ),
    (
        "windows are not cut at the border",
        "attention.cu",
        "right = min(left + window, side)",
        "right = left + window",
    ),
    (
        "queries beyond the last are read",
        "attention.cu",
        "query < queries.count ? row_of(queries, query) : -1",
        "row_of(queries, query)",
    ),
    (
        "columns beyond the head are read",
        "attention.cu",
        "key < total ? width - chunk * 8 : 0",
        "key < total ? 8 : 0",
    ),
    (
        "columns beyond the head are written",
        "attention.cu",
        "if (column < width) *(u32*)",
        "*(u32*)",
    ),
    (
        "values of the keys' rows",
        "attention.cu",
        "v + row * (u32)v_stride",
        "v + row * (u32)q_stride",
    ),
    ("the first head's padding", "attention.cu", "padding_v + head * width", "padding_v"),
    (
        "the rest of the weights is dropped",
        "attention.cu",
        "if constexpr (PARTS == 2)",
        "if constexpr (PARTS == 3)",
    ),
    ("fragments not transposed", "attention.cu", "ldmatrix_x4_trans(b", "ldmatrix_x4(b"),
    (
        "swizzle without rows",
        "attention.cu",
        "(chunk ^ turn_of(row)) << 3",
        "(chunk + turn_of(row)) << 3",
    ),
    (
        "steps in the place of others",
        "attention.cu",
        "turn_of(lane_row) ^ (2 * step & (TURNS - 1))",
        "turn_of(lane_row)",
    ),
    (
        "the maximum of a lane, not of its quad",
        "attention.cu",
        "most[half] = fmaxf(most[half], __shfl_xor_sync(WHOLE_WARP, most[half], 2));",
        "",
    ),
];

/// q among other columns, k and v as columns of one tensor, and the padding.
struct Data {
    windows: Windows,
    q: Vec<f32>,
    kv: Vec<f32>,
    padding: [Vec<f32>; 2],
}

/// Columns before the heads of q and of k: multiples of 8 where the head is one.
fn before(width: usize) -> usize {
    if width.is_multiple_of(8) { 8 } else { 3 }
}

fn windows(layout: Layout) -> Windows {
    match layout {
        Layout::Whole { queries, keys } => Windows::whole(queries, keys),
        Layout::Partition { side, window, pools } => Windows::partition(side, window, pools),
    }
}

impl Data {
    /// Queries are this much larger than keys.
    fn new(case: &Attention, factor: f32) -> Self {
        let (windows, wide) = (windows(case.layout), case.heads * case.width);
        let [q_width, kv_width] = [wide + before(case.width), 2 * wide + before(case.width)];
        let q = values(1, case.items * windows.query_rows * q_width);
        Self {
            q: q.iter().map(|value| rounded(factor * value)).collect(),
            kv: values(2, case.items * windows.key_rows * kv_width),
            padding: [values(3, wide), values(4, wide)],
            windows,
        }
    }

    fn expected(&self, case: &Attention) -> Result<Vec<f32>> {
        let device = Device::cpu(1)?;
        let (wide, first) = (case.heads * case.width, before(case.width));
        let q = Tensor::from_slice(&device, &[case.items, self.windows.query_rows, wide + first], &self.q)?;
        let kv = Tensor::from_slice(&device, &[case.items, self.windows.key_rows, 2 * wide + first], &self.kv)?;
        let padding = Tensor::from_slice(&device, &[2, wide], &self.padding.concat())?;
        let mut y = Tensor::zeros(&device, &[case.items, self.windows.query_rows, wide])?;
        op::attention(
            [op::Columns(&q, first), op::Columns(&kv, first), op::Columns(&kv, first + wide)],
            Some(&padding),
            &self.windows,
            case.items,
            case.heads,
            &mut y,
        )?;
        Ok(y.values().to_vec())
    }

    /// What the kernel makes of this, and the specialisation that did it: that of this name, or the one that is chosen.
    fn run(&self, bench: &Bench, case: &Attention, name: Option<&str>) -> Result<(Vec<f32>, &'static str)> {
        let (wide, first) = (case.heads * case.width, before(case.width));
        let (q, kv) = (bench.bf16(&self.q), bench.bf16(&self.kv));
        let padding = [bench.bf16(&self.padding[0]), bench.bf16(&self.padding[1])];
        let padding = windows(case.layout)
            .padding
            .iter()
            .any(|n| *n > 0)
            .then_some([(&padding[0], 0), (&padding[1], 0)]);
        let of = |buffer, offset, stride| Columns { buffer, offset, stride };
        let columns = [
            of(&q, first, wide + first),
            of(&kv, first, 2 * wide + first),
            of(&kv, first + wide, 2 * wide + first),
        ];
        let y = bench.output(case.items * self.windows.query_rows * wide);
        let tile = match TILES.iter().find(|tile| Some(tile.name) == name) {
            Some(tile) => *tile,
            None => case.tile(bench.runtime.driver().limits(), columns, padding)?,
        };
        case.launch_tile(tile, &bench.runtime, columns, padding, &y)?;
        Ok((guarded(&y)?, tile.name))
    }
}

/// The op's table without the network's larger shapes, which have small ones of their kind in [`CASES`].
fn table() -> impl Iterator<Item = Attention> {
    let small = |case: &op::Case| !ops::in_network(case.name) || case.cost().flops < 3e7;
    op::cases().into_iter().filter(small).map(|case| Attention {
        items: case.items,
        layout: match case.layout {
            op::Layout::Whole(queries, keys) => whole(queries, keys),
            op::Layout::Partition { side, window, pools } => split(side, window, pools),
        },
        heads: case.heads,
        width: case.width,
    })
}

/// Scores of some size, so that the softmax is far from uniform, and so large that its maximum moves far from tile to tile.
const FACTORS: [f32; 2] = [1.5, 24.0];

/// Every case on this device.
pub fn check(bench: &Bench) -> Result<()> {
    FACTORS
        .into_iter()
        .try_for_each(|factor| check_cases(bench, factor).with_context(|| format!("queries times {factor}")))
}

fn check_cases(bench: &Bench, factor: f32) -> Result<()> {
    for case in table() {
        let data = Data::new(&case, factor);
        data.run(bench, &case, None)
            .and_then(|(y, _)| conforms(&y, &data.expected(&case)?))
            .with_context(|| format!("{case:?}"))?;
    }
    for &(name, items, layout, heads, width) in CASES {
        let case = Attention {
            items,
            layout,
            heads,
            width,
        };
        let data = Data::new(&case, factor);
        // Each kind of device chooses one of the two; the small one runs on both.
        let tile = TILES.iter().find(|tile| tile.name == name).context("a tile of the table")?;
        if tile.shared_bytes() > bench.runtime.driver().limits().shared_bytes as usize {
            continue;
        }
        let is_small = name.ends_with("_small");
        let (y, chosen) = data
            .run(bench, &case, is_small.then_some(name))
            .with_context(|| format!("{case:?}"))?;
        ensure!(chosen == name, "{case:?}: {chosen} instead of {name}");
        conforms(&y, &data.expected(&case)?).with_context(|| format!("{name} {case:?}"))?;
    }
    Ok(())
}

#[cfg(feature = "emu")]
#[test]
fn attention_conforms_to_its_cpu_op_in_every_schedule() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}

#[cfg(feature = "emu")]
#[test]
fn attention_conforms_where_blocks_have_less_shared_memory() {
    check(&Bench::all().next().unwrap().with_less_shared_memory()).unwrap();
}

#[test]
fn every_specialisation_of_attention_has_a_case() {
    for tile in TILES {
        assert!(CASES.iter().any(|case| case.0 == tile.name), "{}", tile.name);
    }
}

#[cfg(feature = "emu")]
#[test]
fn an_item_is_the_same_whatever_the_number_of_items() {
    let bench = Bench::all().next().unwrap();
    for (layout, heads, width) in [
        (whole(37, 53), 1, 256),
        (split(10, 8, false), 2, 96),
        (split(8, 4, false), 2, 96),
        (whole(8, 300), 8, 16),
        (whole(20, 8), 8, 4),
    ] {
        let mut case = Attention {
            items: 3,
            layout,
            heads,
            width,
        };
        let mut data = Data::new(&case, FACTORS[0]);
        let (three, _) = data.run(&bench, &case, None).unwrap();
        case.items = 1;
        data.q.truncate(data.q.len() / 3);
        data.kv.truncate(data.kv.len() / 3);
        let (one, _) = data.run(&bench, &case, None).unwrap();
        assert_eq!(one, three[..one.len()], "{case:?}");
    }
}

#[cfg(feature = "emu")]
#[test]
fn an_attention_that_does_not_fit_its_buffers_is_refused_with_the_reason() {
    let bench = Bench::all().next().unwrap();
    let x = bench.bf16(&[0.0; 16 * 48]);
    let small = bench.bf16(&[0.0; 16]);
    let complaint = |layout, stride, width, padding: &Buffer, y: &Buffer| {
        let columns = [0, 16, 32].map(|offset| Columns {
            buffer: &x,
            offset,
            stride,
        });
        let case = Attention {
            items: 1,
            layout,
            heads: 1,
            width,
        };
        let padding = (padding.bytes() > 32).then_some([(padding, 0), (padding, 16)]);
        format!("{:#}", case.launch(&bench.runtime, columns, padding, y).unwrap_err())
    };
    let refused = |complaint: String, reason: &str| assert!(complaint.contains(reason), "{complaint}");
    refused(
        complaint(whole(16, 16), 48, 16, &x, &small),
        "y of [1, 16, 16, 2] bytes in a buffer of 32",
    );
    refused(complaint(whole(16, 17), 48, 16, &x, &x), "k of [800, 2] bytes");
    refused(complaint(whole(16, 16), 8, 16, &x, &x), "q rows of 8 have no 16 columns");
    refused(complaint(whole(1, 1), 48, 300, &x, &x), "heads of width 300");
    refused(complaint(whole(1, 0), 48, 16, &x, &x), "an item has 1 to");
    refused(
        complaint(split(4, 3, false), 48, 16, &small, &x),
        "padded windows without a padding key",
    );
    refused(complaint(split(3, 3, true), 48, 16, &x, &x), "pooled maps and windows are even");
    refused(complaint(split(4, 0, true), 48, 16, &x, &x), "map and windows have a side");
}

#[cfg(feature = "emu-check")]
#[test]
fn tiles_of_attention_are_read_without_bank_conflicts() {
    use hpc_seg::cuda::emulator::{Emulator, Schedule};
    let emulator = Emulator::new(Schedule::ALL[0]).unwrap();
    check(&Bench::over(Emulator::new(Schedule::ALL[0]).unwrap())).unwrap();
    let (phases, wavefronts) = emulator.ldmatrix_phases_and_wavefronts();
    assert!(phases > 10_000);
    assert_eq!(wavefronts, phases);
}

#[test]
fn windows_by_arithmetic_are_the_lists_of_the_cpu_op() {
    let mut layouts = vec![whole(1, 1), whole(8, 1024), whole(1024, 8)];
    for (side, window) in [(128, 8), (64, 4), (32, 14), (16, 7), (32, 32), (10, 4), (10, 6), (3, 7), (9, 1)] {
        layouts.push(split(side, window, false));
        if side % 2 == 0 && window % 2 == 0 {
            layouts.push(split(side, window, true));
        }
    }
    for layout in layouts {
        let (lists, own) = (windows(layout), 0..layout.windows());
        assert_eq!(layout.rows(), [lists.query_rows, lists.key_rows], "{layout:?}");
        assert_eq!(own.len(), lists.len(), "{layout:?}");
        for index in own {
            let window = layout.window(index);
            let listed = |rows: &[u32], start: &[usize]| -> Vec<usize> {
                rows[start[index]..start[index + 1]].iter().map(|row| *row as usize).collect()
            };
            let about = format!("{layout:?} window {index}");
            assert_eq!(
                window.queries.rows().collect::<Vec<_>>(),
                listed(&lists.queries, &lists.query_start),
                "{about}"
            );
            assert_eq!(
                window.keys.rows().collect::<Vec<_>>(),
                listed(&lists.keys, &lists.key_start),
                "{about}"
            );
            assert_eq!(window.copies, lists.padding[index] as usize, "{about}");
        }
    }
}
