//! What plans may ask for that is done here in one way only: a network of another planner would load, and be fed other images than it was trained with.

use crate::bad_input;
use anyhow::Result;
use serde_json::{Value, json};

const RESAMPLING: &str = "resample_data_or_seg_to_shape";

/// Refuses plans and their configuration (with what it inherits) that ask for other readers, resampling or layers. Keys that are not there are nnU-Net's defaults.
///
/// # Errors
/// The key, what it is, and what is known.
pub(super) fn check(plans: &Value, configuration: &Value) -> Result<()> {
    let layers = configuration.pointer("/architecture/arch_kwargs").unwrap_or(&Value::Null);
    is_one_of(plans, "/image_reader_writer", &[json!("SimpleITKIO"), json!("NibabelIO")])?;
    is_one_of(configuration, "/preprocessor_name", &[json!("DefaultPreprocessor")])?;
    for (of, order) in [("data", 3), ("seg", 1), ("probabilities", 1)] {
        let function = format!("/resampling_fn_{of}");
        is_one_of(configuration, &function, &[json!(RESAMPLING)])?;
        for (argument, known) in [("order", json!(order)), ("order_z", json!(0)), ("force_separate_z", Value::Null)] {
            is_one_of(configuration, &format!("{function}_kwargs/{argument}"), &[known])?;
        }
    }
    for (layer, class) in [("conv_op", "Conv3d"), ("norm_op", "InstanceNorm3d"), ("nonlin", "LeakyReLU")] {
        let named = layers
            .get(layer)
            .and_then(Value::as_str)
            .filter(|name| name.rsplit('.').next() != Some(class));
        if let Some(name) = named {
            bad_input!("\"{layer}\" is {name:?}; known is {class}");
        }
    }
    for (key, known) in [
        ("/conv_bias", json!(true)),
        ("/norm_op_kwargs/eps", json!(1e-5)),
        ("/norm_op_kwargs/affine", json!(true)),
        ("/dropout_op", Value::Null),
        ("/nonlin_kwargs/negative_slope", json!(0.01)),
    ] {
        is_one_of(layers, key, &[known])?;
    }
    Ok(())
}

fn is_one_of(json: &Value, pointer: &str, known: &[Value]) -> Result<()> {
    match json.pointer(pointer) {
        Some(value) if !known.contains(value) => {
            let known: Vec<String> = known.iter().map(Value::to_string).collect();
            bad_input!("{:?} is {value}; known is {}", &pointer[1..], known.join(" or "))
        }
        _ => Ok(()),
    }
}
