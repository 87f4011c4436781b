//! The emulator as a driver, for tests: the kernels compiled as host C++ and run on fibers (`kernels/host`), with a checker under the feature `emu-check`.

use super::driver::{Arguments, DevicePointer, Driver, Limits, Memory, SHARED_BYTES_OF_SM_80, Shape};
use super::failure::{DeviceLost, OutOfMemory};
use super::graph::{self, Graph, Recorder, Step};
use super::transfer::{Pending, PinnedBuffer, Transfer, check_host};
use anyhow::{Context, Result, anyhow, bail, ensure};
use libloading::Library;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An order of events that hardware may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Which warps, lanes and blocks go first.
    pub order: Order,
    /// Whether cp.async copies at its issue, or at the wait; likewise transfers.
    pub early_copies: bool,
}

/// The order of threads and blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Order {
    Ascending = 0,
    Descending = 1,
}

impl Schedule {
    /// All there are.
    pub const ALL: [Schedule; 4] = [
        Schedule {
            order: Order::Ascending,
            early_copies: false,
        },
        Schedule {
            order: Order::Descending,
            early_copies: true,
        },
        Schedule {
            order: Order::Ascending,
            early_copies: true,
        },
        Schedule {
            order: Order::Descending,
            early_copies: false,
        },
    ];
}

// The next two are the structures of the same layout in kernels/host/emulator.cpp and table.h.
#[repr(C)]
struct Options {
    order: c_int,
    seed: c_int,
    early_copies: c_int,
    check: c_int,
    threads: c_int,
    shared_bytes: c_int,
}

#[repr(C)]
struct Kernel {
    name: *const c_char,
    call: *const c_void,
    parameters: u32,
    sizes: *const u16,
}

type SetOptions = unsafe extern "C" fn(*const Options);
type Malloc = unsafe extern "C" fn(usize) -> *mut u8;
type Free = unsafe extern "C" fn(*mut u8);
type MarkInit = unsafe extern "C" fn(*mut u8, usize);
type Find = unsafe extern "C" fn(*const c_char) -> *const Kernel;
type Stats = unsafe extern "C" fn(*mut u64);
type Launch = unsafe extern "C" fn(*const Kernel, *const u32, *const u32, u32, *mut *mut c_void, *mut c_char, usize) -> c_int;

/// Bytes of addresses that the emulator hands out in its life: `VA` of kernels/host/memory.hpp.
const ADDRESSES: usize = 1 << 38;

/// Options and clocks of the emulator belong to the process: one launch at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device made of C++ and patience.
pub struct Emulator {
    schedule: Schedule,
    set_options: SetOptions,
    malloc: Malloc,
    free: Free,
    find: Find,
    launch: Launch,
    stats: Stats,
    space: Arc<Space>,
    recorder: Recorder,
}

impl Emulator {
    /// The emulator that this build made.
    ///
    /// # Errors
    /// When its library cannot be loaded.
    pub fn new(schedule: Schedule) -> Result<Self> {
        Self::open(Path::new(env!("HPC_SEG_EMULATOR")), schedule)
    }

    /// The emulator of another library, such as one with a bug put into its kernels.
    ///
    /// # Errors
    /// When the library cannot be loaded or is no emulator.
    pub fn open(path: &Path, schedule: Schedule) -> Result<Self> {
        let shown = path.display();
        // SAFETY: the library is ours and runs nothing when it is loaded.
        let library = unsafe { Library::new(path) }.with_context(|| format!("{shown}: cannot load the emulator; run cargo build again"))?;
        // It stays loaded for the life of the process: each loading anew would reserve its range of addresses once more.
        let library: &'static Library = Box::leak(Box::new(library));
        macro_rules! symbol {
            ($name:literal) => {
                // SAFETY: the types are those of the definitions in kernels/host; the library is never unloaded.
                *unsafe { library.get($name) }.with_context(|| format!("{shown}: is no emulator"))?
            };
        }
        Ok(Self {
            schedule,
            set_options: symbol!(b"emu_set_opts"),
            malloc: symbol!(b"emu_malloc"),
            free: symbol!(b"emu_free"),
            find: symbol!(b"emu_find"),
            launch: symbol!(b"emu_launch"),
            stats: symbol!(b"emu_stats"),
            space: Arc::new(Space {
                allocations: Mutex::default(),
                mark_init: symbol!(b"emu_mark_init"),
            }),
            recorder: Recorder::default(),
        })
    }

    /// Phases of ldmatrix so far, and the wavefronts of shared memory they took: as many if there were no bank conflicts. Counted under `emu-check`.
    pub fn ldmatrix_phases_and_wavefronts(&self) -> (u64, u64) {
        let mut counts = [0; 2];
        let _held = lock(&ONE_AT_A_TIME); // a launch counts one before the other
        // SAFETY: it writes two numbers.
        unsafe { (self.stats)(counts.as_mut_ptr()) };
        (counts[0], counts[1])
    }

    /// With the lock held: makes this emulator's options those in force.
    fn choose(&self, _held: &MutexGuard<'_, ()>) {
        let options = Options {
            order: self.schedule.order as c_int,
            seed: 1,
            early_copies: c_int::from(self.schedule.early_copies),
            check: c_int::from(cfg!(feature = "emu-check")),
            threads: 1,
            shared_bytes: SHARED_BYTES_OF_SM_80.cast_signed(),
        };
        // SAFETY: the structure is read during the call only.
        unsafe { (self.set_options)(&raw const options) };
    }

    fn transfer(&self, device: DevicePointer, bytes: usize, is_upload: bool) -> Late {
        Late {
            space: self.space.clone(),
            device,
            bytes,
            is_upload,
            is_done: false,
        }
    }
}

/// The device's memory, which is the host's; transfers under way share it.
struct Space {
    allocations: Mutex<BTreeMap<u64, usize>>,
    mark_init: MarkInit,
}

impl Space {
    /// Refuses bytes that do not lie inside one allocation.
    fn check_inside(&self, pointer: DevicePointer, bytes: usize) -> Result<()> {
        let allocations = lock(&self.allocations);
        let inside = allocations
            .range(..=pointer.raw())
            .next_back()
            .is_some_and(|(start, length)| pointer.raw() - start + bytes as u64 <= *length as u64);
        ensure!(inside, "copy of {bytes} bytes at {:#x}: not inside an allocation", pointer.raw());
        Ok(())
    }

    /// Fills memory with poison that does not count as written.
    fn poison(&self, to: DevicePointer, bytes: usize) -> Result<()> {
        self.check_inside(to, bytes)?;
        let _held = lock(&ONE_AT_A_TIME);
        // SAFETY: inside an allocation of the emulator, whose memory is the host's.
        unsafe { std::ptr::write_bytes(to.raw() as *mut u8, POISON, bytes) };
        Ok(())
    }

    fn write(&self, to: DevicePointer, from: &[u8]) -> Result<()> {
        self.check_inside(to, from.len())?;
        let to = to.raw() as *mut u8;
        let _held = lock(&ONE_AT_A_TIME);
        // SAFETY: as above.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len());
            (self.mark_init)(to, from.len());
        }
        Ok(())
    }

    fn read(&self, to: &mut [u8], from: DevicePointer) -> Result<()> {
        self.check_inside(from, to.len())?;
        let _held = lock(&ONE_AT_A_TIME);
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(from.raw() as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }
}

/// A transfer that has not happened yet: hardware may copy as late as when somebody waits, as it may copy at once. What reads too early, or overwrites too
/// early, gives other bytes under one of the two.
struct Late {
    space: Arc<Space>,
    device: DevicePointer,
    bytes: usize,
    is_upload: bool,
    is_done: bool,
}

impl Pending for Late {
    fn join(&mut self, host: &mut PinnedBuffer) -> Result<()> {
        self.wait(host)
    }

    fn wait(&mut self, host: &mut PinnedBuffer) -> Result<()> {
        if std::mem::replace(&mut self.is_done, true) {
            return Ok(());
        }
        match self.is_upload {
            true => self.space.write(self.device, &host[..self.bytes]),
            false => self.space.read(&mut host[..self.bytes], self.device),
        }
    }
}

/// What memory holds that a transfer has not reached: NaN in all formats.
const POISON: u8 = 0xff;

impl Driver for Emulator {
    fn kind(&self) -> String {
        "emulator sm_80".into()
    }

    fn limits(&self) -> Limits {
        Limits {
            threads: 1024,
            shared_bytes: SHARED_BYTES_OF_SM_80,
            multiprocessors: 108,
        }
    }

    fn memory(&self) -> Result<Memory> {
        let own = lock(&self.space.allocations).values().sum();
        Ok(Memory {
            total: ADDRESSES,
            free: ADDRESSES - own,
            own,
            is_hosts: false,
        })
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePointer> {
        self.recorder.refuse("an allocation")?;
        let held = lock(&ONE_AT_A_TIME);
        self.choose(&held);
        // SAFETY: any size may be asked for.
        let address = unsafe { (self.malloc)(bytes) } as u64;
        if address == 0 {
            let live = lock(&self.space.allocations).values().sum();
            return Err(OutOfMemory::of_device(bytes, live, ADDRESSES).into());
        }
        lock(&self.space.allocations).insert(address, bytes);
        Ok(DevicePointer::from_raw(address))
    }

    fn free(&self, pointer: DevicePointer) {
        let _held = lock(&ONE_AT_A_TIME);
        if lock(&self.space.allocations).remove(&pointer.raw()).is_some() {
            // SAFETY: it came from `malloc` and is freed once.
            unsafe { (self.free)(pointer.raw() as *mut u8) };
        }
    }

    fn copy_in(&self, to: DevicePointer, from: &[u8]) -> Result<()> {
        self.recorder.refuse("a copy to the device")?;
        self.space.write(to, from)
    }

    fn copy_out(&self, to: &mut [u8], from: DevicePointer) -> Result<()> {
        self.recorder.refuse("a copy from the device")?;
        self.space.read(to, from)
    }

    fn copy_within(&self, to: DevicePointer, from: DevicePointer, bytes: usize) -> Result<()> {
        self.space.check_inside(to, bytes)?;
        self.space.check_inside(from, bytes)?;
        if self.recorder.takes(|| Step::CopyWithin(to, from, bytes)) {
            return Ok(());
        }
        let (to, from) = (to.raw() as *mut u8, from.raw() as *const u8);
        let _held = lock(&ONE_AT_A_TIME);
        // SAFETY: both lie inside allocations of the emulator, whose memory is the host's.
        unsafe {
            std::ptr::copy(from, to, bytes);
            (self.space.mark_init)(to, bytes);
        }
        Ok(())
    }

    fn clear(&self, at: DevicePointer, bytes: usize) -> Result<()> {
        self.recorder.refuse("clearing memory")?;
        self.space.check_inside(at, bytes)?;
        let at = at.raw() as *mut u8;
        let _held = lock(&ONE_AT_A_TIME);
        // SAFETY: inside an allocation of the emulator, whose memory is the host's.
        unsafe {
            std::ptr::write_bytes(at, 0, bytes);
            (self.space.mark_init)(at, bytes);
        }
        Ok(())
    }

    fn launch(&self, entry: &str, shape: Shape, mut arguments: Arguments) -> Result<()> {
        let name = CString::new(entry)?;
        let held = lock(&ONE_AT_A_TIME);
        // SAFETY: the name ends with zero; the table of kernels lives as long as the library.
        let kernel = unsafe { (self.find)(name.as_ptr()).as_ref() };
        let kernel = kernel.ok_or_else(|| anyhow!("the emulator has no kernel {entry}"))?;
        // SAFETY: the table holds as many sizes as parameters.
        let sizes = unsafe { std::slice::from_raw_parts(kernel.sizes, kernel.parameters as usize) };
        if !sizes.iter().map(|size| usize::from(*size)).eq(arguments.sizes().iter().copied()) {
            bail!("arguments of {:?} bytes for C++ parameters of {sizes:?}", arguments.sizes());
        }
        if self.recorder.takes(|| Step::Launch(entry.into(), shape, arguments.clone())) {
            return Ok(());
        }
        self.choose(&held);
        let (mut pointers, threads) = (arguments.pointers(), [shape.threads, 1, 1]);
        let mut message = [0_u8; 1024];
        // SAFETY: numbers and sizes of arguments were compared; the pointers in them are the callers' care, as on a GPU.
        let status = unsafe {
            let message = message.as_mut_ptr().cast();
            (self.launch)(
                kernel,
                shape.blocks.as_ptr(),
                threads.as_ptr(),
                shape.shared_bytes,
                pointers.as_mut_ptr(),
                message,
                1024,
            )
        };
        if status != 0 {
            let reason = CStr::from_bytes_until_nul(&message)
                .map(CStr::to_string_lossy)
                .unwrap_or_default()
                .into_owned();
            return Err(DeviceLost { reason }.into());
        }
        Ok(())
    }

    fn synchronise(&self) -> Result<()> {
        self.recorder.refuse("waiting")
    }

    fn pinned(&self, bytes: usize) -> Result<PinnedBuffer> {
        Ok(PinnedBuffer::new(vec![POISON; bytes]))
    }

    fn upload(&self, to: DevicePointer, mut from: PinnedBuffer, bytes: usize) -> Result<Transfer> {
        check_host(&from, bytes)?;
        self.recorder.refuse("a copy to the device")?;
        self.space.poison(to, bytes)?;
        let mut pending = self.transfer(to, bytes, true);
        if self.schedule.early_copies {
            pending.wait(&mut from)?;
        }
        Ok(Transfer::new(from, pending))
    }

    fn download(&self, mut to: PinnedBuffer, from: DevicePointer, bytes: usize) -> Result<Transfer> {
        check_host(&to, bytes)?;
        self.recorder.refuse("a copy from the device")?;
        self.space.check_inside(from, bytes)?;
        let mut pending = self.transfer(from, bytes, false);
        if self.schedule.early_copies {
            pending.wait(&mut to)?;
        }
        Ok(Transfer::new(to, pending))
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        self.recorder.capture(work)
    }

    fn replay(&self, graph: &Graph) -> Result<()> {
        graph::replay_steps(self, graph)
    }
}
