//! The loaded network on its device, how it is opened again after the device was lost, and the memory plan of each case.

use super::{Labeller, SupportKey, Use, file_name};
use crate::cohort::case_record::{DeviceMemory, FileOfRecord};
use crate::device::open::Opening;
use crate::device::{DeviceLost, OutOfMemory};
use crate::ops::normalise::Bringing;
use crate::sam2::{Config, Sam2};
use crate::tffs::plan::{Plan, Problem};
use crate::tffs::support::{Counts, Support};
use crate::weights::Checkpoint;
use crate::{note, warning};
use anyhow::{Context, Error, Result};
use std::collections::HashMap;
use std::path::PathBuf;

/// Lanes that step together on the CPU unless told otherwise: as many as the usual insertions of one labelled volume.
const CPU_LANES: usize = 5;

/// Supports of a labelled volume, besides those in use, that are kept for cases to come.
const MOST_OTHERS: usize = 3;

/// Where the network comes from and where it runs.
#[derive(Clone, Debug)]
pub struct Engine {
    /// The checkpoint.
    pub weights: PathBuf,
    /// Its configuration, if it does not hold it.
    pub config: Option<PathBuf>,
    /// The device.
    pub opening: Opening,
    /// Lanes per step, if that is fixed.
    pub lanes: Option<usize>,
}

impl Engine {
    /// Opens the device and loads the network; with the weights' file.
    ///
    /// # Errors
    /// A device that cannot be used; weights or a configuration that do not make a SAM 2.1 network.
    pub(super) fn load(&self) -> Result<(Sam2, FileOfRecord)> {
        let config = self.config.as_deref();
        let checkpoint = Checkpoint::open(&self.weights)?;
        let weights = FileOfRecord {
            file: file_name(&self.weights),
            sha256: checkpoint.sha256()?,
        };
        if config.is_none() && checkpoint.metadata("config").is_none() {
            note!(
                "slices are seen at {0} x {0}, as MedSAM2 was trained; for Meta's own SAM 2.1 give --config with {{\"image_size\": 1024}}",
                Config::default().image_size
            );
        }
        let config = Config::of(&checkpoint, config)?;
        Ok((Sam2::load(&checkpoint, config, &self.opening.open()?)?, weights))
    }
}

/// Supports of one labelled volume, and whether their tokens stand in host memory.
pub(super) struct Built {
    pub supports: Vec<Option<Support>>,
    pub spilled: bool,
}

impl Built {
    fn bytes(&self) -> usize {
        self.supports.iter().flatten().map(Support::bytes).sum()
    }
}

/// Gives up what a labelled volume left for other queries than this one's kind, if those are many: each plane has supports of its own, and a cohort may have many planes.
fn forget_other_planes(supports: &mut HashMap<SupportKey, Built>, used: &SupportKey) {
    let is_other = |key: &SupportKey| key.case == used.case && key != used;
    if supports.keys().filter(|key| is_other(key)).count() > MOST_OTHERS {
        supports.retain(|key, _| !is_other(key));
    }
}

impl Labeller {
    /// The network.
    ///
    /// # Errors
    /// When its device was lost and could not be opened again.
    pub fn network(&self) -> Result<&Sam2> {
        self.net
            .as_ref()
            .context("the device was lost in an earlier case; give the same command once more: it goes on with this case")
    }

    /// `cpu`, `cuda`, or what a driver calls its kind.
    ///
    /// # Errors
    /// The device was lost.
    pub fn kind_of_device(&self) -> Result<String> {
        let kind = self.network()?.device().kind();
        Ok(kind.split(' ').next().unwrap_or_default().to_owned())
    }

    /// Whether there is a device to work on.
    pub fn is_able(&self) -> bool {
        self.net.is_some()
    }

    /// How a case runs, or how it would by the plan that is `given`. On a CUDA device supports of earlier cases are given up if they stand in the way.
    pub(super) fn plan(&mut self, dims: [usize; 3], uses: &[Use], probabilities: bool, given: Option<Plan>) -> Result<Plan> {
        uses.iter().for_each(|used| forget_other_planes(&mut self.supports, &used.key));
        let net = self.network()?;
        let Some(cuda) = net.device().cuda() else {
            return Ok(Plan::cpu(self.cpu_lanes()));
        };
        let budget = cuda.arena.usage().budget;
        cuda.arena.forget_peak();
        let labelled = uses.iter().map(|used| (used.places.len(), &used.counts));
        let problem = self.problem(dims, labelled, probabilities)?;
        if let Some(plan) = given {
            return Ok(plan.sized(self.network_bytes, net, &problem));
        }
        let used = |key: &SupportKey| uses.iter().any(|used| used.key == *key);
        let others = self.supports.iter().filter(|(key, built)| !used(key) && !built.spilled);
        let others: usize = others.map(|(_, built)| built.bytes()).sum();
        let plan = match Plan::within(budget.saturating_sub(others), self.network_bytes, net, &problem) {
            Ok(mut plan) if !plan.spilled_supports => {
                plan.bytes.kept = others;
                plan
            }
            _ => {
                let plan = Plan::within(budget, self.network_bytes, net, &problem)?;
                self.supports.retain(|key, _| used(key));
                plan
            }
        };
        self.supports.retain(|_, built| built.spilled || !plan.spilled_supports);
        Ok(plan)
    }

    /// What the plan of a case depends on; labelled volumes are given with their insertions.
    ///
    /// # Errors
    /// The device was lost.
    pub(in crate::cohort) fn problem<'a>(
        &self,
        dims: [usize; 3],
        labelled: impl Iterator<Item = (usize, &'a Counts)> + Clone,
        probabilities: bool,
    ) -> Result<Problem> {
        let in_volumes = labelled.clone().map(|(_, counts)| counts.conditioning.iter().sum());
        let tracked = labelled.clone().map(|(_, counts)| counts.tracked);
        let [_, rows, columns] = dims;
        let of_query = Bringing::of((rows, columns), self.network()?.config.image_size);
        let counts = labelled.clone().flat_map(|(_, counts)| counts.conditioning.iter().copied());
        Ok(Problem {
            dims,
            supports: labelled.clone().count(),
            insertions: labelled.clone().map(|(insertions, _)| insertions).max().unwrap_or(0),
            conditioning: counts.clone().sum(),
            most_conditioning: counts.clone().max().unwrap_or(0),
            most_in_volume: in_volumes.max().unwrap_or(0),
            most_tracked: tracked.max().unwrap_or(0),
            bringing: labelled.fold(of_query, |most, (_, counts)| most.max(counts.bringing)),
            starts: counts.filter(|&count| count > 0).count(),
            lanes: self.engine.lanes,
            probabilities,
        })
    }

    /// What a case that ran by this plan took of a CUDA device.
    pub(super) fn memory_taken(&self, plan: &Plan) -> Result<Option<DeviceMemory>> {
        let Some(cuda) = self.network()?.device().cuda() else {
            return Ok(None);
        };
        Ok(Some(DeviceMemory {
            planned: plan.bytes.total(),
            counted: cuda.arena.usage().peak,
            held: cuda.runtime.driver().memory()?.own,
            allowed: self.engine.opening.memory,
        }))
    }

    /// Device memory that the network takes.
    pub(in crate::cohort) fn network_bytes(&self) -> usize {
        self.network_bytes
    }

    /// Lanes that step together on the CPU.
    pub(in crate::cohort) fn cpu_lanes(&self) -> usize {
        self.engine.lanes.unwrap_or(CPU_LANES)
    }

    /// Whether the device still takes work: an error that is not known to end a context may have ended it all the same.
    fn responds(&self) -> bool {
        self.net.as_ref().is_none_or(|net| net.device().synchronise().is_ok())
    }

    /// What to do about a case that failed: a smaller plan to try once more with, if memory ran out. A lost device is opened again for the cases that follow.
    pub(super) fn after_failure(&mut self, error: &Error, plan: Option<Plan>) -> Option<Plan> {
        if error.downcast_ref::<OutOfMemory>().is_some() {
            self.supports.clear();
            let smaller = plan.and_then(|plan| plan.smaller());
            if let Some(smaller) = &smaller {
                warning!(
                    "device memory ran out; trying once more with {} lanes per step and features in host memory",
                    smaller.lanes
                );
            }
            return smaller;
        }
        if error.downcast_ref::<DeviceLost>().is_some() || !self.responds() {
            // The lost device must be given up before it can be opened again.
            self.supports.clear();
            let lost_a_gpu = self.net.take().is_some_and(|net| net.device().cuda().is_some());
            match self.engine.load() {
                // What `auto` chooses without it; a cohort is not labelled by two kinds of devices.
                Ok((net, _)) if lost_a_gpu && net.device().cuda().is_none() => {
                    warning!("the GPU was lost, and this process cannot open it again");
                }
                Ok((net, _)) => {
                    warning!("the device was lost and has been opened again");
                    self.network_bytes = net.device().memory().live;
                    self.net = Some(net);
                }
                Err(error) => warning!("the device was lost, and this process cannot open it again: {error:#}"),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_labelled_volume_keeps_supports_for_a_few_planes_and_the_others_keep_theirs() {
        let key = |case: &str, side: usize| SupportKey {
            case: case.into(),
            view: String::new(),
            plane: (side, side),
            reach: 16,
            classes: vec![1],
        };
        let mut supports = HashMap::new();
        let mut meet = |case: &str, side: usize| {
            forget_other_planes(&mut supports, &key(case, side));
            let (built, spilled) = (Vec::new(), false);
            supports.insert(key(case, side), Built { supports: built, spilled });
            supports.len()
        };
        let other_scanners = ["b", "c", "d", "e", "f"].map(|case| meet(case, 1));
        assert_eq!(other_scanners, [1, 2, 3, 4, 5]);
        assert_eq!([1, 2, 3, 4, 1, 4].map(|side| meet("a", side)), [6, 7, 8, 9, 9, 9]);
        // A fifth plane: the four before it are given up.
        assert_eq!([5, 6].map(|side| meet("a", side)), [6, 7]);
    }
}
