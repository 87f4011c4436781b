//! `hpc-seg pseudo-label`: TFFS for a cohort.

mod dry_run;

use super::{byte_count, thread_count};
use crate::cli::{AxisArg, PseudoLabelArgs};
use crate::cohort::discover::{self, Cohort, LabelledCase, UnlabelledCase};
use crate::cohort::failed;
use crate::cohort::groups::{self, Assignment, Grouping};
use crate::cohort::journal::Journal;
use crate::cohort::labeller::{Engine, Labeller};
use crate::cohort::output::{self, CaseFiles};
use crate::cohort::runner::{self, Conditions, Exit, Task, Worked, Worker};
use crate::cohort::settings::{Settings, SliceAxis, Window};
use crate::cohort::signals;
use crate::device::open::{self, Opening};
use crate::messages::{self, Progress};
use crate::stop::Stop;
use crate::{bad_input, note, panics, warning};
use anyhow::{Result, anyhow, bail};
use std::collections::BTreeSet;
use std::thread;

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
    /// The devices.
    openings: Vec<Opening>,
    cohort: Cohort,
    grouping: Grouping,
    tasks: Vec<Task<Query>>,
}

impl Plan<'_> {
    /// Loads the network onto a device.
    fn labeller(&self, opening: &Opening) -> Result<Labeller> {
        let engine = Engine {
            weights: self.args.weights.clone(),
            config: self.args.config.clone(),
            opening: opening.clone(),
            lanes: self.args.lanes,
        };
        Labeller::open(engine, self.settings.clone())
    }

    /// The same onto every device, at once.
    fn labellers(&self) -> Result<Vec<Labeller>> {
        thread::scope(|scope| {
            let openings = self.openings.iter();
            let loading: Vec<_> = openings
                .map(|opening| scope.spawn(|| panics::catch(|| self.labeller(opening))))
                .collect();
            let loaded = loading.into_iter().map(|loading| loading.join());
            loaded
                .map(|loaded| loaded.unwrap_or_else(|_| bail!("a device's thread ended")))
                .collect()
        })
    }

    /// The labelled volumes of a case.
    fn supports(&self, query: &Query) -> Vec<&LabelledCase> {
        query.supports.iter().map(|&index| &self.cohort.labelled[index]).collect()
    }
}

/// A device at work on the cohort.
struct DeviceWorker<'a> {
    plan: &'a Plan<'a>,
    labeller: Labeller,
}

impl Worker<Query> for DeviceWorker<'_> {
    fn work(&mut self, task: &Task<Query>, next: Option<&Task<Query>>, stop: &Stop, progress: &Progress) -> Result<Worked> {
        let (plan, query) = (self.plan, &task.payload);
        if query.supports.is_empty() {
            return Err(anyhow!(groups::no_support_message(&query.group, &plan.grouping)));
        }
        let files = (plan.args.out.as_path(), &query.files);
        let next = next.map(|task| &task.payload.case);
        let cases = (&query.case, next);
        let labelled = self
            .labeller
            .label(cases, &query.group, &plan.supports(query), files, stop, progress)?;
        Ok(Worked::Left(Box::new(|| labelled.write())))
    }

    fn is_able(&self) -> bool {
        self.labeller.is_able()
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
    let labellers = plan.labellers()?;
    output::prepare(
        &args.out,
        &plan.cohort.input_folders,
        plan.tasks.iter().flat_map(|task| &task.outputs),
    )?;
    let mut journal = Journal::open(&args.out)?;
    let weights_sha256 = labellers[0].weights_sha256().to_owned();
    let mut devices = labellers
        .iter()
        .map(Labeller::kind_of_device)
        .collect::<Result<BTreeSet<String>>>()?
        .into_iter();
    let first = devices.next().unwrap_or_default();
    let conditions = Conditions {
        weights_sha256,
        settings,
        device: devices.fold(first, |all, next| format!("{all} and {next}")),
    };
    let workers = labellers
        .into_iter()
        .map(|labeller| DeviceWorker { plan: &plan, labeller })
        .collect();
    if args.cases.is_empty() {
        let cases = plan.tasks.iter().map(|task| task.name.as_str()).collect();
        journal.exclusively(|_| failed::keep_only(&args.out, &cases))?;
    }
    let summary = runner::run(&args.out, &mut journal, &plan.tasks, &conditions, &stop, workers)?;
    note!("{}", summary.line(&args.out));
    if args.json {
        messages::data_json(&summary)?;
    }
    Ok(summary.exit())
}

/// Typed arguments to validated ones, and the cases they name.
fn plan(args: &PseudoLabelArgs) -> Result<Plan<'_>> {
    let choices = match args.devices.is_empty() {
        true => vec![args.device.parse()?],
        false => open::choices(&args.devices)?,
    };
    let threads = thread_count(args.threads)?;
    let opening = Opening {
        threads: (threads / choices.len()).max(1),
        memory: args.memory.as_deref().map(byte_count).transpose()?,
        kernel_cache: args.kernel_cache.clone(),
        ..Opening::default()
    };
    let openings = choices.into_iter().map(|choice| Opening { choice, ..opening.clone() }).collect();
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
    let grouping = Grouping::of(args.groups.as_deref(), args.group_regex.as_deref())?;
    let mut cohort = discover::discover(&args.labelled, &args.unlabelled, args.channel)?;
    cohort.keep_only(&args.cases)?;
    let assignment = grouping.assign(&cohort)?;
    if !args.is_part_of_run {
        let remarks = cohort.remarks.iter().chain(&assignment.remarks);
        remarks.for_each(|remark| warning!("{remark}"));
    }
    let tasks = tasks(args, &cohort, assignment);
    Ok(Plan {
        args,
        settings,
        openings,
        cohort,
        grouping,
        tasks,
    })
}

pub(super) fn settings(args: &PseudoLabelArgs) -> Result<Settings> {
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
            unwanted: files.unwanted.iter().cloned().collect(),
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
