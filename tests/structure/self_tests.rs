//! Each check finds its offence in a made-up source, and leaves a sound one alone.

use super::checks::{self, Source};
use super::lexer::{bodies, code_of};

fn source(path: &str, text: &str) -> Vec<Source> {
    vec![Source::new(path, text)]
}

#[test]
fn the_lexer_blanks_comments_strings_and_characters_only() {
    let text = "let a = \"unsafe \\\" {\"; // unsafe\nlet b: &'a str = r#\"fn \"x\" {\"#; /* fn /* { */ } */ let c = '{'; let d = '\\''; let e = b'x'; r#fn";
    let code = code_of(text);
    assert_eq!(code.lines().count(), 2);
    for gone in ["unsafe", "{", "}", "x"] {
        assert!(!code.contains(gone), "{gone} in {code}");
    }
    for kept in ["let a", "&'a str", "let c", "let d", "let e", "r#fn"] {
        assert!(code.contains(kept), "{kept} in {code}");
    }
}

#[test]
fn bodies_are_measured_to_their_closing_brace() {
    let code = "fn a();\nfn b(x: [u8; 3]) -> u8 {\n  if x { 1 } else { 2 }\n}\nfn c() {}\n";
    let heads: Vec<usize> = code.match_indices("fn ").map(|(at, _)| at).collect();
    assert_eq!(bodies(code, heads.into_iter()), [(2, 3), (5, 1)]);
}

#[test]
fn an_upward_import_is_found_in_every_spelling() {
    for text in [
        "use crate::cohort::runner;",
        "use crate::{\n    error,\n    cohort::{runner, journal},\n};",
        "fn f() { crate::cohort::go() }",
        "use crate::{tffs as t};",
    ] {
        assert_eq!(checks::upward_imports(&source("src/volume/nifti.rs", text)).len(), 1, "{text}");
    }
    for text in [
        "use crate::{error, ops::{gemm, cohort}};",
        "// crate::cohort",
        "#[cfg(test)]\nmod tests { use crate::cohort; }",
        "use crate::volume::a;",
    ] {
        assert_eq!(checks::upward_imports(&source("src/volume/nifti.rs", text)), [""; 0], "{text}");
    }
}

#[test]
fn a_macro_belongs_to_the_module_that_defines_it() {
    let mut sources = source("src/cohort/mod.rs", "#[macro_export]\nmacro_rules! shout { () => {} }");
    sources.push(Source::new("src/ops/gemm.rs", "use crate::shout;"));
    assert_eq!(
        checks::upward_imports(&sources),
        ["src/ops/gemm.rs:1: ops imports cohort, which stands above it"]
    );
}

#[test]
fn a_module_without_a_place_is_found() {
    assert!(checks::upward_imports(&source("src/utils.rs", ""))[0].contains("utils has no place"));
    assert!(checks::upward_imports(&source("src/ops/gemm.rs", "use crate::helpers;"))[0].contains("helpers has no place"));
}

#[test]
fn a_device_named_above_ops_is_found_and_one_below_is_not() {
    for text in [
        "Device::Cuda(0)",
        "use crate::cpu::gemm;",
        "use crate::{cuda, error};",
        "use cudarc::driver;",
        "Device :: Cpu",
    ] {
        assert_eq!(checks::named_devices(&source("src/sam2/hiera.rs", text)).len(), 1, "{text}");
        assert_eq!(checks::named_devices(&source("src/ops/gemm.rs", text)), [""; 0], "{text}");
    }
    assert_eq!(
        checks::named_devices(&source("src/sam2/hiera.rs", "// Device::Cuda\nlet Devices = 1;")),
        [""; 0]
    );
}

#[test]
fn an_op_without_its_test_is_found() {
    let mut sources = source("src/ops/gemm.rs", "");
    sources.push(Source::new("src/ops/mod.rs", ""));
    assert_eq!(checks::ops_without_test(&sources), ["src/ops/gemm.rs has no tests/ops/gemm.rs"]);
    sources.push(Source::new("tests/ops/gemm.rs", ""));
    assert_eq!(checks::ops_without_test(&sources), [""; 0]);
}

#[test]
fn long_files_and_functions_are_found_unless_an_exception_gives_a_reason() {
    let body = |lines: usize| format!("fn long() {{\n{}}}\n", "    step();\n".repeat(lines - 2));
    assert_eq!(checks::too_long(&source("src/a.rs", &body(80)), &[]), [""; 0]);
    assert_eq!(
        checks::too_long(&source("src/a.rs", &body(81)), &[]),
        ["src/a.rs:1: 81 lines, more than 80: fn long() {"]
    );
    assert_eq!(
        checks::too_long(&source("src/a.rs", &"//\n".repeat(501)), &[]),
        ["src/a.rs: 501 lines, more than 500"]
    );
    assert_eq!(
        checks::too_long(&source("src/a.rs", &body(81)), &[("src/a.rs: fn long() {", 90, "a table")]),
        [""; 0]
    );
    assert_eq!(
        checks::too_long(&source("src/a.rs", ""), &[("src/a.rs", 900, "")]),
        ["the exception for src/a.rs states no reason"]
    );
    let kernel = format!("__global__ void k() {{\n{}}}\n", "step();\n".repeat(119));
    assert_eq!(checks::too_long(&source("kernels/k.cu", &kernel), &[]).len(), 1);
    let kernel = kernel.replace("__global__ void", "KERNEL __launch_bounds__(128)");
    assert_eq!(checks::too_long(&source("kernels/k.cu", &kernel), &[]).len(), 1);
}

#[test]
fn assembly_outside_its_file_is_found() {
    let text = "DEV int f() { asm(\"mov\"); }\n";
    assert_eq!(checks::misplaced_assembly(&source("kernels/ptx.cuh", text)), [""; 0]);
    assert_eq!(checks::misplaced_assembly(&source("kernels/k.cu", "// no asm here\n")), [""; 0]);
    assert_eq!(
        checks::misplaced_assembly(&source("kernels/k.cu", text)),
        ["kernels/k.cu:1: inline assembly belongs into kernels/ptx.cuh"]
    );
}

#[test]
fn unsafe_without_reason_or_place_is_found() {
    let reasoned = "// SAFETY: the pointer is valid\nunsafe { x() }";
    assert_eq!(checks::misplaced_unsafe(&source("src/cpu/simd.rs", reasoned)), [""; 0]);
    assert_eq!(
        checks::misplaced_unsafe(&source(
            "src/cpu/simd.rs",
            "/// # Safety\n/// Needs AVX2.\n#[inline]\nunsafe fn f() {}"
        )),
        [""; 0]
    );
    assert_eq!(
        checks::misplaced_unsafe(&source("src/cpu/simd.rs", "let a = 1;\nunsafe { x() }")).len(),
        1
    );
    let whole = "#[allow(clippy::undocumented_unsafe_blocks)]\nimpl Simd for A {\n    fn a() { unsafe { x() } }\n}\n";
    assert_eq!(
        checks::misplaced_unsafe(&source("src/cpu/simd.rs", &format!("// SAFETY of the bodies: x\n{whole}"))),
        [""; 0]
    );
    assert_eq!(checks::misplaced_unsafe(&source("src/cpu/simd.rs", whole)).len(), 1);
    assert!(checks::misplaced_unsafe(&source("src/tffs/lanes.rs", reasoned))[0].contains("does not belong here"));
    assert_eq!(
        checks::misplaced_unsafe(&source("src/tffs/lanes.rs", "// unsafe\n\"unsafe\"")),
        [""; 0]
    );
}

#[test]
fn a_dead_link_is_found() {
    let text = "[a](docs/a.md) [b](https://x.org/b) [c](#c) [d](docs/gone.md#part)";
    assert_eq!(
        checks::dead_links("README.md", text, &|path| path == "docs/a.md"),
        ["README.md links to docs/gone.md, which is not there"]
    );
}
