//! The first command of the README.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

#[test]
fn the_demo_labels_phantoms_as_well_as_pytorch_does() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_hpc-seg"))
        .args(["-q", "demo", "--json", "--out"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    // PyTorch reaches 0.959 with this network on the Python phantoms (phantom/README.md of the team's folder).
    let mean = shown["mean_dice"].as_f64().unwrap();
    assert!(mean >= 0.93, "mean Dice {mean}: {shown}");
    let scores: Vec<f64> = shown["scores"]
        .as_array()
        .unwrap()
        .iter()
        .map(|score| score["dice"].as_f64().unwrap())
        .collect();
    assert_eq!(scores.len(), 4);
    assert!((scores.iter().sum::<f64>() / 4.0 - mean).abs() < 1e-12);
    let file = std::io::BufReader::new(std::fs::File::open(Path::new(shown["picture"].as_str().unwrap())).unwrap());
    let mut picture = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; picture.output_buffer_size().unwrap()];
    picture.next_frame(&mut pixels).unwrap();
    let (first, rest) = pixels.split_at(1);
    assert!(
        picture.info().width > 200 && rest.iter().any(|p| *p != first[0]),
        "the picture shows something"
    );
}
