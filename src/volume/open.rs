//! Opening: from a path to a checked header and the stored bytes of one channel.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::header::{Header, product_text};
use super::inflate::Inflater;
use super::storage::{ReadOptions, ShortStream, Storage};
use crate::bad_input;

/// Bytes a file may hold beyond what its header claims (padding, trailers of some tools). More means that the header does not describe it.
const EXCESS: u64 = 1 << 20;

/// No deflate stream expands further (a 258-byte match in two bits).
const DEFLATE_RATIO: u64 = 1032;

/// The longest header.
const LONGEST_HEADER: usize = 540;

pub(crate) struct Loaded {
    pub header: Header,
    pub storage: Storage,
    /// the file, or header file and image file
    pub files: Vec<PathBuf>,
    /// what reading took of the time, without decompression; nothing where the file is mapped
    pub reading: Duration,
}

/// Reads the header alone.
pub(crate) fn header(path: &Path) -> Result<Header> {
    let path = header_file(path)?;
    Header::parse(&Source::open(&path, &Arc::default())?.read_header(&path)?, &path)
}

/// Reads header and voxels. `path` may be a single file or either half of a `.hdr`/`.img` pair; what is compressed is seen from the bytes.
pub(crate) fn load(path: &Path, channel: usize, options: &ReadOptions) -> Result<Loaded> {
    let header_path = header_file(path)?;
    let clock = Arc::default();
    let mut source = Source::open(&header_path, &clock)?;
    let header = Header::parse(&source.read_header(&header_path)?, &header_path)?;
    if channel >= header.channels() {
        bad_input!(
            "{}: there is no channel {channel}; the file has {}, counted from 0",
            path.display(),
            header.channels()
        );
    }
    let (storage, files) = if header.is_single_file() {
        (source.voxels(&header, channel, &header_path, options)?, vec![header_path])
    } else {
        let image_path = image_file(&header_path)?;
        let storage = Source::open(&image_path, &clock)?.voxels(&header, channel, &image_path, options)?;
        (storage, vec![header_path, image_path])
    };
    Ok(Loaded {
        header,
        storage,
        files,
        reading: Duration::from_nanos(clock.load(Ordering::Relaxed)),
    })
}

/// A file whose reads are timed, in nanoseconds.
struct Timed {
    file: File,
    clock: Arc<AtomicU64>,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let begun = Instant::now();
        let read = self.file.read(buffer);
        tick(&self.clock, begun);
        read
    }
}

/// Adds what has passed.
fn tick(clock: &AtomicU64, begun: Instant) {
    clock.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
}

/// A file that is open, plain or compressed. `position` counts the uncompressed bytes that were taken from it.
enum Source {
    Plain {
        file: File,
        length: u64,
        clock: Arc<AtomicU64>,
    },
    Gzip {
        stream: Box<Inflater<BufReader<Timed>>>,
        length: u64,
        position: u64,
    },
}

impl Source {
    fn open(path: &Path, clock: &Arc<AtomicU64>) -> Result<Self> {
        let shown = path.display();
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => bad_input!("{shown}: no such file; check the path"),
            Err(e) => bad_input!("{shown}: cannot be read ({e}); check the path and its permissions"),
        };
        if metadata.is_dir() {
            bad_input!("{shown}: is a folder; give a .nii, .nii.gz or .hdr/.img file");
        }
        if !metadata.is_file() {
            bad_input!("{shown}: is no regular file; give a .nii, .nii.gz or .hdr/.img file");
        }
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(e) => bad_input!("{shown}: cannot be opened ({e}); check its permissions"),
        };
        let mut magic = Vec::new();
        (&file)
            .take(2)
            .read_to_end(&mut magic)
            .with_context(|| format!("{shown}: cannot be read"))?;
        if magic.is_empty() {
            bad_input!("{shown}: is empty (0 bytes); copy or export it again");
        }
        file.seek(SeekFrom::Start(0)).with_context(|| format!("{shown}: cannot be read"))?;
        let length = file.metadata().with_context(|| format!("{shown}: cannot be read"))?.len();
        if magic == [0x1f, 0x8b] {
            let timed = Timed {
                file,
                clock: Arc::clone(clock),
            };
            let stream = Box::new(Inflater::new(BufReader::with_capacity(1 << 16, timed)));
            Ok(Self::Gzip {
                stream,
                length,
                position: 0,
            })
        } else {
            let clock = Arc::clone(clock);
            Ok(Self::Plain { file, length, clock })
        }
    }

    /// The first bytes: a header of either version, or less if the file is shorter.
    fn read_header(&mut self, path: &Path) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(LONGEST_HEADER);
        let mut take = |stream: &mut dyn Read, until: usize| stream.take((until - bytes.len()) as u64).read_to_end(&mut bytes);
        match self {
            Self::Plain { file, .. } => {
                take(file, LONGEST_HEADER).with_context(|| format!("{}: cannot be read", path.display()))?;
            }
            Self::Gzip { stream, position, .. } => {
                // The short header first: a .hdr.gz of version 1 ends with it.
                let read = take(stream, 348).and_then(|_| {
                    if bytes.get(..4).is_some_and(|size| matches!(size, [0x1c, 2, 0, 0] | [0, 0, 2, 0x1c])) {
                        stream.take((LONGEST_HEADER - bytes.len()) as u64).read_to_end(&mut bytes)?;
                    }
                    Ok(0)
                });
                if let Err(e) = read {
                    return Err(gzip_error(e, path));
                }
                *position = bytes.len() as u64;
            }
        }
        Ok(bytes)
    }

    /// The stored bytes of one channel, after checking that the file holds what the header claims.
    fn voxels(self, header: &Header, channel: usize, path: &Path, options: &ReadOptions) -> Result<Storage> {
        let channel_bytes = header.channel_bytes();
        let start = header.vox_offset() + channel as u64 * channel_bytes;
        let end = header.vox_offset() + header.channels() as u64 * channel_bytes;
        let Ok(wanted) = usize::try_from(channel_bytes) else {
            bad_input!(
                "{}: {channel_bytes} bytes of voxels are more than this machine can address",
                path.display()
            );
        };
        match self {
            Self::Plain { file, length, clock } => {
                if length < end {
                    bad_input!("{}", too_short(header, path, length));
                }
                check_excess(header, path, length - end)?;
                let begun = Instant::now();
                let storage = Storage::of_file(file, start, wanted, options);
                tick(&clock, begun);
                storage.with_context(|| format!("{}: cannot be read", path.display()))
            }
            Self::Gzip {
                mut stream,
                length,
                position,
            } => {
                if length.saturating_mul(DEFLATE_RATIO) < end {
                    bad_input!(
                        "{}: the header claims {} bytes, but {length} compressed bytes cannot hold them; the file is cut off or its header damaged: copy or export it again",
                        path.display(),
                        end
                    );
                }
                let hint = usize::try_from(length.saturating_mul(4)).unwrap_or(wanted);
                let result = skip(&mut stream, start.checked_sub(position), position).and_then(|()| {
                    let storage = Storage::of_stream(&mut stream, wanted, hint, options).map_err(|e| from_start(e, start))?;
                    let later = end - start - channel_bytes;
                    skip(&mut stream, Some(later), start + channel_bytes)?;
                    // To the end even if nothing is wanted from it: the checksum comes last.
                    let excess = io::copy(&mut (&mut stream).take(EXCESS + 1), &mut io::sink())?;
                    Ok((storage, excess))
                });
                match result {
                    Ok((storage, excess)) => check_excess(header, path, excess).map(|()| storage),
                    Err(e) => match e.get_ref().and_then(|inner| inner.downcast_ref::<ShortStream>()) {
                        Some(short) => bad_input!("{}", too_short(header, path, short.came)),
                        None => Err(gzip_error(e, path)),
                    },
                }
            }
        }
    }
}

/// Reads and drops `count` bytes; `before` have come already. `None`: the voxels would start before what was read.
fn skip(stream: &mut impl Read, count: Option<u64>, before: u64) -> io::Result<()> {
    let Some(count) = count else {
        return Err(io::Error::other("the voxels start inside the header"));
    };
    let skipped = io::copy(&mut stream.take(count), &mut io::sink())?;
    if skipped < count {
        Err(io::Error::other(ShortStream { came: before + skipped }))
    } else {
        Ok(())
    }
}

fn from_start(error: io::Error, start: u64) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ShortStream>()) {
        Some(short) => io::Error::other(ShortStream { came: start + short.came }),
        None => error,
    }
}

fn too_short(header: &Header, path: &Path, length: u64) -> String {
    let end = header.vox_offset() + header.channels() as u64 * header.channel_bytes();
    format!(
        "{}: the header claims {} voxels of {} bytes from byte {}, which is {end} bytes, but the file holds {length}; it is cut off or its header damaged: copy or export it again",
        path.display(),
        product_text(header.dims(), header.channels()),
        header.datatype().width(),
        header.vox_offset(),
    )
}

fn check_excess(header: &Header, path: &Path, excess: u64) -> Result<()> {
    if excess > EXCESS {
        bad_input!(
            "{}: the file holds over {} bytes more than the {} voxels its header claims; the header does not describe this file: export it again",
            path.display(),
            EXCESS,
            product_text(header.dims(), header.channels())
        );
    }
    Ok(())
}

fn gzip_error(error: io::Error, path: &Path) -> anyhow::Error {
    let path = path.display();
    let message = match error.kind() {
        io::ErrorKind::UnexpectedEof => format!("{path}: the compressed data end early; the file is cut off: copy or download it again"),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            format!("{path}: the compressed data are damaged ({error}); copy or download the file again")
        }
        _ => return anyhow::Error::new(error).context(format!("{path}: cannot be read or inflated (space in $TMPDIR? memory?)")),
    };
    anyhow::Error::new(crate::error::InputError::new(message))
}

/// The files of a volume: its own, and of a pair both, the header first.
///
/// # Errors
/// Half of a pair.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    let header = header_file(path)?;
    if strip_ending(&header, ".hdr").is_none() {
        return Ok(vec![header]);
    }
    let image = image_file(&header)?;
    Ok(vec![header, image])
}

/// The file with the header: `path` itself, or for an `.img` the `.hdr` beside it.
fn header_file(path: &Path) -> Result<PathBuf> {
    match strip_ending(path, ".img") {
        Some(stem) => sibling(&stem, ".hdr", path, "its header"),
        None => Ok(path.to_path_buf()),
    }
}

/// The image file of a pair.
fn image_file(header_path: &Path) -> Result<PathBuf> {
    match strip_ending(header_path, ".hdr") {
        Some(stem) => sibling(&stem, ".img", header_path, "its voxels"),
        None => bad_input!(
            "{}: the header of a .hdr/.img pair, but it is not called .hdr; rename the two files",
            header_path.display()
        ),
    }
}

/// `path` without `ending` or `ending.gz` in any case, as text.
fn strip_ending(path: &Path, ending: &str) -> Option<String> {
    let text = path.to_str()?;
    let lower = text.to_ascii_lowercase(); // as long as `text`
    let plain = lower.strip_suffix(".gz").unwrap_or(&lower);
    plain.strip_suffix(ending).map(|stem| text[..stem.len()].to_string())
}

fn sibling(stem: &str, ending: &str, of: &Path, what: &str) -> Result<PathBuf> {
    for ending in [ending.to_string(), format!("{ending}.gz"), ending.to_uppercase()] {
        let path = PathBuf::from(format!("{stem}{ending}"));
        if path.is_file() {
            return Ok(path);
        }
    }
    bad_input!(
        "{}: {what} should be in {stem}{ending} (or .gz), which does not exist; put both files into one folder",
        of.display()
    )
}
