//! A group (vendor, scanner, centre) is a set of cases that may support each other: a case meets only its own group's labelled volumes.

use crate::bad_input;
use crate::cohort::discover::{Cohort, listed};
use anyhow::{Context, Result};
use regex::Regex;
use std::collections::BTreeMap;
use std::path::Path;

/// The rule that gives a case its group.
#[derive(Clone, Debug)]
pub enum Grouping {
    /// All cases form one group.
    One,
    /// A table case -> group, and where it was read.
    Table(BTreeMap<String, String>, String),
    /// The first capture (or, without one, the whole match) in the case's name.
    Pattern(Regex),
}

/// The groups of a cohort, case by case.
#[derive(Debug)]
pub struct Assignment {
    /// For each unlabelled case, in the cohort's order: its group's name.
    pub group: Vec<String>,
    /// For each unlabelled case: indices of its labelled volumes. Empty for a case whose group has none: such a case fails by itself.
    pub supports: Vec<Vec<usize>>,
    /// What the user should know, in sentences.
    pub remarks: Vec<String>,
}

impl Grouping {
    /// By a table, an expression, or neither.
    ///
    /// # Errors
    /// As [`Grouping::from_file`] and [`Grouping::from_pattern`].
    pub fn of(table: Option<&Path>, pattern: Option<&str>) -> Result<Self> {
        match (table, pattern) {
            (Some(file), _) => Self::from_file(file),
            (None, Some(pattern)) => Self::from_pattern(pattern),
            (None, None) => Ok(Self::One),
        }
    }

    /// Reads lines `case,group`, with or without a heading line of these words.
    ///
    /// # Errors
    /// When the file cannot be read, a line has other than two fields, a case has two groups, or one group of several is called `all`.
    pub fn from_file(path: &Path) -> Result<Self> {
        let shown = path.display();
        // A pipe is as good as a file.
        if !path.exists() {
            bad_input!("--groups {shown}: there is no such file; give a table of lines CASE,GROUP");
        }
        let reading = || format!("cannot read the groups in {shown}: every line should be CASE,GROUP");
        let builder = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(csv::Trim::All)
            .comment(Some(b'#'))
            .from_path(path);
        let mut table = BTreeMap::<String, String>::new();
        for (index, record) in builder.with_context(reading)?.records().enumerate() {
            let record = record.with_context(reading)?;
            let line = record.position().map_or(0, csv::Position::line);
            // Spreadsheet programs put a byte-order mark before the first field.
            let fields: Vec<&str> = record.iter().map(|field| field.trim_start_matches('\u{feff}')).collect();
            let [case, group] = fields[..] else {
                bad_input!(
                    "{shown}, line {line}: there are {} fields, and there should be two, CASE,GROUP",
                    fields.len()
                );
            };
            if case.is_empty() || group.is_empty() {
                bad_input!(
                    "{shown}, line {line}: the {} is empty",
                    if case.is_empty() { "case" } else { "group" }
                );
            }
            let is_heading = index == 0 && case.eq_ignore_ascii_case("case") && group.eq_ignore_ascii_case("group");
            if is_heading {
                continue;
            }
            if let Some(before) = table.insert(case.to_string(), group.to_string()).filter(|before| before != group) {
                bad_input!("{shown}, line {line}: the case {case} is in the groups {before} and {group}; keep one of the lines");
            }
        }
        if table.is_empty() {
            bad_input!("{shown} names no case; every line should be CASE,GROUP");
        }
        let is_all = |group: &&String| group.as_str() == "all";
        if table.values().any(|group| is_all(&group)) && !table.values().all(|group| is_all(&group)) {
            bad_input!("{shown}: a group is called all, as all groups together are; call it otherwise");
        }
        Ok(Self::Table(table, shown.to_string()))
    }

    /// Takes the group from the case's name, as `Vendor_([AB])` or `^([^-]+)-` do.
    ///
    /// # Errors
    /// When the expression is not valid.
    pub fn from_pattern(pattern: &str) -> Result<Self> {
        match Regex::new(pattern) {
            Ok(regex) => Ok(Self::Pattern(regex)),
            Err(error) => bad_input!("--group-regex {pattern:?} is no regular expression: {error}"),
        }
    }

    /// The group of the case `name`, if the rule gives it one.
    pub fn group_of(&self, name: &str) -> Option<String> {
        match self {
            Self::One => Some("all".to_string()),
            Self::Table(table, _) => table.get(name).cloned(),
            Self::Pattern(regex) => {
                let found = regex.captures(name)?;
                let group = if found.len() > 1 { found.get(1)? } else { found.get(0)? };
                Some(group.as_str().to_string()).filter(|group| !group.is_empty())
            }
        }
    }

    /// Gives every case of the cohort its group, and every unlabelled one its labelled volumes.
    ///
    /// # Errors
    /// When a case has no group; the message names the cases.
    pub fn assign(&self, cohort: &Cohort) -> Result<Assignment> {
        let names = cohort
            .labelled
            .iter()
            .map(|case| case.name.as_str())
            .chain(cohort.unlabelled.iter().map(|case| case.name.as_str()));
        let without: Vec<&str> = names.clone().filter(|name| self.group_of(name).is_none()).collect();
        if !without.is_empty() {
            bad_input!("{}", self.no_group_message(&without));
        }
        let support_groups: Vec<Option<String>> = cohort.labelled.iter().map(|case| self.group_of(&case.name)).collect();
        let mut assignment = Assignment {
            group: Vec::new(),
            supports: Vec::new(),
            remarks: Vec::new(),
        };
        for case in &cohort.unlabelled {
            let group = self.group_of(&case.name);
            let supports = (0..support_groups.len()).filter(|&index| support_groups[index] == group).collect();
            assignment.supports.push(supports);
            assignment.group.push(group.unwrap_or_default());
        }
        assignment.remarks.extend(self.remark(&names.collect::<Vec<_>>()));
        Ok(assignment)
    }

    /// Which cases a table names that are not among `names`, those of two folders; none if all are.
    pub fn remark(&self, names: &[&str]) -> Option<String> {
        let Self::Table(table, file) = self else { return None };
        let unknown: Vec<&str> = table.keys().map(String::as_str).filter(|case| !names.contains(case)).collect();
        let listed = (!unknown.is_empty()).then(|| listed(unknown.into_iter()))?;
        Some(format!("{file} names cases that are in neither folder: {listed}"))
    }

    fn no_group_message(&self, without: &[&str]) -> String {
        let (cases, count) = (listed(without.iter().copied()), without.len());
        match self {
            Self::One => format!("{count} cases have no group: {cases}"),
            Self::Table(_, file) => format!("{count} cases have no group: {cases}; add lines CASE,GROUP for them to {file}"),
            Self::Pattern(regex) => {
                format!(
                    "{count} cases have no group: {cases}; --group-regex {:?} does not match their names (or captures nothing)",
                    regex.as_str()
                )
            }
        }
    }
}

/// The message for a case whose group has no labelled volume.
pub fn no_support_message(group: &str, grouping: &Grouping) -> String {
    let where_from = match grouping {
        Grouping::One => "the labelled folder".to_string(),
        Grouping::Table(_, file) => file.clone(),
        Grouping::Pattern(regex) => format!("--group-regex {:?}", regex.as_str()),
    };
    format!("its group {group} has no labelled volume; label one, or put the case into another group ({where_from})")
}
