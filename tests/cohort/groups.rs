//! A case meets only its own group's labelled volumes.

use super::{folder_of, put};
use hpc_seg::cohort::discover::{Cohort, discover};
use hpc_seg::cohort::groups::{Grouping, no_support_message};

/// Labelled A1, A2, B1; unlabelled A8, B8, C8.
fn cohort() -> (tempfile::TempDir, Cohort) {
    let folder = folder_of(&["labels/A1.nii", "labels/A2.nii", "labels/B1.nii"]);
    for name in ["A1", "A2", "B1", "A8", "B8", "C8"] {
        put(folder.path(), &format!("images/{name}.nii"), name);
    }
    let cohort = discover(folder.path(), folder.path(), 0).unwrap();
    (folder, cohort)
}

fn table(text: &str) -> anyhow::Result<Grouping> {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "groups.csv", text);
    Grouping::from_file(&folder.path().join("groups.csv"))
}

const ALL: &str = "A1,a\nA2,a\nB1,b\nA8,a\nB8,b\nC8,c\n";

#[test]
fn without_a_rule_everyone_supports_everyone() {
    let (_folder, cohort) = cohort();
    let assignment = Grouping::One.assign(&cohort).unwrap();
    assert_eq!(assignment.supports, [[0, 1, 2], [0, 1, 2], [0, 1, 2]]);
}

#[test]
fn a_table_is_read_with_or_without_heading_comments_and_byte_order_mark() {
    let (_folder, cohort) = cohort();
    for text in [
        ALL.to_string(),
        format!("Case, Group\n{ALL}"),
        format!("\u{feff}case,group\r\n# vendors\r\n{}", ALL.replace('\n', "\r\n")),
    ] {
        let assignment = table(&text).unwrap().assign(&cohort).unwrap();
        assert_eq!(assignment.group, ["a", "b", "c"]);
        assert_eq!(
            assignment.supports,
            [vec![0, 1], vec![2], vec![]],
            "C8's group has nobody: it fails by itself, later"
        );
        assert!(assignment.remarks.is_empty());
    }
}

#[test]
fn a_pattern_takes_the_first_capture_or_the_whole_match() {
    let (_folder, cohort) = cohort();
    for pattern in ["^([A-Z])", "^[A-Z]"] {
        let assignment = Grouping::from_pattern(pattern).unwrap().assign(&cohort).unwrap();
        assert_eq!(assignment.group, ["A", "B", "C"]);
        assert_eq!(assignment.supports, [vec![0, 1], vec![2], vec![]]);
    }
}

#[test]
fn cases_without_a_group_are_named() {
    let (_folder, cohort) = cohort();
    let error = table("A1,a\nA2,a\nB1,b\nA8,a\n").unwrap().assign(&cohort).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("2 cases have no group: B8, C8; add lines CASE,GROUP for them to "),
        "{error}"
    );
    let error = Grouping::from_pattern("^([AB])").unwrap().assign(&cohort).unwrap_err();
    assert_eq!(
        error.to_string(),
        "1 cases have no group: C8; --group-regex \"^([AB])\" does not match their names (or captures nothing)"
    );
}

#[test]
fn names_of_nobody_are_remarked_upon() {
    let (_folder, cohort) = cohort();
    let assignment = table(&format!("{ALL}Z9,a\n")).unwrap().assign(&cohort).unwrap();
    assert!(
        assignment.remarks[0].ends_with("names cases that are in neither folder: Z9"),
        "{:?}",
        assignment.remarks
    );
}

#[test]
fn broken_tables_and_patterns_are_refused_with_the_line() {
    for (text, expected) in [
        ("A1,a\nA2\n", "line 2: there are 1 fields, and there should be two, CASE,GROUP"),
        ("A1,a,b\n", "line 1: there are 3 fields"),
        (
            "A1,a\nA1,b\n",
            "line 2: the case A1 is in the groups a and b; keep one of the lines",
        ),
        ("A1,\n", "line 1: the group is empty"),
        ("case,group\n", "names no case"),
        ("", "names no case"),
        ("A1,all\nA2,b\n", "a group is called all, as all groups together are"),
    ] {
        let error = table(text).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let error = Grouping::from_pattern("([A").unwrap_err();
    assert!(
        error.to_string().starts_with("--group-regex \"([A\" is no regular expression"),
        "{error}"
    );
    assert!(format!("{:#}", Grouping::from_file(std::path::Path::new("gone.csv")).unwrap_err()).contains("gone.csv"));
}

#[test]
fn a_case_without_supports_is_told_where_its_group_came_from() {
    let text = no_support_message("c", &Grouping::from_pattern("^(.)").unwrap());
    assert_eq!(
        text,
        "its group c has no labelled volume; label one, or put the case into another group (--group-regex \"^(.)\")"
    );
}
