//! Seeded damage: whatever the bytes, opening and reading gives tensors or an error, soon, and in memory of the file's size.

use super::golden;
use hpc_seg::weights::Checkpoint;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Opens and reads everything; true if all of it could be read. Fails if a tensor is larger than the file.
fn survives(path: &std::path::Path, len: usize) -> bool {
    let Ok(checkpoint) = Checkpoint::open(path) else { return false };
    let names: Vec<&str> = checkpoint.names().collect();
    let mut whole = true;
    for name in names {
        match checkpoint.f32(name) {
            Ok(values) => {
                let bytes = values.len() * checkpoint.dtype(name).unwrap().size();
                assert!(bytes <= len, "{name} has {bytes} bytes out of a file of {len}");
            }
            Err(_) => whole = false,
        }
    }
    whole
}

fn mutate(name: &str, rounds: usize, hot: std::ops::Range<usize>) {
    let original = std::fs::read(golden(name)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let (mut readable, mut refused) = (0, 0);
    for seed in 0..rounds as u64 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut bytes = original.clone();
        for _ in 0..rng.random_range(1..4) {
            // Half of the damage hits the part that is parsed.
            let at = if rng.random::<bool>() {
                rng.random_range(hot.clone())
            } else {
                rng.random_range(0..bytes.len())
            };
            match rng.random_range(0..4) {
                0 => bytes[at] ^= 1 << rng.random_range(0..8),
                1 => bytes[at] = rng.random(),
                2 => bytes[at] = [0x00, 0xff, 0x7f, 0x80][rng.random_range(0..4)],
                _ => bytes.swap(at, at.saturating_sub(1)),
            }
        }
        if rng.random_range(0..8) == 0 {
            bytes.truncate(rng.random_range(0..bytes.len()));
        }
        std::fs::write(&path, &bytes).unwrap();
        if survives(&path, bytes.len()) {
            readable += 1
        } else {
            refused += 1
        }
    }
    // Damage to names or to unread entries still reads; most of the rest does not. Both must have been met.
    assert!(
        readable > rounds / 100 && refused > rounds / 10,
        "{name}: {readable} readable, {refused} refused"
    );
}

#[test]
fn mutated_zip_checkpoints_never_panic() {
    mutate("flat.pt", 1000, 0..1000);
    mutate("nested.pt", 1000, 0..1800);
}

#[test]
fn mutated_legacy_checkpoints_never_panic() {
    mutate("legacy.pt", 800, 0..1500);
}

#[test]
fn mutated_safetensors_never_panic() {
    mutate("expected.safetensors", 1500, 0..700);
}

/// The pickle itself, damaged inside an intact archive: checksums do not stand in the way of the interpreter.
#[test]
fn mutated_pickles_never_panic() {
    let original = std::fs::read(golden("flat.pt")).unwrap();
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(&original)).unwrap();
    let mut pickle = Vec::new();
    std::io::Read::read_to_end(&mut archive.by_name("flat/data.pkl").unwrap(), &mut pickle).unwrap();
    let storages: Vec<(String, Vec<u8>)> = (0..9)
        .map(|i| {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut archive.by_name(&format!("flat/data/{i}")).unwrap(), &mut bytes).unwrap();
            (i.to_string(), bytes)
        })
        .collect();
    let storages: Vec<(&str, &[u8])> = storages.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mutated.pt");
    let (mut readable, mut refused) = (0, 0);
    for seed in 0..2000 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut damaged = pickle.clone();
        for _ in 0..rng.random_range(1..5) {
            let at = rng.random_range(0..damaged.len());
            match rng.random_range(0..4) {
                0 => damaged[at] = rng.random(),
                1 => damaged[at] ^= 1 << rng.random_range(0..8),
                2 => drop(damaged.remove(at)),
                _ => damaged.insert(at, rng.random()),
            }
        }
        let bytes = super::torch_zip(&damaged, &storages);
        std::fs::write(&path, &bytes).unwrap();
        if survives(&path, bytes.len()) {
            readable += 1
        } else {
            refused += 1
        }
    }
    assert!(readable > 30 && refused > 300, "{readable} readable, {refused} refused");
}
