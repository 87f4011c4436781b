//! Arguments of `completions` and `man`.

use clap::Args;
use clap_complete::Shell;
use std::path::PathBuf;

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  hpc-seg completions bash > ~/.local/share/bash-completion/completions/hpc-seg")]
pub struct CompletionsArgs {
    /// Shell to complete for
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  hpc-seg man --out ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Folder for the pages, hpc-seg.1 and one for each command
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}
