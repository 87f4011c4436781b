//! The wrappers of ptx.cuh: what they do with fixed values (`kernels/ptx_probe.cu`), against the PTX manual's definitions worked out here, and against what a GPU
//! answered, where that was recorded (tests/golden/ptx_sm_XY.csv, by `benches/gpu.sh correctness`).

use super::conformance::Bench;
use anyhow::{Context, Result, ensure};
use half::{bf16, f16};
use hpc_seg::cuda::driver::{Arguments, Shape};
use hpc_seg::cuda::launch::Work;
use std::fmt::Write;
use std::path::Path;

/// A folder to which a GPU's answers are written.
const RECORD: &str = "HPC_SEG_RECORD_PTX";
/// Wrappers that no section probes yet, and why.
const NOT_PROBED: &[&str] = &["shared_address"]; // an address of the hardware's own, seen through those that use it

/// What a section gets, and must give.
struct Section {
    name: &'static str,
    input: Vec<u32>,
    expected: Vec<u32>,
    /// Units in the last place by which a value may differ; 0 for bits.
    units: u32,
}

fn conversions() -> Section {
    let mut bits: Vec<u32> = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        1e-40,
        -1e-45,
        3.140_625,
        1e38,
    ]
    .map(f32::to_bits)
    .to_vec();
    // Halfway between two neighbours, a little below and above, after an even and an odd one; one that carries into the exponent.
    bits.extend([
        0x3f80_8000,
        0x3f81_8000,
        0x3f80_7fff,
        0x3f80_8001,
        0x3f81_7fff,
        0xbf81_8001,
        0x3fff_8000,
        0xffc0_0001,
        0x7f80_0001,
    ]);
    let mut state = 1_u32;
    while bits.len() < 64 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bits.push(state);
    }
    // cvt.rn: to nearest even; NaN becomes the canonical 0x7fff.
    let rounded = |bits: u32| {
        let value = f32::from_bits(bits);
        if value.is_nan() {
            0x7fff
        } else {
            u32::from(bf16::from_f32(value).to_bits())
        }
    };
    let pairs = bits.chunks(2).map(|pair| rounded(pair[0]) | rounded(pair[1]) << 16);
    let expected = pairs.chain(bits.chunks(2).map(|pair| rounded(pair[0]))).collect();
    Section {
        name: "conversions",
        input: bits,
        expected,
        units: 0,
    }
}

fn matrices() -> Section {
    let element = |matrix: usize, row: usize, column: usize| (matrix * 1000 + row * 10 + column) as u32;
    let input = (0..128)
        .map(|at| (at / 32, at / 4 % 8, at % 4 * 2))
        .map(|(m, r, c)| element(m, r, c) | element(m, r, c + 1) << 16);
    // Thread l holds elements 2 (l % 4) and the next of row l / 4 of each.
    let expected = (0..128)
        .map(|at| (at % 4, at / 4))
        .map(|(m, l)| (m, l / 4, l % 4 * 2))
        .map(|(m, r, c)| element(m, r, c) | element(m, r, c + 1) << 16);
    Section {
        name: "matrices",
        input: input.collect(),
        expected: expected.collect(),
        units: 0,
    }
}

/// The same matrices transposed: thread l holds elements 2 (l % 4) and the next of column l / 4.
fn transposed() -> Section {
    let (elements, element) = (matrices().input, |m: usize, r: usize, c: usize| (m * 1000 + r * 10 + c) as u32);
    let expected = (0..128).map(|at| (at % 4, at / 4 % 4 * 2, at / 16));
    Section {
        name: "transposed",
        input: elements,
        expected: expected.map(|(m, r, c)| element(m, r, c) | element(m, r + 1, c) << 16).collect(),
        units: 0,
    }
}

/// Row and column of element `e` of thread `lane` in fragment A (16 x 16), B (16 x 8), C (16 x 8) of mma.m16n8k16.
fn place(fragment: char, lane: usize, e: usize) -> (usize, usize) {
    let (group, thread) = (lane / 4, lane % 4);
    match fragment {
        'A' => (
            group + if e % 4 >= 2 { 8 } else { 0 },
            thread * 2 + e % 2 + if e >= 4 { 8 } else { 0 },
        ),
        'B' => (thread * 2 + e % 2 + if e >= 2 { 8 } else { 0 }, group),
        _ => (group + if e >= 2 { 8 } else { 0 }, thread * 2 + e % 2),
    }
}

fn products() -> Section {
    products_of("products", |value| bf16::from_f32(value).to_bits())
}

fn half_products() -> Section {
    products_of("half_products", |value| f16::from_f32(value).to_bits())
}

fn products_of(name: &'static str, operand: fn(f32) -> u16) -> Section {
    // Small whole numbers, no two rows or columns alike: every sum is exact in any order.
    let a = |(row, column): (usize, usize)| ((row * 7 + column * 3 + row * column) % 17) as f32 - 8.0;
    let b = |(row, column): (usize, usize)| ((row * 5 + column * 11 + row * column * 3) % 19) as f32 - 9.0;
    let c = |(row, column): (usize, usize)| (row * 100 + column) as f32;
    let bits = |value: f32| u32::from(operand(value));
    let mut input = Vec::new();
    for lane in 0..32 {
        input.extend((0..4).map(|i| bits(a(place('A', lane, 2 * i))) | bits(a(place('A', lane, 2 * i + 1))) << 16));
    }
    for lane in 0..32 {
        input.extend((0..2).map(|i| bits(b(place('B', lane, 2 * i))) | bits(b(place('B', lane, 2 * i + 1))) << 16));
    }
    input.extend((0..128).map(|at| c(place('C', at / 4, at % 4)).to_bits()));
    let product = |(row, column)| c((row, column)) + (0..16).map(|k| a((row, k)) * b((k, column))).sum::<f32>();
    let expected = (0..128).map(|at| product(place('C', at / 4, at % 4)).to_bits()).collect();
    Section {
        name,
        input,
        expected,
        units: 0,
    }
}

fn copies() -> Section {
    let input: Vec<u32> = (1..=256_u32).map(|word| word.wrapping_mul(0x9e37_79b9) | 0x0101_0101).collect();
    let mut bytes: Vec<u8> = input.iter().flat_map(|word| word.to_le_bytes()).collect();
    for lane in 0..32 {
        for (group, copied) in [(0, lane % 17), (1, 16 - lane % 17)] {
            let start = (group * 32 + lane) * 16;
            bytes[start + copied..start + 16].fill(0);
        }
    }
    let expected = bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    Section {
        name: "copies",
        input,
        expected,
        units: 0,
    }
}

fn shuffles() -> Section {
    let input: Vec<u32> = (0..32).map(|lane| 1000 + lane).collect();
    // Beyond the warp's ends a lane keeps its own.
    let from: [fn(usize) -> usize; 4] = [
        |lane| lane ^ 5,
        |lane| if lane + 3 < 32 { lane + 3 } else { lane },
        |lane| if lane >= 3 { lane - 3 } else { lane },
        |lane| lane * 7 % 32,
    ];
    let expected = from
        .iter()
        .flat_map(|from| (0..32).map(|lane| input[from(lane)]).collect::<Vec<_>>())
        .collect();
    Section {
        name: "shuffles",
        input,
        expected,
        units: 0,
    }
}

fn roots() -> Section {
    let values = (0..32).map(|lane| 1e-6_f32 * 2.7_f32.powi(lane));
    // rsqrt.approx.f32 errs by at most 2^-22.9: two units in the last place of any result.
    Section {
        name: "roots",
        input: values.clone().map(f32::to_bits).collect(),
        expected: values
            .map(|value| (1.0 / f64::from(value).sqrt()) as f32)
            .map(f32::to_bits)
            .collect(),
        units: 2,
    }
}

fn exponents() -> Section {
    let mut values = vec![
        0.0,
        -0.0,
        1.0,
        -126.0,
        127.0,
        128.0,
        1e-40,
        f32::INFINITY,
        f32::NEG_INFINITY,
        0.5,
        -126.5,
        -150.0,
    ];
    values.extend((values.len()..32).map(|lane| (lane as f32 - 20.0) * 3.37));
    // ex2.approx.ftz.f32 errs by at most a share of 2^-22, four units in the last place of the worst mantissa; subnormal results become zero.
    let power = |value: f32| match f64::from(value).exp2() as f32 {
        small if small < f32::MIN_POSITIVE => 0.0,
        power => power,
    };
    Section {
        name: "exponents",
        input: values.iter().map(|value| value.to_bits()).collect(),
        expected: values.iter().map(|value| power(*value).to_bits()).collect(),
        units: 4,
    }
}

fn halves() -> Section {
    // Ends of the range, subnormals, halfway between two neighbours after an even and an odd one and beside it, sums that cancel, round and overflow.
    let mut values = vec![
        0.0,
        -0.0,
        65504.0,
        65519.0,
        65520.0,
        -1e6,
        5.96e-8,
        2.98e-8,
        3e-8,
        -6.1e-5,
        1e-7,
        f32::INFINITY,
    ];
    values.extend([f32::NEG_INFINITY, f32::NAN, 1.0, -1.0, 2048.0, 1.0, 2049.0, 2051.0]);
    values.extend([0x3f80_1000, 0x3f80_3000, 0x3f80_0fff, 0x3f80_1001, 0xbf80_3001].map(f32::from_bits));
    values.extend((values.len()..64).map(|at| ((at * 7919) % 1009) as f32 * 0.37 - 150.0));
    let canonical = |value: f16| u32::from(if value.is_nan() { 0x7fff } else { value.to_bits() });
    let narrow = |value: f32| f16::from_f32(value);
    // Both summands and their sum in f32 are exact enough that rounding again gives the f16 sum.
    let sum = |a: f32, b: f32| canonical(narrow(narrow(a).to_f32() + narrow(b).to_f32()));
    let pair = |pair: &[f32]| canonical(narrow(pair[0])) | canonical(narrow(pair[1])) << 16;
    let sums = |pair: &[f32]| sum(pair[0], pair[1]) | sum(pair[1], 1.0) << 16;
    Section {
        name: "halves",
        input: values.iter().map(|value| value.to_bits()).collect(),
        expected: values.chunks(2).map(pair).chain(values.chunks(2).map(sums)).collect(),
        units: 0,
    }
}

fn loads() -> Section {
    let input: Vec<u32> = (1..=32_u32).map(|word| word.wrapping_mul(0x9e37_79b9)).collect();
    Section {
        name: "loads",
        expected: input.iter().chain(input.iter().rev()).copied().collect(),
        input,
        units: 0,
    }
}

/// In the order of the probe's numbers.
fn sections() -> Vec<Section> {
    let first = [conversions(), matrices(), products(), copies(), shuffles(), roots()];
    let more = [exponents(), transposed(), half_products(), halves(), loads()];
    first.into_iter().chain(more).collect()
}

/// The device's answer to a section, counted from 0.
fn answer(bench: &Bench, at: usize, section: &Section) -> Result<Vec<u32>> {
    let input = bench.arena.filled(bytemuck::cast_slice(&section.input))?;
    let output = bench.arena.filled(&vec![0xff; section.expected.len() * 4])?;
    let shape = Shape {
        blocks: [1, 1, 1],
        threads: 32,
        shared_bytes: 0,
    };
    let arguments = Arguments::new()
        .pointer(input.pointer())
        .pointer(output.pointer())
        .int(at as i32 + 1);
    bench.runtime.launch("ptx_probe", shape, arguments, section.name, Work::default())?;
    let bytes = output.to_vec()?;
    Ok(bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect())
}

fn agree(section: &Section, answer: &[u32], expected: &[u32]) -> Result<()> {
    ensure!(
        answer.len() == expected.len(),
        "{}: {} words for {}",
        section.name,
        answer.len(),
        expected.len()
    );
    for (at, (answer, expected)) in answer.iter().zip(expected).enumerate() {
        ensure!(
            answer.abs_diff(*expected) <= section.units,
            "{} word {at}: {answer:#010x} for {expected:#010x}",
            section.name
        );
    }
    Ok(())
}

/// All wrappers against the definitions.
pub fn check(bench: &Bench) -> Result<()> {
    for (at, section) in sections().iter().enumerate() {
        agree(section, &answer(bench, at, section)?, &section.expected)?;
    }
    Ok(())
}

/// Writes the device's answers, if it was asked for.
pub fn record(bench: &Bench) {
    let Some(folder) = std::env::var_os(RECORD) else { return };
    let kind = bench.runtime.driver().kind();
    let mut text = String::from("section,word,bits\n");
    for (at, section) in sections().iter().enumerate() {
        for (word, bits) in answer(bench, at, section).unwrap().iter().enumerate() {
            writeln!(text, "{},{word},{bits:08x}", section.name).unwrap();
        }
    }
    let path = Path::new(&folder).join(format!("ptx_{}.csv", kind.trim_start_matches("cuda ")));
    std::fs::write(path, text).unwrap();
}

/// The words of a section in a record.
fn recorded(text: &str, section: &str) -> Result<Vec<u32>> {
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix(section)?.strip_prefix(',')?.split_once(','));
    rows.map(|(_, bits)| u32::from_str_radix(bits, 16).context("not a record"))
        .collect()
}

/// Answers of GPUs, by file name.
fn records() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_string(), path));
    named
        .filter(|(name, _)| name.starts_with("ptx_sm_"))
        .map(|(name, path)| (name, std::fs::read_to_string(path).unwrap()))
        .collect()
}

#[cfg(feature = "emu")]
#[test]
fn the_emulators_wrappers_do_what_the_manual_says() {
    Bench::all().for_each(|bench| check(&bench).unwrap());
}

#[test]
fn what_a_gpu_answered_is_what_the_manual_says() {
    let records = records();
    if records.is_empty() {
        println!(
            "no GPU has confirmed the wrappers of ptx.cuh: there is no tests/golden/ptx_sm_XY.csv; benches/gpu.sh correctness records one"
        );
    }
    for (name, text) in &records {
        let rows: usize = sections().iter().map(|section| section.expected.len()).sum();
        assert_eq!(text.lines().count(), rows + 1, "{name}");
        for section in sections() {
            agree(&section, &recorded(text, section.name).unwrap(), &section.expected)
                .context(name.clone())
                .unwrap();
        }
    }
}

#[test]
fn a_wrong_record_is_noticed() {
    let section = products();
    let mut words = section.expected.clone();
    words[3] ^= 1;
    let text: String = words
        .iter()
        .enumerate()
        .map(|(at, bits)| format!("products,{at},{bits:08x}\n"))
        .collect();
    let read = recorded(&text, "products").unwrap();
    assert_eq!(read, words);
    assert!(
        agree(&section, &read, &section.expected)
            .unwrap_err()
            .to_string()
            .contains("products word 3")
    );
}

#[test]
fn every_wrapper_is_probed() {
    let (wrappers, probe) = (include_str!("../../kernels/ptx.cuh"), include_str!("../../kernels/ptx_probe.cu"));
    let names = wrappers
        .split("DEV ")
        .skip(1)
        .filter_map(|rest| rest.split_once('(')?.0.split_whitespace().last());
    let missing: Vec<&str> = names.filter(|name| !probe.contains(name) && !NOT_PROBED.contains(name)).collect();
    assert!(missing.is_empty(), "give kernels/ptx_probe.cu a section for {missing:?}");
}
