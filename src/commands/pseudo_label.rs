//! `hpc-seg pseudo-label`: TFFS for a cohort.

mod dry_run;

use super::{byte_count, thread_count};
use crate::cli::{AxisArg, PseudoLabelArgs};
use crate::cohort::discover::{self, Cohort, LabelledCase, UnlabelledCase};
use crate::cohort::groups::{self, Assignment, Grouping};
use crate::cohort::journal::Journal;
use crate::cohort::labeller::{Engine, Labeller};
use crate::cohort::output::{self, CaseFiles};
use crate::cohort::runner::{self, Conditions, Exit, Task};
use crate::cohort::settings::{Settings, SliceAxis, Window};
use crate::cohort::signals;
use crate::device::open::Opening;
use crate::messages::{self, Progress};
use crate::stop::Stop;
use crate::{bad_input, note, warning};
use anyhow::{Result, anyhow};

/// What is particular to one case.
struct Query {
    case: UnlabelledCase,
    group: String,
    supports: Vec<usize>, // into Cohort::labelled
    files: CaseFiles,     // relative to the output folder
}

/// The validated arguments and what they lead to.
struct Plan<'a> {
    args: &'a PseudoLabelArgs,
    settings: Settings,
    opening: Opening,
    cohort: Cohort,
    grouping: Grouping,
    tasks: Vec<Task<Query>>,
}

impl Plan<'_> {
    /// Loads the network.
    fn labeller(&self) -> Result<Labeller> {
        let engine = Engine {
            weights: self.args.weights.clone(),
            config: self.args.config.clone(),
            opening: self.opening.clone(),
            lanes: self.args.lanes,
        };
        Labeller::open(engine, self.settings.clone())
    }

    /// The labelled volumes of a case.
    fn supports(&self, query: &Query) -> Vec<&LabelledCase> {
        query.supports.iter().map(|&index| &self.cohort.labelled[index]).collect()
    }
}

pub(super) fn run(args: &PseudoLabelArgs) -> Result<Exit> {
    let stop = Stop::new();
    signals::install(&stop)?;
    let plan = plan(args)?;
    if args.dry_run {
        dry_run::show(&plan)?;
        return Ok(Exit::Done);
    }
    let settings = serde_json::to_value(&plan.settings)?;
    // First the weights: what is wrong with them should leave no folder behind.
    let mut labeller = plan.labeller()?;
    output::prepare(
        &args.out,
        &plan.cohort.input_folders,
        plan.tasks.iter().flat_map(|task| &task.outputs),
    )?;
    let mut journal = Journal::open(&args.out)?;
    let weights_sha256 = labeller.weights_sha256().to_owned();
    let conditions = Conditions { weights_sha256, settings };
    let work = |task: &Task<Query>, stop: &Stop, progress: &Progress| {
        if task.payload.supports.is_empty() {
            return Err(anyhow!(groups::no_support_message(&task.payload.group, &plan.grouping)));
        }
        let query = &task.payload;
        let labelled = plan.supports(query);
        labeller.label(&query.case, &query.group, &labelled, (&args.out, &query.files), stop, progress)
    };
    let summary = runner::run(&args.out, &mut journal, &plan.tasks, &conditions, &stop, work)?;
    note!("{}", summary.line());
    if args.json {
        messages::data_json(&summary)?;
    }
    Ok(summary.exit())
}

/// Typed arguments to validated ones, and the cases they name.
fn plan(args: &PseudoLabelArgs) -> Result<Plan<'_>> {
    let opening = Opening {
        choice: args.device.parse()?,
        threads: thread_count(args.threads)?,
        memory: args.memory.as_deref().map(byte_count).transpose()?,
        kernel_cache: args.kernel_cache.clone(),
        multiprocessors: None,
    };
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
        opening,
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
    let task = |(case, (group, supports)): (&UnlabelledCase, (String, Vec<usize>))| {
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
            payload: Query {
                case: case.clone(),
                group,
                supports,
                files,
            },
        }
    };
    assigned.map(task).collect()
}
