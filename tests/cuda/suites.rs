//! Every kernel's conformance tests, with the bugs that they must notice.

use super::conformance::Bench;
use super::{
    add_rows, attention, components, conv, copy_rows, depthwise, ensemble, fill_holes, linear, mask_product, max_pool, memory_attention,
    memory_mask, mma_rate, nearest_add, norm, normalise, prompt_mask, rope, take, upscale,
};
use anyhow::Result;

/// What it is, the file, the text replaced wherever it stands, and by what.
pub type Mutation = (&'static str, &'static str, &'static str, &'static str);

/// All cases of a kernel on a device.
pub type Check = fn(&Bench) -> Result<()>;

/// Name, tests, and bugs put into the kernels one at a time.
pub const SUITES: &[(&str, Check, &[Mutation])] = &[
    ("norm", norm::check, norm::MUTATIONS),
    (
        "linear",
        |bench| linear::check(bench).and_then(|()| linear::check_tiles_agree(bench)),
        linear::MUTATIONS,
    ),
    ("max_pool", max_pool::check, max_pool::MUTATIONS),
    ("attention", attention::check, attention::MUTATIONS),
    ("memory_attention", memory_attention::check, memory_attention::MUTATIONS),
    (
        "conv",
        |bench| conv::check(bench).and_then(|()| conv::check_items(bench)),
        conv::MUTATIONS,
    ),
    ("depthwise", depthwise::check, depthwise::MUTATIONS),
    ("upscale", upscale::check, upscale::MUTATIONS),
    ("mask_product", mask_product::check, mask_product::MUTATIONS),
    ("rope", rope::check, rope::MUTATIONS),
    ("nearest_add", nearest_add::check, nearest_add::MUTATIONS),
    ("copy_rows", copy_rows::check, copy_rows::MUTATIONS),
    ("add_rows", add_rows::check, add_rows::MUTATIONS),
    ("memory_mask", memory_mask::check, memory_mask::MUTATIONS),
    ("prompt_mask", prompt_mask::check, prompt_mask::MUTATIONS),
    ("ensemble", ensemble::check, ensemble::MUTATIONS),
    ("take", take::check, take::MUTATIONS),
    ("fill_holes", fill_holes::check, fill_holes::MUTATIONS),
    ("components", components::check, components::MUTATIONS),
    ("normalise", normalise::check, normalise::MUTATIONS),
    ("mma_rate", mma_rate::check, mma_rate::MUTATIONS),
];

/// Without building them, which takes minutes.
#[test]
fn every_bug_changes_text_that_is_in_its_file() {
    let kernels = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    for (name, file, from, to) in SUITES.iter().flat_map(|(_, _, bugs)| *bugs) {
        let text = std::fs::read_to_string(kernels.join(file)).unwrap();
        assert!(
            text.contains(from) && from != to,
            "{name}: {file} has no `{from}`; mend this mutation"
        );
    }
}
