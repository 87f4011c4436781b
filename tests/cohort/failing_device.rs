//! A cohort on a device that runs out of memory, or is lost, at any moment: the case is tried once more, or fails alone; the others are done, and nothing leaks.

use super::{phantoms_and_network, some_settings};
use crate::cuda::faulty::{Fault, Faulty};
use hpc_seg::cohort::case_record::Timings;
use hpc_seg::cohort::discover::Cohort;
use hpc_seg::cohort::journal::Journal;
use hpc_seg::cohort::labeller::{Engine, Labeller};
use hpc_seg::cohort::output::{self, CaseFiles};
use hpc_seg::cohort::runner::{self, Conditions, Summary, Task};
use hpc_seg::cohort::settings::Settings;
use hpc_seg::cuda::arena::Arena;
use hpc_seg::cuda::card::Card;
use hpc_seg::cuda::launch::Runtime;
use hpc_seg::cuda::null::NullDriver;
use hpc_seg::device::open::{Maker, Opening};
use hpc_seg::device::{Cuda, Device, OutOfMemory};
use hpc_seg::messages::{self, Progress, Talk};
use hpc_seg::stop::Stop;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// One labelled and two unlabelled phantoms, and the demo network.
struct Bench {
    folder: tempfile::TempDir,
    cohort: Cohort,
    /// Bytes that the plans of the cases done last say.
    planned: Mutex<Vec<usize>>,
}

/// Devices made so far; the first has the fault.
#[derive(Clone, Default)]
struct Devices(Arc<Mutex<Vec<Arc<Faulty>>>>);

impl Devices {
    fn maker(&self, fault: Fault) -> Maker {
        let devices = self.clone();
        Maker::new(move || {
            let mut made = devices.0.lock().unwrap();
            let fault = if made.is_empty() { fault } else { Fault::None };
            let null = Arc::new(NullDriver::new(Card::named("a100-1g.10gb").unwrap()));
            let driver = Arc::new(Faulty::over(null, fault));
            made.push(driver.clone());
            let arena = Arena::separate(driver.clone(), 1 << 30);
            let runtime = Runtime::new(driver);
            Device::on_cuda(Cuda { runtime, arena }, 1)
        })
    }

    /// Allocations, copies and launches of each.
    fn asked(&self) -> Vec<(usize, usize, usize)> {
        self.0.lock().unwrap().iter().map(|device| device.asked()).collect()
    }

    fn held(&self) -> usize {
        self.0.lock().unwrap().iter().map(|device| device.held()).sum()
    }
}

impl Bench {
    fn new() -> Self {
        messages::set_talk(Talk::Nothing);
        let folder = tempfile::tempdir().unwrap();
        let cohort = phantoms_and_network(folder.path(), [6, 64, 64]);
        let planned = Mutex::default();
        Self { folder, cohort, planned }
    }

    fn labeller(&self, devices: &Devices, fault: Fault) -> anyhow::Result<Labeller> {
        self.labeller_on(devices.maker(fault))
    }

    fn labeller_on(&self, maker: Maker) -> anyhow::Result<Labeller> {
        let engine = Engine {
            weights: self.folder.path().join("demo.safetensors"),
            config: None,
            opening: Opening {
                maker: Some(maker),
                ..Opening::default()
            },
            lanes: None,
        };
        let settings = Settings {
            insertions: 2,
            ..Settings::default()
        };
        Labeller::open(engine, settings)
    }

    /// Both unlabelled cases, into a folder of their own.
    fn run(&self, labeller: Labeller) -> Summary {
        self.run_with(labeller).0
    }

    /// The same, with the labeller as it is then.
    fn run_with(&self, mut labeller: Labeller) -> (Summary, Labeller) {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        let task = |index: usize| {
            let name = self.cohort.unlabelled[index].name.clone();
            Task {
                outputs: CaseFiles::new(&name, true).all(),
                unwanted: vec![],
                inputs: vec![],
                payload: index,
                name,
            }
        };
        let tasks = [task(0), task(1)];
        output::prepare(out, &[], tasks.iter().flat_map(|task| &task.outputs)).unwrap();
        let conditions = Conditions {
            device: "cpu".into(),
            weights_sha256: "w".into(),
            settings: some_settings(),
        };
        let work = |task: &Task<usize>, stop: &Stop, progress: &Progress| {
            let (case, files) = (&self.cohort.unlabelled[task.payload], CaseFiles::new(&task.name, true));
            let labelled: Vec<_> = self.cohort.labelled.iter().collect();
            let (out, files): (&Path, _) = (out, &files);
            labeller
                .label((case, None), "all", &labelled, (out, files), stop, progress)?
                .write()
        };
        let mut journal = Journal::open(out).unwrap();
        let summary = runner::run(out, &mut journal, &tasks, &conditions, &Stop::new(), vec![work]).unwrap();
        let memory = |name: &String| {
            let timings: Timings = serde_json::from_slice(&fs::read(out.join(format!("timings/{name}.json"))).unwrap()).unwrap();
            let memory = timings.device_memory.unwrap();
            assert_eq!(memory.complaint(), None, "{name}");
            memory.planned
        };
        *self.planned.lock().unwrap() = summary.done.iter().map(memory).collect();
        (summary, labeller)
    }

    /// What a run without a fault asks of its device: for opening it, and in all.
    fn whole(&self) -> [(usize, usize, usize); 2] {
        let devices = Devices::default();
        let labeller = self.labeller(&devices, Fault::None).unwrap();
        let opening = devices.asked()[0];
        let summary = self.run(labeller);
        assert_eq!((summary.done.len(), devices.held()), (2, 0), "{summary:?}");
        [opening, devices.asked()[0]]
    }
}

/// Some forty of the numbers below `end`, the first and the last among them, or all with `HPC_SEG_FAULTS=all`.
fn sample(end: usize) -> Vec<usize> {
    if std::env::var("HPC_SEG_FAULTS").is_ok_and(|which| which == "all") {
        return (0..end).collect();
    }
    let mut some: Vec<usize> = (0..end).step_by((end / 40).max(1)).collect();
    some.push(end - 1);
    some
}

#[test]
fn memory_that_runs_out_anywhere_costs_a_second_try_and_nothing_else() {
    let bench = Bench::new();
    let [(opening, ..), (all, ..)] = bench.whole();
    let whole = bench.planned.lock().unwrap().clone();
    let (mut tried, mut again) = (0, 0);
    for fault in sample(all) {
        let devices = Devices::default();
        let labeller = match bench.labeller(&devices, Fault::Allocation(fault)) {
            Ok(labeller) => labeller,
            Err(error) => {
                assert!(
                    fault < opening && error.downcast_ref::<OutOfMemory>().is_some(),
                    "{fault}: {error:#}"
                );
                assert_eq!(devices.held(), 0, "allocation {fault}");
                continue;
            }
        };
        assert!(fault >= opening);
        let summary = bench.run(labeller);
        assert_eq!(summary.done.len(), 2, "allocation {fault}: {summary:?}");
        let planned = bench.planned.lock().unwrap().clone();
        let smaller = planned.iter().zip(&whole).filter(|(planned, whole)| planned < whole).count();
        assert!(smaller <= 1, "allocation {fault}: {planned:?} for {whole:?}");
        (tried, again) = (tried + 1, again + smaller);
        let asked = devices.asked();
        assert!(asked.len() == 1 && asked[0].2 > 0, "the device was not lost: {asked:?}");
        assert_eq!(devices.held(), 0, "allocation {fault}");
    }
    // Buffers that slices are sent ahead into are gone without.
    assert!(again * 20 >= tried * 19, "{again} second tries for {tried} faults");
}

#[test]
fn a_device_that_is_lost_anywhere_costs_one_case_and_is_opened_again() {
    let bench = Bench::new();
    let [(_, copies, launches), (_, all_copies, all_launches)] = bench.whole();
    let copies = sample(all_copies - copies).into_iter().map(|n| Fault::Copy(copies + n));
    let launches = sample(all_launches - launches).into_iter().map(|n| Fault::Launch(launches + n));
    for fault in copies.chain(launches) {
        let devices = Devices::default();
        let summary = bench.run(bench.labeller(&devices, fault).unwrap());
        assert_eq!((summary.done.len(), summary.failed.len()), (1, 1), "{fault:?}: {summary:?}");
        assert!(summary.failed[0].1.contains("lost"), "{fault:?}: {summary:?}");
        assert_eq!((devices.asked().len(), devices.held()), (2, 0), "{fault:?}");
    }
}

#[test]
fn a_device_that_is_lost_in_the_second_try_is_opened_again_too() {
    let bench = Bench::new();
    let [(opening, ..), (all, ..)] = bench.whole();
    for allocation in [opening, opening + (all - opening) / 4] {
        let devices = Devices::default();
        let summary = bench.run(bench.labeller(&devices, Fault::AllocationThenAll(allocation)).unwrap());
        assert_eq!((summary.done.len(), summary.failed.len()), (1, 1), "{allocation}: {summary:?}");
        assert!(summary.failed[0].1.contains("lost"), "{allocation}: {summary:?}");
        assert_eq!((devices.asked().len(), devices.held()), (2, 0), "{allocation}");
    }
}

#[test]
fn a_device_that_no_longer_responds_is_lost_whatever_its_error() {
    let bench = Bench::new();
    let [(_, _, launches), _] = bench.whole();
    let devices = Devices::default();
    let summary = bench.run(bench.labeller(&devices, Fault::Unknown(launches + 1)).unwrap());
    assert_eq!((summary.done.len(), summary.failed.len()), (1, 1), "{summary:?}");
    assert!(summary.failed[0].1.contains("nobody has heard of"), "{summary:?}");
    assert_eq!((devices.asked().len(), devices.held()), (2, 0));
}

/// Has the first device lost, gives what `then` makes in its stead, and demands that the labeller is good for no further case.
fn is_not_able_after(then: impl Fn() -> anyhow::Result<Device> + Send + Sync + 'static) {
    let bench = Bench::new();
    let [(_, _, launches), _] = bench.whole();
    let (devices, opened) = (Devices::default(), AtomicUsize::new(0));
    let maker = devices.maker(Fault::Launch(launches + 1));
    let once = Maker::new(move || match opened.fetch_add(1, Ordering::Relaxed) {
        0 => maker.make(),
        _ => then(),
    });
    let (summary, labeller) = bench.run_with(bench.labeller_on(once).unwrap());
    assert_eq!((summary.done.len(), summary.failed.len()), (0, 2), "{summary:?}");
    assert!(!labeller.is_able());
}

#[test]
fn a_device_that_cannot_be_opened_again_says_that_it_is_good_for_no_further_case() {
    is_not_able_after(|| anyhow::bail!("CUDA refuses this process"));
}

#[test]
fn a_lost_gpu_is_not_replaced_by_the_cpu_in_the_middle_of_a_cohort() {
    is_not_able_after(|| Device::cpu(1));
}
