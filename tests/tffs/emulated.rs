//! The whole of TFFS on the emulated device: near the authors' program, and the same bytes however it is planned.

use super::bf16::{self, plan, run};
use crate::support::emulated::device;
use hpc_seg::cuda::emulator::Schedule;
use hpc_seg::tensor::Tensor;
use hpc_seg::tffs::plan::Plan;
use hpc_seg::tffs::store::Store;

#[test]
fn tiny_run_is_as_near_the_authors_as_bf16_allows() {
    bf16::tiny_seed_10(&device(Schedule::ALL[0]));
}

#[test]
fn tiny_run_with_holes_filled_is_as_near_the_authors_as_bf16_allows() {
    bf16::tiny_seed_1_filled(&device(Schedule::ALL[0]));
}

#[test]
fn plans_and_orders_of_threads_and_copies_do_not_change_a_byte() {
    let case = bf16::small();
    let bytes = |schedule, plan: &Plan| {
        let done = run(&device(schedule), ("tiny", 1), &case, plan, 8);
        (done.labels, done.uncertainty, done.probabilities)
    };
    let [first, second, third, fourth] = Schedule::ALL;
    let want = bytes(first, &plan(2, 3, false));
    assert!(want.2.iter().flatten().any(|&p| p > 0.0), "an empty result shows nothing");
    for (schedule, plan) in [(second, plan(1, 1, false)), (third, plan(2, 2, true)), (fourth, plan(5, 1, true))] {
        assert!(bytes(schedule, &plan) == want, "{schedule:?}, {plan:?}");
    }
}

#[test]
fn spilled_slices_come_ahead_and_are_the_same_however_they_are_asked_for() {
    for schedule in [Schedule::ALL[0], Schedule::ALL[1]] {
        let device = device(schedule);
        let values: Vec<f32> = (0..4 * 2 * 8).map(|i| i as f32).collect();
        let of = |slices: &[usize]| -> Vec<f32> { slices.iter().flat_map(|&slice| values[slice * 16..][..16].to_vec()).collect() };
        let mut store = Store::new(&device, 4, [2, 8], true).unwrap();
        store.put(0, &Tensor::from_slice(&device, &[8, 8], &values).unwrap()).unwrap();
        let gathered = |slices: &[usize]| store.gather(slices).unwrap().to_vec().unwrap();
        let live = || device.memory().live;
        assert_eq!(live(), 0);
        store.expect(&[2, 0]).unwrap();
        assert!(live() > 0, "nothing is under way");
        assert_eq!(store.peek(&[0]).unwrap().to_vec().unwrap(), of(&[0]));
        assert_eq!(gathered(&[2, 0]), of(&[2, 0]));
        assert_eq!(live(), 0, "what was expected was not what was taken");
        assert_eq!(gathered(&[2, 0]), of(&[2, 0]));
        store.expect(&[1]).unwrap();
        assert_eq!(gathered(&[3, 3]), of(&[3, 3]));
        // A longer one, through the memory of a shorter.
        store.expect(&[3, 1, 1]).unwrap();
        store.expect(&[1, 2, 3, 0]).unwrap();
        assert_eq!(store.peek(&[3, 0]).unwrap().to_vec().unwrap(), of(&[3, 0]));
        assert_eq!(gathered(&[1, 2, 3, 0]), of(&[1, 2, 3, 0]));
        assert_eq!(live(), 0);
    }
}
