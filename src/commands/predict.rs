//! `hpc-seg predict`: volumes segmented by a trained model.

use super::thread_count;
use crate::cli::unet::PredictArgs;
use crate::cohort::journal::Journal;
use crate::cohort::output;
use crate::cohort::postprocessing::Postprocessing;
use crate::cohort::runner::{self, CaseOutcome, Conditions, Exit, Task};
use crate::cohort::signals;
use crate::device::Device;
use crate::messages::{self, Progress};
use crate::note;
use crate::stop::Stop;
use crate::unet::dataset::CaseFiles;
use crate::unet::model::Model;
use crate::unet::predict::Segmentation;
use crate::unet::preprocess::preprocess;
use crate::volume::{Header, Voxels, write};
use anyhow::Result;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::slice;

/// A case, and where its results go.
struct Query {
    case: CaseFiles,
    mask: PathBuf,
    probability: Option<PathBuf>,
}

pub(super) fn run(args: &PredictArgs) -> Result<Exit> {
    let stop = Stop::new();
    signals::install(&stop)?;
    let mut model = Model::open(&args.model, &args.folds)?;
    model.predictor.half = args.fp16_accumulate;
    if args.no_mirroring {
        model.predictor.mirrored.clear();
    }
    let postprocessing = args.postprocess.then(|| Postprocessing::read(&args.model)).transpose()?;
    let cases = model.dataset.found(&args.input, None)?;
    let tasks: Vec<Task<Query>> = cases.into_iter().map(|case| task(case, args, &model.dataset.ending)).collect();
    output::prepare(&args.out, slice::from_ref(&args.input), tasks.iter().flat_map(|task| &task.outputs))?;
    let conditions = Conditions {
        device: "cpu".into(),
        weights_sha256: model.sha256.clone(),
        settings: json!({
            "plans": model.predictor.plans.to_json(),
            "mirrored": model.predictor.mirrored,
            "fp16_accumulate": args.fp16_accumulate,
            "postprocessing": postprocessing,
        }),
    };
    let device = Device::cpu(thread_count(args.threads)?)?;
    let work = |task: &Task<Query>, stop: &Stop, progress: &Progress| {
        let query = &task.payload;
        device.install(|| {
            progress.stage("preprocessing", 0);
            let (ready, header) = preprocess(&model.dataset, &model.predictor.plans, &query.case)?;
            progress.stage("predicting", model.predictor.tiles(ready.shape) as u64);
            let probabilities = query.probability.is_some();
            let predictor = &model.predictor;
            let mut done = predictor.segment(&device, &ready, probabilities, stop, &|| progress.advance(1))?;
            if let Some(postprocessing) = &postprocessing {
                let [x, y, z] = header.dims();
                postprocessing.apply(&mut done.labels, [z, y, x])?;
            }
            progress.stage("writing", 0);
            save(&args.out, query, &header, &done)?;
            Ok(CaseOutcome {
                line: line(&done, &header, &model.dataset.labels),
                warnings: ready.warnings().into_iter().chain(header.geometry().contradiction()).collect(),
            })
        })
    };
    let mut journal = Journal::open(&args.out)?;
    let summary = runner::run(&args.out, &mut journal, &tasks, &conditions, &stop, vec![work])?;
    note!("{}", summary.line(&args.out));
    if args.json {
        messages::data_json(&summary)?;
    }
    Ok(summary.exit())
}

fn task(case: CaseFiles, args: &PredictArgs, ending: &str) -> Task<Query> {
    let file = format!("{}{ending}", case.name);
    let (probability, unwanted) = output::optional(Path::new("probability").join(&file), args.save_probabilities);
    let channels = case.images.iter().enumerate();
    let inputs = channels.map(|(channel, path)| (format!("channel {channel}"), path.clone()));
    Task {
        name: case.name.clone(),
        inputs: inputs.collect(),
        // The mask last: where it is, the others are too.
        outputs: probability.iter().cloned().chain([PathBuf::from(&file)]).collect(),
        unwanted: unwanted.into_iter().collect(),
        payload: Query {
            case,
            mask: PathBuf::from(&file),
            probability,
        },
    }
}

fn save(out: &Path, query: &Query, header: &Header, done: &Segmentation) -> Result<()> {
    if let (Some(path), Some(probabilities)) = (&query.probability, &done.probabilities) {
        let classes = probabilities.len() / done.labels.len();
        write(&out.join(path), header, Voxels::F32(probabilities), Some(classes), &[])?;
    }
    write(&out.join(&query.mask), header, Voxels::U8(&done.labels), None, &[])
}

/// `liver 812.000 ml, spleen empty`.
fn line(done: &Segmentation, header: &Header, labels: &[String]) -> String {
    let mut counts = vec![0usize; labels.len()];
    done.labels.iter().for_each(|label| counts[usize::from(*label)] += 1);
    let words = labels.iter().zip(counts).skip(1).map(|(name, count)| match count {
        0 => format!("{name} empty"),
        _ => format!("{name} {:.3} ml", count as f64 * header.geometry().voxel_ml()),
    });
    words.collect::<Vec<_>>().join(", ")
}
