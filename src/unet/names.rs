//! Names and shapes of a network's parameters, by the first of nnU-Net's aliases, in the order of its distinct parameters: encoder, decoder's stages, transposed convolutions, heads.

use super::architecture::Architecture;

/// A parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Such as `encoder.stages.0.0.convs.0.conv.weight`.
    pub name: String,
    /// As in PyTorch.
    pub shape: Vec<usize>,
}

/// The parameters of a `PlainConvUNet` for so many image channels and classes.
pub fn parameters(architecture: &Architecture, channels: usize, classes: usize) -> Vec<Parameter> {
    let mut all = Vec::new();
    let mut add = |name: String, shape: Vec<usize>| all.push(Parameter { name, shape });
    let mut block = |name: String, from: usize, to: usize, kernel: [usize; 3]| {
        add(format!("{name}.conv.weight"), [&[to, from][..], &kernel].concat());
        for of in ["conv.bias", "norm.weight", "norm.bias"] {
            add(format!("{name}.{of}"), vec![to]);
        }
    };
    let (features, stages) = (&architecture.features, architecture.features.len());
    let mut from = channels;
    for stage in 0..stages {
        for conv in 0..architecture.convs_per_stage[stage] {
            let name = format!("encoder.stages.{stage}.0.convs.{conv}");
            block(name, from, features[stage], architecture.kernel_sizes[stage]);
            from = features[stage];
        }
    }
    for step in 0..stages - 1 {
        let skip = stages - 2 - step;
        let mut from = 2 * features[skip];
        for conv in 0..architecture.convs_per_stage_decoder[step] {
            let name = format!("decoder.stages.{step}.convs.{conv}");
            block(name, from, features[skip], architecture.kernel_sizes[skip]);
            from = features[skip];
        }
    }
    for step in 0..stages - 1 {
        let skip = stages - 2 - step;
        let shape = [&[features[skip + 1], features[skip]][..], &architecture.strides[skip + 1]].concat();
        add(format!("decoder.transpconvs.{step}.weight"), shape);
        add(format!("decoder.transpconvs.{step}.bias"), vec![features[skip]]);
    }
    for step in 0..stages - 1 {
        let skip = stages - 2 - step;
        add(format!("decoder.seg_layers.{step}.weight"), vec![classes, features[skip], 1, 1, 1]);
        add(format!("decoder.seg_layers.{step}.bias"), vec![classes]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unet::architecture::Family;

    fn architecture(features: &[usize], last_stride: [usize; 3]) -> Architecture {
        let stages = features.len();
        let mut strides = vec![[2; 3]; stages];
        strides[0] = [1; 3];
        strides[stages - 1] = last_stride;
        Architecture {
            family: Family::PlainConv,
            features: features.to_vec(),
            kernel_sizes: vec![[3; 3]; stages],
            strides,
            convs_per_stage: vec![2; stages],
            convs_per_stage_decoder: vec![2; stages - 1],
        }
    }

    #[test]
    fn counts_are_nnu_nets() {
        let features = [32, 64, 128, 256, 320, 320];
        for (last_stride, values) in [([2; 3], 31_195_594), ([1, 2, 2], 30_785_994)] {
            let all = parameters(&architecture(&features, last_stride), 1, 2);
            assert_eq!(all.len(), 108);
            let count: usize = all.iter().map(|p| p.shape.iter().product::<usize>()).sum();
            assert_eq!(count, values);
        }
    }

    #[test]
    fn names_and_shapes_are_nnu_nets() {
        let all = parameters(&architecture(&[32, 64, 128], [2; 3]), 1, 2);
        for (name, shape) in [
            ("encoder.stages.0.0.convs.0.conv.weight", &[32, 1, 3, 3, 3][..]),
            ("encoder.stages.2.0.convs.0.conv.weight", &[128, 64, 3, 3, 3]),
            ("encoder.stages.2.0.convs.1.norm.bias", &[128]),
            ("decoder.stages.0.convs.0.conv.weight", &[64, 128, 3, 3, 3]),
            ("decoder.stages.1.convs.1.conv.weight", &[32, 32, 3, 3, 3]),
            ("decoder.transpconvs.0.weight", &[128, 64, 2, 2, 2]),
            ("decoder.seg_layers.1.weight", &[2, 32, 1, 1, 1]),
        ] {
            let found = all.iter().find(|p| p.name == name);
            assert_eq!(found.map(|p| &p.shape[..]), Some(shape), "{name}");
        }
    }
}
