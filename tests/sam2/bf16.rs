//! The network on a CUDA device, in bf16, stage by stage: against PyTorch in f32 at most twice as far off as PyTorch's own bf16 autocast is (`tests/golden/sam2_autocast.csv`,
//! made by `benches/peers/autocast.py`). As there, every tracked slice attends to the golden's memory, so that a stage's error is its own.

use crate::support::golden::{channels_last, formula_network, golden, shared};
use crate::support::literal::{Trace, encode, pass_with};
use hpc_seg::device::Device;
use hpc_seg::sam2::Sam2;
use hpc_seg::tensor::Tensor;
use hpc_seg::weights::{Checkpoint, formula_tensor};
use std::collections::BTreeMap;

/// What f32 itself differs by, where autocast changes nothing (masks that are only resized, values of empty slices).
const F32: f64 = 1e-5;

/// Squares of errors and of goldens, by stage.
struct Errors<'a> {
    file: &'a Checkpoint,
    squares: BTreeMap<String, (f64, f64)>,
}

impl Errors<'_> {
    fn add(&mut self, stage: &str, got: &[f32], want: &[f32]) {
        assert_eq!(got.len(), want.len(), "{stage}");
        let (error, power) = self.squares.entry(stage.to_owned()).or_default();
        for (&got, &want) in got.iter().zip(want) {
            assert!(got.is_finite(), "{stage}: a value is {got}");
            *error += f64::from(got - want).powi(2);
            *power += f64::from(want).powi(2);
        }
    }

    /// A stage that the golden holds by its name, in our order.
    fn stage(&mut self, name: &str, got: &[f32]) {
        let want = self.file.f32(name).unwrap();
        self.add(name, got, &want);
    }

    /// Trunk, neck and the mask decoder alone on one slice.
    fn encoder(&mut self, net: &Sam2, seed: u64, slice: &[f32]) {
        let (s, d) = (net.config.image_size, net.config.d_model);
        let x = Tensor::from_slice(net.device(), &[1, s, s, 1], slice).unwrap();
        let mut blocks = Vec::new();
        net.encoder
            .forward(&x, &mut |name, x| blocks.push((name.to_owned(), x.to_vec().unwrap())))
            .unwrap();
        for (name, values) in blocks {
            if name != "patch_embed" {
                self.stage(&format!("hiera.{name}"), &values);
                continue;
            }
            // The golden has the convolution and the position apart.
            let parts = ["hiera.patch_embed", "hiera.pos_embed"].map(|part| self.file.f32(part).unwrap());
            let sum: Vec<f32> = parts[0].iter().zip(&parts[1]).map(|(a, b)| a + b).collect();
            self.add(&name, &values, &sum);
        }
        let features = encode(net, slice);
        let levels = [(&features.skips.fine, d / 8), (&features.skips.middle, d / 4), (&features.top, d)];
        for (level, (map, channels)) in levels.into_iter().enumerate() {
            let name = format!("neck.fpn{level}");
            let want = channels_last(&self.file.f32(&name).unwrap(), channels);
            self.add(&name, &map.to_vec().unwrap(), &want);
        }
        let no_memory = formula_tensor("no_mem_embed", seed, &[1, 1, d]);
        let mut embedding = features.top.to_vec().unwrap();
        for row in embedding.chunks_exact_mut(d) {
            row.iter_mut().zip(&no_memory).for_each(|(a, b)| *a += b);
        }
        let embedding = Tensor::from_slice(net.device(), features.top.shape(), &embedding).unwrap();
        let decoded = net.decoder.track(&embedding, &features.skips, &net.prompt).unwrap();
        self.stage("decoder.ious", &decoded.ious[0]);
        self.stage("decoder.low_res_multimasks", &decoded.masks.to_vec().unwrap());
        self.stage("decoder.obj_ptr", &decoded.pointers[0]);
        self.stage("decoder.object_score_logits", &decoded.scores);
    }

    /// What slice `t` left behind; the golden's takes its place.
    fn take(&mut self, kind: &str, t: usize, channels: usize, trace: &mut Trace) {
        let want = |name: &str| self.file.f32(&format!("{kind}{t}.{name}")).unwrap();
        let (mask, pointer) = (want("low_res_mask"), want("obj_ptr"));
        let (tokens, score) = (channels_last(&want("maskmem_features"), channels), want("object_score_logits"));
        if let (Some(attended), Some(decoded)) = (&trace.attended, &trace.decoded) {
            let want = self.file.f32(&format!("frame{t}.memory_attention.out")).unwrap();
            self.add("memory_attention", attended, &want);
            self.add(&format!("{kind}.object_score_logits"), &decoded.scores, &score);
        }
        self.add(&format!("{kind}.low_res_mask"), &trace.low_res, &mask);
        self.add(&format!("{kind}.obj_ptr"), &trace.pointer, &pointer);
        self.add(&format!("{kind}.maskmem_features"), &trace.tokens, &tokens);
        (trace.tokens, trace.pointer) = (tokens, pointer);
    }
}

/// PyTorch's errors on a golden, by stage.
fn autocast(golden: &str) -> BTreeMap<String, f64> {
    let lines = include_str!("../golden/sam2_autocast.csv").lines();
    let rows = lines
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(',').collect::<Vec<_>>());
    rows.filter(|row| row[0] == golden)
        .map(|row| (row[1].to_owned(), row[2].parse().unwrap()))
        .collect()
}

/// Every stage of the tiny network with these formula weights.
pub fn stages(device: &Device, seed: u64) {
    let name = format!("sam2_tiny_seed{seed}");
    let Some(root) = shared(&name) else { return };
    let file = golden(root.join(format!("goldens/{name}.safetensors")));
    let net = formula_network("tiny", seed, device);
    let pixels = net.config.image_size.pow(2);
    let of = |name: &str| -> Vec<Vec<f32>> { file.f32(name).unwrap().chunks_exact(pixels).map(<[f32]>::to_vec).collect() };
    let (slices, masks) = (of("in.frames_u8"), of("in.masks_u8"));
    let conditioning = masks.len();
    let mut prompts: Vec<Option<Vec<u8>>> = masks
        .iter()
        .map(|mask| Some(mask.iter().map(|&value| u8::from(value > 0.0)).collect()))
        .collect();
    prompts.resize(slices.len(), None);
    let mut errors = Errors {
        file: &file,
        squares: BTreeMap::new(),
    };
    device.install(|| {
        errors.encoder(&net, seed, &slices[conditioning]);
        pass_with(&net, &slices, &prompts, false, 0, &mut |t, trace| {
            let kind = if t < conditioning { "cond" } else { "track" };
            errors.take(kind, t, net.config.mem_dim, trace);
        });
    });
    let allowed = autocast(&name);
    let mut far = Vec::new();
    for (stage, (error, power)) in &errors.squares {
        assert!(*power > 0.0, "{stage}: the golden holds nothing but zeros");
        let (error, own) = ((error / power).sqrt(), allowed[stage]);
        let line = format!("{name} {stage}: {error:.2e}, autocast {own:.2e}");
        println!("{line}");
        if error > (2.0 * own).max(F32) {
            far.push(line);
        }
    }
    let untried: Vec<&String> = allowed.keys().filter(|stage| !errors.squares.contains_key(*stage)).collect();
    assert!(
        untried.iter().all(|stage| *stage == "cond.object_score_logits"),
        "not compared: {untried:?}"
    );
    assert!(far.is_empty(), "{far:#?}");
}
