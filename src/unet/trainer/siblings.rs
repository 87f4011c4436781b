//! The folds of one model beside each other in its folder: they share plans, channels and labels.

use super::fold::{Prepared, SETTINGS, clear};
use crate::error::InputError;
use crate::unet::exchange::{self, Fold};
use anyhow::Result;
use serde_json::Value;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// That a fold was begun by other settings, or with other cases, than it is to go on with.
#[derive(Debug)]
pub(super) struct OtherSettings;

impl fmt::Display for OtherSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fold cannot go on")
    }
}

/// Whether `error` says that a fold was begun by other settings, or with other cases.
pub fn is_of_other_settings(error: &anyhow::Error) -> bool {
    error.is::<OtherSettings>()
}

/// Refuses, before any work, cases of another model than that in a folder, but for these folds of it.
///
/// # Errors
/// Folds with other plans, channels or labels.
pub fn check_model(prepared: &Prepared, out: &Path, but: &[Fold]) -> Result<()> {
    let plans = prepared.plans.to_json();
    agree_on_plans(out, &plans, but)?;
    match exchange::other_model(out, &plans, &prepared.dataset.description(), but)? {
        Some(text) => Err(anyhow::Error::new(InputError::new(text)).context(OtherSettings)),
        None => Ok(()),
    }
}

/// Checks that the folds in a model's folder, but for these, were begun with these plans.
///
/// # Errors
/// One that was begun with others.
pub fn agree_on_plans(out: &Path, plans: &Value, but: &[Fold]) -> Result<()> {
    let but: Vec<PathBuf> = but.iter().map(|fold| out.join(format!("fold_{fold}"))).collect();
    if let Some(other) = begun_with_other_plans(out, plans).into_iter().find(|folder| !but.contains(folder)) {
        let text = format!(
            "{}: this fold was begun with other plans, and folds of one model share them; give the same again, choose another --out, or name all of them to --fold and start them anew with --restart",
            other.join(SETTINGS).display()
        );
        return Err(anyhow::Error::new(InputError::new(text)).context(OtherSettings));
    }
    Ok(())
}

/// Folders of such folds.
fn begun_with_other_plans(out: &Path, plans: &Value) -> Vec<PathBuf> {
    let is_other = |folder: &PathBuf| {
        let text = fs::read_to_string(folder.join(SETTINGS)).ok();
        let settings = text.map(|text| serde_json::from_str::<Value>(&text).unwrap_or_default());
        settings.is_some_and(|settings| settings.get("plans") != Some(plans))
    };
    folds_in(out).into_iter().filter(is_other).collect()
}

fn folds_in(out: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(out).into_iter().flatten().flatten();
    let folds = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("fold_"));
    let mut folds: Vec<PathBuf> = folds.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folds.sort();
    folds
}

/// Has all folds of other models in a folder begin anew.
///
/// # Errors
/// As [`restart`](super::fold::restart).
pub fn forget_other_models(prepared: &Prepared, out: &Path) -> Result<()> {
    let plans = prepared.plans.to_json();
    let is_other = exchange::other_model(out, &plans, &prepared.dataset.description(), &[])?.is_some();
    let others = if is_other {
        folds_in(out)
    } else {
        begun_with_other_plans(out, &plans)
    };
    others.iter().try_for_each(|folder| clear(folder))
}
