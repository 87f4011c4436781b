//! The checks: each takes sources and returns one complaint per offence.

use super::lexer::{bodies, code_of, line_at};
use regex::Regex;
use std::collections::BTreeMap;

/// The modules from top to bottom; a module may import those below it. Several in one string stand on one level and leave each other alone.
const ORDER: &[&str] = &[
    "main",
    "commands",
    "cli",
    "bench",
    "ssl",
    "cohort",
    "tffs",
    "sam2",
    "unet",
    "volume",
    "metrics",
    "report",
    "weights",
    "ops",
    "tensor",
    "device",
    "cpu",
    "cuda",
    "messages",
    "atomic_file",
    "panics",
    "keyed_rng",
    "machine",
    "sha256",
    "stop",
    "clock",
    "error",
];

/// Files and functions that may be longer than the rest: path (or `path: line of code that starts the function`), lines, reason.
pub const LENGTH_EXCEPTIONS: &[(&str, usize, &str)] = &[];

/// Where `unsafe` may stand: kernel launches, vector code and the ops written over it, and the files that map files into memory.
const UNSAFE_ALLOWED: &[&str] = &[
    "src/cuda/",
    "src/cpu/",
    "src/ops/",
    "src/unet/store",
    "src/volume/storage",
    "src/weights/mapped",
];

/// A file of the package.
pub struct Source {
    /// Path from the package's root, with `/`.
    pub path: String,
    /// The whole text.
    pub text: String,
    /// The text without comments, strings and characters.
    pub code: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_string(),
            text: text.to_string(),
            code: code_of(text),
        }
    }

    pub fn line_count(&self) -> usize {
        self.text.lines().count()
    }

    /// The top-level module a file of `src` belongs to; none for other files and for `lib.rs`, which only lists modules.
    fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let module = inside.split('/').next()?.trim_end_matches(".rs");
        Some(module).filter(|module| *module != "lib")
    }

    /// The code before the unit tests, which may use what they like.
    fn product_code(&self) -> &str {
        let tests = regex(r"#\[cfg\(test\)\]\s*mod\s")
            .find(&self.code)
            .map_or(self.code.len(), |found| found.start());
        &self.code[..tests]
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap()
}

fn rank(module: &str) -> Option<usize> {
    ORDER.iter().position(|known| *known == module)
}

/// Imports of a module that stands above the importing one, and modules that have no place in the order.
pub fn upward_imports(sources: &[Source]) -> Vec<String> {
    let macros = macro_homes(sources);
    let mut complaints = Vec::new();
    for source in sources {
        let Some(module) = source.module() else { continue };
        let Some(own) = rank(module) else {
            complaints.push(format!(
                "{}: the module {module} has no place in ORDER of tests/structure/checks.rs",
                source.path
            ));
            continue;
        };
        for (line, name) in imports(source.product_code()) {
            let imported = macros.get(&name).unwrap_or(&name);
            match rank(imported) {
                Some(other) if other < own => complaints.push(format!(
                    "{}:{line}: {module} imports {imported}, which stands above it",
                    source.path
                )),
                None => complaints.push(format!(
                    "{}:{line}: {imported} has no place in ORDER of tests/structure/checks.rs",
                    source.path
                )),
                _ => {}
            }
        }
    }
    complaints
}

/// Top-level names after `crate::` or `hpc_seg::`, one by one or in braces, with their lines.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    for found in regex(r"\b(?:crate|hpc_seg)\s*::\s*").find_iter(code) {
        let (line, rest) = (line_at(code, found.start()), &code[found.end()..]);
        if rest.starts_with('{') {
            names.extend(names_in_braces(rest).into_iter().map(|name| (line, name)));
        } else if let Some(name) = regex(r"^\w+").find(rest) {
            names.push((line, name.as_str().to_string()));
        }
    }
    names
}

/// The first word of every member of `{a, b::{c, d}, e as f}`.
fn names_in_braces(rest: &str) -> Vec<String> {
    let (mut names, mut depth, mut member) = (Vec::new(), 0, String::new());
    for letter in rest.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        let ends_member = (letter == ',' && depth == 1) || depth == 0;
        if ends_member {
            let name: String = member
                .trim()
                .chars()
                .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
                .collect();
            names.extend(Some(name).filter(|name| !name.is_empty()));
            member.clear();
        } else if depth > 1 || letter != '{' {
            member.push(letter);
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// Exported macros live at the crate's root, but belong to the module that defines them.
fn macro_homes(sources: &[Source]) -> BTreeMap<String, String> {
    let pattern = regex(r"#\[macro_export\]\s*macro_rules!\s*(\w+)");
    let mut homes = BTreeMap::new();
    for source in sources {
        for found in pattern.captures_iter(&source.code) {
            homes.extend(source.module().map(|module| (found[1].to_string(), module.to_string())));
        }
    }
    homes
}

/// The module above `ops` that may name devices: it measures what they can do at most.
const MEASURES_DEVICES: &str = "bench";

/// Devices named by modules above `ops`.
pub fn named_devices(sources: &[Source]) -> Vec<String> {
    let pattern = regex(r"\bDevice\s*::\s*(?:Cpu|Cuda)\b|\bcudarc\b");
    let ops = rank("ops");
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| {
        source
            .module()
            .is_some_and(|module| rank(module) < ops && module != MEASURES_DEVICES)
    }) {
        let code = source.product_code();
        let named = pattern
            .find_iter(code)
            .map(|found| (line_at(code, found.start()), found.as_str().to_string()));
        let imported = imports(code).into_iter().filter(|(_, name)| name == "cpu" || name == "cuda");
        for (line, name) in named.chain(imported) {
            complaints.push(format!("{}:{line}: {name} is named above ops", source.path));
        }
    }
    complaints
}

/// Ops whose test file is missing.
pub fn ops_without_test(sources: &[Source]) -> Vec<String> {
    let has = |path: &str| sources.iter().any(|source| source.path == path);
    let ops = sources
        .iter()
        .filter_map(|source| source.path.strip_prefix("src/ops/"))
        .filter(|file| *file != "mod.rs" && !file.contains('/'));
    ops.filter(|file| !has(&format!("tests/ops/{file}")))
        .map(|file| format!("src/ops/{file} has no tests/ops/{file}"))
        .collect()
}

/// Files and functions over their limits: 500 and 80 lines of Rust, 400 and 120 of CUDA.
pub fn too_long(sources: &[Source], exceptions: &[(&str, usize, &str)]) -> Vec<String> {
    let limit = |name: &str, general: usize| {
        exceptions
            .iter()
            .find(|(known, ..)| *known == name)
            .map_or(general, |(_, lines, _)| *lines)
    };
    let mut complaints: Vec<String> = exceptions
        .iter()
        .filter(|(_, _, reason)| reason.is_empty())
        .map(|(name, ..)| format!("the exception for {name} states no reason"))
        .collect();
    for source in sources {
        let (file_limit, function_limit, head) = if source.is_rust() {
            (500, 80, r"\bfn\s+\w+")
        } else {
            (400, 120, r"\b(?:__global__|__device__|KERNEL|DEV)\b")
        };
        let lines = source.line_count();
        if lines > limit(&source.path, file_limit) {
            complaints.push(format!("{}: {lines} lines, more than {file_limit}", source.path));
        }
        let heads = regex(head);
        for (line, length) in bodies(&source.code, heads.find_iter(&source.code).map(|found| found.start())) {
            let start = source.text.lines().nth(line - 1).unwrap_or("").trim();
            if length > limit(&format!("{}: {start}", source.path), function_limit) {
                complaints.push(format!(
                    "{}:{line}: {length} lines, more than {function_limit}: {start}",
                    source.path
                ));
            }
        }
    }
    complaints
}

/// Inline assembly of kernels outside the one file for it.
pub fn misplaced_assembly(sources: &[Source]) -> Vec<String> {
    let pattern = regex(r"\basm\b");
    let kernels = sources
        .iter()
        .filter(|source| !source.is_rust() && source.path != "kernels/ptx.cuh");
    let found = kernels.flat_map(|source| {
        pattern
            .find_iter(&source.code)
            .map(|found| (&source.path, line_at(&source.code, found.start())))
    });
    found
        .map(|(path, line)| format!("{path}:{line}: inline assembly belongs into kernels/ptx.cuh"))
        .collect()
}

/// `unsafe` outside the files that may have it, and blocks and implementations without a SAFETY comment. (What an `unsafe fn` asks of its
/// callers is for its documentation, which clippy's `missing_safety_doc` looks after.)
pub fn misplaced_unsafe(sources: &[Source]) -> Vec<String> {
    let pattern = regex(r"\bunsafe\s+(\w+|\{)");
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let lines: Vec<&str> = source.text.lines().collect();
        let explained = items_explained_as_a_whole(source, &lines);
        for found in pattern.captures_iter(&source.code) {
            let line = found.get(0).map_or(1, |whole| line_at(&source.code, whole.start()));
            let is_explained = has_safety_comment(&lines[..line]) || explained.iter().any(|item| item.contains(&line));
            if ["{", "impl"].contains(&&found[1]) && !is_explained {
                complaints.push(format!("{}:{line}: unsafe without a `SAFETY:` comment above it", source.path));
            }
            if source.path.starts_with("src/") && !UNSAFE_ALLOWED.iter().any(|allowed| source.path.starts_with(allowed)) {
                complaints.push(format!(
                    "{}:{line}: unsafe does not belong here (UNSAFE_ALLOWED in tests/structure/checks.rs)",
                    source.path
                ));
            }
        }
    }
    complaints
}

/// Lines of the items that allow undocumented blocks because a comment shortly above speaks for all of them (`// SAFETY of the bodies: ...`).
fn items_explained_as_a_whole(source: &Source, lines: &[&str]) -> Vec<std::ops::Range<usize>> {
    let attributes = source
        .code
        .match_indices("#[allow(clippy::undocumented_unsafe_blocks)]")
        .map(|(at, _)| at);
    let items = bodies(&source.code, attributes)
        .into_iter()
        .map(|(line, length)| line..line + length);
    items
        .filter(|item| {
            lines[item.start.saturating_sub(15)..item.start]
                .iter()
                .any(|line| line.contains("SAFETY of"))
        })
        .collect()
}

/// Whether the comment stands on the last of these lines or above it, with nothing between but the beginning of the same statement.
fn has_safety_comment(lines: &[&str]) -> bool {
    let ends_statement = |line: &&&str| [";", "{", "}"].iter().any(|end| line.trim_end().ends_with(end));
    let (last, before) = lines.split_last().map_or(("", lines), |(last, before)| (*last, before));
    last.contains("SAFETY:")
        || before
            .iter()
            .rev()
            .take_while(|line| !ends_statement(line))
            .any(|line| line.contains("SAFETY:"))
}

/// Links of a Markdown document to files that are not there.
pub fn dead_links(document: &str, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let targets = regex(r"\]\(([^)\s]+)\)")
        .captures_iter(text)
        .map(|found| found[1].to_string())
        .collect::<Vec<_>>();
    let is_outside = |target: &str| target.contains("://") || target.starts_with('#') || target.starts_with("mailto:");
    let files = targets
        .iter()
        .filter(|target| !is_outside(target))
        .map(|target| target.split('#').next().unwrap_or(""));
    files
        .filter(|file| !exists(file))
        .map(|file| format!("{document} links to {file}, which is not there"))
        .collect()
}
