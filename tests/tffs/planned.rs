//! Memory plans, executed: the program on a device whose kernels do nothing, so that counts, lifetimes and the schedule are the real ones at full size.

use crate::support::golden::formula_network;
use anyhow::Result;
use hpc_seg::cuda::arena::Arena;
use hpc_seg::cuda::card::Card;
use hpc_seg::cuda::driver::Driver;
use hpc_seg::cuda::launch::Runtime;
use hpc_seg::cuda::null::NullDriver;
use hpc_seg::device::{Cuda, Device};
use hpc_seg::messages::Progress;
use hpc_seg::ops::normalise::{Batches, Bringing, Map, Normalise, Voxel};
use hpc_seg::sam2::Sam2;
use hpc_seg::sam2::memory_bank::pointer_reach;
use hpc_seg::stop::Stop;
use hpc_seg::tensor::Tensor;
use hpc_seg::tffs::ensemble::Ensemble;
use hpc_seg::tffs::plan::{Plan, Problem};
use hpc_seg::tffs::schedule::{ClassPlan, Encoding, Hooks, Query, run_classes};
use hpc_seg::tffs::support::{Building, Support};
use std::sync::Arc;

const GIB: usize = 1 << 30;

/// A network on a device of `budget` bytes that computes nothing.
fn network(model: &str, budget: usize) -> Sam2 {
    network_on(Arc::new(NullDriver::new(Card::named("a100-80gb").unwrap())), model, budget)
}

fn network_on(driver: Arc<dyn Driver>, model: &str, budget: usize) -> Sam2 {
    let arena = Arena::new(driver.clone(), budget).unwrap();
    let runtime = Runtime::new(driver);
    formula_network(model, 4, &Device::on_cuda(Cuda { runtime, arena }, 0).unwrap())
}

/// What is labelled: supports of `labelled` slices which all show every class, perhaps with an empty one before each.
struct Cohort {
    problem: Problem,
    labelled: usize,
    classes: usize,
    gaps: bool,
    /// (H, W) of their slices; of the query's, if not said.
    plane: (usize, usize),
}

impl Cohort {
    fn new(dims: [usize; 3], supports: usize, labelled: usize, classes: usize, insertions: usize) -> Self {
        let problem = Problem {
            dims,
            supports,
            insertions,
            conditioning: supports * labelled * classes,
            most_conditioning: labelled,
            most_in_volume: labelled * classes,
            most_tracked: 0,
            bringing: Bringing { slice: 0, tables: 0 },
            starts: supports * classes,
            lanes: None,
            probabilities: false,
        };
        Self {
            problem,
            labelled,
            classes,
            gaps: false,
            plane: (dims[1], dims[2]),
        }
    }

    /// As the network's size has it.
    fn problem_on(&self, net: &Sam2) -> Problem {
        let [_, rows, columns] = self.problem.dims;
        let [of_query, of_labelled] = [(rows, columns), self.plane].map(|plane| Bringing::of(plane, net.config.image_size));
        Problem {
            bringing: of_query.max(of_labelled),
            ..self.problem
        }
    }
}

/// Slices of `plane` as a volume has them, of the voxels that take most.
fn raw(net: &Sam2, plane: (usize, usize)) -> impl FnMut(usize) -> Result<Tensor> {
    let map = Map {
        slope: 1.0,
        intercept: 0.0,
        lower: 0.0,
        upper: 1.0,
        min: 0.0,
        max: 1.0,
        keep_zeros: false,
    };
    let normalise = Normalise::new(net.device(), Voxel::F32, map, plane, net.config.image_size).unwrap();
    let batches = Batches::new(net.device(), normalise.clone()).unwrap();
    let slice = vec![0; 4 * plane.0 * plane.1];
    move |count| {
        let slices: Vec<_> = (0..count).map(|_| normalise.prepare(slice.clone()).unwrap()).collect();
        batches.bring(&slices)
    }
}

fn peak(net: &Sam2) -> usize {
    net.device().memory().peak
}

/// Runs it as planned; says what was planned and the most that was in use.
fn run(net: &Sam2, cohort: &Cohort, plan: &Plan) -> usize {
    let (size, [slices, rows, columns]) = (net.config.image_size, cohort.problem.dims);
    let (stop, progress) = (Stop::new(), Progress::silent());
    let mut hooks = Hooks::new(&stop, &progress);
    let encoding = Encoding {
        slices,
        plane: (rows, columns),
        batch: plan.batch,
        spilled: plan.spilled_query,
    };
    let query = Query::encode(net, raw(net, (rows, columns)), encoding, &mut hooks).unwrap();
    let mask: Vec<u8> = (0..size * size).map(|i| u8::from(i % size < size / 2)).collect();
    let shown = [None, Some(mask)];
    let repeated = if cohort.gaps { &shown[..] } else { &shown[1..] };
    let prompts: Vec<Vec<Option<Vec<u8>>>> = vec![vec![repeated; cohort.labelled].concat(); cohort.classes];
    let building = Building {
        reach: pointer_reach(slices + cohort.labelled, net.config.max_obj_ptrs_in_encoder),
        fill_holes: 0,
        spilled: plan.spilled_supports,
        batch: plan.support_batch(),
    };
    let supports: Vec<Vec<Option<Support>>> = (0..cohort.problem.supports)
        .map(|_| Support::build_from(net, &prompts, building, |_| Ok(raw(net, cohort.plane))).unwrap())
        .collect();
    let places: Vec<usize> = (0..cohort.problem.insertions)
        .map(|place| place * slices / cohort.problem.insertions)
        .collect();
    let plans: Vec<ClassPlan<'_>> = (0..cohort.classes)
        .map(|class| ClassPlan {
            class: class as u8 + 1,
            supports: supports.iter().filter_map(|of| Some((of[class].as_ref()?, &places[..]))).collect(),
        })
        .collect();
    let ensemble = Ensemble::new(net.device(), cohort.problem.dims, 0.5, cohort.problem.probabilities).unwrap();
    let done = run_classes(net, &query, &plans, (plan.lanes, 8), ensemble, &mut hooks).unwrap();
    done.finish(true).unwrap();
    peak(net)
}

fn check(model: &str, budget: usize, cohort: &Cohort) -> Plan {
    check_on(&network(model, budget), budget, cohort)
}

fn check_on(net: &Sam2, budget: usize, cohort: &Cohort) -> Plan {
    let held = net.device().memory().live;
    let plan = Plan::within(budget, held, net, &cohort.problem_on(net)).unwrap();
    let used = net.device().install(|| run(net, cohort, &plan));
    let planned = plan.bytes.total();
    println!("{plan:?}: {planned} planned, {used} used");
    assert!(used <= planned, "{used} bytes used of {planned} planned: {plan:?}");
    assert!(
        used as f64 >= 0.75 * planned as f64,
        "{used} bytes used of {planned} planned: {plan:?}"
    );
    assert_eq!(net.device().memory().live, held, "something is left behind");
    plan
}

#[test]
fn plans_of_small_budgets_are_what_the_program_takes() {
    less_and_less(&Cohort::new([40, 96, 80], 3, 4, 2, 3), 9);
}

#[test]
fn plans_of_small_budgets_hold_while_supports_of_many_classes_and_empty_slices_are_made() {
    let mut cohort = Cohort::new([40, 16, 16], 2, 20, 30, 1);
    cohort.gaps = true;
    cohort.problem.most_tracked = 20;
    less_and_less(&cohort, 2);
}

#[test]
fn slices_of_labelled_volumes_that_are_larger_than_the_networks_are_planned_for() {
    let cohort = Cohort {
        plane: (1400, 1200),
        ..Cohort::new([8, 16, 16], 1, 8, 1, 1)
    };
    let net = network("tiny", GIB);
    let plan = Plan::within(GIB, net.device().memory().live, &net, &cohort.problem_on(&net)).unwrap();
    let used = net.device().install(|| run(&net, &cohort, &plan));
    let without = plan.bytes.total() - plan.bytes.encoding + plan.batch * net.cuda_encode_bytes();
    assert!(without < used && used <= plan.bytes.total(), "{used} bytes used: {plan:?}");
}

/// A cohort's plans with less and less memory, until it is refused with what it needs.
fn less_and_less(cohort: &Cohort, lanes: usize) {
    let roomy = check("tiny", GIB, cohort);
    assert!(!roomy.spilled_query && !roomy.spilled_supports && roomy.lanes == lanes, "{roomy:?}");
    let [_, rows, columns] = cohort.problem.dims;
    let (mut budget, mut spilled) = (roomy.bytes.total(), 0);
    loop {
        budget = budget * 97 / 100;
        let net = network("tiny", budget);
        let held = net.device().memory().live;
        let plan = match Plan::within(budget, held, &net, &cohort.problem_on(&net)) {
            Ok(plan) => plan,
            Err(error) => {
                let text = format!("{error:#}");
                assert!(
                    text.contains(&format!("40 slices of {rows} x {columns} need")) && text.contains("raise --memory"),
                    "{text}"
                );
                break;
            }
        };
        println!("of {budget}: {plan:?}");
        let used = net.device().install(|| run(&net, cohort, &plan));
        assert!(used <= plan.bytes.total(), "{used} bytes used of {plan:?}");
        spilled += usize::from(plan.spilled_query) + usize::from(plan.spilled_supports);
    }
    assert!(spilled > 4, "hardly a plan spills before it is refused");
}

#[test]
fn probabilities_are_planned_for_where_they_are_wanted() {
    // Maps are most of what a large volume of one class takes, so that too small a part for them shows.
    let mut cohort = Cohort::new([24, 512, 512], 1, 2, 1, 1);
    let without = check("tiny", GIB, &cohort);
    cohort.problem.probabilities = true;
    let with = check("tiny", GIB, &cohort);
    assert_eq!(with.bytes.maps - without.bytes.maps, 4 * 24 * 512 * 512);
}

#[test]
fn a_step_and_an_encoding_take_what_is_planned_for_them() {
    let near = |what: &str, used: usize, planned: usize| {
        assert!(
            used <= planned && used * 5 >= planned * 4,
            "{what}: {used} bytes used, {planned} planned"
        );
    };
    for model in ["tiny", "hiera_t512"] {
        for labelled in [4, 40, 80] {
            let net = network(model, 60 * GIB);
            let held = net.device().memory().live;
            let cohort = Cohort::new([4, 64, 64], 8, labelled, 1, 2);
            let mut plan = Plan::within(60 * GIB, held, &net, &cohort.problem_on(&net)).unwrap();
            plan.batch = 1;
            let used = net.device().install(|| run(&net, &cohort, &plan));
            let b = plan.bytes;
            let rest = used - (b.network + b.query + b.supports + b.lanes + b.maps);
            near(
                &format!("{model}, {labelled} labelled slices"),
                rest,
                plan.lanes * net.cuda_step_bytes(labelled),
            );
        }
        for batch in [1, 8] {
            let net = network(model, 60 * GIB);
            let (held, p) = (net.device().memory().live, net.config.grid().pow(2));
            let (stop, progress) = (Stop::new(), Progress::silent());
            let encoding = Encoding {
                slices: batch,
                plane: (64, 64),
                batch,
                spilled: false,
            };
            let encode = || {
                Query::encode(&net, raw(&net, encoding.plane), encoding, &mut Hooks::new(&stop, &progress))
                    .unwrap()
                    .len()
            };
            assert_eq!(net.device().install(encode), batch);
            let kept = 2 * p * net.config.d_model * 6 * batch;
            near(
                &format!("{model}, {batch} slices"),
                peak(&net) - held - kept,
                batch * net.cuda_encode_bytes() + Bringing::of(encoding.plane, net.config.image_size).tables,
            );
        }
    }
}

#[test]
fn the_large_case_runs_in_nine_and_in_ten_gibibytes_with_everything_on_the_device() {
    let cohort = Cohort::new([400, 512, 512], 30, 80, 3, 2);
    let plan = check("hiera_t512", 9 * GIB, &cohort);
    assert!(!plan.spilled_query && !plan.spilled_supports, "{plan:?}");
    // With more, the same plan: its run is the one above.
    let net = network("hiera_t512", 10 * GIB);
    let held = net.device().memory().live;
    assert_eq!(Plan::within(10 * GIB, held, &net, &cohort.problem_on(&net)).unwrap(), plan);
}

#[test]
fn cards_for_graphics_run_the_published_network_with_kernels_for_less_shared_memory() {
    let driver = Arc::new(NullDriver::new(Card::named("rtx-3090").unwrap()));
    let net = network_on(driver.clone(), "hiera_t512", 6 * GIB);
    let cohort = Cohort::new([60, 512, 512], 3, 10, 2, 2);
    check_on(&net, 6 * GIB, &cohort);
    let launches = driver.counts().launches;
    for name in ["attention_256", "memory_attention_64"] {
        assert!(!launches.contains_key(name), "{name}");
        assert!(launches.contains_key(&format!("{name}_small")), "{name}_small");
    }
}

#[test]
fn what_cannot_fit_is_refused_with_numbers_before_any_work() {
    let net = network("hiera_t512", 4 * GIB);
    let held = net.device().memory().live;
    let cohort = Cohort::new([2000, 1024, 1024], 10, 80, 20, 5);
    let text = format!("{:#}", Plan::within(4 * GIB, held, &net, &cohort.problem_on(&net)).unwrap_err());
    assert!(
        text.contains("2000 slices of 1024 x 1024 need") && text.contains("4096 MiB are to be had"),
        "{text}"
    );
}
