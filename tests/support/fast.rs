//! The product's path from prepared slices to mean probabilities, in the shape of the literal one.

use anyhow::Result;
use hpc_seg::device::Device;
use hpc_seg::messages::Progress;
use hpc_seg::sam2::{Sam2, memory_bank};
use hpc_seg::stop::Stop;
use hpc_seg::tensor::Tensor;
use hpc_seg::tffs::ensemble::{Ensemble, Labelling};
use hpc_seg::tffs::plan::Plan;
use hpc_seg::tffs::schedule::{ClassPlan, Encoding, Hooks, Query, run_classes};
use hpc_seg::tffs::support::{Building, Support};

/// A labelled volume: slices [S, S], and per class the prompts.
pub struct Prepared {
    pub slices: Vec<Vec<f32>>,
    pub prompts: Vec<Vec<Option<Vec<u8>>>>,
    pub places: Vec<usize>,
}

/// Runs every class 1, 2, ... of `labelled` on the query, `lanes` lanes a step.
pub fn run(net: &Sam2, query: &[Vec<f32>], plane: (usize, usize), labelled: &[Prepared], lanes: usize, fill_holes: usize) -> Labelling {
    run_as_planned(net, query, plane, labelled, &Plan::cpu(lanes), fill_holes)
}

/// The same by a plan.
pub fn run_as_planned(
    net: &Sam2,
    query: &[Vec<f32>],
    plane: (usize, usize),
    labelled: &[Prepared],
    plan: &Plan,
    fill_holes: usize,
) -> Labelling {
    let (stop, progress) = (Stop::new(), Progress::silent());
    let mut hooks = Hooks::new(&stop, &progress);
    let encoding = Encoding {
        slices: query.len(),
        plane,
        batch: plan.batch,
        spilled: plan.spilled_query,
    };
    let encoded = Query::encode(net, brought(net, query.iter().cloned()), encoding, &mut hooks).unwrap();
    let classes = labelled[0].prompts.len();
    let limit = net.config.max_obj_ptrs_in_encoder;
    let supports: Vec<Vec<Option<Support>>> = labelled
        .iter()
        .map(|volume| {
            let reach = memory_bank::pointer_reach(query.len() + volume.slices.len(), limit);
            let read = |wanted: Vec<usize>| Ok(brought(net, wanted.into_iter().map(|z| volume.slices[z].clone())));
            let building = Building {
                reach,
                fill_holes,
                spilled: plan.spilled_supports,
                batch: plan.support_batch(),
            };
            Support::build_from(net, &volume.prompts, building, read).unwrap()
        })
        .collect();
    let plans: Vec<ClassPlan<'_>> = (0..classes)
        .map(|class| ClassPlan {
            class: class as u8 + 1,
            supports: supports
                .iter()
                .zip(labelled)
                .filter_map(|(of, volume)| of[class].as_ref().map(|support| (support, &volume.places[..])))
                .collect(),
        })
        .collect();
    let ensemble = Ensemble::new(net.device(), [query.len(), plane.0, plane.1], 0.5, true).unwrap();
    let done = run_classes(net, &encoded, &plans, (plan.lanes, fill_holes), ensemble, &mut hooks).unwrap();
    done.finish(true).unwrap()
}

/// Gives these slices [S, S] as they are asked for, as the product's own readers do.
pub fn brought(net: &Sam2, slices: impl Iterator<Item = Vec<f32>>) -> impl FnMut(usize) -> Result<Tensor> {
    let (device, size, mut slices) = (net.device().clone(), net.config.image_size, slices);
    move |count| {
        let values: Vec<f32> = slices.by_ref().take(count).flatten().collect();
        Tensor::from_slice(&device, &[count, size, size, 1], &values)
    }
}

/// A device with a number of threads.
pub fn device(threads: usize) -> Device {
    Device::cpu(threads).unwrap()
}
