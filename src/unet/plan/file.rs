//! Plans as nnU-Net's JSON: all of its spellings are read, its newest is written.

mod only;

use super::{CONFIGURATION, Configuration, Normalisation, Plans, Scheme};
use crate::bad_input;
use crate::unet::architecture::{Architecture, Family};
use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// Of one tensor.
const MOST_VALUES: usize = 1 << 44;
/// `inherits_from` may go this deep.
const DEEPEST: usize = 16;

pub(super) fn read(json: &Value) -> Result<Plans> {
    let configuration = configuration_named(json, CONFIGURATION, 0)?;
    only::check(json, &configuration)?;
    let axes = |key: &str| match get::<[usize; 3]>(json, key) {
        Ok(axes) if (0..3).all(|axis| axes.contains(&axis)) => Ok(axes),
        _ => bad_input!("{key:?} must be an order of the axes 0, 1, 2"),
    };
    let intensities = json
        .get("foreground_intensity_properties_per_channel")
        .or_else(|| json.get("foreground_intensity_properties_by_modality"));
    Ok(Plans {
        dataset_name: get(json, "dataset_name")?,
        plans_name: get(json, "plans_name")?,
        transpose_forward: axes("transpose_forward")?,
        transpose_backward: axes("transpose_backward")?,
        original_median_spacing: get(json, "original_median_spacing_after_transp")?,
        original_median_shape: get::<[f64; 3]>(json, "original_median_shape_after_transp")?.map(|size| size.round_ties_even() as usize),
        intensities: serde_json::from_value(intensities.cloned().unwrap_or_default())
            .context("\"foreground_intensity_properties_per_channel\" is missing or has other keys than nnU-Net's")?,
        configuration: read_configuration(&configuration)?,
        json: Some(json.clone()),
    })
}

/// A configuration with what it inherits.
fn configuration_named(json: &Value, name: &str, depth: usize) -> Result<Value> {
    let Some(own) = json.pointer(&format!("/configurations/{name}")).and_then(Value::as_object) else {
        bad_input!("there is no configuration {name:?}");
    };
    let Some(parent) = own.get("inherits_from").and_then(Value::as_str) else {
        return Ok(Value::Object(own.clone()));
    };
    if depth == DEEPEST {
        bad_input!("configuration {name:?} inherits from itself");
    }
    let mut inherited = configuration_named(json, parent, depth + 1)?;
    overlay(&mut inherited, own);
    Ok(inherited)
}

/// What `over` says wins; tables are laid over each other.
fn overlay(below: &mut Value, over: &Map<String, Value>) {
    let Some(below) = below.as_object_mut() else { return };
    for (key, value) in over {
        match (below.get_mut(key), value.as_object()) {
            (Some(below @ Value::Object(_)), Some(over)) => overlay(below, over),
            _ => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

fn read_configuration(json: &Value) -> Result<Configuration> {
    let schemes: Vec<String> = get(json, "normalization_schemes")?;
    let masks: Vec<bool> = get(json, "use_mask_for_norm")?;
    if schemes.len() != masks.len() {
        bad_input!("\"normalization_schemes\" and \"use_mask_for_norm\" are not as many");
    }
    let normalisation = schemes.iter().zip(masks).map(|(name, uses_mask)| {
        Ok(Normalisation {
            scheme: Scheme::of_class(name)?,
            uses_mask,
        })
    });
    let spacing: [f64; 3] = get(json, "spacing")?;
    if spacing.iter().any(|s| !(*s > 0.0 && s.is_finite())) {
        bad_input!("\"spacing\" is {spacing:?}; it must be positive");
    }
    let configuration = Configuration {
        data_identifier: get(json, "data_identifier")?,
        batch_size: get(json, "batch_size")?,
        patch_size: get(json, "patch_size")?,
        median_size: get(json, "median_image_size_in_voxels")?,
        spacing,
        normalisation: normalisation.collect::<Result<_>>()?,
        architecture: match json.get("architecture") {
            Some(architecture) => read_architecture(architecture)?,
            None => read_flat_architecture(json)?,
        },
        batch_dice: get(json, "batch_dice")?,
    };
    check(&configuration)?;
    Ok(configuration)
}

/// A number for every stage or one for all of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum PerStage {
    One(usize),
    Each(Vec<usize>),
}

impl PerStage {
    fn of(self, stages: usize) -> Vec<usize> {
        match self {
            Self::One(number) => vec![number; stages],
            Self::Each(numbers) => numbers,
        }
    }
}

fn family(name: &str) -> Result<Family> {
    match name.rsplit('.').next() {
        Some("PlainConvUNet") => Ok(Family::PlainConv),
        Some("ResidualEncoderUNet") => Ok(Family::ResidualEncoder),
        _ => bad_input!("network {name:?} is not known; known are PlainConvUNet and ResidualEncoderUNet"),
    }
}

fn read_architecture(json: &Value) -> Result<Architecture> {
    let family = family(&get::<String>(json, "network_class_name")?)?;
    let Some(arguments) = json.get("arch_kwargs") else {
        bad_input!("\"architecture\" has no \"arch_kwargs\"");
    };
    let stages: usize = get(arguments, "n_stages")?;
    let encoder = match family {
        Family::PlainConv => "n_conv_per_stage",
        Family::ResidualEncoder => "n_blocks_per_stage",
    };
    Ok(Architecture {
        family,
        features: get::<PerStage>(arguments, "features_per_stage")?.of(stages),
        kernel_sizes: get(arguments, "kernel_sizes")?,
        strides: get(arguments, "strides")?,
        convs_per_stage: get::<PerStage>(arguments, encoder)?.of(stages),
        convs_per_stage_decoder: get::<PerStage>(arguments, "n_conv_per_stage_decoder")?.of(stages.saturating_sub(1)),
    })
}

/// As before nnU-Net 2.5.
fn read_flat_architecture(json: &Value) -> Result<Architecture> {
    let kernel_sizes: Vec<[usize; 3]> = get(json, "conv_kernel_sizes")?;
    let stages = kernel_sizes.len();
    let (base, most): (usize, usize) = (get(json, "UNet_base_num_features")?, get(json, "unet_max_num_features")?);
    Ok(Architecture {
        family: family(&get::<String>(json, "UNet_class_name")?)?,
        features: (0..stages).map(|stage| (base << stage.min(16)).min(most)).collect(),
        strides: get(json, "pool_op_kernel_sizes")?,
        convs_per_stage: get::<PerStage>(json, "n_conv_per_stage_encoder")?.of(stages),
        convs_per_stage_decoder: get::<PerStage>(json, "n_conv_per_stage_decoder")?.of(stages.saturating_sub(1)),
        kernel_sizes,
    })
}

/// Numbers that no network can have.
fn check(configuration: &Configuration) -> Result<()> {
    let a = &configuration.architecture;
    let stages = a.features.len();
    let lengths = [
        a.kernel_sizes.len(),
        a.strides.len(),
        a.convs_per_stage.len(),
        a.convs_per_stage_decoder.len() + 1,
    ];
    if !(2..=12).contains(&stages) || lengths.iter().any(|length| *length != stages) {
        bad_input!("the network's lists are of {stages} and {lengths:?} stages; they must agree, and be 2 to 12");
    }
    let sound = |sizes: &[[usize; 3]], most: usize| sizes.iter().flatten().all(|size| (1..=most).contains(size));
    if !sound(&a.kernel_sizes, 3)
        || a.kernel_sizes.iter().flatten().any(|edge| *edge == 2)
        || !sound(&a.strides, 2)
        || a.strides[0] != [1; 3]
    {
        bad_input!("kernels must be 1 or 3 along each axis, strides 1 or 2, and the first stride 1");
    }
    let convs = a.convs_per_stage.iter().chain(&a.convs_per_stage_decoder);
    if convs.chain(&a.features).any(|number| !(1..=4096).contains(number)) {
        bad_input!("a stage without convolutions or features, or with absurdly many");
    }
    for axis in 0..3 {
        let divisor: usize = a.strides.iter().map(|stride| stride[axis]).product();
        let size = configuration.patch_size[axis];
        if size == 0 || !size.is_multiple_of(divisor) || size > 1 << 12 {
            bad_input!(
                "patch {:?} is not a multiple of the network's strides ({divisor} along axis {axis})",
                configuration.patch_size
            );
        }
    }
    if configuration.batch_size == 0 || configuration.batch_size > 4096 {
        bad_input!("a batch of {}", configuration.batch_size);
    }
    // The largest tensor of a step; beyond this the step's bytes could not be counted.
    let features = a.features.iter().copied().max().unwrap_or(0);
    let values = configuration.patch_size.iter().product::<usize>() * configuration.batch_size * features;
    if values > MOST_VALUES {
        bad_input!("a step of {values} values in one tensor: no machine holds it");
    }
    Ok(())
}

fn get<T: DeserializeOwned>(json: &Value, key: &str) -> Result<T> {
    let Some(value) = json.get(key) else {
        bad_input!("{key:?} is missing");
    };
    match serde_json::from_value(value.clone()) {
        Ok(value) => Ok(value),
        Err(error) => bad_input!("{key:?} is {value}: {error}"),
    }
}

pub(super) fn write(plans: &Plans) -> Value {
    let c = &plans.configuration;
    let resampling = |is_seg: bool, order: usize| json!({"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": null});
    let resample = "resample_data_or_seg_to_shape";
    let schemes: Vec<&str> = c.normalisation.iter().map(|n| n.scheme.class_name()).collect();
    let masks: Vec<bool> = c.normalisation.iter().map(|n| n.uses_mask).collect();
    json!({
        "dataset_name": plans.dataset_name,
        "plans_name": plans.plans_name,
        "original_median_spacing_after_transp": plans.original_median_spacing,
        "original_median_shape_after_transp": plans.original_median_shape,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": plans.transpose_forward,
        "transpose_backward": plans.transpose_backward,
        "configurations": {CONFIGURATION: {
            "data_identifier": c.data_identifier,
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": c.batch_size,
            "patch_size": c.patch_size,
            "median_image_size_in_voxels": c.median_size,
            "spacing": c.spacing,
            "normalization_schemes": schemes,
            "use_mask_for_norm": masks,
            "resampling_fn_data": resample,
            "resampling_fn_seg": resample,
            "resampling_fn_data_kwargs": resampling(false, 3),
            "resampling_fn_seg_kwargs": resampling(true, 1),
            "resampling_fn_probabilities": resample,
            "resampling_fn_probabilities_kwargs": resampling(false, 1),
            "architecture": write_architecture(&c.architecture),
            "batch_dice": c.batch_dice
        }},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": plans.intensities
    })
}

fn write_architecture(a: &Architecture) -> Value {
    let (network, encoder) = match a.family {
        Family::PlainConv => ("PlainConvUNet", "n_conv_per_stage"),
        Family::ResidualEncoder => ("ResidualEncoderUNet", "n_blocks_per_stage"),
    };
    json!({
        "network_class_name": format!("dynamic_network_architectures.architectures.unet.{network}"),
        "arch_kwargs": {
            "n_stages": a.features.len(),
            "features_per_stage": a.features,
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": a.kernel_sizes,
            "strides": a.strides,
            encoder: a.convs_per_stage,
            "n_conv_per_stage_decoder": a.convs_per_stage_decoder,
            "conv_bias": true,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": true},
            "dropout_op": null,
            "dropout_op_kwargs": null,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": true}
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]
    })
}
