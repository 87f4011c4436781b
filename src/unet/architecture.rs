//! What network a plan asks for: nnU-Net's `architecture` without the names of Python classes.

/// Which of nnU-Net's networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `PlainConvUNet`: convolution, instance norm, LeakyReLU.
    PlainConv,
    /// `ResidualEncoderUNet`: residual blocks in the encoder.
    ResidualEncoder,
}

/// Stages are numbered from the highest resolution; the last is the bottleneck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// Plain or residual.
    pub family: Family,
    /// Channels of each stage.
    pub features: Vec<usize>,
    /// Edge of each stage's convolutions, per axis: 1 or 3.
    pub kernel_sizes: Vec<[usize; 3]>,
    /// By what each stage's first convolution strides; `[1, 1, 1]` for stage 0.
    pub strides: Vec<[usize; 3]>,
    /// Convolutions (plain) or blocks (residual) of each encoder stage.
    pub convs_per_stage: Vec<usize>,
    /// Convolutions of each decoder stage, deepest first; one fewer than stages.
    pub convs_per_stage_decoder: Vec<usize>,
}
