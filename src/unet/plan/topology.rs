//! How often a network halves each axis, and what its kernels are: from spacing and size alone (nnU-Net's `get_pool_and_conv_props`).

/// No axis is halved below this.
const LEAST_EDGE: f64 = 4.0;

/// Stages from the highest resolution down.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// By what each stage strides; ones for the first.
    pub strides: Vec<[usize; 3]>,
    /// Edge of each stage's kernels.
    pub kernels: Vec<[usize; 3]>,
    /// What a size must be a multiple of.
    pub divisor: [usize; 3],
    /// The size, padded to that.
    pub patch: [usize; 3],
}

/// For patches of `size` voxels, which need not be whole, at `spacing`.
pub fn topology(spacing: [f64; 3], size: [f64; 3]) -> Topology {
    let (mut spacing, mut current) = (spacing, size);
    let mut kernel = [1; 3];
    let (mut strides, mut kernels, mut divisor) = (vec![[1; 3]], Vec::new(), [1; 3]);
    loop {
        let is_large = |axis: &usize| current[*axis] >= 2.0 * LEAST_EDGE;
        let least = (0..3).filter(is_large).map(|axis| spacing[axis]).fold(f64::INFINITY, f64::min);
        let halved: Vec<usize> = (0..3).filter(is_large).filter(|&axis| spacing[axis] / least < 2.0).collect();
        match halved[..] {
            [] => break,
            [axis] if current[axis] < 3.0 * LEAST_EDGE => break,
            _ => {}
        }
        let least_of_all = spacing.iter().copied().fold(f64::INFINITY, f64::min);
        for axis in 0..3 {
            if spacing[axis] / least_of_all < 2.0 {
                kernel[axis] = 3;
            }
        }
        let mut stride = [1; 3];
        for axis in halved {
            stride[axis] = 2;
            divisor[axis] *= 2;
            spacing[axis] *= 2.0;
            current[axis] = (current[axis] / 2.0).ceil();
        }
        strides.push(stride);
        kernels.push(kernel);
    }
    kernels.push([3; 3]);
    let padded = |axis: usize| (size[axis] / divisor[axis] as f64).ceil() as usize * divisor[axis];
    Topology {
        strides,
        kernels,
        divisor,
        patch: [padded(0), padded(1), padded(2)],
    }
}
