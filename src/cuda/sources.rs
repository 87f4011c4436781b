//! The kernels' sources, which are part of the program, and the table of their specialisations.
//!
//! A specialisation is a kernel file compiled with constants (`-D`), under a name of its own: the name of its entry point, of its trace row, and of its row in
//! `kernels/registers.csv`.

use anyhow::{Result, anyhow};
use std::sync::OnceLock;

/// Files that kernels include.
pub const HEADERS: &[(&str, &str)] = &[
    ("bilinear.cuh", include_str!("../../kernels/bilinear.cuh")),
    ("common.cuh", include_str!("../../kernels/common.cuh")),
    ("linear_finish.cuh", include_str!("../../kernels/linear_finish.cuh")),
    ("memory.cuh", include_str!("../../kernels/memory.cuh")),
    ("ptx.cuh", include_str!("../../kernels/ptx.cuh")),
    ("rows.cuh", include_str!("../../kernels/rows.cuh")),
    ("tile.cuh", include_str!("../../kernels/tile.cuh")),
    ("union_find.cuh", include_str!("../../kernels/union_find.cuh")),
];

const KERNELS: &[(&str, &str)] = &[
    ("norm.cu", include_str!("../../kernels/norm.cu")),
    ("linear.cu", include_str!("../../kernels/linear.cu")),
    ("attention.cu", include_str!("../../kernels/attention.cu")),
    ("max_pool.cu", include_str!("../../kernels/max_pool.cu")),
    ("memory_attention.cu", include_str!("../../kernels/memory_attention.cu")),
    ("memory_attention_any.cu", include_str!("../../kernels/memory_attention_any.cu")),
    ("memory_attention_merge.cu", include_str!("../../kernels/memory_attention_merge.cu")),
    (
        "memory_attention_tables.cu",
        include_str!("../../kernels/memory_attention_tables.cu"),
    ),
    (
        "memory_attention_tables_any.cu",
        include_str!("../../kernels/memory_attention_tables_any.cu"),
    ),
    ("conv.cu", include_str!("../../kernels/conv.cu")),
    ("conv_direct.cu", include_str!("../../kernels/conv_direct.cu")),
    ("depthwise.cu", include_str!("../../kernels/depthwise.cu")),
    ("upscale.cu", include_str!("../../kernels/upscale.cu")),
    ("mask_product.cu", include_str!("../../kernels/mask_product.cu")),
    ("rope.cu", include_str!("../../kernels/rope.cu")),
    ("nearest_add.cu", include_str!("../../kernels/nearest_add.cu")),
    ("copy_rows.cu", include_str!("../../kernels/copy_rows.cu")),
    ("add_rows.cu", include_str!("../../kernels/add_rows.cu")),
    ("memory_mask.cu", include_str!("../../kernels/memory_mask.cu")),
    ("prompt_mask.cu", include_str!("../../kernels/prompt_mask.cu")),
    ("ensemble.cu", include_str!("../../kernels/ensemble.cu")),
    ("take.cu", include_str!("../../kernels/take.cu")),
    ("fill_holes.cu", include_str!("../../kernels/fill_holes.cu")),
    ("components.cu", include_str!("../../kernels/components.cu")),
    ("normalise.cu", include_str!("../../kernels/normalise.cu")),
    ("resize_u8.cu", include_str!("../../kernels/resize_u8.cu")),
    ("mma_rate.cu", include_str!("../../kernels/mma_rate.cu")),
    ("ptx_probe.cu", include_str!("../../kernels/ptx_probe.cu")),
];

const TABLE: &str = include_str!("../../kernels/specialisations.csv");

/// One kernel compiled with one set of constants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Specialisation {
    /// Name of the entry point.
    pub name: &'static str,
    /// Its file below `kernels/`.
    pub file: &'static str,
    /// The file's text.
    pub source: &'static str,
    /// `KEY=VALUE`, as given to `-D`.
    pub defines: Vec<&'static str>,
    /// Bytes of each parameter, read from the source.
    pub parameters: Vec<usize>,
}

impl Specialisation {
    /// What NVRTC is told, for an architecture such as `sm_80`.
    pub fn options(&self, architecture: &str) -> Vec<String> {
        let general = [
            format!("-arch={architecture}"),
            "-std=c++17".into(),
            "--ptxas-options=-v".into(),
            format!("-DENTRY={}", self.name),
        ];
        general
            .into_iter()
            .chain(self.defines.iter().map(|define| format!("-D{define}")))
            .collect()
    }
}

/// All specialisations, in the order of the table.
pub fn specialisations() -> &'static [Specialisation] {
    static ALL: OnceLock<Vec<Specialisation>> = OnceLock::new();
    // The table is part of the program; a row that does not parse is missing here, and the tests compare the numbers of rows.
    ALL.get_or_init(|| TABLE.lines().skip(1).filter_map(row).collect())
}

/// The specialisation of this name.
///
/// # Errors
/// When there is none: a fault of the program.
pub fn specialisation(name: &str) -> Result<&'static Specialisation> {
    let found = specialisations().iter().find(|known| known.name == name);
    found.ok_or_else(|| {
        anyhow!("there is no kernel {name} in kernels/specialisations.csv; this is a fault of the program, please report it")
    })
}

fn row(line: &'static str) -> Option<Specialisation> {
    let mut fields = line.split(',');
    let (name, file, defines) = (fields.next()?, fields.next()?, fields.next()?);
    let (_, source) = KERNELS.iter().find(|(known, _)| *known == file)?;
    Some(Specialisation {
        name,
        file,
        source,
        defines: defines.split(' ').collect(),
        parameters: parameter_sizes(source)?,
    })
}

/// Bytes of the parameters of `KERNEL ... ENTRY(...)`: pointers 8, `int` and `float` 4; none if a type is not known.
fn parameter_sizes(source: &str) -> Option<Vec<usize>> {
    let kernel = &source[source.find("\nKERNEL")?..];
    let (_, rest) = kernel.split_once("ENTRY(")?;
    let (parameters, _) = rest.split_once(')')?;
    let size = |parameter: &str| match parameter.split_whitespace().next()? {
        _ if parameter.contains('*') => Some(8),
        "int" | "float" | "u32" => Some(4),
        _ => None,
    };
    parameters.split(',').map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_a_kernel() {
        assert_eq!(specialisations().len(), TABLE.lines().count() - 1);
        assert!(specialisation("norm_9x9").unwrap_err().to_string().contains("no kernel norm_9x9"));
    }

    #[test]
    fn parameters_are_read_from_the_source() {
        assert_eq!(
            parameter_sizes("\nKERNEL b(1) ENTRY(const bf16* x, int n,\n float eps) {"),
            Some(vec![8, 4, 4])
        );
        assert_eq!(parameter_sizes("\nKERNEL ENTRY(double x) {"), None);
        assert_eq!(specialisation("norm_8x1").unwrap().parameters, [8, 8, 8, 8, 4, 4, 4, 4]);
    }

    #[test]
    fn options_hold_the_architecture_the_name_and_the_constants() {
        let options = specialisation("max_pool_8").unwrap().options("sm_80");
        assert_eq!(
            options,
            [
                "-arch=sm_80",
                "-std=c++17",
                "--ptxas-options=-v",
                "-DENTRY=max_pool_8",
                "-DVECTOR=8"
            ]
        );
    }
}
