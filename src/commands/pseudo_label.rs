//! `hpc-seg pseudo-label`: TFFS for a cohort.

use super::{require_cpu, thread_count};
use crate::cli::{AxisArg, PseudoLabelArgs};
use crate::cohort::discover::{self, Cohort};
use crate::cohort::groups::{self, Assignment, Grouping};
use crate::cohort::journal::Journal;
use crate::cohort::output::{self, CaseFiles};
use crate::cohort::runner::{self, CaseOutcome, Conditions, Exit, Task};
use crate::cohort::settings::{Settings, SliceAxis, Window};
use crate::cohort::signals;
use crate::messages::{self, Progress};
use crate::stop::Stop;
use crate::{bad_input, note, sha256, warning};
use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What is particular to one case.
struct Query {
    group: String,
    supports: Vec<usize>, // into Cohort::labelled
    files: CaseFiles,     // relative to the output folder
}

/// The validated arguments and what they lead to.
struct Plan<'a> {
    args: &'a PseudoLabelArgs,
    settings: Settings,
    threads: usize,
    cohort: Cohort,
    grouping: Grouping,
    tasks: Vec<Task<Query>>,
}

pub(super) fn run(args: &PseudoLabelArgs) -> Result<Exit> {
    let stop = Stop::new();
    signals::install(&stop)?;
    let plan = plan(args)?;
    if args.dry_run {
        show(&plan)?;
        return Ok(Exit::Done);
    }
    let settings = serde_json::to_value(&plan.settings)?;
    output::prepare(
        &args.out,
        &plan.cohort.input_folders,
        plan.tasks.iter().flat_map(|task| &task.outputs),
    )?;
    let mut journal = Journal::open(&args.out)?;
    let weights_sha256 = sha256::of_file(&args.weights)?;
    let conditions = Conditions { weights_sha256, settings };
    let mut labeller = Labeller::open(&plan)?;
    let work = |task: &Task<Query>, stop: &Stop, progress: &Progress| {
        if task.payload.supports.is_empty() {
            return Err(anyhow!(groups::no_support_message(&task.payload.group, &plan.grouping)));
        }
        labeller.label(&plan, task, stop, progress)
    };
    let summary = runner::run(&args.out, &mut journal, &plan.tasks, &conditions, &stop, work)?;
    note!("{}", summary.line());
    if args.json {
        messages::data_json(&summary)?;
    }
    Ok(summary.exit())
}

// PLACEHOLDER: the loaded network, the support cache and the TFFS schedule live here; `label` writes all of `task.payload.files` under
// `plan.args.out`, names its stages to `progress` and calls `stop.check()` after every step.
struct Labeller;

impl Labeller {
    fn open(_plan: &Plan<'_>) -> Result<Self> {
        bail!("pseudo-label is not built yet")
    }

    fn label(&mut self, _plan: &Plan<'_>, _task: &Task<Query>, _stop: &Stop, _progress: &Progress) -> Result<CaseOutcome> {
        bail!("pseudo-label is not built yet")
    }
}

/// Typed arguments to validated ones, and the cases they name.
fn plan(args: &PseudoLabelArgs) -> Result<Plan<'_>> {
    require_cpu(&args.device)?;
    let threads = thread_count(args.threads)?;
    let settings = settings(args)?;
    let files = [Some(&args.weights), args.config.as_ref()];
    if let Some(file) = files.into_iter().flatten().find(|file| !file.is_file()) {
        bad_input!(
            "there is no file {}; --weights takes a .pt, .pth or .safetensors file, --config a .json file",
            file.display()
        );
    }
    if args.lanes == Some(0) {
        bad_input!("--lanes 0: at least one lane has to step");
    }
    let grouping = match (&args.groups, &args.group_regex) {
        (Some(file), _) => Grouping::from_file(file)?,
        (None, Some(pattern)) => Grouping::from_pattern(pattern)?,
        (None, None) => Grouping::One,
    };
    let mut cohort = discover::discover(&args.labelled, &args.unlabelled, args.channel)?;
    cohort.keep_only(&args.cases)?;
    let assignment = grouping.assign(&cohort)?;
    cohort
        .remarks
        .iter()
        .chain(&assignment.remarks)
        .for_each(|remark| warning!("{remark}"));
    let tasks = tasks(args, &cohort, assignment);
    Ok(Plan {
        args,
        settings,
        threads,
        cohort,
        grouping,
        tasks,
    })
}

fn settings(args: &PseudoLabelArgs) -> Result<Settings> {
    let window = match args.window.as_deref() {
        None => None,
        Some(&[level, width]) => Some(Window { level, width }),
        Some(_) => bad_input!("--window takes two numbers, LEVEL,WIDTH, as in --window 40,400"),
    };
    let slice_axis = match args.slice_axis {
        AxisArg::X => SliceAxis::X,
        AxisArg::Y => SliceAxis::Y,
        AxisArg::Z => SliceAxis::Z,
    };
    let settings = Settings {
        insertions: args.insertions,
        insert_at: args.insert_at.clone(),
        seed: args.seed,
        window,
        channel: args.channel,
        slice_axis,
        threshold: args.threshold,
        largest_component: !args.no_largest_component,
        fill_holes: args.fill_holes,
        reorient: !args.no_reorient,
    };
    settings.check()?;
    Ok(settings)
}

fn tasks(args: &PseudoLabelArgs, cohort: &Cohort, assignment: Assignment) -> Vec<Task<Query>> {
    let assigned = cohort.unlabelled.iter().zip(assignment.group.into_iter().zip(assignment.supports));
    let task = |(case, (group, supports)): (&discover::UnlabelledCase, (String, Vec<usize>))| {
        let mut inputs = vec![("image".to_string(), case.image.clone())];
        inputs.extend(args.config.iter().map(|config| ("configuration".to_string(), config.clone())));
        for support in supports.iter().map(|&index| &cohort.labelled[index]) {
            inputs.push((format!("labelled {} image", support.name), support.image.clone()));
            inputs.push((format!("labelled {} labels", support.name), support.labels.clone()));
        }
        let files = CaseFiles::new(&case.name, args.save_probabilities);
        Task {
            name: case.name.clone(),
            inputs,
            outputs: files.all(),
            payload: Query { group, supports, files },
        }
    };
    assigned.map(task).collect()
}

/// What `--dry-run` writes.
#[derive(Serialize)]
struct Shown<'a> {
    out: &'a Path,
    threads: usize,
    settings: &'a Settings,
    labelled: Vec<&'a str>,
    cases: Vec<ShownCase<'a>>,
}

#[derive(Serialize)]
struct ShownCase<'a> {
    case: &'a str,
    image: &'a PathBuf,
    group: &'a str,
    labelled: Vec<&'a str>,
    mask: PathBuf,
}

// PLACEHOLDER: memory and time belong here as soon as the schedule can tell them.
fn show(plan: &Plan<'_>) -> Result<()> {
    let name = |index: &usize| plan.cohort.labelled[*index].name.as_str();
    let cases = plan.tasks.iter().map(|task| ShownCase {
        case: &task.name,
        image: &task.inputs[0].1,
        group: &task.payload.group,
        labelled: task.payload.supports.iter().map(name).collect(),
        mask: plan.args.out.join(&task.payload.files.mask),
    });
    let labelled = plan.cohort.labelled.iter().map(|case| case.name.as_str()).collect();
    let shown = Shown {
        out: &plan.args.out,
        threads: plan.threads,
        settings: &plan.settings,
        labelled,
        cases: cases.collect(),
    };
    if plan.args.json {
        return messages::data_json(&shown);
    }
    let mut text = format!(
        "{} cases to label from {} labelled volumes, with {} threads\n",
        shown.cases.len(),
        shown.labelled.len(),
        shown.threads
    );
    for case in &shown.cases {
        let supports = if case.labelled.is_empty() {
            "nothing: this case will fail".to_string()
        } else {
            case.labelled.join(" ")
        };
        text += &format!("{} (group {}) from {supports} -> {}\n", case.case, case.group, case.mask.display());
    }
    messages::data(&text).context("the plan could not be shown")
}
