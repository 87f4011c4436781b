//! Labelled volumes that are replaced while a cohort is labelled: what is made afterwards is made of the new ones, as the journal says.

use super::phantoms_and_network;
use hpc_seg::cohort::case_record::CaseRecord;
use hpc_seg::cohort::labeller::{Engine, Labeller};
use hpc_seg::cohort::output::{self, CaseFiles};
use hpc_seg::cohort::settings::Settings;
use hpc_seg::device::open::{Choice, Opening};
use hpc_seg::messages::Progress;
use hpc_seg::sha256;
use hpc_seg::stop::Stop;
use std::fs;

#[test]
fn a_labelled_volume_that_is_replaced_is_read_anew() {
    let folder = tempfile::tempdir().unwrap();
    let cohort = phantoms_and_network(folder.path(), [4, 64, 64]);
    let out = folder.path().join("out");
    let opening = Opening {
        choice: Choice::Cpu,
        threads: 1,
        ..Opening::default()
    };
    let engine = Engine {
        weights: folder.path().join("demo.safetensors"),
        config: None,
        opening,
        lanes: None,
    };
    let settings = Settings {
        insertions: 1,
        ..Settings::default()
    };
    let mut labeller = Labeller::open(engine, settings).unwrap();
    let labelled: Vec<_> = cohort.labelled.iter().collect();
    let mut label = |case: usize| {
        let case = &cohort.unlabelled[case];
        let files = CaseFiles::new(&case.name, true);
        output::prepare(&out, &[], files.all().iter()).unwrap();
        let labels = labeller.label((case, None), "all", &labelled, (&out, &files), &Stop::new(), &Progress::silent());
        labels.unwrap().write().unwrap();
        let record = fs::read(out.join(format!("cases/{}.json", case.name))).unwrap();
        let record: CaseRecord = serde_json::from_slice(&record).unwrap();
        (
            record.supports[0].labels.sha256.clone(),
            record.classes.iter().map(|class| class.value).collect::<Vec<_>>(),
        )
    };
    let file = &cohort.labelled[0].labels;
    assert_eq!(label(0), (sha256::of_file(file).unwrap(), vec![1]));
    crate::e2e::change_voxels(file, |voxels| voxels.iter_mut().for_each(|label| *label *= 2.0));
    assert_eq!(label(1), (sha256::of_file(file).unwrap(), vec![2]));
}
