//! The program as a user meets it: help, usage errors, exit codes, streams.

use crate::cohort::{folder_of, put};
use clap::CommandFactory;
use hpc_seg::cli::Cli;
use hpc_seg::volume::{self, Header, Voxels};
use hpc_seg::weights::demo_network;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The program with these arguments.
fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// All commands that can be given, as lists of words; the program itself first.
fn all_commands() -> Vec<(Vec<String>, clap::Command)> {
    fn walk(words: &[String], command: &clap::Command, all: &mut Vec<(Vec<String>, clap::Command)>) {
        all.push((words.to_vec(), command.clone()));
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            walk(&[words, &[sub.get_name().to_string()]].concat(), sub, all);
        }
    }
    let mut all = Vec::new();
    walk(&[], &Cli::command(), &mut all);
    all
}

/// Arguments of a pseudo-label run over a made-up cohort: labelled a; unlabelled u, v.
fn cohort_arguments(folder: &Path) -> Vec<String> {
    let at = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let mut arguments = vec!["pseudo-label".to_string()];
    for (option, name) in [
        ("--labelled", "data"),
        ("--unlabelled", "data"),
        ("--weights", "w.pt"),
        ("--out", "out"),
    ] {
        arguments.extend([option.to_string(), at(name)]);
    }
    arguments
}

/// Three volumes of two slices, one of them labelled, and the demo network.
fn made_up_cohort() -> tempfile::TempDir {
    let folder = folder_of(&["data/images/a.nii", "data/labels/a.nii", "data/images/u.nii", "data/images/v.nii"]);
    let header = Header::new([8, 8, 2], &[[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]).unwrap();
    for name in ["images/a", "labels/a", "images/u", "images/v"] {
        let path = folder.path().join(format!("data/{name}.nii"));
        volume::write(&path, &header, Voxels::U8(&[1; 128]), None, &[]).unwrap();
    }
    std::fs::write(folder.path().join("w.pt"), demo_network()).unwrap();
    folder
}

fn run_cohort(folder: &Path, more: &[&str]) -> Output {
    let arguments = cohort_arguments(folder);
    run(&arguments.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>())
}

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_help_on_stdout_with_all_its_options() {
    for (words, command) in all_commands() {
        let arguments: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let output = run(&arguments);
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{words:?}");
        let help = stdout(&output);
        for argument in command.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(help.contains(&format!("--{argument}")), "{words:?} does not show --{argument}");
        }
        let is_leaf = !command.has_subcommands();
        assert!(!is_leaf || help.contains("Example:\n  hpc-seg "), "{words:?} has no example");
    }
}

#[test]
fn every_option_has_one_line_of_help_and_tells_its_default() {
    for (words, command) in all_commands() {
        for argument in command
            .get_arguments()
            .filter(|argument| !matches!(argument.get_id().as_str(), "help" | "version"))
        {
            let help = argument
                .get_help()
                .unwrap_or_else(|| panic!("{words:?} {} has no help", argument.get_id()))
                .to_string();
            assert!(!help.contains('\n') && help.len() <= 100, "{words:?}: {help}");
            let tells_default = argument.is_required_set() || !argument.get_default_values().is_empty() || help.contains("(default: ");
            assert!(tells_default, "{words:?} {}: {help}", argument.get_id());
        }
    }
}

#[test]
fn defaults_stand_in_the_help_as_the_method_has_them() {
    let help = stdout(&run(&["pseudo-label", "--help"]));
    for (option, default) in [
        ("--insertions", "5"),
        ("--seed", "0"),
        ("--channel", "0"),
        ("--slice-axis", "z"),
        ("--threshold", "0.5"),
        ("--fill-holes", "8"),
        ("--device", "auto"),
    ] {
        let after = help
            .split(&format!("      {option} <"))
            .nth(1)
            .unwrap_or_else(|| panic!("no {option}"));
        let own = after.split("\n      --").next().unwrap();
        assert!(own.contains(&format!("[default: {default}]")), "{option}: {own}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2_on_stderr() {
    for arguments in [
        &["label"][..],
        &["pseudo-label"],
        &["pseudo-label", "--insertions", "many"],
        &["phantom", "--cases", "-1"],
        &[],
    ] {
        let output = run(arguments);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""), "{arguments:?}");
        let text = stderr(&output);
        assert!(
            text.contains("Usage: hpc-seg") || text.contains("try '--help'"),
            "{arguments:?}: {text}"
        );
    }
}

#[test]
fn phantoms_are_not_numbered_beyond_the_last_number() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let last = usize::MAX.to_string();
    let output = run(&[
        "phantom",
        "--cases",
        "3",
        "--labelled",
        "1",
        "--first",
        &last,
        "--out",
        out.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("there are no 3 numbers from there on"),
        "{}",
        stderr(&output)
    );
    assert!(!out.exists());
}

#[test]
fn bad_input_is_exit_code_2_and_one_sentence_with_the_remedy() {
    let folder = made_up_cohort();
    for (more, expected) in [
        (
            &["--window", "40"][..],
            "error: --window takes two numbers, LEVEL,WIDTH, as in --window 40,400\n",
        ),
        (
            &["--window", "-50,0"],
            "error: --window -50,0: level and width must be finite numbers and the width positive, as in --window 40,400\n",
        ),
        (
            &["--device", "gpu"],
            "error: --device gpu: the devices are auto, cpu and cuda[:N]\n",
        ),
        (
            &["--memory", "10"],
            "error: --memory 10: give a size in GiB or MiB, such as 10GiB or 4000MiB\n",
        ),
        (
            &["--groups", "nowhere.csv"],
            "error: --groups nowhere.csv: there is no such file; give a table of lines CASE,GROUP\n",
        ),
        (&["--threads", "0"], "error: --threads 0: at least one thread has to do the work\n"),
        (
            &["--case", "x"],
            "error: --case x: there is no unlabelled case of this name; there are u, v\n",
        ),
        (
            &["--insert-at", "0,7,0"],
            "error: --insert-at names the place 0 twice; places must differ\n",
        ),
        (
            &["--group-regex", "^(a)"],
            "error: 2 cases have no group: u, v; --group-regex \"^(a)\" does not match their names (or captures nothing)\n",
        ),
    ] {
        let output = run_cohort(folder.path(), more);
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(2), expected), "{more:?}");
    }
    assert!(
        !folder.path().join("out").exists(),
        "nothing is created for a command that cannot work"
    );
}

#[test]
fn a_missing_weight_file_is_named() {
    let folder = made_up_cohort();
    std::fs::remove_file(folder.path().join("w.pt")).unwrap();
    let output = run_cohort(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("w.pt; --weights takes a .pt, .pth or .safetensors file"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_dry_run_shows_the_plan_and_creates_nothing() {
    let folder = made_up_cohort();
    put(folder.path(), "groups.csv", "a,A\nu,A\nv,B\n");
    let table = folder.path().join("groups.csv");
    let output = run_cohort(
        folder.path(),
        &["--dry-run", "--json", "--slice-axis", "0", "--groups", table.to_str().unwrap()],
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let plan: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(plan["settings"]["slice_axis"], "x");
    assert_eq!(plan["cases"][0]["case"], "u");
    assert_eq!(plan["cases"][0]["labelled"][0], "a");
    assert_eq!(plan["cases"][1]["labelled"].as_array().unwrap().len(), 0);
    let text = stdout(&run_cohort(folder.path(), &["--dry-run", "--groups", table.to_str().unwrap()]));
    assert!(
        text.contains("v (group B) from nothing") && text.contains("this case will fail: its group has no labelled volume"),
        "{text}"
    );
    assert!(text.contains("2 slices, 4 lane steps against 2 conditioning slices"), "{text}");
    assert!(!folder.path().join("out").exists());
}

#[test]
fn the_last_of_two_opposite_switches_is_no_error() {
    let folder = made_up_cohort();
    for (switches, expected) in [
        (&["--largest-component", "--no-largest-component"][..], false),
        (&["--no-largest-component", "--largest-component"], true),
        (&[], true),
    ] {
        let output = run_cohort(folder.path(), &[&["--dry-run", "--json"], switches].concat());
        let plan: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(plan["settings"]["largest_component"], expected, "{switches:?}");
    }
}

#[test]
fn info_tells_the_version_and_the_note_on_use_to_people_and_programs() {
    let text = stdout(&run(&["info"]));
    assert!(
        text.contains(env!("CARGO_PKG_VERSION")) && text.contains("research use only"),
        "{text}"
    );
    let info: Value = serde_json::from_str(&stdout(&run(&["doctor", "--json"]))).unwrap();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["license"], "MIT OR Apache-2.0");
    assert!(info["threads"].as_u64().unwrap() >= 1 && info["cpu_features"].is_array());
}

#[test]
fn a_reader_that_has_gone_is_a_success() {
    for arguments in [&["--help"][..], &["info"], &["info", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = program(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn a_closed_stderr_does_not_change_the_exit_code() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(program(&["label"]).stderr(writer).status().unwrap().code(), Some(2));
}

#[test]
fn weights_are_inspected_verified_and_converted() {
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/demo.safetensors");
    let inventory: Value = serde_json::from_str(&stdout(&run(&["weights", "inspect", demo, "--json"]))).unwrap();
    assert!(inventory["tensors"].as_array().unwrap().len() > 100);
    assert!(stdout(&run(&["weights", "inspect", demo])).contains("maskmem_tpos_enc"));

    let verified = run(&["weights", "verify", demo]);
    assert_eq!(verified.status.code(), Some(0), "{}", stderr(&verified));
    assert!(
        stdout(&verified).contains("the file is what the manifest says"),
        "{}",
        stdout(&verified)
    );
    assert_eq!(stderr(&verified), "all tensors of the network are there, and no others\n");

    let folder = tempfile::tempdir().unwrap();
    let converted = folder.path().join("f32.safetensors");
    let output = run(&[
        "weights",
        "convert",
        demo,
        "--precision",
        "f32",
        "--out",
        converted.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(run(&["weights", "verify", converted.to_str().unwrap()]).status.code(), Some(0));

    // Where no file is named, none is replaced.
    let (source, there) = (folder.path().join("mine.pth"), folder.path().join("mine.safetensors"));
    std::fs::write(&source, "").unwrap();
    std::fs::write(&there, "precious").unwrap();
    let replacing = run(&["weights", "convert", source.to_str().unwrap()]);
    assert_eq!(replacing.status.code(), Some(2));
    assert!(
        stderr(&replacing).contains("mine.safetensors is there already"),
        "{}",
        stderr(&replacing)
    );
    assert_eq!(std::fs::read_to_string(&there).unwrap(), "precious");

    let over_itself = run(&["weights", "convert", demo]);
    assert_eq!(over_itself.status.code(), Some(2));
    assert!(
        stderr(&over_itself).contains("would be written over itself; name another file with --out"),
        "{}",
        stderr(&over_itself)
    );
}

#[test]
fn a_file_that_is_not_the_known_one_and_a_missing_one_are_bad_input() {
    let folder = folder_of(&["demo.safetensors"]);
    let fake = folder.path().join("demo.safetensors");
    let output = run(&["weights", "verify", fake.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("is not the file that is known by this name; download it again"),
        "{}",
        stderr(&output)
    );
    assert_eq!(run(&["weights", "inspect", "gone.pt"]).status.code(), Some(2));
}

#[test]
fn phantoms_make_a_cohort_that_pseudo_label_understands_and_the_same_one_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let arguments = [
            "phantom",
            "--cases",
            "3",
            "--labelled",
            "1",
            "--size",
            "3,16,17",
            "--out",
            out.to_str().unwrap(),
        ];
        run(&[&arguments[..], more].concat())
    };
    for name in ["data", "again"] {
        let output = make(name, &[]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let files = crate::cohort::files_below(&folder.path().join("data"));
    assert_eq!(files[..2], ["dataset.json", "imagesTr/phantom_000_0000.nii.gz"]);
    assert_eq!(files.len(), 7);
    for file in &files {
        let read = |name: &str| std::fs::read(folder.path().join(name).join(file)).unwrap();
        assert!(read("data") == read("again"), "{file}");
    }
    std::fs::write(folder.path().join("w.pt"), demo_network()).unwrap();
    let plan: Value = serde_json::from_str(&stdout(&run_cohort(folder.path(), &["--dry-run", "--json"]))).unwrap();
    assert_eq!(plan["labelled"], serde_json::json!(["phantom_000"]));
    assert_eq!(plan["cases"].as_array().unwrap().len(), 2);

    put(folder.path(), "again/imagesTs/patient_0000.nii.gz", "x");
    put(folder.path(), "hospital/dataset.json", "{}");
    for (name, more, expected) in [
        (
            "data",
            &["--first", "1"][..],
            "imagesTr holds phantom_000_0000.nii.gz, which is not",
        ),
        (
            "hospital",
            &[],
            "dataset.json describes other data than these phantoms; choose an empty",
        ),
        (
            "again",
            &[][..],
            "holds patient_0000.nii.gz, which is not one of these phantoms; choose an empty folder with --out",
        ),
        ("new", &["--labelled", "4"], "cannot be used multiple times"),
        ("new", &["--seed", "1", "--sequence", "t9"], "possible values: ged4, t1, t2"),
    ] {
        let output = make(name, more);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    assert!(stderr(&run(&["phantom", "--cases", "1", "--labelled", "2", "--out", "x"])).contains("no more labelled ones than cases"));
    assert!(
        stderr(&run(&[
            "phantom",
            "--cases",
            "1",
            "--labelled",
            "1",
            "--size",
            "0,4,4",
            "--out",
            "x"
        ]))
        .contains("cannot be made")
    );
}

#[test]
fn shells_and_man_know_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stdout(&run(&["completions", shell]));
        assert!(script.contains("pseudo-label") && script.contains("time-budget"), "{shell}");
    }
    assert_eq!(run(&["completions", "csh"]).status.code(), Some(2));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("man1");
    let answer = run(&["man", "--out", out.to_str().unwrap()]);
    assert!(answer.status.success(), "{}", stderr(&answer));
    for (words, command) in all_commands() {
        let name = [&["hpc-seg".to_owned()][..], &words].concat().join("-");
        let page = std::fs::read_to_string(out.join(format!("{name}.1"))).unwrap();
        // Hyphens and apostrophes are written as roff wants them.
        let page = page.replace("\\-", "-");
        let about = command.get_about().unwrap().to_string();
        assert!(page.contains(".TH") && page.contains(about.split('\'').next().unwrap()), "{name}");
    }
}
