//! Checkpoints for nnU-Net: what is written is read back, has nnU-Net's names, and is a pickle that asks for no more than PyTorch's own.

use super::predict::make_model;
use crate::support::golden::shared;
use hpc_seg::unet::architecture::{Architecture, Family};
use hpc_seg::unet::exchange::{Fold, Trained, write_checkpoint, write_model};
use hpc_seg::unet::model::Model;
use hpc_seg::unet::names::{Parameter, keys, parameters};
use hpc_seg::unet::optimiser::Optimiser;
use hpc_seg::unet::plan::Plans;
use hpc_seg::unet::trainer::history::{Epoch, History};
use hpc_seg::weights::{Checkpoint, formula_tensor};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use zip::ZipArchive;

/// Everything a checkpoint is made of.
struct Made {
    parameters: Vec<Parameter>,
    values: Vec<Vec<f32>>,
    optimiser: Optimiser,
    history: History,
    plans: Value,
    dataset: Value,
}

impl Made {
    fn new(family: Family) -> Self {
        let architecture = Architecture {
            family,
            features: vec![4, 6],
            kernel_sizes: vec![[1, 3, 3], [3, 3, 3]],
            strides: vec![[1, 1, 1], [1, 2, 2]],
            convs_per_stage: vec![2, 1],
            convs_per_stage_decoder: vec![1],
        };
        let parameters = parameters(&architecture, 1, 3);
        let values = |seed: u64| parameters.iter().map(move |p| formula_tensor(&p.name, seed, &p.shape));
        let mut momentum: Vec<Option<Vec<f32>>> = values(2).map(Some).collect();
        momentum[1] = None;
        let epoch = |dice: [Option<f64>; 2], started: f64| Epoch {
            learning_rate: 0.01,
            train_loss: -0.25,
            validation_loss: -0.125,
            dice: dice.to_vec(),
            started,
            ended: started + 2.5,
        };
        Self {
            values: values(1).collect(),
            parameters,
            optimiser: Optimiser { momentum },
            history: History {
                epochs: vec![epoch([Some(0.5), Some(0.75)], 1e9), epoch([None, Some(0.25)], 1e9 + 3.0)],
            },
            plans: json!({"plans_name": "nnUNetPlans", "configurations": {"3d_fullres": {"spacing": [1.0, 2.5, 3.0], "batch_size": 2, "use": [true, null]}}}),
            dataset: json!({"channel_names": {"0": "MRI"}, "labels": {"background": 0, "liver": 1, "spleen": 2}, "numTraining": 300}),
        }
    }

    fn trained(&self) -> Trained<'_> {
        Trained {
            parameters: &self.parameters,
            values: &self.values,
            optimiser: Some((&self.optimiser, 0.009)),
            history: &self.history,
            plans: &self.plans,
            dataset: &self.dataset,
            fold: Fold::Number(3),
            mirrored: &[0, 2],
        }
    }
}

/// An entry of the archive.
fn entry(path: &Path, name: &str) -> Vec<u8> {
    let mut archive = ZipArchive::new(fs::File::open(path).unwrap()).unwrap();
    let mut bytes = Vec::new();
    archive
        .by_name(&format!("archive/{name}"))
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(bytes)
}

#[test]
fn a_written_checkpoint_is_read_back_and_written_again_with_the_same_bytes() {
    for family in [Family::PlainConv, Family::ResidualEncoder] {
        let folder = tempfile::tempdir().unwrap();
        let (path, again) = (folder.path().join("a.pth"), folder.path().join("b.pth"));
        let made = Made::new(family);
        write_checkpoint(&path, &made.trained()).unwrap();
        let read = Checkpoint::open(&path).unwrap();
        let expected: BTreeSet<String> = keys(&made.parameters).into_iter().map(|(name, _)| name).collect();
        assert_eq!(read.names().map(str::to_owned).collect::<BTreeSet<_>>(), expected);
        for (name, number) in keys(&made.parameters) {
            assert_eq!(read.shape(&name), Some(&made.parameters[number].shape[..]), "{name}");
            assert!(read.f32(&name).unwrap() == made.values[number], "{name}");
        }
        for (key, expected) in [
            ("inference_allowed_mirroring_axes", "[0,2]"),
            ("trainer_name", "nnUNetTrainer"),
            ("current_epoch", "2"),
        ] {
            assert_eq!(read.metadata(key), Some(expected), "{key}");
        }
        let values: Vec<Vec<f32>> = made.parameters.iter().map(|p| read.f32(&p.name).unwrap()).collect();
        let second = Trained {
            values: &values,
            ..made.trained()
        };
        write_checkpoint(&again, &second).unwrap();
        assert!(fs::read(&path).unwrap() == fs::read(&again).unwrap());
    }
}

#[test]
fn aliases_share_one_storage_and_momentum_follows_the_parameters() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pth");
    let made = Made::new(Family::PlainConv);
    write_checkpoint(&path, &made.trained()).unwrap();
    let n = made.parameters.len();
    for number in 0..n {
        assert!(floats(&entry(&path, &format!("data/{number}"))) == made.values[number]);
    }
    let momentum: Vec<&Vec<f32>> = made.optimiser.momentum.iter().flatten().collect();
    for (place, values) in momentum.iter().enumerate() {
        assert!(floats(&entry(&path, &format!("data/{}", n + place))) == **values);
    }
    let archive = ZipArchive::new(fs::File::open(&path).unwrap()).unwrap();
    assert_eq!(archive.len(), 3 + n + momentum.len());
    let without = Trained {
        optimiser: None,
        ..made.trained()
    };
    write_checkpoint(&path, &without).unwrap();
    assert_eq!(ZipArchive::new(fs::File::open(&path).unwrap()).unwrap().len(), 3 + n);
}

/// Runs a pickle of protocol 2 on a stack of text: what a reader would build, containers without Python's help. Any opcode that is not listed ends the test.
fn run(pickle: &[u8]) -> (String, BTreeSet<String>) {
    let (mut stack, mut marks, mut globals, mut at) = (Vec::<String>::new(), Vec::new(), BTreeSet::new(), 2);
    assert_eq!(pickle[..2], [0x80, 2]);
    loop {
        let opcode = pickle[at];
        at += 1;
        let mut take = |count: usize| {
            at += count;
            &pickle[at - count..at]
        };
        match opcode {
            b'N' => stack.push("None".into()),
            0x88 => stack.push("True".into()),
            0x89 => stack.push("False".into()),
            b'K' => stack.push(take(1)[0].to_string()),
            b'J' => stack.push(i32::from_le_bytes(take(4).try_into().unwrap()).to_string()),
            b'G' => stack.push(format!("{:?}", f64::from_be_bytes(take(8).try_into().unwrap()))),
            b'X' => {
                let length = u32::from_le_bytes(take(4).try_into().unwrap()) as usize;
                stack.push(format!("'{}'", std::str::from_utf8(take(length)).unwrap()));
            }
            b']' | b'}' => stack.push(String::new()),
            b'(' => marks.push(stack.len()),
            b'c' => {
                let lines =
                    std::str::from_utf8(&pickle[at..]).unwrap_or_else(|e| std::str::from_utf8(&pickle[at..at + e.valid_up_to()]).unwrap());
                let [module, name] = [0, 1].map(|line| lines.split('\n').nth(line).unwrap().to_owned());
                at += module.len() + name.len() + 2;
                globals.insert(format!("{module}.{name}"));
                stack.push(name);
            }
            b't' | b'e' | b'u' => {
                let inside = stack.split_off(marks.pop().unwrap());
                match opcode {
                    b't' => stack.push(format!("({})", inside.join(","))),
                    b'e' => *stack.last_mut().unwrap() += &format!("[{}]", inside.join(",")),
                    _ => {
                        assert_eq!(inside.len() % 2, 0);
                        let members: Vec<String> = inside.chunks(2).map(|member| member.join(":")).collect();
                        *stack.last_mut().unwrap() += &format!("{{{}}}", members.join(","));
                    }
                }
            }
            b'R' => {
                let arguments = stack.pop().unwrap();
                *stack.last_mut().unwrap() += &arguments;
            }
            b'Q' => *stack.last_mut().unwrap() += "#",
            b'.' => break,
            _ => panic!("opcode {opcode:#x} at {at}"),
        }
    }
    assert_eq!((at, stack.len(), marks.len()), (pickle.len(), 1, 0));
    (stack.pop().unwrap(), globals)
}

#[test]
fn the_pickle_says_what_nnu_net_wants_to_know_and_calls_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pth");
    let made = Made::new(Family::PlainConv);
    write_checkpoint(&path, &made.trained()).unwrap();
    let (text, globals) = run(&entry(&path, "data.pkl"));
    let allowed = [
        "collections.OrderedDict",
        "torch.FloatStorage",
        "torch._utils._rebuild_tensor_v2",
        "torch.device",
    ];
    assert_eq!(globals, allowed.map(str::to_owned).into());
    for expected in [
        "{'network_weights':OrderedDict(){'encoder.stages.0.0.convs.0.conv.weight':_rebuild_tensor_v2(('storage',FloatStorage,'0','cpu',36)#,0,(4,1,1,3,3),(9,9,9,3,1),False,OrderedDict()),",
        "'decoder.encoder.stages.0.0.convs.0.all_modules.0.weight':_rebuild_tensor_v2(('storage',FloatStorage,'0','cpu',36)#,0,",
        ",'optimizer_state':{'state':{0:{'momentum_buffer':_rebuild_tensor_v2(('storage',FloatStorage,'20','cpu',36)#,0,(4,1,1,3,3),",
        "},2:{'momentum_buffer':",
        "'param_groups':[{'lr':0.009,'momentum':0.99,'dampening':0,'weight_decay':3e-5,'nesterov':True,'maximize':False,'foreach':None,'differentiable':False,'fused':None,'params':[0,1,2,",
        ",'grad_scaler_state':None,'logging':{'mean_fg_dice':[0.625,0.25],'ema_fg_dice':[0.625,0.5875],'dice_per_class_or_region':[[0.5,0.75],[NaN,0.25]],'train_losses':[-0.25,-0.25],\
         'val_losses':[-0.125,-0.125],'lrs':[0.01,0.01],'epoch_start_timestamps':[1000000000.0,1000000003.0],'epoch_end_timestamps':[1000000002.5,1000000005.5]},'_best_ema':0.625,\
         'current_epoch':2,'init_args':{'plans':{'plans_name':'nnUNetPlans','configurations':{'3d_fullres':{'spacing':[1.0,2.5,3.0],'batch_size':2,'use':[True,None]}}},\
         'configuration':'3d_fullres','fold':3,'dataset_json':{'channel_names':{'0':'MRI'},'labels':{'background':0,'liver':1,'spleen':2},'numTraining':300},'device':device('cpu')},\
         'trainer_name':'nnUNetTrainer','inference_allowed_mirroring_axes':(0,2)}",
    ] {
        assert!(text.contains(expected), "{expected} is not there");
    }
    let untrained = Trained {
        optimiser: None,
        history: &History::default(),
        fold: Fold::All,
        ..made.trained()
    };
    write_checkpoint(&path, &untrained).unwrap();
    let (text, _) = run(&entry(&path, "data.pkl"));
    for expected in ["'optimizer_state':None", "'_best_ema':None,'current_epoch':0", "'fold':'all'"] {
        assert!(text.contains(expected), "{expected} is not there");
    }
}

#[test]
fn nnu_nets_own_checkpoint_has_the_same_names_and_is_a_model_again() {
    let Some(shared) = shared("nnU-Net's checkpoint") else { return };
    let model = shared.join("goldens/nnunet/model");
    let original = Checkpoint::open(&model.join("fold_0/checkpoint_final.pth")).unwrap();
    let plans = Plans::read(&model.join("plans.json")).unwrap();
    let dataset: Value = serde_json::from_str(&fs::read_to_string(model.join("dataset.json")).unwrap()).unwrap();
    let classes = dataset["labels"].as_object().unwrap().len();
    let parameters = parameters(&plans.configuration.architecture, 1, classes);
    let values: Vec<Vec<f32>> = parameters.iter().map(|p| original.f32(&p.name).unwrap()).collect();
    let trained = Trained {
        parameters: &parameters,
        values: &values,
        optimiser: None,
        history: &History::default(),
        plans: &plans.to_json(),
        dataset: &dataset,
        fold: Fold::Number(0),
        mirrored: &[0, 1, 2],
    };
    let folder = tempfile::tempdir().unwrap();
    let written = write_model(folder.path(), &trained).unwrap();
    assert_eq!(written, folder.path().join("fold_0/checkpoint_final.pth"));
    let ours = Checkpoint::open(&folder.path().join("fold_0/checkpoint_final.pth")).unwrap();
    assert_eq!(ours.names().collect::<Vec<_>>(), original.names().collect::<Vec<_>>());
    for name in original.names() {
        assert_eq!(ours.shape(name), original.shape(name), "{name}");
        assert!(ours.raw(name).unwrap() == original.raw(name).unwrap(), "{name}");
    }
    assert_eq!(Model::open(folder.path(), &[]).unwrap().predictor.mirrored, [0, 1, 2]);

    // Another fold of the model joins it; another model does not, not even in the place of a network.
    let stranger = Trained {
        plans: &json!({}),
        ..trained
    };
    let error = write_model(folder.path(), &stranger).unwrap_err().to_string();
    assert!(error.contains("plans.json: belongs to another model"), "{error}");
    let second = Trained {
        fold: Fold::Number(1),
        ..trained
    };
    write_model(folder.path(), &second).unwrap();
    assert_eq!(Model::open(folder.path(), &[]).unwrap().predictor.networks.len(), 2);
    let error = write_model(folder.path(), &stranger).unwrap_err().to_string();
    assert!(
        error.contains("plans.json: belongs to another model") && error.contains("choose another folder"),
        "{error}"
    );
}

fn model_command(folder: &Path, words: [&str; 5]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hpc-seg"));
    let output = command.current_dir(folder).arg("model").args(words).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_model_goes_to_nnu_net_and_back_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    make_model(&folder.path().join("ours"), &[("0", 1), ("3", 2), ("all", 3)]);
    let rules = "{\"postprocessing_fns\": [], \"postprocessing_kwargs\": []}";
    fs::write(folder.path().join("ours/postprocessing.json"), rules).unwrap();
    let go = |words| model_command(folder.path(), words);
    let checkpoints = "wrote theirs/fold_0/checkpoint_final.pth\nwrote theirs/fold_3/checkpoint_final.pth\n";
    assert_eq!(
        go(["export", "--model", "ours", "--out", "theirs"]),
        (Some(0), format!("{checkpoints}wrote theirs/postprocessing.json\n"))
    );
    assert_eq!(fs::read_to_string(folder.path().join("theirs/postprocessing.json")).unwrap(), rules);
    let (code, said) = model_command(folder.path(), ["import", "--model", "theirs", "--out", "back"]);
    assert_eq!(code, Some(0), "{said}");
    for fold in ["fold_0", "fold_3"] {
        let of = |model: &str| fs::read(folder.path().join(model).join(fold).join("checkpoint_final.safetensors")).unwrap();
        assert!(of("ours") == of("back"), "{fold}");
    }
    let json = |model: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(folder.path().join(model).join("plans.json")).unwrap()).unwrap()
    };
    assert_eq!(json("ours"), json("back"));
    let (code, said) = go(["export", "--model", "ours", "--out", "ours"]);
    assert!(
        code == Some(2) && said.contains("ours: would be written into itself; choose another --out"),
        "{said}"
    );
    fs::rename(folder.path().join("ours/fold_3"), folder.path().join("ours/fold_third")).unwrap();
    let (code, said) = go(["export", "--model", "ours", "--out", "new"]);
    assert!(
        code == Some(0) && said.contains("ours/fold_third: is left out; folds are called fold_0, fold_1, ... or fold_all"),
        "{said}"
    );
    assert!(!folder.path().join("new/fold_third").exists());
    // Networks that were trained in the folder are not lost.
    fs::write(folder.path().join("new/fold_0/training.json"), "{}").unwrap();
    let (code, said) = go(["export", "--model", "ours", "--out", "new"]);
    assert!(
        code == Some(2) && said.contains("new/fold_0: holds a network that was trained there, which would be lost"),
        "{said}"
    );
}
