//! NVRTC, NVIDIA's compiler as a library: found and loaded at run time, from source to machine code (CUBIN) of an exact architecture. It needs neither GPU nor driver.
//!
//! cudarc's own binding panics where the library is missing, cannot take headers from memory, returns no CUBIN and drops the log; so this is ours.

use super::sources::{HEADERS, Specialisation};
use anyhow::{Context, Result, bail, ensure};
use libloading::Library;
use std::env;
use std::ffi::{CString, OsString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

/// What to do when it is not found.
const REMEDY: &str = "pip install nvidia-cuda-nvrtc-cu12, or install a CUDA toolkit, or set HPC_SEG_NVRTC to libnvrtc.so.12 or its folder";

/// Names of the library, those first that make code for the oldest drivers.
const NAMES: [&str; 3] = ["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so"];

type Program = *mut c_void;
type Create = unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Archs = unsafe extern "C" fn(*mut c_int) -> c_int;
type Text = unsafe extern "C" fn(Program, *mut u8) -> c_int;

/// The loaded compiler.
pub struct Nvrtc {
    library: Library,
    path: PathBuf,
    version: (i32, i32),
}

/// What compiling gave.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Machine code for one architecture.
    pub cubin: Vec<u8>,
    /// What the compiler said; see [`super::nvrtc_log`].
    pub log: String,
}

/// Where a search looks; of the process, or made up by a test.
#[derive(Clone, Debug, Default)]
struct Places {
    chosen: Option<OsString>,
    toolkits: Vec<PathBuf>,
    python_roots: Vec<PathBuf>,
}

impl Places {
    fn of_this_process() -> Self {
        let folder = |variable: &str| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        let toolkits = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|variable| folder(variable));
        let roots = [
            folder("VIRTUAL_ENV"),
            folder("CONDA_PREFIX"),
            folder("HOME").map(|home| home.join(".local")),
        ];
        let python_roots = roots.into_iter().flatten().chain(["/usr".into(), "/usr/local".into()]);
        Self {
            chosen: env::var_os("HPC_SEG_NVRTC").filter(|value| !value.is_empty()),
            toolkits: toolkits.chain(["/usr/local/cuda".into()]).collect(),
            python_roots: python_roots.collect(),
        }
    }

    /// Paths and bare names to try, in order. What the user chose is the only candidate: nothing else is used in its stead.
    fn candidates(&self) -> Vec<PathBuf> {
        if let Some(chosen) = self.chosen.as_ref().map(PathBuf::from) {
            return if chosen.is_dir() {
                NAMES.map(|name| chosen.join(name)).to_vec()
            } else {
                vec![chosen]
            };
        }
        let mut all: Vec<PathBuf> = NAMES.map(PathBuf::from).to_vec(); // LD_LIBRARY_PATH and the system's cache
        all.extend(
            self.toolkits
                .iter()
                .flat_map(|root| NAMES.map(|name| root.join("lib64").join(name))),
        );
        all.extend(self.python_roots.iter().flat_map(|root| in_python(root)));
        // conda's own package.
        all.extend(
            self.python_roots
                .iter()
                .flat_map(|root| NAMES.map(|name| root.join("lib").join(name))),
        );
        all
    }
}

/// Where pip puts the library below an environment's root.
fn in_python(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root.join("lib")).into_iter().flatten().flatten();
    let mut pythons: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
        .map(|entry| entry.path())
        .collect();
    pythons.sort();
    let wheels = [("cuda_nvrtc", NAMES[0]), ("cu13", NAMES[1])];
    let folders = pythons
        .iter()
        .flat_map(|python| ["site-packages", "dist-packages"].map(|packages| python.join(packages)));
    folders
        .flat_map(|packages| wheels.map(|(wheel, name)| packages.join("nvidia").join(wheel).join("lib").join(name)))
        .collect()
}

/// Some wheels do not say where the library's second half lies; loaded before, it is found by its name.
fn load_builtins(beside: &Path) {
    let Some(folder) = beside.parent().filter(|folder| folder.is_dir()) else {
        return;
    };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so.") {
            // SAFETY: NVIDIA's library has no initialiser that asks anything of us; it stays loaded for the life of the process.
            if let Ok(library) = unsafe { Library::new(entry.path()) } {
                std::mem::forget(library);
            }
        }
    }
}

impl Nvrtc {
    /// Finds and loads it: `$HPC_SEG_NVRTC`, the system's libraries, `$CUDA_HOME`, /usr/local/cuda, then what pip installed; the first that makes code for
    /// `architecture`, such as `sm_80`.
    ///
    /// # Errors
    /// When it is nowhere; with what was tried and the remedy.
    pub fn load_for(architecture: &str) -> Result<Self> {
        Self::load_from(&Places::of_this_process(), architecture)
    }

    fn load_from(places: &Places, architecture: &str) -> Result<Self> {
        let mut tried = String::new();
        for path in places.candidates() {
            load_builtins(&path);
            // SAFETY: as for the builtins.
            match unsafe { Library::new(&path) } {
                Ok(library) => match Self::with(library, path).and_then(|found| found.suits(architecture)) {
                    Ok(found) => return Ok(found),
                    Err(error) => tried += &format!("\n  {error:#}"),
                },
                Err(error) => tried += &format!("\n  {}: {error}", path.display()),
            }
        }
        bail!("NVRTC, the compiler of CUDA kernels, is not on this machine, or makes no code for {architecture}: {REMEDY}. Tried:{tried}");
    }

    fn with(library: Library, path: PathBuf) -> Result<Self> {
        let mut version = (0, 0);
        // SAFETY: the signature is NVRTC's.
        let status = unsafe {
            let ask = library
                .get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(b"nvrtcVersion")
                .with_context(|| format!("{}: is not NVRTC; {REMEDY}", path.display()))?;
            ask(&raw mut version.0, &raw mut version.1)
        };
        ensure!(
            status == 0,
            "{}: does not tell its version (error {status}); {REMEDY}",
            path.display()
        );
        Ok(Self { library, path, version })
    }

    /// Itself, if it makes code for an architecture such as `sm_80` or `sm_90a`.
    fn suits(self, architecture: &str) -> Result<Self> {
        let wanted: String = architecture.chars().filter(char::is_ascii_digit).collect();
        let mut count = 0;
        // SAFETY: the types are NVRTC's, since 11.2; the second function writes as many numbers as the first says.
        let numbers = unsafe {
            let status = self.function::<Archs>(b"nvrtcGetNumSupportedArchs")?(&raw mut count);
            let mut numbers: Vec<c_int> = vec![0; usize::try_from(count)?];
            let told = status == 0 && self.function::<Archs>(b"nvrtcGetSupportedArchs")?(numbers.as_mut_ptr()) == 0;
            ensure!(told, "{}: does not tell its architectures; {REMEDY}", self.path.display());
            numbers
        };
        let (path, (major, minor)) = (self.path.display(), self.version);
        let is_known = numbers.iter().any(|number| number.to_string() == wanted);
        ensure!(is_known, "{path}: NVRTC {major}.{minor} makes no code for {architecture}");
        Ok(self)
    }

    /// Its version, such as (12, 9).
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Compiles a kernel for an architecture such as `sm_80`.
    ///
    /// # Errors
    /// What the compiler says.
    pub fn compile(&self, kernel: &Specialisation, architecture: &str) -> Result<Compiled> {
        let (source, name) = (CString::new(kernel.source)?, CString::new(kernel.file)?);
        let header_texts = strings(HEADERS.iter().map(|(_, text)| *text))?;
        let header_names = strings(HEADERS.iter().map(|(name, _)| *name))?;
        let options = kernel.options(architecture);
        let options = strings(options.iter().map(String::as_str))?;
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: all strings end with zero and outlive the call, which copies them.
        let status = unsafe {
            let create = self.function::<Create>(b"nvrtcCreateProgram")?;
            let (texts, names) = (pointers(&header_texts), pointers(&header_names));
            create(
                &raw mut program,
                source.as_ptr(),
                name.as_ptr(),
                texts.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        ensure!(status == 0, "NVRTC cannot read {} (error {status})", kernel.file);
        let program = Owned { nvrtc: self, program };
        // SAFETY: the program lives; the options outlive the call.
        let status = unsafe {
            let options = pointers(&options);
            self.function::<Compile>(b"nvrtcCompileProgram")?(program.program, options.len() as c_int, options.as_ptr())
        };
        let log = program.bytes(b"nvrtcGetProgramLogSize", b"nvrtcGetProgramLog")?;
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_string();
        if status != 0 {
            bail!(
                "{} does not compile for {architecture} as {} (NVRTC {:?}):\n{log}",
                kernel.file,
                kernel.name,
                self.version
            );
        }
        Ok(Compiled {
            cubin: program.bytes(b"nvrtcGetCUBINSize", b"nvrtcGetCUBIN")?,
            log,
        })
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` must be its type, and it must not be called after `self` is gone.
    unsafe fn function<F: Copy>(&self, name: &[u8]) -> Result<F> {
        // SAFETY: by contract.
        let found = unsafe { self.library.get::<F>(name) };
        Ok(*found.with_context(|| format!("{}: is not NVRTC as known; {REMEDY}", self.path.display()))?)
    }
}

/// A program of the compiler, destroyed at the end.
struct Owned<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl Owned<'_> {
    fn bytes(&self, size: &[u8], content: &[u8]) -> Result<Vec<u8>> {
        let mut length = 0;
        // SAFETY: the program lives; the second function writes as many bytes as the first says.
        unsafe {
            let status = self.nvrtc.function::<Size>(size)?(self.program, &raw mut length);
            let mut bytes = vec![0_u8; length];
            let status = if status == 0 {
                self.nvrtc.function::<Text>(content)?(self.program, bytes.as_mut_ptr())
            } else {
                status
            };
            ensure!(status == 0, "NVRTC does not give its result (error {status})");
            Ok(bytes)
        }
    }
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        // SAFETY: the type is NVRTC's; the program was created once and is destroyed once.
        unsafe {
            if let Ok(destroy) = self
                .nvrtc
                .function::<unsafe extern "C" fn(*mut Program) -> c_int>(b"nvrtcDestroyProgram")
            {
                destroy(&raw mut self.program);
            }
        }
    }
}

fn strings<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<CString>> {
    texts.map(|text| Ok(CString::new(text)?)).collect()
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_chose_is_the_only_candidate() {
        let folder = tempfile::tempdir().unwrap();
        let chosen = |path: &Path| {
            Places {
                chosen: Some(path.into()),
                ..Places::default()
            }
            .candidates()
        };
        assert_eq!(chosen(Path::new("/no/where.so")), [PathBuf::from("/no/where.so")]);
        assert_eq!(chosen(folder.path())[0], folder.path().join("libnvrtc.so.12"));
    }

    #[test]
    fn the_search_goes_from_the_system_over_toolkits_to_pip() {
        let root = tempfile::tempdir().unwrap();
        let wheel = root
            .path()
            .join("lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
        std::fs::create_dir_all(root.path().join("lib/python3.11")).unwrap();
        let places = Places {
            chosen: None,
            toolkits: vec!["/opt/cuda".into()],
            python_roots: vec![root.path().into()],
        };
        let candidates = places.candidates();
        let at = |path: &Path| candidates.iter().position(|candidate| candidate == path).unwrap();
        assert_eq!(at(Path::new("libnvrtc.so.12")), 0);
        assert!(at(Path::new("libnvrtc.so")) < at(Path::new("/opt/cuda/lib64/libnvrtc.so.12")));
        assert!(at(Path::new("/opt/cuda/lib64/libnvrtc.so")) < at(&wheel));
    }

    #[test]
    fn an_absent_compiler_is_an_error_with_the_remedy_and_what_was_tried() {
        let places = Places {
            chosen: Some("/no/libnvrtc.so.12".into()),
            ..Places::default()
        };
        let message = Nvrtc::load_from(&places, "sm_80").err().unwrap().to_string();
        assert!(message.contains("pip install nvidia-cuda-nvrtc-cu12"), "{message}");
        assert!(message.contains("Tried:\n  /no/libnvrtc.so.12: "), "{message}");
    }

    #[test]
    fn another_library_is_told_from_the_compiler() {
        let places = Places {
            chosen: Some("libc.so.6".into()),
            ..Places::default()
        };
        let message = Nvrtc::load_from(&places, "sm_80").err().unwrap().to_string();
        assert!(message.contains("libc.so.6: is not NVRTC"), "{message}");
    }
}
