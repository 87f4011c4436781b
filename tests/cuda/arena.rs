//! The arena: counts, budget, gaps.

use super::conformance::{all_values, values};
use hpc_seg::cuda::arena::Arena;
use hpc_seg::cuda::driver::Driver;
use hpc_seg::cuda::emulator::{Emulator, Schedule};
use hpc_seg::cuda::launch::Runtime;
use hpc_seg::cuda::norm::Norm;
use std::sync::Arc;

fn driver() -> Arc<dyn Driver> {
    Arc::new(Emulator::new(Schedule::ALL[0]).unwrap())
}

#[test]
fn live_and_peak_bytes_are_counted_the_same_in_one_allocation_and_in_separate_ones() {
    for arena in [Arena::new(driver(), 4096 + 100).unwrap(), Arena::separate(driver(), 4096 + 100)] {
        assert_eq!(arena.usage().budget, 4096, "whole units of 256 bytes");
        let a = arena.buffer(1).unwrap();
        let b = arena.buffer(257).unwrap();
        assert_eq!((arena.usage().live, arena.usage().buffers), (768, 2));
        drop(a);
        assert_eq!((arena.usage().live, arena.usage().peak), (512, 768));
        let c = arena.buffer(1024).unwrap();
        drop((b, c));
        assert_eq!((arena.usage().live, arena.usage().peak, arena.usage().buffers), (0, 1536, 0));
    }
}

#[test]
fn what_exceeds_the_budget_is_refused_with_numbers_and_changes_nothing() {
    let arena = Arena::new(driver(), 2048).unwrap();
    let held = arena.buffer(1024).unwrap();
    let before = arena.usage();
    let message = arena.buffer(1025).err().unwrap().to_string();
    assert!(
        message.contains("1280 bytes asked, 1024 of 2048 in use by 1 buffers, largest gap 1024"),
        "{message}"
    );
    assert!(arena.buffer(usize::MAX).is_err());
    assert_eq!(arena.usage(), before);
    drop(held);
    assert!(arena.buffer(2048).is_ok());
}

#[test]
fn gaps_are_joined_when_their_neighbours_are_given_back_in_any_order() {
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3], [1, 3, 0, 2]] {
        let arena = Arena::new(driver(), 1024).unwrap();
        let mut buffers: Vec<_> = (0..4).map(|_| arena.buffer(256).ok()).collect();
        assert!(arena.buffer(1).is_err(), "it is full");
        order.iter().for_each(|index| drop(buffers[*index].take()));
        assert!(arena.buffer(1024).is_ok(), "{order:?}");
    }
}

#[test]
fn what_is_at_the_end_does_not_part_what_comes_and_goes() {
    let arena = Arena::new(driver(), 16 * 256).unwrap();
    let first = arena.buffer(256).unwrap();
    let last = arena.buffer_at_the_end(2 * 256).unwrap();
    let before = arena.buffer_at_the_end(256).unwrap();
    drop(first);
    assert!(arena.buffer(13 * 256).is_ok(), "what is at the end parts what comes and goes");
    drop(last);
    assert!(arena.buffer(15 * 256).is_err(), "what is before the end still is");
    drop(before);
    assert!(arena.buffer(16 * 256).is_ok());
}

#[test]
fn buffers_do_not_overlap_and_keep_their_content() {
    let arena = Arena::new(driver(), 1 << 16).unwrap();
    let contents: Vec<Vec<u8>> = (1..20_u8).map(|index| vec![index; usize::from(index) * 100]).collect();
    let mut buffers: Vec<_> = contents.iter().map(|content| Some(arena.filled(content).unwrap())).collect();
    for index in (0..contents.len()).step_by(3) {
        buffers[index] = None;
    }
    for index in (0..contents.len()).step_by(3) {
        buffers[index] = Some(arena.filled(&contents[index]).unwrap());
    }
    for (buffer, content) in buffers.iter().flatten().zip(&contents) {
        assert_eq!(&buffer.to_vec().unwrap(), content);
    }
}

#[test]
fn a_copy_longer_than_the_buffer_is_refused() {
    let arena = Arena::new(driver(), 1024).unwrap();
    let buffer = arena.buffer(10).unwrap();
    assert!(
        buffer
            .copy_in(&[0; 11])
            .unwrap_err()
            .to_string()
            .contains("11 bytes do not fit into a device buffer of 10")
    );
    assert!(buffer.copy_in(&[0; 10]).is_ok());
}

#[test]
fn a_device_without_enough_memory_is_an_error_that_says_what_to_do() {
    let message = format!("{:#}", Arena::new(driver(), 1 << 45).err().unwrap());
    assert!(
        message.contains("35184372088832 bytes") && message.contains("lower its budget"),
        "{message}"
    );
    assert!(Arena::new(driver(), 255).err().unwrap().to_string().contains("larger budget"));
}

#[test]
fn kernels_give_the_same_bytes_inside_an_arena_as_in_allocations_of_their_own() {
    let run = |arena: Arena| {
        let runtime = Runtime::new(driver());
        let bf16 = |seed, len| -> Vec<u8> {
            values(seed, len)
                .iter()
                .flat_map(|v| half::bf16::from_f32(*v).to_le_bytes())
                .collect()
        };
        let x = arena.filled(&bf16(1, 3 * 24)).unwrap();
        let (gamma, beta) = (values(2, 24), values(3, 24));
        let gamma = arena.filled(bytemuck::cast_slice(&gamma)).unwrap();
        let beta = arena.filled(bytemuck::cast_slice(&beta)).unwrap();
        let y = arena.buffer(3 * 24 * 2).unwrap();
        let norm = Norm {
            rows: 3,
            channels: 24,
            eps: 1e-6,
            gelu: false,
        };
        norm.launch(&runtime, &x, &gamma, &beta, &y).unwrap();
        all_values(&y).unwrap()
    };
    assert_eq!(run(Arena::new(driver(), 1 << 16).unwrap()), run(Arena::separate(driver(), 1 << 16)));
}
