//! The program on a GPU, where there is one: two processes at once, and the memory a process may have.

use super::{Answer, Phantoms};
use crate::support::gpu::present;
use serde_json::Value;
use std::fs;
use std::process::Stdio;

const ALLOWED: u64 = 2 << 30;

#[test]
fn two_processes_share_a_gpu_and_keep_to_their_memory() {
    if !present() {
        return;
    }
    let phantoms = Phantoms::new(3, 1, [6, 64, 64]);
    let cache = phantoms.at("kernels");
    let more = ["--device", "cuda", "--memory", "2GiB", "--kernel-cache", cache.to_str().unwrap()];
    let started = ["first", "second"].map(|out| {
        let mut command = phantoms.command(out, &more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    for child in started {
        Answer::of(child.wait_with_output().unwrap()).expect(0, &["2 done", "device memory"]);
    }
    assert!(phantoms.results("first") == phantoms.results("second"));
    let timings = fs::read(phantoms.at("first/timings/phantom_002.json")).unwrap();
    let memory = &serde_json::from_slice::<Value>(&timings).unwrap()["device_memory"];
    let bytes = |name: &str| memory[name].as_u64().unwrap();
    assert_eq!(bytes("allowed"), ALLOWED);
    assert!(bytes("counted") <= bytes("planned") && bytes("held") <= ALLOWED, "{memory}");
}
