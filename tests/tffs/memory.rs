//! The step loop allocates nothing: what the first pass took is what the second one uses.

use crate::support::fast;
use crate::support::golden::formula_network;
use hpc_seg::messages::Progress;
use hpc_seg::sam2::memory_bank;
use hpc_seg::stop::Stop;
use hpc_seg::tffs::ensemble::Ensemble;
use hpc_seg::tffs::schedule::{Encoding, Hooks, Query, run_supports};
use hpc_seg::tffs::support::{Building, Support};

#[test]
fn a_second_query_of_the_same_shape_takes_no_buffer_from_the_system() {
    let device = fast::device(1);
    let net = formula_network("tiny", 1, &device);
    let (size, slices) = (net.config.image_size, 5);
    let volume = |seed: usize| -> Vec<Vec<f32>> {
        (0..slices)
            .map(|z| (0..size * size).map(|i| ((i * (7 + seed) + z * 31) % 256) as f32).collect())
            .collect()
    };
    let mask = |z: usize| (z != 2).then(|| (0..size * size).map(|i| u8::from(i % size < size / 2)).collect::<Vec<u8>>());
    let reach = memory_bank::pointer_reach(2 * slices, net.config.max_obj_ptrs_in_encoder);
    let labelled = volume(0);
    let building = Building {
        reach,
        fill_holes: 8,
        spilled: false,
        batch: 1,
    };
    let read = |wanted: Vec<usize>| Ok(fast::brought(&net, wanted.into_iter().map(|z| labelled[z].clone())));
    let built = Support::build_from(&net, &[(0..slices).map(mask).collect()], building, read).unwrap();
    let support = built[0].as_ref().unwrap();
    let (stop, progress) = (Stop::new(), Progress::silent());
    let pass = |seed: usize| {
        let mut hooks = Hooks::new(&stop, &progress);
        let encoding = Encoding {
            slices,
            plane: (size, size),
            batch: 1,
            spilled: false,
        };
        let query = Query::encode(&net, fast::brought(&net, volume(seed).into_iter()), encoding, &mut hooks).unwrap();
        let ensemble = Ensemble::new(&device, [slices, size, size], 0.5, false).unwrap();
        let mut sums = ensemble.sums(3).unwrap();
        let before = device.memory();
        run_supports(&net, &query, &[(support, &[0, 2, 4])], (3, 8), &mut sums, &mut hooks).unwrap();
        let steps = device.memory();
        // Within one query as well: the second round of lanes meets the buffers of the first.
        run_supports(
            &net,
            &query,
            &[(support, &[0, 2, 4])],
            (3, 8),
            &mut ensemble.sums(3).unwrap(),
            &mut hooks,
        )
        .unwrap();
        assert_eq!(
            device.memory().allocations,
            steps.allocations,
            "lanes of a shape that was met before"
        );
        assert_eq!(
            (before.live, steps.live),
            (steps.live, device.memory().live),
            "what the steps leave behind"
        );
    };
    let start = device.memory();
    pass(1);
    let first = device.memory();
    assert!(first.allocations > start.allocations, "the first pass takes its buffers");
    pass(2);
    let second = device.memory();
    assert_eq!(second.allocations, first.allocations, "a second query of the same shape");
    assert_eq!((start.live, second.live, second.peak), (first.live, first.live, first.peak));
}
