//! The labeller: the network, loaded once for a cohort, the support cache, and the way of one case from its file to its results.

mod engine;
mod open;
mod results;
mod supports;

pub use engine::Engine;
pub use results::Unwritten;

use crate::cohort::case_record::FileOfRecord;
use crate::cohort::discover::{LabelledCase, UnlabelledCase};
use crate::cohort::output::CaseFiles;
use crate::cohort::settings::Settings;
use crate::messages::Progress;
use crate::sam2::{Sam2, memory_bank};
use crate::stop::Stop;
use crate::tffs::ensemble::{self, Ensemble, Labelling};
use crate::tffs::places::insertion_places;
use crate::tffs::plan::Plan;
use crate::tffs::schedule::{ClassPlan, Encoding, Hooks, Query, run_classes};
use crate::tffs::source::{Image, Labels};
use crate::tffs::support::Counts;
use crate::volume::AxisMap;
use crate::{bad_input, note};
use anyhow::Result;
use engine::Built;
use open::{Ahead, Checked, Opened};
use rayon::prelude::*;
use std::collections::HashMap;
use std::mem;
use std::path::Path;
use std::sync::Arc;

/// The loaded network and what is kept between cases.
pub struct Labeller {
    /// None after its device was lost and could not be opened again.
    net: Option<Sam2>,
    /// Device memory it takes.
    network_bytes: usize,
    engine: Engine,
    weights: FileOfRecord,
    settings: Settings,
    supports: HashMap<SupportKey, Built>,
    labelled: HashMap<String, Arc<Checked>>,
    /// Which slices show each class, by labelled case, view and classes.
    shown: HashMap<(String, String, Vec<u8>), Shown>,
    ahead: Option<Ahead>,
    /// Whether the device is waited for after every stage.
    waits: bool,
}

/// Of each class, which slices of a labelled volume show it.
type Shown = Arc<Vec<Vec<bool>>>;

/// What a support's memory depends on: the labelled case, how its array is seen, the query's plane, the reach of pointers and the classes.
#[derive(Clone, PartialEq, Eq, Hash)]
struct SupportKey {
    case: String,
    view: String,
    plane: (usize, usize),
    reach: usize,
    classes: Vec<u8>,
}

/// A support as one case uses it.
struct Use {
    case: String,
    key: SupportKey,
    places: Vec<usize>,
    counts: Counts,
    reoriented: Option<String>,
    files: (FileOfRecord, FileOfRecord),
}

impl Labeller {
    /// Opens the device and loads the network.
    ///
    /// # Errors
    /// A device that cannot be used; weights or a configuration that do not make a SAM 2.1 network.
    pub fn open(engine: Engine, settings: Settings) -> Result<Self> {
        let (net, weights) = engine.load()?;
        Ok(Self {
            network_bytes: net.device().memory().live,
            net: Some(net),
            engine,
            weights,
            settings,
            supports: HashMap::new(),
            labelled: HashMap::new(),
            shown: HashMap::new(),
            ahead: None,
            waits: false,
        })
    }

    /// From now on the device is waited for after every stage, so that the seconds of the stages are theirs. It takes longer.
    pub fn wait_for_stages(&mut self) {
        self.waits = true;
    }

    /// [slices, rows, columns] of a query.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn query_dims(&self, case: &UnlabelledCase) -> Result<[usize; 3]> {
        Ok(open::query_axes(&self.settings)?.permute(open::volume(&self.settings, &case.image)?.dims()))
    }

    /// Insertions of each labelled volume into one of `slices` slices.
    pub fn runs_per_support(&self, slices: usize) -> usize {
        self.settings
            .insert_at
            .as_ref()
            .map_or(self.settings.insertions.min(slices), Vec::len)
    }

    /// What a labelled case with its classes shows to a query of `slices` slices, seen as it is stored.
    ///
    /// # Errors
    /// Files that are unusable or do not fit each other.
    pub(in crate::cohort) fn counts(&mut self, case: &LabelledCase, slices: usize) -> Result<Counts> {
        let checked = self.checked(case)?;
        let axes = open::query_axes(&self.settings)?;
        let shown = self.shown(&case.name, &checked, axes, &checked.classes)?;
        let [depth, rows, columns] = axes.permute(checked.labels.dims());
        let reach = self.reach(slices + depth)?;
        Ok(Counts::new(self.network()?, &shown, (rows, columns), reach))
    }

    /// How far back pointers go in a sequence of so many slices.
    fn reach(&self, slices: usize) -> Result<usize> {
        Ok(memory_bank::pointer_reach(slices, self.network()?.config.max_obj_ptrs_in_encoder))
    }

    /// SHA-256 of the weights.
    pub fn weights_sha256(&self) -> &str {
        &self.weights.sha256
    }

    /// Labels one case from `labelled`; its `files` under `out` are left to be [written](Unwritten::write). The case that will probably be `next` is opened meanwhile.
    ///
    /// # Errors
    /// Unusable volumes (the file and the remedy are named), a device without memory for the case, a stop.
    pub fn label(
        &mut self,
        (case, next): (&UnlabelledCase, Option<&UnlabelledCase>),
        group: &str,
        labelled: &[&LabelledCase],
        (out, files): (&Path, &CaseFiles),
        stop: &Stop,
        progress: &Progress,
    ) -> Result<Unwritten> {
        let next = next.and_then(|next| Ahead::begin(&self.settings, &next.image));
        let ahead = mem::replace(&mut self.ahead, next);
        let mut plan = None;
        let first = self.try_label((case, ahead), group, labelled, (out, files), &mut plan, (stop, progress));
        let Err(error) = first else { return first };
        match self.after_failure(&error, plan) {
            Some(smaller) => {
                let second = self.try_label((case, None), group, labelled, (out, files), &mut Some(smaller), (stop, progress));
                // Without a plan to make smaller: there is no third try.
                second.inspect_err(|error| {
                    let _ = self.after_failure(error, None);
                })
            }
            None => Err(error),
        }
    }

    /// Labels a case with this plan, or with the best one, which is then in its place.
    fn try_label(
        &mut self,
        (case, ahead): (&UnlabelledCase, Option<Ahead>),
        group: &str,
        labelled: &[&LabelledCase],
        (out, files): (&Path, &CaseFiles),
        plan: &mut Option<Plan>,
        (stop, progress): (&Stop, &Progress),
    ) -> Result<Unwritten> {
        let device = self.network()?.device().clone();
        device.install(|| {
            let mut hooks = Hooks::new(stop, progress);
            hooks.waits_for = self.waits.then(|| device.clone());
            progress.stage("reading", 0);
            // Of a case that is opened ahead, what is waited for.
            let mut opened = match hooks.timed("read", || ahead.and_then(|ahead| ahead.finish(&case.image))) {
                Some(opened) => opened?,
                None => {
                    let opened = open::query(&self.settings, &case.image)?;
                    hooks.seconds.extend(&opened.seconds);
                    opened
                }
            };
            let uses = self.uses(case, &opened.image, labelled, &mut opened.warnings)?;
            let keep_probabilities = files.probability.is_some();
            let plan = *plan.insert(self.plan(opened.image.dims(), &uses, keep_probabilities, *plan)?);
            progress.stage("encoding", opened.image.dims()[0] as u64);
            let query = self.encode(&opened.image, &plan, &mut hooks)?;
            let labelling = self.run(&opened, &query, &uses, labelled, (keep_probabilities, &plan), &mut hooks)?;
            drop(query);
            let record = self.record(case, group, &opened, &uses, &labelling)?;
            Ok(Unwritten {
                out: out.to_path_buf(),
                files: files.clone(),
                image: opened.image,
                labelling,
                record,
                seconds: hooks.seconds.iter().map(|(name, s)| ((*name).to_owned(), *s)).collect(),
                memory: self.memory_taken(&plan)?,
                pool: device.pool(),
            })
        })
    }

    /// Whether the runs of every class can be averaged; labelled cases are given with their insertions.
    ///
    /// # Errors
    /// More runs than the sums can hold; files that are unusable.
    pub(in crate::cohort) fn check_runs<'a>(&mut self, labelled: impl Iterator<Item = (&'a LabelledCase, usize)>) -> Result<()> {
        let (cases, insertions): (Vec<_>, Vec<_>) = labelled.unzip();
        let mut runs = [0; 256];
        for (checked, insertions) in self.check(&cases)?.iter().zip(insertions) {
            checked.classes.iter().for_each(|&class| runs[usize::from(class)] += insertions);
        }
        runs.into_iter().try_for_each(ensemble::check_runs)
    }

    /// Opens and checks labelled cases, each once, on all cores; those whose files changed meanwhile anew, with all that was made of them.
    fn check(&mut self, cases: &[&LabelledCase]) -> Result<Vec<Arc<Checked>>> {
        for case in cases {
            if self.labelled.get(&case.name).is_some_and(|checked| !checked.is_unchanged(case)) {
                note!("{}: its files changed, it is read anew", case.name);
                self.labelled.remove(&case.name);
                self.supports.retain(|key, _| key.case != case.name);
                self.shown.retain(|(name, ..), _| *name != case.name);
            }
        }
        let new: Vec<_> = cases.iter().filter(|case| !self.labelled.contains_key(&case.name)).collect();
        let opened: Vec<_> = new.par_iter().map(|case| Checked::open(&self.settings, case)).collect();
        for (case, opened) in new.into_iter().zip(opened) {
            self.labelled.insert(case.name.clone(), Arc::new(opened?));
        }
        Ok(cases.iter().map(|case| Arc::clone(&self.labelled[&case.name])).collect())
    }

    /// One of them.
    fn checked(&mut self, case: &LabelledCase) -> Result<Arc<Checked>> {
        Ok(self.check(&[case])?.remove(0))
    }

    /// Which supports a case uses, seen how, inserted where.
    fn uses(&mut self, case: &UnlabelledCase, query: &Image, labelled: &[&LabelledCase], warnings: &mut Vec<String>) -> Result<Vec<Use>> {
        let slices = query.dims()[0];
        let checked = self.check(labelled)?;
        let mut classes: Vec<u8> = checked.iter().flat_map(|c| c.classes.iter().copied()).collect();
        classes.sort_unstable();
        classes.dedup();
        if classes.is_empty() {
            let names: Vec<String> = labelled.iter().map(|c| c.labels.display().to_string()).collect();
            bad_input!(
                "no labelled volume shows any class: every mask is empty ({}); check the label files",
                names.join(", ")
            );
        }
        let settings = self.settings.clone();
        if let Some(place) = settings.insert_at.iter().flatten().find(|&&place| place >= slices) {
            bad_input!(
                "--insert-at {place}: {} has {slices} slices; places run from 0 to {}",
                case.image.display(),
                slices - 1
            );
        }
        if settings.insert_at.is_none() && settings.insertions > slices {
            warnings.push(format!(
                "{} has {slices} slices: all of them serve as insertion places, fewer than --insertions {}",
                case.name, settings.insertions
            ));
        }
        let insertions = self.runs_per_support(slices);
        self.check_runs(labelled.iter().map(|case| (*case, insertions)))?;
        let mut uses = Vec::new();
        for (support, checked) in labelled.iter().zip(&checked) {
            if let Some(contradiction) = checked.image.geometry().contradiction() {
                warnings.push(format!("{}: {contradiction}", support.image.display()));
            }
            if checked.classes.is_empty() {
                warnings.push(format!(
                    "{}: every mask is empty; this labelled volume is left out",
                    support.labels.display()
                ));
                continue;
            }
            let axes = self.view(query, checked)?;
            let [depth, rows, columns] = axes.permute(checked.image.dims());
            let places = match &settings.insert_at {
                Some(places) => places.clone(),
                None => insertion_places(settings.seed, &case.name, &support.name, slices, settings.insertions),
            };
            let reoriented = (axes != query.axes).then(|| {
                let [from, to] = [&checked.image, &query.volume].map(|v| v.geometry().orientation().to_string());
                format!("{from} to {to}")
            });
            if let Some(change) = &reoriented {
                warnings.push(format!(
                    "{} was permuted to the orientation of {} ({change}); --no-reorient switches that off",
                    support.name, case.name
                ));
            }
            let reach = self.reach(slices + depth)?;
            let shown = self.shown(&support.name, checked, axes, &classes)?;
            uses.push(Use {
                case: support.name.clone(),
                key: SupportKey {
                    case: support.name.clone(),
                    view: axes.to_string(),
                    plane: query.plane(),
                    reach,
                    classes: classes.clone(),
                },
                counts: Counts::new(self.network()?, &shown, (rows, columns), reach),
                places,
                reoriented,
                files: (checked.image_file.clone(), checked.labels_file.clone()),
            });
        }
        Ok(uses)
    }

    /// Which slices of a labelled volume show each of the classes, looked at once.
    fn shown(&mut self, case: &str, checked: &Checked, axes: AxisMap, classes: &[u8]) -> Result<Shown> {
        let key = (case.to_owned(), axes.to_string(), classes.to_vec());
        if let Some(found) = self.shown.get(&key) {
            return Ok(Arc::clone(found));
        }
        let volume = Arc::clone(&checked.labels);
        let shown = Arc::new(Labels { volume, axes }.shown(classes)?);
        self.shown.insert(key, Arc::clone(&shown));
        Ok(shown)
    }

    /// How a labelled volume's array is seen for a query.
    fn view(&self, query: &Image, labelled: &Checked) -> Result<AxisMap> {
        if !self.settings.reorient {
            return open::query_axes(&self.settings);
        }
        Ok(AxisMap::to_match(labelled.image.geometry(), query.volume.geometry(), &query.axes))
    }

    fn encode(&self, image: &Image, plan: &Plan, hooks: &mut Hooks<'_>) -> Result<Query> {
        let net = self.network()?;
        let size = net.config.image_size;
        let wanted = (0..image.dims()[0]).collect();
        let mut slices = image.slices(wanted, 2 * plan.batch, (net.device(), size), hooks.stop)?;
        let encoding = Encoding {
            slices: image.dims()[0],
            plane: image.plane(),
            batch: plan.batch,
            spilled: plan.spilled_query,
        };
        Query::encode(net, |count| slices.next(count), encoding, hooks)
    }

    /// Builds the supports that are missing, then runs every class.
    fn run(
        &mut self,
        opened: &Opened,
        query: &Query,
        uses: &[Use],
        labelled: &[&LabelledCase],
        (keep_probabilities, memory): (bool, &Plan),
        hooks: &mut Hooks<'_>,
    ) -> Result<Labelling> {
        self.build_missing(opened, uses, labelled, memory, hooks)?;
        let plan = |(index, &class): (usize, &u8)| {
            let supports = uses
                .iter()
                .filter_map(|used| Some((self.supports.get(&used.key)?.supports.get(index)?.as_ref()?, &used.places[..])));
            ClassPlan {
                class,
                supports: supports.collect(),
            }
        };
        let classes: &[u8] = uses.first().map_or(&[], |used| &used.key.classes);
        let net = self.network()?;
        let plans: Vec<ClassPlan<'_>> = classes.iter().enumerate().map(plan).collect();
        let ensemble = Ensemble::new(
            net.device(),
            opened.image.dims(),
            self.settings.threshold as f32,
            keep_probabilities,
        )?;
        let done = run_classes(net, query, &plans, (memory.lanes, self.settings.fill_holes), ensemble, hooks)?;
        hooks.timed("components", || done.finish(self.settings.largest_component))
    }
}

/// The name of a file, without its folder.
fn file_name(path: &Path) -> String {
    path.file_name()
        .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
