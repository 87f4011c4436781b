//! Compiles the kernels and the emulator into one shared library; read by build.rs and by the mutation test.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

/// Flags that make the compiler call the checker (`checker.hpp`) at every access of a kernel.
const CHECKED: [&str; 3] = [
    "-fsanitize=thread",
    "-fsanitize=bounds,alignment,shift,integer-divide-by-zero,signed-integer-overflow",
    "-fno-sanitize-recover=all",
];

/// The C++ compiler: `$CXX`, else `c++`.
fn compiler() -> Command {
    Command::new(env::var_os("CXX").unwrap_or("c++".into()))
}

fn run(mut command: Command, what: &str) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{what}: cannot run {command:?}: {error}; the emulator needs a C++17 compiler (CXX)"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{what}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    // An unchanged file keeps its time.
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// The wrapper of each kernel file: every specialisation in a namespace of its own.
fn wrappers(kernels: &Path, table: &str) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = Vec::new();
    for line in table.lines().skip(1) {
        let mut fields = line.split(',');
        let (Some(name), Some(file), Some(defines)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let at = files.iter().position(|(known, _)| known == file).unwrap_or_else(|| {
            files.push((
                file.into(),
                "#include \"table.h\"\n#include \"rows.cuh\"\n#include \"union_find.cuh\"\n".into(),
            ));
            files.len() - 1
        });
        let text = &mut files[at].1;
        let defines = [&format!("ENTRY={name}"), defines].map(|part| part.to_string()).join(" ");
        let pairs: Vec<(&str, &str)> = defines.split(' ').filter_map(|define| define.split_once('=')).collect();
        for (key, value) in &pairs {
            let _ = writeln!(text, "#define {key} {value}");
        }
        let _ = writeln!(
            text,
            "namespace {name}_space {{\n#include \"{}\"\nEMU_EXPORT({name})\n}}",
            kernels.join(file).display()
        );
        for (key, _) in &pairs {
            let _ = writeln!(text, "#undef {key}");
        }
    }
    files
}

/// The generated list of all kernels.
fn table_source(table: &str) -> String {
    let names: Vec<&str> = table.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    let declared: String = names
        .iter()
        .map(|name| format!("extern \"C\" const EmuKernel emu_k_{name};\n"))
        .collect();
    let listed: String = names.iter().map(|name| format!("&emu_k_{name}, ")).collect();
    format!(
        "#include \"table.h\"\n{declared}extern \"C\" const EmuKernel* const emu_table[];\nconst EmuKernel* const emu_table[] = {{{listed}nullptr}};\n"
    )
}

/// Builds `kernels/` and the emulator's runtime `kernels/host` of `host` into `out/libemulator.so`. Of the kernel files whose objects stand in
/// `reuse` (by the name `norm.cu.o`), and of the runtime, those objects are linked instead.
pub fn build(
    kernels: &Path,
    host: &Path,
    out: &Path,
    checked: bool,
    reuse: &(dyn Fn(&str) -> Option<PathBuf> + Sync),
) -> Result<PathBuf, String> {
    fs::create_dir_all(out).map_err(|error| format!("{}: {error}", out.display()))?;
    let table = read(&kernels.join("specialisations.csv"))?;
    write(&out.join("table.cpp"), &table_source(&table))?;
    let mut units = vec![
        ("emulator".to_string(), host.join("emulator.cpp"), false),
        ("table".to_string(), out.join("table.cpp"), false),
    ];
    for (file, text) in wrappers(kernels, &table) {
        let path = out.join(format!("{file}.cpp"));
        write(&path, &text)?;
        units.push((file, path, true));
    }
    let library = out.join("libemulator.so");
    let compile = &|(name, source, is_kernel): &(String, PathBuf, bool)| -> Result<PathBuf, String> {
        let object = format!("{name}.o");
        if let Some(made) = reuse(&object) {
            return Ok(made);
        }
        let object = out.join(object);
        let mut command = compiler();
        command.args([
            "-std=c++17",
            "-O2",
            "-g1",
            "-fPIC",
            "-march=native",
            "-Wno-attributes",
            "-Wno-unknown-pragmas",
            "-c",
        ]);
        command.arg(format!("-I{}", kernels.display())).arg(format!("-I{}", host.display()));
        if *is_kernel && checked {
            command.args(CHECKED);
        }
        command.arg(source).arg("-o").arg(&object);
        run(command, &format!("compiling {name}")).map(|()| object)
    };
    let objects: Vec<PathBuf> = thread::scope(|scope| {
        let started: Vec<_> = units.iter().map(|unit| scope.spawn(move || compile(unit))).collect();
        let results = started
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|_| Err("a compiling thread failed".into())));
        results.collect::<Result<_, _>>()
    })?;
    let mut link = compiler();
    link.arg("-shared")
        .arg("-Wl,-Bsymbolic")
        .args(&objects)
        .arg("-o")
        .arg(&library)
        .args(["-ldl", "-lpthread"]);
    run(link, "linking the emulator").map(|()| library)
}
