//! `run`: pseudo-labels and rounds of training in one command, killed or not, alone or with others, and what it refuses.

use super::{Answer, Phantoms, change_voxels, keep_slices};
use crate::cohort::files_below;
use hpc_seg::cohort::presence::Presence;
use hpc_seg::volume::Voxels;
use hpc_seg::weights::Checkpoint;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const PLAN: &str = "--patch 6,48,48 --features 4 --batch 2 --spacing 28,7,7";
const TRAIN: &str = "--epochs 1 --iterations 2 --no-mirroring";

/// Labelled 000 and 001, unlabelled 002 to 004, whose truth is the test.
pub fn cohort() -> Phantoms {
    Phantoms::new(5, 2, [6, 48, 48])
}

pub fn command(phantoms: &Phantoms, out: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    command.stdin(Stdio::null()).arg("run");
    for (option, place) in [
        ("--labelled", "data"),
        ("--unlabelled", "data"),
        ("--weights", "demo.safetensors"),
        ("--out", out),
    ] {
        if !more.contains(&option) {
            command.arg(option).arg(phantoms.at(place));
        }
    }
    for (option, text) in [
        ("--label-options", "--insertions 1"),
        ("--plan-options", PLAN),
        ("--train-options", TRAIN),
        ("--rounds", "2"),
        ("--settled", "1"),
    ] {
        if !more.contains(&option) {
            command.args([option, text]);
        }
    }
    command.args(more);
    command
}

pub fn run(phantoms: &Phantoms, out: &str, more: &[&str]) -> Answer {
    Answer::of(command(phantoms, out, more).output().unwrap())
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Masks, maps and scores of all rounds, and the networks' weights.
fn results(phantoms: &Phantoms, out: &str) -> (BTreeMap<String, Vec<u8>>, Vec<Vec<f32>>) {
    let folder = phantoms.at(out);
    let is_result = |file: &String| {
        let kind = file.ends_with(".nii.gz") || file.ends_with("agreement.json") || file.ends_with("/summary.json");
        (kind || file.starts_with("test/round_") && file.matches('/').count() == 1) && !file.contains("/dataset/")
    };
    let scores_without_paths = |file: &str, bytes: Vec<u8>| match file.ends_with(".json") {
        true => String::from_utf8(bytes)
            .unwrap()
            .replace(folder.to_str().unwrap(), "OUT")
            .into_bytes(),
        false => bytes,
    };
    let files = files_below(&folder).into_iter().filter(is_result);
    let files = files.map(|file| (file.clone(), scores_without_paths(&file, fs::read(folder.join(&file)).unwrap())));
    let weights = |fold: usize| {
        let path = folder.join(format!("model/fold_{fold}/checkpoint_final.pth"));
        let checkpoint = Checkpoint::open(&path).unwrap();
        checkpoint.names().flat_map(|name| checkpoint.f32(name).unwrap()).collect()
    };
    (files.collect(), (0..3).map(weights).collect())
}

fn events(phantoms: &Phantoms, out: &str, event: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(phantoms.at(out).join("journal.jsonl")).unwrap();
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n')); // the last may be in the making
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
    lines
        .filter(|line| line["event"] == event)
        .map(|line| (text(&line, "case"), text(&line, "process")))
        .collect()
}

pub fn status(phantoms: &Phantoms, out: &str) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    let answer = Answer::of(command.args(["status", "--json"]).arg(phantoms.at(out)).output().unwrap()).expect(0, &[]);
    serde_json::from_str(&answer.stdout).unwrap()
}

pub fn state(status: &Value, step: &str) -> String {
    let steps = status["steps"].as_array().unwrap();
    let found = steps
        .iter()
        .find(|one| one["step"] == step)
        .unwrap_or_else(|| panic!("no {step} in {status}"));
    found["state"].as_str().unwrap().to_owned()
}

#[test]
fn labels_go_through_rounds_and_runs_that_are_killed_or_shared_end_the_same() {
    let phantoms = cohort();
    let test = phantoms.at("data");
    let test = test.to_str().unwrap();
    let begun = Instant::now();
    let answer = run(&phantoms, "unbroken", &["--test", test]).expect(0, &["round_1/fold_2: done in", "round 2: mean Dice"]);
    let whole = begun.elapsed();
    assert!(
        answer.stdout.contains("not settled yet") && answer.stdout.contains("round 2  all"),
        "{}",
        answer.stdout
    );
    let expected = results(&phantoms, "unbroken");
    for round in 0..3 {
        for case in 2..5 {
            for kind in ["pseudo_labels", "test"] {
                assert!(
                    expected.0.contains_key(&format!("{kind}/round_{round}/phantom_{case:03}.nii.gz")),
                    "{kind} {round} {case}"
                );
            }
        }
        assert!(expected.0.contains_key(&format!("test/round_{round}.json")));
    }
    assert!(expected.0["pseudo_labels/round_1/phantom_002.nii.gz"] != expected.0["pseudo_labels/round_0/phantom_002.nii.gz"]);
    let summary = json(&phantoms.at("unbroken/summary.json"));
    assert_eq!(summary["rounds"].as_array().map(Vec::len), Some(3));
    assert!(
        summary["rounds"][0]["test"]["all"]["1"]["dice"]["mean"].as_f64().unwrap() > 0.5,
        "{summary}"
    );
    nobody_trains_on_what_it_relabels(&phantoms);

    // Killed twenty times at random.
    let (mut killed, mut moments) = (0, rand_chacha::ChaCha8Rng::seed_from_u64(5));
    for _ in 0..20 {
        let mut child = command(&phantoms, "killed", &["--test", test, "--threads", "1"]);
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        sleep(whole.mul_f64(moments.random_range(0.02..0.35)));
        killed += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(killed > 5, "most runs were over before they were killed");
    leave_half_written_files(&phantoms.at("killed"));
    run(&phantoms, "killed", &["--test", test]).expect(0, &[]);
    let half = files_below(&phantoms.at("killed"))
        .into_iter()
        .find(|file| file.contains(".hpc-seg-"));
    assert_eq!(half, None);
    let after = results(&phantoms, "killed");
    assert_eq!(after.0.keys().collect::<Vec<_>>(), expected.0.keys().collect::<Vec<_>>());
    for (file, bytes) in &expected.0 {
        assert!(after.0[file] == *bytes, "{file}");
    }
    assert!(after.1 == expected.1);

    // Two at once.
    let mut pair = [(); 2].map(|()| {
        let mut child = command(&phantoms, "shared", &["--test", test, "--threads", "1"]);
        child.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let by = let_each_do_a_step(&phantoms, "shared", &pair);
    for child in &mut pair {
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    let after = results(&phantoms, "shared");
    assert!(after.0 == expected.0 && after.1 == expected.1);
    assert!(by.iter().all(|count| *count > 0), "{by:?} steps by each");
    let mut done = events(&phantoms, "shared", "done");
    let count = done.len();
    done.sort();
    done.dedup_by(|a, b| a.0 == b.0);
    assert_eq!(done.len(), count, "a step was done twice");
    assert!(!phantoms.at("shared/.claims").exists());
}

/// Whoever has done steps alone waits (steps are shorter here than a look for what others left), until the other did one or a minute is over.
/// Gives the steps done by each.
fn let_each_do_a_step(phantoms: &Phantoms, out: &str, pair: &[Child; 2]) -> [usize; 2] {
    let done = || {
        let has_begun = phantoms.at(out).join("journal.jsonl").is_file();
        let done = if has_begun { events(phantoms, out, "done") } else { Vec::new() };
        let by = |child: &Child| {
            done.iter()
                .filter(|(_, process)| process.ends_with(&format!(":{}", child.id())))
                .count()
        };
        pair.each_ref().map(by)
    };
    let signal = |signal: &str, to: &Child| Command::new("kill").args([signal, &to.id().to_string()]).status().unwrap();
    let within = |seconds: u64, is_enough: &dyn Fn([usize; 2]) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while !is_enough(done()) && Instant::now() < deadline {
            sleep(Duration::from_millis(5));
        }
    };
    let both = |by: [usize; 2]| by.iter().all(|count| *count > 0);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !both(done()) && Instant::now() < deadline {
        within(10, &|by| by != [0, 0]);
        let first = &pair[usize::from(done()[0] == 0)];
        // It may hold what the other needs: then it goes on for a while.
        signal("-STOP", first);
        within(1, &both);
        signal("-CONT", first);
        sleep(Duration::from_millis(200));
    }
    done()
}

/// What a kill at the worst moments leaves.
fn leave_half_written_files(out: &Path) {
    for folder in ["model/fold_0", "pseudo_labels/round_1", "rounds/round_1"] {
        fs::create_dir_all(out.join(folder)).unwrap();
        fs::write(out.join(folder).join(".hpc-seg-half"), b"half").unwrap();
    }
}

fn nobody_trains_on_what_it_relabels(phantoms: &Phantoms) {
    let splits = fs::read(phantoms.at("unbroken/rounds/round_1/preprocessed/splits_final.json")).unwrap();
    let splits: Vec<BTreeMap<String, Vec<String>>> = serde_json::from_slice(&splits).unwrap();
    assert_eq!(splits.len(), 3);
    for split in &splits {
        assert!(split["val"].len() == 1 && split["train"].len() == 4 && !split["train"].contains(&split["val"][0]));
        let has = |name: &str| split["train"].iter().any(|other| other == name);
        assert!(has("phantom_000") && has("phantom_001"));
    }
}

#[test]
fn a_run_goes_step_by_step_and_tells_where_it_stands() {
    let phantoms = cohort();
    let shown = run(&phantoms, "out", &["--dry-run"]).expect(0, &[]);
    for piece in [
        "round_2/fold_2",
        "waiting",
        "0 of 3 cases",
        "The initial pseudo-labels",
        "Training (by the labelled cases",
        "a network",
    ] {
        assert!(shown.stdout.contains(piece), "{piece}: {}", shown.stdout);
    }
    assert!(!phantoms.at("out").exists(), "a dry run writes nothing");

    // Step by step, as a scheduler would.
    let step = |name: &str| run(&phantoms, "out", &["--rounds", "1", "--only-step", name]);
    step("plan").expect(2, &["needs label to be done first"]);
    step("round_1/fold_9").expect(2, &["this run has no such step"]);
    step("label/phantom_009").expect(2, &["this run has no such step"]);
    step("label/phantom_003").expect(0, &[]);
    assert_eq!(state(&status(&phantoms, "out"), "label"), "waiting");
    step("label").expect(0, &[]);
    let folds = phantoms.at("out/folds.json");
    let made = fs::read(&folds).unwrap();
    fs::write(&folds, &made[..made.len() / 2]).unwrap();
    step("plan").expect(2, &["folds.json: is damaged", "remove it"]);
    fs::remove_file(&folds).unwrap();
    step("label").expect(0, &[]);
    assert_eq!(fs::read(&folds).unwrap(), made);
    for name in ["plan", "round_1/preprocess", "round_1/fold_2", "round_1/fold_0"] {
        step(name).expect(0, &[]);
    }
    step("round_1/relabel").expect(2, &["needs round_1/fold_1 to be done first"]);
    let now = status(&phantoms, "out");
    assert_eq!(
        (state(&now, "round_1/fold_0"), state(&now, "round_1/fold_1")),
        ("done".into(), "waiting".into())
    );
    assert!(
        now["seconds_left"].as_f64().is_some() && now["training_step_bytes"].as_u64().unwrap() > 0,
        "{now}"
    );

    // A command that is refused changes nothing: networks of one run are of one kind, and of its volumes.
    let config = fs::read(phantoms.at("out/config.toml")).unwrap();
    let other = ["--rounds", "1", "--train-options", "--epochs 3 --iterations 2 --no-mirroring"];
    for more in [&[][..], &["--only-step", "round_1/fold_1"]] {
        run(&phantoms, "out", &[&other[..], more].concat()).expect(2, &["train_options was", "--redo"]);
    }
    let image = phantoms.query(3);
    fs::rename(&image, phantoms.at("aside")).unwrap();
    run(&phantoms, "out", &["--rounds", "1"]).expect(2, &["phantom_003 takes part in this run, but is not among"]);
    fs::rename(phantoms.at("aside"), &image).unwrap();
    assert!(fs::read(phantoms.at("out/config.toml")).unwrap() == config);
    assert_eq!(state(&status(&phantoms, "out"), "round_1/fold_0"), "done");
    let answer = run(&phantoms, "out", &["--rounds", "1"]).expect(0, &["round_1/fold_1: done in"]);
    assert!(!answer.stderr.contains("round_1/fold_0: done in"), "{}", answer.stderr);
    let counted = status(&phantoms, "out");
    assert_eq!(
        counted["done"].as_u64().map(|done| done as usize),
        counted["steps"].as_array().map(Vec::len)
    );
}

#[test]
fn what_changed_is_said_and_done_again_only_when_asked() {
    let phantoms = cohort();
    run(&phantoms, "out", &["--rounds", "1"]).expect(0, &[]);
    // A label that is corrected, and put back. Refused as often as it is given.
    let label = phantoms.labels(0);
    let before = fs::read(&label).unwrap();
    change_voxels(&label, |voxels| voxels.iter_mut().step_by(3).for_each(|voxel| *voxel = 0.0));
    for _ in 0..2 {
        run(&phantoms, "out", &["--rounds", "1"]).expect(2, &["labels of phantom_000", "changed", "give --redo to label and train anew"]);
    }
    run(&phantoms, "out", &["--rounds", "1", "--only-step", "round_1/fold_0"]).expect(2, &["labels of phantom_000", "--redo"]);
    fs::write(&label, before).unwrap();
    let answer = run(&phantoms, "out", &["--rounds", "1"]).expect(0, &[]);
    assert!(!answer.stderr.contains("epoch 1 of"), "nothing is trained again: {}", answer.stderr);
    // So with an unlabelled case.
    change_voxels(&phantoms.query(3), |voxels| {
        voxels.iter_mut().step_by(3).for_each(|voxel| *voxel = 0.0)
    });
    for _ in 0..2 {
        run(&phantoms, "out", &["--rounds", "1"]).expect(2, &["image of phantom_003", "changed", "give --redo to label and train anew"]);
    }
    run(&phantoms, "out", &["--rounds", "1", "--seed", "4"]).expect(2, &["seed was 0 and is 4", "--redo"]);
    run(&phantoms, "out", &["--rounds", "1", "--seed", "4", "--redo"]).expect(0, &["the plan is another"]);
    // Pseudo-labelled cases can count less.
    let lighter = "--epochs 1 --iterations 2 --no-mirroring --pseudo-weight 0.5";
    let light = ["--rounds", "1", "--seed", "4", "--train-options", lighter, "--redo"];
    run(&phantoms, "out", &light).expect(0, &["begun with other pseudo_weight, pseudo_labelled"]);
    let training = json(&phantoms.at("out/rounds/round_1/model/fold_0/training.json"));
    assert_eq!(training["pseudo_labelled"].as_array().map(Vec::len), Some(2), "{training}");
    let other = [
        "--rounds",
        "1",
        "--seed",
        "4",
        "--train-options",
        "--epochs 2 --iterations 2",
        "--redo",
    ];
    run(&phantoms, "out", &other).expect(0, &["begun with other epochs", "it is trained anew"]);
    run(&phantoms, "out", &["--rounds", "1", "--seed", "4", "--redo"]).expect(0, &["it is trained anew"]);
    let file = phantoms.at("out/config.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("seed = 4  # flag") && text.contains("warm_start = false  # default"),
        "{text}"
    );

    // Other names of the same labels: networks carry them.
    let description = phantoms.at("data/dataset.json");
    let text = fs::read_to_string(&description).unwrap();
    fs::write(&description, text.replace("liver", "hepar")).unwrap();
    run(&phantoms, "out", &["--rounds", "1", "--seed", "4"]).expect(2, &["--redo"]);
    run(&phantoms, "out", &["--rounds", "1", "--seed", "4", "--redo"]).expect(0, &["fold_2: trained"]);
    assert!(fs::read_to_string(phantoms.at("out/model/dataset.json")).unwrap().contains("hepar"));

    // More rounds go on; labels that agree enough end it: any do, for a Dice of 0.
    let from_file = ["--settings", file.to_str().unwrap(), "--seed", "4", "--warm-start", "--redo"];
    run(&phantoms, "out", &from_file).expect(0, &["round 2: mean Dice"]);
    let training = json(&phantoms.at("out/rounds/round_2/model/fold_1/training.json"));
    assert_eq!(training["pretrained_heads"], true);
    let answer = run(&phantoms, "out", &["--seed", "4", "--warm-start", "--settled", "0", "--json"]).expect(0, &[]);
    let summary: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(
        (summary["rounds"].as_array().map(Vec::len), &summary["settled"]),
        (Some(2), &Value::Bool(true))
    );
}

#[test]
fn what_is_lost_is_made_again_and_what_is_broken_has_its_remedy() {
    let phantoms = cohort();
    let test = phantoms.at("test");
    for (from, to) in [("imagesTs", "imagesTs"), ("labelsTs", "labelsTs")] {
        fs::create_dir_all(test.join(to)).unwrap();
        for (case, name) in [(2, "test_002"), (3, "test_003")] {
            let [kind, ending] = if from == "imagesTs" {
                ["imagesTs", "_0000"]
            } else {
                ["labelsTs", ""]
            };
            let source = phantoms.at(&format!("data/{kind}/phantom_00{case}{ending}.nii.gz"));
            fs::copy(source, test.join(to).join(format!("{name}{ending}.nii.gz"))).unwrap();
        }
    }
    fs::copy(test.join("labelsTs/test_002.nii.gz"), test.join("labelsTs/other.nii.gz")).unwrap();
    fs::copy(test.join("imagesTs/test_002_0000.nii.gz"), test.join("imagesTs/alone_0000.nii.gz")).unwrap();
    keep_slices(&test.join("labelsTs/test_003.nii.gz"), 0..5);
    change_voxels(&test.join("labelsTs/test_002.nii.gz"), |labels| labels[0] = 7.0);
    let with_test = ["--rounds", "1", "--test", test.to_str().unwrap()];
    // A test case that cannot be compared is told of each time; what is no test case too.
    let told = [
        "images without a reference are no test cases: alone",
        "references without an image are not compared",
    ];
    run(&phantoms, "out", &with_test).expect(3, &[&told[..], &["test_003 failed", "not compared: {7}"]].concat());
    run(&phantoms, "out", &with_test).expect(3, &told);
    // A network of the product, and what a fold made of a case that it never saw.
    let network = phantoms.at("out/model/fold_1/checkpoint_final.pth");
    fs::remove_file(&network).unwrap();
    assert_eq!(state(&status(&phantoms, "out"), "model"), "waiting");
    let folds: Vec<Vec<String>> = serde_json::from_slice(&fs::read(phantoms.at("out/folds.json")).unwrap()).unwrap();
    let mask = phantoms.at(&format!("out/rounds/round_1/model/fold_0/validation/{}.nii.gz", folds[0][0]));
    let before = fs::read(&mask).unwrap();
    fs::remove_file(&mask).unwrap();
    let answer = run(&phantoms, "out", &with_test).expect(3, &["model: done again", "fold_0: was finished before"]);
    assert!(network.is_file() && fs::read(&mask).unwrap() == before, "{}", answer.stderr);
    // An image that breaks.
    let image = phantoms.query(4);
    let whole = fs::read(&image).unwrap();
    fs::write(&image, &whole[..whole.len() / 2]).unwrap();
    run(&phantoms, "out", &["--rounds", "1"]).expect(2, &["phantom_004 takes part in this run, but its pseudo-label", "mend the image"]);
    // Without it: its labels do not stay beside those of the others.
    fs::remove_file(&image).unwrap();
    let last = phantoms.at("out/pseudo_labels/round_1/phantom_004.nii.gz");
    assert!(last.is_file());
    run(&phantoms, "out", &["--rounds", "1", "--redo"]).expect(0, &["phantom_004 takes part no longer"]);
    assert!(!last.exists() && phantoms.at("out/pseudo_labels/round_1/phantom_003.nii.gz").is_file());
}

#[test]
fn a_run_waits_while_another_kind_of_device_labels() {
    let phantoms = cohort();
    let labels = phantoms.at("out/pseudo_labels/round_0");
    fs::create_dir_all(&labels).unwrap();
    let mut other = Presence::enter(&labels).unwrap();
    other.let_others_in("of another kind").unwrap();
    let case = other.claim("phantom_002").unwrap();
    let said = phantoms.at("said");
    let mut child = command(&phantoms, "out", &["--rounds", "1"]);
    let mut child = child
        .stdout(Stdio::null())
        .stderr(fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    sleep(Duration::from_secs(4));
    assert!(child.try_wait().unwrap().is_none(), "{}", fs::read_to_string(&said).unwrap());
    assert!(!phantoms.at("out/pseudo_labels/round_0/phantom_003.nii.gz").exists());
    drop((case, other));
    assert!(child.wait().unwrap().success(), "{}", fs::read_to_string(&said).unwrap());
    let said = fs::read_to_string(&said).unwrap();
    // Looked at once, and again when the others had gone; not in between.
    assert_eq!(said.matches("] label:").count(), 2, "{said}");
    assert!(said.contains("3 done"), "{said}");
}

#[test]
fn what_cannot_be_run_is_refused_with_the_remedy() {
    let phantoms = Phantoms::new(3, 2, [6, 48, 48]);
    run(&phantoms, "out", &["--rounds", "0"]).expect(2, &["give at least one round"]);
    run(&phantoms, "out", &["--settled", "1.5"]).expect(2, &["a Dice from 0 to 1"]);
    run(&phantoms, "out", &["--only-step", "fold"]).expect(2, &["is no step"]);
    for step in ["round_9/fold_0", "round_1/fold_4", "test/round_1", "label/elsewhere"] {
        run(&phantoms, "out", &["--only-step", step]).expect(2, &["this run has no such step"]);
    }
    assert!(!phantoms.at("out").exists(), "a refused step has bound the folder to its settings");
    run(&phantoms, "out", &["--test", phantoms.at("").to_str().unwrap()]).expect(2, &["holds no test cases"]);
    run(&phantoms, "out", &["--weights", "nowhere.pt"]).expect(2, &["there is no file", "nowhere.pt"]);
    run(&phantoms, "out", &[]).expect(2, &["1 unlabelled cases have pseudo-labels; two are needed"]);
    for (option, text, piece) in [
        ("--train-options", "--time-budget 8", "such as 8h"),
        ("--train-options", "--resume", "leave out --resume"),
        ("--train-options", "--plans mine.json", "leave out --plans and --fold"),
        ("--train-options", "--fold 3", "leave out --plans and --fold"),
        ("--train-options", "--pretrained nofile.pth", "there is no file nofile.pth"),
        ("--label-options", "--config nofile.json", "there is no file nofile.json"),
        ("--plan-options", "--spacing 0,1,1", "millimetres are positive"),
        ("--label-options", "--threshold 2", "must lie between 0 and 1"),
        ("--label-options", "--device cpu", "--device"),
        ("--label-options", "--channel 1", "trained on image channel 0"),
        ("--label-options", "--case phantom_001", "leave out --case and --dry-run"),
        ("--label-options", "--groups 'my groups.csv", "close it"),
        ("--label-options", "--window 'a b'", "'a b'"),
    ] {
        run(&phantoms, "unborn", &[option, text]).expect(2, &[option, piece]);
    }
    let image = phantoms.query(2);
    let whole = fs::read(&image).unwrap();
    let (header, mut voxels) = super::read(&image);
    voxels.extend_from_within(..);
    hpc_seg::volume::write(&image, &header, Voxels::F32(&voxels), Some(2), &[]).unwrap();
    run(&phantoms, "unborn", &[]).expect(2, &["phantom_002_0000.nii.gz: holds 2 volumes"]);
    fs::write(&image, whole).unwrap();
    assert!(!phantoms.at("unborn").exists(), "nothing runs before its options are right");
    run(&phantoms, "other", &["--label-options", "--nonsense"]).expect(2, &["--label-options", "--nonsense"]);
    run(&phantoms, "other", &["--train-options", "--no-validation"]).expect(2, &["what a round re-labels; leave it out"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    let answer = Answer::of(command.arg("status").arg(phantoms.at("data")).output().unwrap());
    answer.expect(2, &["holds no config.toml; give the --out of an hpc-seg run"]);
}
