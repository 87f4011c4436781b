//! Algorithm 2 to the letter: one lane at a time, every slice encoded and every memory made anew, nothing cached or shared. Slow, and the fast path must equal it.

use hpc_seg::ops::components::{Runs, fill_holes_2d};
use hpc_seg::ops::memory_attention::{Memory, Slices};
use hpc_seg::ops::resize::ResizePlan;
use hpc_seg::sam2::encoder::Features;
use hpc_seg::sam2::mask_decoder::Decoded;
use hpc_seg::sam2::{Sam2, memory_bank};
use hpc_seg::tensor::Tensor;
use std::collections::BTreeMap;

/// What a processed slice left behind.
pub struct Trace {
    pub tokens: Vec<f32>,
    pub pointer: Vec<f32>,
    pub low_res: Vec<f32>,
    /// The memory attention's tokens (with positions), and output, for tracked slices.
    pub attended: Option<Vec<f32>>,
    pub decoded: Option<Decoded>,
}

/// Features of one slice [S, S] in 0..255.
pub fn encode(net: &Sam2, slice: &[f32]) -> Features {
    let s = net.config.image_size;
    let x = Tensor::from_slice(net.device(), &[1, s, s, 1], slice).unwrap();
    net.encoder.forward(&x, &mut |_, _| {}).unwrap()
}

/// One pass over `slices` [S, S]; `masks[t]` is a prompt [S, S] or none. Backwards mirrors the sequence; the result is by original position.
pub fn pass(net: &Sam2, slices: &[Vec<f32>], masks: &[Option<Vec<u8>>], backwards: bool, fill_holes: usize) -> BTreeMap<usize, Trace> {
    pass_with(net, slices, masks, backwards, fill_holes, &mut |_, _| {})
}

/// The same; `seen` is shown every slice's position and trace before later slices use it.
pub fn pass_with(
    net: &Sam2,
    slices: &[Vec<f32>],
    masks: &[Option<Vec<u8>>],
    backwards: bool,
    fill_holes: usize,
    seen: &mut dyn FnMut(usize, &mut Trace),
) -> BTreeMap<usize, Trace> {
    let n = slices.len();
    let place = |t: usize| if backwards { n - 1 - t } else { t };
    let conditioning: Vec<usize> = (0..n).filter(|&t| masks[place(t)].is_some()).collect();
    let mut done: BTreeMap<usize, Trace> = BTreeMap::new();
    for &t in &conditioning {
        let features = encode(net, &slices[place(t)]);
        let mask = masks[place(t)].as_deref().unwrap();
        let p = net.prompt_with_masks(&features.top, &[mask], fill_holes).unwrap();
        let mut trace = Trace {
            tokens: p.tokens.to_vec().unwrap(),
            pointer: p.pointers[0].clone(),
            low_res: p.low_res.to_vec().unwrap(),
            attended: None,
            decoded: None,
        };
        seen(place(t), &mut trace);
        done.insert(t, trace);
    }
    let Some(&first) = conditioning.first() else {
        return BTreeMap::new();
    };
    for t in first..n {
        if masks[place(t)].is_none() {
            let mut trace = track(net, &encode(net, &slices[place(t)]), t, n, &conditioning, &done);
            seen(place(t), &mut trace);
            done.insert(t, trace);
        }
    }
    done.into_iter().map(|(t, trace)| (place(t), trace)).collect()
}

fn track(net: &Sam2, features: &Features, t: usize, n: usize, conditioning: &[usize], done: &BTreeMap<usize, Trace>) -> Trace {
    let config = &net.config;
    let (p, m) = (config.grid().pow(2), config.mem_dim);
    let tracked = |s: usize| done.contains_key(&s) && !conditioning.contains(&s);
    // [P, slots, M] of conditioning slices, then of recent ones.
    let gather = |slices: &[usize]| -> Tensor {
        let tokens: Vec<f32> = (0..p)
            .flat_map(|at| slices.iter().flat_map(move |s| done[s].tokens[at * m..(at + 1) * m].to_vec()))
            .collect();
        Tensor::from_slice(net.device(), &[1, p, slices.len(), m], &tokens).unwrap()
    };
    let recent = memory_bank::recent(t, tracked, config.num_maskmem);
    let (recent_slices, recent_times): (Vec<usize>, Vec<usize>) = recent.into_iter().unzip();
    let (tokens, recent_tokens) = (gather(conditioning), gather(&recent_slices));
    let times = vec![config.num_maskmem - 1; conditioning.len()];
    let reach = memory_bank::pointer_reach(n, config.max_obj_ptrs_in_encoder);
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for (slice, distance) in memory_bank::pointers(t, conditioning.iter().copied(), tracked, reach) {
        let position = net.pointer_position(distance, reach);
        for token in done[&slice].pointer.chunks_exact(m) {
            values.extend_from_slice(token);
            keys.extend(token.iter().zip(&position).map(|(a, b)| a + b));
        }
    }
    let memory = Memory {
        conditioning: Slices {
            tokens: Some((&tokens, 0)),
            times: &times,
        },
        recent: Slices {
            tokens: Some((&recent_tokens, 0)),
            times: &recent_times,
        },
        pointer_keys: &keys,
        pointer_values: &values,
        start: None,
    };
    let start = net.memory_attention.start(&features.top).unwrap();
    let embedding = net.memory_attention.forward(start, &[memory], &[None]).unwrap();
    let decoded = net.decoder.track(&embedding, &features.skips, &net.prompt).unwrap();
    let part = net.memory_encoder.features(&features.top).unwrap();
    let tokens = net.remember_tracked(&decoded, &[0], part).unwrap();
    let pixels = (4 * config.grid()).pow(2);
    Trace {
        tokens: tokens.to_vec().unwrap(),
        pointer: decoded.pointers[0].clone(),
        low_res: decoded.masks.to_vec().unwrap()[decoded.best[0] * pixels..][..pixels].to_vec(),
        attended: Some(embedding.to_vec().unwrap()),
        decoded: Some(decoded),
    }
}

/// Mean probability [N, H, W] of one labelled volume: slices at S x S, prompts at S x S, insertion places.
pub fn mean_probability(
    net: &Sam2,
    query: &[Vec<f32>],
    labelled: &[Vec<f32>],
    masks: &[Option<Vec<u8>>],
    places: &[usize],
    plane: (usize, usize),
    fill_holes: usize,
) -> Vec<f64> {
    let side = 4 * net.config.grid();
    let plan = ResizePlan::bilinear((side, side), plane).unwrap();
    let mut scratch = vec![0.0; plan.scratch_len(1)];
    let pixels = plane.0 * plane.1;
    let mut sum = vec![0f64; query.len() * pixels];
    for &place in places {
        let sequence: Vec<Vec<f32>> = query[..place].iter().chain(labelled).chain(&query[place..]).cloned().collect();
        let none = |n: usize| std::iter::repeat_n(None, n);
        let prompts: Vec<Option<Vec<u8>>> = none(place).chain(masks.iter().cloned()).chain(none(query.len() - place)).collect();
        let passes = [false, true].map(|backwards| pass(net, &sequence, &prompts, backwards, fill_holes));
        for slice in 0..query.len() {
            let t = if slice < place { slice } else { slice + labelled.len() };
            let mut logits = vec![0f64; pixels];
            let seen: Vec<&Trace> = passes.iter().filter_map(|p| p.get(&t)).collect();
            for trace in &seen {
                let (mut low, mut out) = (trace.low_res.clone(), vec![0.0; pixels]);
                if fill_holes > 0 {
                    fill_holes_2d(&mut low, side, side, fill_holes, 0.1, &mut Runs::default()).unwrap();
                }
                plan.resize(&low, &mut scratch, &mut out).unwrap();
                for (sum, value) in logits.iter_mut().zip(&out) {
                    *sum += f64::from(*value) / seen.len() as f64;
                }
            }
            for (sum, logit) in sum[slice * pixels..][..pixels].iter_mut().zip(&logits) {
                *sum += 1.0 / (1.0 + (-logit).exp()) / places.len() as f64;
            }
        }
    }
    sum
}
