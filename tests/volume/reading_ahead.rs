//! Read-ahead: order, bounded depth, errors that pass through, and a thread that stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hpc_seg::volume::{AxisMap, Datatype, ReadAhead, Volume};

use super::made::Made;

#[test]
fn slices_come_in_the_order_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let volume = Arc::new(Volume::open(&Made::new(1, true, Datatype::I16).save(folder.path(), "a.nii")).unwrap());
    let slices = |indices: Vec<usize>, depth: usize| {
        let volume = Arc::clone(&volume);
        let read = move |index| {
            let mut slice = vec![0.0; 12];
            volume.slice_into(&AxisMap::default(), index, &mut slice)?;
            Ok(slice)
        };
        ReadAhead::new(indices, depth, read).unwrap().collect::<Vec<_>>()
    };
    let order = vec![4, 0, 2, 2];
    let in_order = slices(order.clone(), 2);
    assert_eq!(in_order.iter().map(|(index, _)| *index).collect::<Vec<_>>(), order);
    for (index, slice) in in_order {
        assert_eq!(slice.unwrap(), (0..12).map(|i| (12 * index + i) as f32).collect::<Vec<_>>());
    }
    let beyond = slices(vec![5, 1], 0);
    assert!(beyond[0].1.is_err() && beyond[1].1.is_ok(), "one bad item does not stop the others");
}

#[test]
fn no_more_is_made_than_the_depth_allows_and_dropping_stops_the_thread() {
    for depth in [0, 1, 3] {
        let begun = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&begun);
        let mut ahead = ReadAhead::new(0.., depth, move |index| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(index)
        })
        .unwrap();
        for taken in 1..=3 {
            ahead.next().unwrap().1.unwrap();
            // The thread runs on until it is full; then it has begun what was taken, what waits, and one more.
            let full = taken + depth + 1;
            let start = Instant::now();
            while begun.load(Ordering::SeqCst) < full {
                assert!(
                    start.elapsed() < Duration::from_secs(20),
                    "depth {depth}: only {} items begun",
                    begun.load(Ordering::SeqCst)
                );
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(begun.load(Ordering::SeqCst), full, "depth {depth}");
        }
        drop(ahead); // endless indices: this returns only if the thread stops
        assert_eq!(Arc::strong_count(&begun), 1, "the closure is gone with its thread");
    }
}

#[test]
fn a_thread_that_dies_is_reported_not_taken_for_the_end() {
    let mut ahead = ReadAhead::new(0..3, 0, |index| if index == 1 { panic!("on purpose") } else { Ok(index) }).unwrap();
    assert!(ahead.next().unwrap().1.is_ok());
    assert!(
        ahead
            .next()
            .unwrap()
            .1
            .unwrap_err()
            .to_string()
            .contains("read-ahead thread failed")
    );
    assert!(ahead.next().is_none());
}

#[test]
fn the_next_volume_is_opened_while_this_one_is_worked_on_and_a_bad_one_is_only_itself() {
    let folder = tempfile::tempdir().unwrap();
    let good = Made::new(1, false, Datatype::U8).save(folder.path(), "a.nii");
    let paths = [good.clone(), folder.path().join("none.nii"), good];
    let opened: Vec<_> = ReadAhead::new(0..3, 0, move |i| Volume::open(&paths[i])).unwrap().collect();
    assert_eq!(
        opened.iter().map(|(i, volume)| (*i, volume.is_ok())).collect::<Vec<_>>(),
        [(0, true), (1, false), (2, true)]
    );
    assert!(opened[1].1.as_ref().unwrap_err().to_string().contains("no such file"));
}
