//! What ptxas says of a kernel (`--ptxas-options=-v`): registers, shared memory, spills.

use anyhow::{Result, anyhow};

/// Resources of one kernel for one architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Bytes stored and loaded because registers did not suffice.
    pub spilled_bytes: u32,
}

/// Reads the resources of `entry` from a compiler's log.
///
/// # Errors
/// When the log does not tell them.
pub fn resources(log: &str, entry: &str) -> Result<Resources> {
    let missing = || anyhow!("the log of NVRTC does not tell the resources of {entry}; is this version of it known? The log:\n{log}");
    let from = log.find(&format!("Compiling entry function '{entry}'")).ok_or_else(missing)?;
    let about = &log[from..];
    let about = about[1..].find("Compiling entry function").map_or(about, |next| &about[..=next]);
    Ok(Resources {
        registers: number_before(about, " registers").ok_or_else(missing)?,
        shared_bytes: number_before(about, " bytes smem").unwrap_or(0),
        spilled_bytes: number_before(about, " bytes spill stores").ok_or_else(missing)?
            + number_before(about, " bytes spill loads").ok_or_else(missing)?,
    })
}

/// The number that stands right before `unit`.
fn number_before(text: &str, unit: &str) -> Option<u32> {
    let before = &text[..text.find(unit)?];
    before[before.rfind(|letter: char| !letter.is_ascii_digit()).map_or(0, |at| at + 1)..]
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "ptxas info    : 12 bytes gmem, 24 bytes cmem[4]\n\
        ptxas info    : Compiling entry function 'a_8' for 'sm_80'\n\
        ptxas info    : Function properties for a_8\n\
        ptxas         .     16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n\
        ptxas info    : Used 79 registers, used 1 barriers, 2048 bytes smem, 400 bytes cmem[0]\n\
        ptxas info    : Compiling entry function 'b' for 'sm_80'\n\
        ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
        ptxas info    : Used 32 registers, used 0 barriers\n";

    #[test]
    fn registers_shared_memory_and_spills_are_read_from_the_log() {
        assert_eq!(
            resources(LOG, "a_8").unwrap(),
            Resources {
                registers: 79,
                shared_bytes: 2048,
                spilled_bytes: 12
            }
        );
        assert_eq!(
            resources(LOG, "b").unwrap(),
            Resources {
                registers: 32,
                shared_bytes: 0,
                spilled_bytes: 0
            }
        );
        assert!(resources(LOG, "c").unwrap_err().to_string().contains("resources of c"));
        assert!(resources("", "a_8").is_err());
    }
}
