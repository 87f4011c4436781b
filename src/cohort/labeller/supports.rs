//! The supports of a case: built once for all cases that ask for the same.

use super::engine::Built;
use super::open::{self, Checked, Opened};
use super::{Labeller, SupportKey, Use};
use crate::cohort::discover::LabelledCase;
use crate::cohort::settings::Settings;
use crate::tffs::plan::Plan;
use crate::tffs::schedule::Hooks;
use crate::tffs::source::{Image, Labelled, Labels};
use crate::tffs::support::{Building, Prepared, Support};
use crate::volume::AxisMap;
use crate::warning;
use anyhow::Result;
use std::sync::Arc;

/// A support that is not there yet.
struct Missing {
    checked: Arc<Checked>,
    axes: AxisMap,
    key: SupportKey,
}

impl Missing {
    fn prepare(&self, settings: &Settings, size: usize) -> Result<Prepared> {
        let image = Image::new(Arc::clone(&self.checked.image), self.axes, open::window(settings))?;
        if let Some(text) = image.intensity.warning() {
            warning!("{}: {text}", image.volume.path().display());
        }
        let labelled = Labelled {
            case: self.key.case.clone(),
            image,
            labels: Labels {
                volume: Arc::clone(&self.checked.labels),
                axes: self.axes,
            },
        };
        Prepared::new(labelled, &self.key.classes, self.key.plane, size)
    }
}

impl Labeller {
    /// Builds the supports that are missing. What needs no network (intensities, prompts: 0.1 s of two cores for 80 slices of 320 x 320) is done for each while the
    /// one before it is built.
    pub(super) fn build_missing(
        &mut self,
        opened: &Opened,
        uses: &[Use],
        labelled: &[&LabelledCase],
        plan: &Plan,
        hooks: &mut Hooks<'_>,
    ) -> Result<()> {
        hooks.progress.stage("supports", uses.len() as u64);
        let mut missing = Vec::new();
        for used in uses {
            let case = labelled.iter().find(|case| case.name == used.case);
            match case.filter(|_| !self.supports.contains_key(&used.key)) {
                Some(case) => {
                    let checked = self.checked(case)?;
                    missing.push(Missing {
                        axes: self.view(&opened.image, &checked)?,
                        checked,
                        key: used.key.clone(),
                    });
                }
                None => hooks.progress.advance(1),
            }
        }
        let mut ahead = None;
        for (number, one) in missing.iter().enumerate() {
            hooks.stop.check()?;
            let stop = hooks.stop;
            let built = hooks.timed("supports", || {
                let (net, settings) = (self.network()?, &self.settings);
                let size = net.config.image_size;
                let prepared = ahead.take().unwrap_or_else(|| one.prepare(settings, size))?;
                let building = Building {
                    reach: one.key.reach,
                    fill_holes: settings.fill_holes,
                    spilled: plan.spilled_supports,
                    batch: plan.support_batch(),
                };
                // By another thread of the pool, if it has one to spare, else by this one after.
                rayon::in_place_scope(|scope| {
                    if let Some(next) = missing.get(number + 1) {
                        scope.spawn(|_| ahead = Some(next.prepare(settings, size)));
                    }
                    Support::build(net, &prepared, building, stop)
                })
            })?;
            let spilled = plan.spilled_supports;
            self.supports.insert(one.key.clone(), Built { supports: built, spilled });
            hooks.progress.advance(1);
        }
        Ok(())
    }
}
