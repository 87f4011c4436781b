//! Names and shapes of a network's parameters, by the first of nnU-Net's aliases, in the order of its distinct parameters: encoder, decoder's stages, transposed convolutions, heads.

use super::architecture::{Architecture, Family};

/// A parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Such as `encoder.stages.0.0.convs.0.conv.weight`.
    pub name: String,
    /// As in PyTorch.
    pub shape: Vec<usize>,
}

/// The parameters of a network for so many image channels and classes.
pub fn parameters(architecture: &Architecture, channels: usize, classes: usize) -> Vec<Parameter> {
    let mut all = match architecture.family {
        Family::PlainConv => plain_encoder(architecture, channels),
        Family::ResidualEncoder => residual_encoder(architecture, channels),
    };
    let features = &architecture.features;
    let steps = || (0..features.len() - 1).map(|step| (step, features.len() - 2 - step));
    for (step, skip) in steps() {
        let mut from = 2 * features[skip];
        for conv in 0..architecture.convs_per_stage_decoder[step] {
            let name = format!("decoder.stages.{step}.convs.{conv}");
            all.extend(block(&name, from, features[skip], architecture.kernel_sizes[skip]));
            from = features[skip];
        }
    }
    for (step, skip) in steps() {
        let shape = [&[features[skip + 1], features[skip]][..], &architecture.strides[skip + 1]].concat();
        all.push(parameter(&format!("decoder.transpconvs.{step}.weight"), &shape));
        all.push(parameter(&format!("decoder.transpconvs.{step}.bias"), &[features[skip]]));
    }
    for (step, skip) in steps() {
        all.push(parameter(
            &format!("decoder.seg_layers.{step}.weight"),
            &[classes, features[skip], 1, 1, 1],
        ));
        all.push(parameter(&format!("decoder.seg_layers.{step}.bias"), &[classes]));
    }
    all
}

fn plain_encoder(architecture: &Architecture, channels: usize) -> Vec<Parameter> {
    let (mut all, mut from) = (Vec::new(), channels);
    for (stage, &to) in architecture.features.iter().enumerate() {
        for conv in 0..architecture.convs_per_stage[stage] {
            let name = format!("encoder.stages.{stage}.0.convs.{conv}");
            all.extend(block(&name, from, to, architecture.kernel_sizes[stage]));
            from = to;
        }
    }
    all
}

/// A stem, then blocks of two convolutions; where channels change, a convolution of one voxel without bias beside them, behind the pooling (`skip.0`) if there is one.
fn residual_encoder(architecture: &Architecture, channels: usize) -> Vec<Parameter> {
    let mut from = architecture.features[0];
    let mut all = block("encoder.stem.convs.0", channels, from, architecture.kernel_sizes[0]);
    for (stage, &to) in architecture.features.iter().enumerate() {
        for number in 0..architecture.convs_per_stage[stage] {
            let name = format!("encoder.stages.{stage}.blocks.{number}");
            let kernel = architecture.kernel_sizes[stage];
            all.extend(block(&format!("{name}.conv1"), from, to, kernel));
            all.extend(block(&format!("{name}.conv2"), to, to, kernel));
            if from != to {
                let pools = number == 0 && architecture.strides[stage] != [1; 3];
                let skip = format!("{name}.skip.{}", u8::from(pools));
                all.extend(
                    block(&skip, from, to, [1; 3])
                        .into_iter()
                        .filter(|of| !of.name.ends_with("conv.bias")),
                );
            }
            from = to;
        }
    }
    all
}

/// Convolution and norm.
fn block(name: &str, from: usize, to: usize, kernel: [usize; 3]) -> Vec<Parameter> {
    let weight = parameter(&format!("{name}.conv.weight"), &[&[to, from][..], &kernel].concat());
    let others = ["conv.bias", "norm.weight", "norm.bias"].map(|of| parameter(&format!("{name}.{of}"), &[to]));
    [weight].into_iter().chain(others).collect()
}

fn parameter(name: &str, shape: &[usize]) -> Parameter {
    Parameter {
        name: name.to_owned(),
        shape: shape.to_vec(),
    }
}

/// All keys of nnU-Net's state dict, each with the number of its parameter. A block registers its convolution and norm a second time in a list, and the decoder holds the encoder:
/// strict loading asks for every one of these names.
pub fn keys(parameters: &[Parameter]) -> Vec<(String, usize)> {
    let all = parameters.iter().enumerate().flat_map(|(number, parameter)| {
        let listed = |of: &str, place: usize| {
            let (block, what) = parameter.name.rsplit_once(of)?;
            Some(format!("{block}.all_modules.{place}.{what}"))
        };
        let alias = listed(".conv.", 0).or_else(|| listed(".norm.", 1));
        [Some(parameter.name.clone()), alias]
            .into_iter()
            .flatten()
            .map(move |name| (name, number))
    });
    let all: Vec<(String, usize)> = all.collect();
    let is_encoder = |(name, _): &&(String, usize)| name.starts_with("encoder.");
    let in_decoder = all
        .iter()
        .filter(is_encoder)
        .map(|(name, number)| (format!("decoder.{name}"), *number));
    let encoder = all.iter().filter(is_encoder).cloned();
    let others = all.iter().filter(|key| !is_encoder(key)).cloned();
    encoder.chain(in_decoder).chain(others).collect()
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
    fn a_state_dict_has_every_alias() {
        for stages in 2..8 {
            let all = parameters(&architecture(&vec![4; stages], [2; 3]), 1, 2);
            assert_eq!(all.len(), 8 * stages + 12 * (stages - 1));
            let keys = keys(&all);
            assert_eq!(keys.len(), 32 * stages + 20 * (stages - 1));
            let distinct: std::collections::BTreeSet<&String> = keys.iter().map(|(name, _)| name).collect();
            assert_eq!(distinct.len(), keys.len());
        }
    }

    #[test]
    fn residual_blocks_have_a_projection_where_channels_change() {
        let mut residual = architecture(&[32, 64, 64], [2; 3]);
        residual.family = Family::ResidualEncoder;
        residual.convs_per_stage = vec![1, 3, 2];
        residual.convs_per_stage_decoder = vec![1, 1];
        let all = parameters(&residual, 1, 2);
        let skips: Vec<&str> = all.iter().map(|p| &p.name[..]).filter(|name| name.contains(".skip.")).collect();
        assert_eq!(
            skips,
            [
                "encoder.stages.1.blocks.0.skip.1.conv.weight",
                "encoder.stages.1.blocks.0.skip.1.norm.weight",
                "encoder.stages.1.blocks.0.skip.1.norm.bias"
            ]
        );
        // Stem 4, six blocks of 8, one projection of 3; two decoder blocks of 4, transposed convolutions and heads 2 each.
        assert_eq!(all.len(), 4 + 48 + 3 + 2 * 8);
        let keys = keys(&all);
        assert_eq!(keys.len(), 4 * (4 + 48 + 3) + 2 * (8 + 4));
        for name in [
            "encoder.stem.convs.0.all_modules.1.bias",
            "decoder.encoder.stages.1.blocks.0.skip.1.all_modules.0.weight",
            "encoder.stages.2.blocks.1.conv2.norm.weight",
        ] {
            assert!(keys.iter().any(|(key, _)| key == name), "{name}");
        }
        residual.strides[1] = [1; 3];
        assert!(
            parameters(&residual, 1, 2)
                .iter()
                .any(|p| p.name == "encoder.stages.1.blocks.0.skip.0.conv.weight")
        );
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
