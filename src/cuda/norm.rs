//! Launching `norm`: LayerNorm of rows on the device, the twin of [`crate::ops::norm`].

use super::arena::Buffer;
use super::driver::{Arguments, Shape};
use super::launch::{Runtime, Work};
use anyhow::{Result, ensure};

/// Rows of a block, one per warp; WARPS in kernels/norm.cu.
const ROWS: usize = 4;

/// y = LayerNorm(x) gamma + beta, then GELU if asked.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Norm {
    pub rows: usize,
    pub channels: usize,
    pub eps: f32,
    pub gelu: bool,
}

/// The specialisation for rows of this many channels: 16 bytes per access where rows are multiples of that, else one element.
///
/// # Errors
/// Beyond 1280 channels, which a warp's registers do not hold.
pub fn choose(channels: usize) -> Result<&'static str> {
    let (limits, names) = match channels % 8 {
        0 => ([256, 768, 1280], ["norm_8x1", "norm_8x3", "norm_8x5"]),
        _ => ([256, 1280, 1280], ["norm_1x8", "norm_1x40", "norm_1x40"]),
    };
    let found = limits.iter().position(|limit| channels <= *limit);
    ensure!(
        found.is_some() && channels > 0,
        "norm: rows of {channels} channels; there are kernels for 1 to 1280"
    );
    Ok(names[found.unwrap_or(0)])
}

impl Norm {
    /// Launches it: x, y [rows, channels] bf16 (y may be x), gamma, beta `[channels]` f32.
    ///
    /// # Errors
    /// Buffers that are too small, shapes without a kernel, and those of [`Runtime::launch`].
    pub fn launch(&self, runtime: &Runtime, x: &Buffer, gamma: &Buffer, beta: &Buffer, y: &Buffer) -> Result<()> {
        let problem = format!("rows {} channels {}", self.rows, self.channels);
        if self.rows == 0 {
            return Ok(());
        }
        let entry = choose(self.channels)?;
        super::check_bytes(&problem, "x", x, &[self.rows, self.channels, 2])?;
        super::check_bytes(&problem, "y", y, &[self.rows, self.channels, 2])?;
        super::check_bytes(&problem, "gamma", gamma, &[self.channels, 4])?;
        super::check_bytes(&problem, "beta", beta, &[self.channels, 4])?;
        let arguments = Arguments::new()
            .pointer(x.pointer())
            .pointer(gamma.pointer())
            .pointer(beta.pointer())
            .pointer(y.pointer())
            .int(super::int(&problem, self.rows)?)
            .int(super::int(&problem, self.channels)?)
            .float(self.eps)
            .int(i32::from(self.gelu));
        let shape = Shape {
            blocks: [self.rows.div_ceil(ROWS) as u32, 1, 1],
            threads: 32 * ROWS as u32,
            shared_bytes: 0,
        };
        let values = (self.rows * self.channels) as f64;
        runtime.launch(
            entry,
            shape,
            arguments,
            &problem,
            Work {
                flops: 8.0 * values,
                bytes: 4.0 * values,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_choose_the_smallest_kernel_that_holds_them() {
        for (channels, name) in [
            (1, "norm_1x8"),
            (8, "norm_8x1"),
            (256, "norm_8x1"),
            (257, "norm_1x40"),
            (264, "norm_8x3"),
            (1152, "norm_8x5"),
        ] {
            assert_eq!(choose(channels).unwrap(), name, "{channels}");
        }
        assert!(choose(1281).unwrap_err().to_string().contains("rows of 1281 channels"));
        assert!(choose(0).is_err());
    }
}
