//! The program on the emulated device: whatever memory it may use, the same bytes, and no more of it than it says.

use super::Phantoms;
use serde_json::Value;
use std::fs;

#[test]
fn budgets_change_the_plan_and_not_a_byte() {
    let phantoms = Phantoms::new(2, 1, [6, 40, 128]);
    let label = |out: &str, budget: &str, more: &[&str]| {
        let device = [
            "--device",
            "emulator",
            "--memory",
            budget,
            "--insertions",
            "2",
            "--save-probabilities",
        ];
        phantoms.label(out, &[&device[..], more].concat())
    };
    let (mut results, mut planned) = (Vec::new(), Vec::new());
    for (out, budget) in [("roomy", "64MiB"), ("less", "6MiB"), ("least", "5MiB")] {
        let said = label(out, budget, &[]).expect(0, &["1 done"]);
        assert!(!said.stderr.contains("more device memory was taken"), "{}", said.stderr);
        results.push(phantoms.results(out));
        let timings: Value = serde_json::from_slice(&fs::read(phantoms.at(&format!("{out}/timings/phantom_001.json"))).unwrap()).unwrap();
        let bytes = |name: &str| timings["device_memory"][name].as_u64().unwrap();
        assert!(
            bytes("counted") <= bytes("planned") && bytes("planned") <= bytes("allowed"),
            "{timings}"
        );
        planned.push(bytes("planned"));
    }
    assert!(results[0] == results[1] && results[0] == results[2]);
    assert!(planned[0] > planned[1] && planned[1] > planned[2], "{planned:?}");
    let plan: Value = serde_json::from_str(&label("anew", "5MiB", &["--dry-run", "--json"]).expect(0, &[]).stdout).unwrap();
    assert_eq!(plan["cases"][0]["estimate"]["plan"]["spilled_query"], true, "{plan}");
    label("none", "4MiB", &[]).expect(1, &["device memory"]);
}
